"""The flight recorder: headers and verdicts of the last minutes, kept in the daemon's memory.

Off unless the rule file has a section `recorder`. What it holds answers two questions later: what was that just now
(`ctfw flight save`), and which connections would other rules have judged otherwise (`ctfw reload --dry-run`).

Not every packet is kept. A gateway passes more in a second than 16 MiB can hold, and rules decide about connections,
not about their every packet. Kept are, of each connection, the first FIRST packets of either direction, whatever opens,
closes or resets it (TCP's SYN, FIN, RST), and all that have a helper, which reads their payload; and every packet that
was dropped or belongs to no connection, up to FLOOD a second, so that a flood of them does not wash the rest away
(`skipped` counts those). Of each the first bytes (`headers`), what the queue and the engine said of it, and how its
connection stood.

Form: records of a fixed head (_HEAD) and the packet's bytes, one after the other in chunks of CHUNK bytes. A chunk
begins with a table of what its records name by number, the places and the rules, so it can be read alone and nothing
grows but chunks. Finished ones are immutable; the oldest go when `memory` is exceeded or when they are older than
`minutes`. Whoever reads asks for them by number, one after the other: one that has gone meanwhile is missing, none is
kept for a slow reader.

`look` is a Queue's `record`: it costs the packets that it does not keep a few tenths of a microsecond, most of it the
call out of the compiled loop, and a microsecond those that it keeps.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from ctfw import reason
from ctfw.config.recorder import RecorderSettings
from ctfw.conntrack.state import state_name
from ctfw.engine import Engine
from ctfw.packet import TCP
from ctfw.ruleset.limit import Limit
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.verdict import NAMES, REJECT

SECOND: Final = 1_000_000_000
FIRST: Final = 2  # packets of each direction of a connection
FLOOD: Final = 1000  # a second, of packets that are dropped or have no connection
CHUNK: Final = 1 << 16
MAX_AGE: Final = 10 * SECOND  # of a chunk that is not full, so that minutes are minutes
MARK: Final = "ctfw-flight"  # what the note of a saved packet begins with

# now, created, octets, packets, length, mark, place, rule, status, captured,
# verdict, state, direction + 1, reason, helper
# A connection that outlived a reboot was created before this clock began: below zero.
_HEAD: Final = struct.Struct("<QqQIIIHHHHBBBBB")
_SIZE: Final = struct.Struct("<I")
_NOBODY: Final = 0xFFFF  # as a rule
_CLOSING: Final = 0x07  # FIN, SYN, RST
_STATUS: Final = 0xFFFF  # the bits of a status that are the kernel's; what is above is noted for ourselves

_pack = _HEAD.pack


@dataclass(frozen=True, slots=True)
class Record:
    """One packet as it was judged.

    `now` is the daemon's clock, `data` the first of the packet's `length` bytes; `hook` to `checksum` is what the queue
    said, `verdict` to `generation` what the engine. `rule` is "" where no rule decided. `status`, `created` (the
    daemon's clock), `packets` and `octets` are its connection's, 0 without one; `helper` is its master's.
    """

    now: int
    data: bytes
    length: int
    hook: int
    indev: str
    outdev: str
    mark: int
    checksum: str
    verdict: str
    state: int
    direction: int
    reason: int
    rule: str
    generation: int
    status: int
    created: int
    packets: int
    octets: int
    helper: int

    def note(self) -> str:
        """What the annotation of a saved packet does not say, as a second comment."""
        words = [MARK, f"verdict={self.verdict}", f"state={state_name(self.state) or '-'}"]
        if self.rule:
            words.append(f"rule={quote(self.rule, safe='')}")
        if self.reason:
            words.append(f"reason={reason.NAMES[self.reason]}")
        return " ".join([*words, f"generation={self.generation}"])


class Flight:
    """The recorder of one engine. Since it is on, `kept` packets were recorded and `skipped` left out in floods."""

    def __init__(self, engine: Engine) -> None:
        self.settings: RecorderSettings | None = None
        self.kept = 0
        self.skipped = 0
        self._engine = engine
        self._judgement = engine._judgement  # the one that every packet of the engine gets
        self._generation = 0
        self._headers = 0
        self._flood = Limit(SECOND // FLOOD, FLOOD)
        self._chunks: deque[tuple[int, int, bytes]] = deque()  # number, time of the last record, content
        self._number = 0
        self._size = 0
        self._open = bytearray()
        self._began = 0
        self._last = 0
        self._places: dict[tuple[int, str, str, str], int] = {}
        self._rules: dict[Rule, int] = {}

    def configure(self, settings: RecorderSettings | None) -> None:
        """To be called whenever rules come into force: on, off, another size. What was recorded stays if it is on."""
        if self._open:
            self._finish()  # it names the rules of the generation that ends
        if settings is None:
            self._chunks.clear()
            self._size = self.kept = self.skipped = 0
        else:
            self._headers = settings.headers
        self.settings = settings
        self._generation = self._engine.ruleset.generation
        self._shrink()

    def look(
        self, data: bytes, length: int, now: int, hook: int, indev: str, outdev: str, mark: int, checksum: str
    ) -> None:
        """Keeps the packet that the engine judged last, if it is worth it."""
        judgement = self._judgement
        conn = judgement.conn
        if conn is not None and judgement.verdict:
            if (conn.original_packets > FIRST or conn.reply_packets > FIRST) and not conn.helper:
                # In place, for the headers that nearly all packets have; what these lines cannot see is not missed.
                if data[0] == 0x45:
                    if data[9] != TCP or len(data) < 34 or not data[33] & _CLOSING:
                        return
                elif data[6] != TCP or len(data) < 54 or not data[53] & _CLOSING:
                    return
        elif not self._flood.take(now):
            self.skipped += 1
            return
        self.keep(data, length, now, hook, indev, outdev, mark, checksum)

    def keep(
        self, data: bytes, length: int, now: int, hook: int, indev: str, outdev: str, mark: int, checksum: str
    ) -> None:
        """Keeps the packet that the engine judged last."""
        judgement = self._judgement
        at = (hook, indev, outdev, checksum)
        place = self._places.get(at)
        if place is None:
            place = self._places[at] = len(self._places)
        rule = judgement.rule
        if rule is None:
            number = _NOBODY
        else:
            number = self._rules.get(rule, -1)
            if number < 0:
                number = self._rules[rule] = len(self._rules)
        created = octets = packets = status = helper = 0
        conn = judgement.conn
        if conn is not None:
            status = conn.status & _STATUS
            created = conn.created
            packets = conn.original_packets + conn.reply_packets
            octets = conn.original_bytes + conn.reply_bytes
            if conn.master is not None:
                helper = conn.master.helper
        head = data[: self._headers]
        chunk = self._open
        if not chunk:
            self._began = now
        chunk += _pack(
            now,
            created,
            octets,
            packets & 0xFFFFFFFF,
            length,
            mark,
            place,
            number,
            status,
            len(head),
            REJECT if judgement.reject else judgement.verdict,
            judgement.state,
            judgement.direction + 1,
            judgement.reason,
            helper,
        )
        chunk += head
        self._last = now
        self.kept += 1
        if len(chunk) >= CHUNK:
            self._finish()
            self._shrink()

    def tick(self, now: int) -> None:
        """Time has passed: closes a chunk that is old enough and drops those that are too old."""
        if self.settings is None:
            return
        if self._open and now - self._began >= MAX_AGE:
            self._finish()
        before = now - self.settings.minutes * 60 * SECOND
        chunks = self._chunks
        while chunks and chunks[0][1] < before:
            self._size -= len(chunks.popleft()[2])
        self._shrink()

    def figures(self, now: int) -> dict[str, Any] | None:
        """What `status` says of the recorder; None when it is off."""
        settings = self.settings
        if settings is None:
            return None
        oldest = self._chunks[0][2] if self._chunks else b""
        since = _HEAD.unpack_from(oldest, _body(oldest))[0] if oldest else self._began if self._open else now
        return {
            "minutes": settings.minutes,
            "memory": settings.memory,
            "headers": settings.headers,
            "used": self._size + len(self._open),
            "seconds": max(now - since, 0) // SECOND,
            "kept": self.kept,
            "skipped": self.skipped,
        }

    def chunks(self) -> Iterator[bytes | None]:
        """What is recorded until now, oldest first; None for each chunk that went before it was asked for."""
        if self._open:
            self._finish()
        end = self._number
        wanted = self._chunks[0][0] if self._chunks else end
        while wanted < end:
            first = self._chunks[0][0] if self._chunks else self._number
            if wanted < first:
                yield None
            else:
                yield self._chunks[wanted - first][2]
            wanted += 1

    def _finish(self) -> None:
        """Closes the open chunk: its table ahead of its records."""
        names = json.dumps(
            {
                "generation": self._generation,
                "places": list(self._places),
                "rules": [rule.name for rule in self._rules],
            }
        ).encode()
        chunk = _SIZE.pack(len(names)) + names + self._open
        self._chunks.append((self._number, self._last, chunk))
        self._number += 1
        self._size += len(chunk)
        self._open = bytearray()
        self._places.clear()
        self._rules.clear()

    def _shrink(self) -> None:
        memory = self.settings.memory if self.settings is not None else 0
        while self._chunks and self._size + CHUNK > memory:
            self._size -= len(self._chunks.popleft()[2])


def unpack(chunk: bytes) -> Iterator[Record]:
    """The records of a chunk."""
    at = _body(chunk)
    names = json.loads(chunk[_SIZE.size : at])
    generation, rules = names["generation"], names["rules"]
    places = names["places"]
    while at < len(chunk):
        now, created, octets, packets, length, mark, place, rule, status, captured, *rest = _HEAD.unpack_from(chunk, at)
        verdict, state, direction, why, helper = rest
        hook, indev, outdev, checksum = places[place]
        at += _HEAD.size + captured
        yield Record(
            now,
            chunk[at - captured : at],
            length,
            hook,
            indev,
            outdev,
            mark,
            checksum,
            NAMES[verdict],
            state,
            direction - 1,
            why,
            "" if rule == _NOBODY else rules[rule],
            generation,
            status,
            created,
            packets,
            octets,
            helper,
        )


def _body(chunk: bytes) -> int:
    """Where a chunk's records begin."""
    return _SIZE.size + int(_SIZE.unpack_from(chunk)[0])
