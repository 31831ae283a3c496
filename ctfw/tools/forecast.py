"""A forecast: what other rules would make of the last minutes and of the connections that live now.

`ctfw reload --dry-run` is the one who asks. It runs in the client, on rules that only the client has loaded, and is fed
with what the daemon hands out; nothing in the daemon changes, and packets do not wait for it.

The last minutes (`see`): each record of the flight recorder is put before the new rules with the state, the connection
and the place that it had, and what they say is held against the verdict that it got. Records do not go through a
connection table again: the recorder leaves out too much for that, and keeps what the table said instead. So changes of
the rules are seen, and of what they ask for (`track: none` too), but not changes of `conntrack:`. Rates and dynamic
sets are played with the records' times, beginning with the members that the sets have now.

The living (`fate`): each connection is judged as it will be at its next packet after the reload. First as `existing`
says: `recheck` asks about the packet that opened it (`ruleset/opening.py`), `kill` about one in its middle, `keep`
nothing. Then whether packets of an established connection pass at all, in both directions. Chain and interfaces are
those of its last record; where there is none, those of the routing table.

What no record holds, no rule can match here: MAC addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ctfw.config import Config
from ctfw.conntrack import sctp, tcp
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import ESTABLISHED, INVALID, NEW, SEEN_REPLY, UNTRACKED
from ctfw.packet import ORIGINAL, REPLY, SCTP, TCP, Packet, address_size, decode, inverse
from ctfw.packet_text import ends_text
from ctfw.ruleset.opening import opening, opening_hook
from ctfw.ruleset.question import AGAIN, DRY, LIVE
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import KEEP, KILL
from ctfw.ruleset.verdict import ACCEPT, NAMES, TRACK_NONE
from ctfw.service.flight import Record
from ctfw.tools.difference import Changes, Side, connection_key, rule_side

TICK: Final = 100_000_000
MOST_PLACES: Final = 1 << 20  # connections of which the last place is remembered

Place = tuple[int, str, str]

_HEAD4: Final = decode(b"\x45\0\0\x14\0\0\0\0\x40" + bytes(11), 20)
_HEAD6: Final = decode(b"\x60\0\0\0\0\0\x3b\x40" + bytes(32), 40)
_ACK_FLAGS: Final = 13  # offset of the flags in a TCP header
_ACK: Final = 0x10


@dataclass(frozen=True, slots=True)
class Fate:
    """A living connection that the new rules do not accept. `packet` are its ends in words, `state` its protocol's own.

    `side` is who refuses it. `is_cut`: the reload ends it; otherwise it goes on, and could only not begin again.
    `seen`: its place comes from a record.
    """

    packet: str
    state: str
    side: Side
    is_cut: bool
    seen: bool


class Forecast:
    """What `config` would do. `unix_offset` makes times since 1970 of the daemon's; `generation` is the daemon's."""

    def __init__(self, config: Config, unix_offset: int, generation: int) -> None:
        self.changes = Changes()
        self.packets = 0
        self.older = 0  # packets that the rules of an earlier generation judged
        self.living = 0
        self._config = config
        self._ruleset = config.ruleset
        self._offset = unix_offset
        self._generation = generation
        self._ticked = 0
        self._places: dict[bytes, Place] = {}

    def add_member(self, name: str, network: bytes, length: int, left: int, now: int) -> None:
        """A dynamic set has this member now, for `left` nanoseconds (-1: for ever)."""
        members = self._ruleset.sets.get(name)
        if members is None:
            return
        if left < 0:
            members.add_for_ever(network, length, now)
        else:
            members.add(network, length, left, now)

    def see(self, record: Record) -> None:
        """One of the last minutes' packets, in their order."""
        self.packets += 1
        self.older += record.generation != self._generation
        packet = decode(record.data, record.length)
        packet.state = record.state
        packet.direction = record.direction
        key = connection_key(packet.key)
        self._remember(key, record)
        self._tick(record.now)
        if not record.rule or packet.fragment:
            return  # no rule decided, or the first fragment did for this one
        rule = self._judge(record, packet)
        accepted = NAMES[ACCEPT]
        change = self.changes.of(key) if key else None
        # What followed a packet that would not have been accepted would not have been at all.
        is_lost = change is not None and change.old.verdict == accepted == record.verdict
        if is_lost or _word(rule) != record.verdict:
            old = Side(record.verdict, record.rule)
            time = record.now + self._offset
            self.changes.add(key, self.packets, time, packet, old, rule_side(_word(rule), rule, 0))

    def fate(self, entry: Mapping[str, Any], now: int) -> Fate | None:
        """What becomes of a living connection, as the method `live` tells of it; None: it goes on."""
        self.living += 1
        self._tick(now)
        conn = _connection(entry, now)
        bare = conn.key[: 5 + 2 * address_size(conn.key)]  # without the zone, which packets do not carry
        seen = self._places.get(connection_key(bare))
        hook, indev, outdev = place = seen if seen is not None else entry["place"]
        existing = self._ruleset.existing
        began = opening(conn, _HEAD4 if address_size(conn.key) == 4 else _HEAD6)
        if existing == KILL:
            refused = self._ask(_again_in_the_middle(began, self._config.settings.tcp_loose), conn, place, now, DRY)
        else:
            refused = self._ask(began, conn, place, now, AGAIN)
        is_cut = refused is not None and existing != KEEP
        if not is_cut and existing != KILL:
            back = (opening_hook(hook, REPLY), outdev, indev)
            stopped = self._ask(_established(conn.key, ORIGINAL), conn, place, now, AGAIN)
            if stopped is None and conn.status & SEEN_REPLY:
                stopped = self._ask(_established(conn.reply_key, REPLY), conn, back, now, AGAIN)
            if stopped is not None:
                refused, is_cut = stopped, True
        if refused is None:
            return None
        names = {TCP: tcp.STATE_NAMES, SCTP: sctp.STATE_NAMES}.get(conn.key[0])
        state = names[conn.l4state] if names is not None else ""
        return Fate(ends_text(began), state, rule_side(_word(refused), refused, 0), is_cut, seen is not None)

    def _remember(self, key: bytes, record: Record) -> None:
        """The place of its connection's original direction."""
        if not key or record.direction < 0 or len(self._places) >= MOST_PLACES:
            return
        place = (record.hook, record.indev, record.outdev)
        if record.direction == REPLY:
            place = (opening_hook(record.hook, REPLY), record.outdev, record.indev)
        self._places[key] = place

    def _judge(self, record: Record, packet: Packet) -> Rule:
        ruleset = self._ruleset
        at = (record.hook, record.indev, record.outdev)
        if ruleset.tracks and ruleset.tracking(packet, *at, record.mark, b"", record.now) == TRACK_NONE:
            packet.state = UNTRACKED
        conn = None
        if record.created and packet.state != UNTRACKED:
            conn = Conn(packet.key, inverse(packet.key), record.created)
            conn.status = record.status
            conn.original_packets = record.packets
            conn.original_bytes = record.octets
            conn.master = _master(record.helper, record.created)
        return ruleset.evaluate(packet, *at, conn, record.mark, b"", record.now, LIVE)

    def _ask(self, packet: Packet, conn: Conn, place: Place, now: int, mode: int) -> Rule | None:
        """The rule that does not accept the packet."""
        hook, indev, outdev = place
        rule = self._ruleset.evaluate(packet, hook, indev, outdev, conn, 0, b"", now, mode)
        return rule if rule.verdict != ACCEPT else None

    def _tick(self, now: int) -> None:
        if now - self._ticked >= TICK:
            self._ruleset.tick(now, now + self._offset)
            self._ticked = now


def _word(rule: Rule) -> str:
    return NAMES[rule.verdict]


def _connection(entry: Mapping[str, Any], now: int) -> Conn:
    key = bytes.fromhex(entry["key"])
    conn = Conn(key, inverse(key), now - entry["age"])
    conn.status = entry["status"]
    conn.l4state = entry["l4state"]
    conn.original_packets = entry["packets"]
    conn.original_bytes = entry["bytes"]
    conn.master = _master(entry["helper"], now)
    return conn


def _master(helper: int, now: int) -> Conn | None:
    """A connection of which nothing is known but the helper that it has."""
    if not helper:
        return None
    master = Conn(b"", b"", now)
    master.helper = helper
    return master


def _again_in_the_middle(packet: Packet, is_loose: bool) -> Packet:
    """The packet, made into one of a connection that nobody knows any more."""
    if packet.proto != TCP:
        packet.state = NEW
        return packet
    data = bytearray(packet.data)
    data[packet.l4 + _ACK_FLAGS] = _ACK
    again = decode(bytes(data), packet.length)
    again.state = NEW if is_loose else INVALID
    again.direction = ORIGINAL
    return again


def _established(key: bytes, direction: int) -> Packet:
    """Any packet of an established connection."""
    conn = Conn(key, inverse(key), 0)
    packet = opening(conn, _HEAD4 if address_size(key) == 4 else _HEAD6)
    if packet.proto == TCP:
        packet = _again_in_the_middle(packet, True)
    packet.state = ESTABLISHED
    packet.direction = direction
    return packet
