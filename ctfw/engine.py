"""Bytes -> verdict: the packet's whole way, in the order in which it matters.

Owns the order and the counters, nothing else. The order is the kernel's (docs/state-machine.md, "The way of a packet"):
the state machine steps before the rules are asked, the helper runs after them, and only an accepted packet's connection
enters the table. Rules that say how to track come before all that, and after a reload a connection of older rules is
looked at once more before the new ones see its packet as ESTABLISHED. Never raises, whatever the bytes; knows no queue,
clock, file or log.
"""

from typing import Final

from mypy_extensions import i64

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.events import RELOADED
from ctfw.conntrack.siblings import is_behind
from ctfw.conntrack.state import CONFIRMED, ESTABLISHED, NEW, STATE_NAMES, UNTRACKED
from ctfw.conntrack.tracker import ConnTrack
from ctfw.fragments import Datagram, Fragments, payload_size, place
from ctfw.packet import FORWARD, HOOK_NAMES, NO_DIRECTION, OUTPUT, REPLY, TCP, Packet, decode
from ctfw.ruleset.marks import rejecting
from ctfw.ruleset.memory import Memory
from ctfw.ruleset.offload import Offload, wish
from ctfw.ruleset.opening import opening, opening_hook
from ctfw.ruleset.question import AGAIN
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import KILL, Ruleset
from ctfw.ruleset.verdict import ACCEPT, AUTOMATIC, DROP, PORT_UNREACHABLE, REJECT, TCP_RESET, TRACK_NONE
from ctfw.ruleset.verdict import NAMES as VERDICT_NAMES

_STATES = (0, 1, 2, 4, 8, 16)
_NO_RULES: Final[list[Rule]] = []  # one for all packets; nobody adds to it


class Judgement:
    """What was decided about one packet, and why. ``Engine.handle`` returns the same object each time.

    ``state`` is a bit of ctfw.conntrack.state, or 0 when conntrack itself dropped the packet; ``rule`` is None exactly
    when no rule gave the verdict: conntrack or a helper did. ``log`` says that the rule wants a line about it now, and
    ``logs`` names the rules before it that do.

    ``mark`` is the mark that the packet is to leave with, -1 when that is the one it came with. ``reject`` is not 0 for
    a packet that is dropped and shall be answered, in the way of that number (REJECT_NAMES of ctfw.ruleset.verdict):
    then ``mark`` tells the kernel's rules behind the queue to do it, if they are there, and the packet must be accepted
    to reach them (``nfqueue`` decides that). To everybody else it is dropped.
    """

    def __init__(self) -> None:
        self.verdict: i64 = DROP
        self.state: i64 = 0
        self.direction: i64 = NO_DIRECTION
        self.reason: i64 = 0
        self.reject: i64 = 0
        self.mark: i64 = -1
        self.log: bool = False
        self.logs: list[Rule] = _NO_RULES
        self.rule: Rule | None = None
        self.conn: Conn | None = None
        self.packet: Packet = decode(b"", 0)

    def word(self) -> str:
        """The verdict as people call it: accept, drop or reject."""
        return VERDICT_NAMES[REJECT if self.reject != 0 else self.verdict]


class Tally:
    """Packets and bytes of one hook."""

    __slots__ = ("accepted", "accepted_bytes", "dropped", "dropped_bytes")

    def __init__(self) -> None:
        self.accepted: i64 = 0
        self.accepted_bytes: i64 = 0
        self.dropped: i64 = 0
        self.dropped_bytes: i64 = 0


class Counters:
    """What the engine has judged: ``packets[hook][verdict]``, ``bytes`` likewise, by state, ``reasons`` by number.

    What every packet counts is an attribute of its own: a number in a list is an object, and another one each time.
    """

    def __init__(self) -> None:
        self.hooks: list[Tally] = [Tally() for _ in HOOK_NAMES]
        self.reasons: list[int] = [0] * reason.COUNT
        self._established: i64 = 0
        self._others: list[int] = [0] * 17

    def count(self, hook: i64, verdict: i64, state: i64, why: i64, length: i64) -> None:
        """One packet more."""
        tally = self.hooks[hook]
        if verdict == DROP:
            tally.dropped += 1
            tally.dropped_bytes += length
        else:
            tally.accepted += 1
            tally.accepted_bytes += length
        if state == ESTABLISHED:
            self._established += 1
        else:
            self._others[state] += 1
        if why != 0:
            self.reasons[why] += 1

    @property
    def packets(self) -> list[list[int]]:
        """How many, by hook and verdict."""
        return [[tally.dropped, tally.accepted] for tally in self.hooks]

    @property
    def bytes(self) -> list[list[int]]:
        """How long they were together, by hook and verdict."""
        return [[tally.dropped_bytes, tally.accepted_bytes] for tally in self.hooks]

    def by_state(self) -> dict[str, int]:
        """Packets by the name of their state; "" are those that conntrack dropped."""
        counts = {STATE_NAMES.get(bit, ""): self._others[bit] for bit in _STATES}
        counts[STATE_NAMES[ESTABLISHED]] = self._established
        return counts


class Engine:
    """The firewall without its queue. ``ruleset`` may be replaced between two packets."""

    def __init__(self, tracker: ConnTrack, ruleset: Ruleset) -> None:
        self.tracker = tracker
        self.ruleset = ruleset
        self.counters = Counters()
        self._judgement = Judgement()
        self.offload = Offload()
        self._fragments = Fragments()
        self._memory = Memory()

    def handle(
        self,
        data: bytes,
        length: i64,
        hook: i64,
        indev: str,
        outdev: str,
        mark: i64,
        check: bool,
        now: i64,
        mac: bytes = b"",
    ) -> Judgement:
        """The judgement on the packet in ``data``, valid until the next call.

        ``length`` is the packet's true length (the kernel may copy only its head), ``hook`` where it was caught,
        ``indev`` and ``outdev`` interface names or "", ``check`` says that its checksum is still to be verified.
        ``now`` is in nanoseconds, from the same clock at each call. ``mac`` is the source of the frame that brought it,
        6 bytes where there is one; only rules that ask for it (``ruleset.asks_mac``) need it.
        """
        siblings = self.tracker.siblings
        if siblings is not None and is_behind(siblings):
            siblings.catch_up()
        judgement = self._judgement
        judgement.log = False
        judgement.logs = _NO_RULES
        judgement.reject = 0
        ruleset = self.ruleset
        clean = mark & ~ruleset.own_field
        packet = decode(data, length)
        verdict: i64 = DROP
        rule: Rule | None = None
        if packet.fragment != 0 and packet.reason == reason.FRAGMENT:
            first = self._fragments.follow(packet, place(hook, indev), now, ruleset.floor)
            if first is not None:
                left = first.mark if first.mark >= 0 else clean
                judgement.mark = left if left != mark else -1
                return self._follow(first, packet, hook, now)
        tracker = self.tracker
        if tracker.zoned:
            tracker.zone = tracker.settings.zones.get(indev, b"")
        if ruleset.tracks and packet.reason == 0:
            conn = self._track_as_asked(packet, hook, indev, outdev, clean, check, now, mac)
        else:
            conn = tracker.track(packet, check, now)
        if packet.reason == reason.ICMP_ERROR_UNKNOWN and hook == OUTPUT:
            tracker.own_error(packet)
        if conn is not None and conn.generation < ruleset.floor and _is_known(conn, packet):
            if ruleset.floor_means == KILL:
                tracker.remove(conn, now, RELOADED)
                packet = decode(data, length)
                tracker.leniency = conn.track
                conn = tracker.track(packet, check, now)
                tracker.leniency = 0
            elif packet.state == ESTABLISHED:
                rule = self._judge_again(conn, packet, hook, indev, outdev, clean, now, mac)
        if packet.state != 0:
            known: Rule | None = None
            if rule is None and packet.state == ESTABLISHED and conn is not None:
                known = self._memory.find(ruleset, conn, packet.direction, hook, indev, outdev)
            if known is not None:
                rule = known
            else:
                if rule is None:
                    rule = ruleset.evaluate(packet, hook, indev, outdev, conn, clean, mac, now)
                    if ruleset.lasting and packet.state == ESTABLISHED and conn is not None:
                        self._memory.keep(rule, conn, packet.direction, hook, indev, outdev)
                clean = ruleset.mark
                if ruleset.logs:
                    judgement.logs = ruleset.logs
            verdict = rule.verdict
            log = rule.log
            if log is not None:
                limit = log.limit
                judgement.log = limit is None or limit.take(now)
                if not judgement.log:
                    log.held += 1
            if verdict == ACCEPT:
                if conn is not None:
                    if packet.state == NEW or conn.status & CONFIRMED == 0:
                        conn.generation = ruleset.generation
                    why = tracker.confirm(packet, conn, now)
                    if why != 0:
                        packet.reason = why
                        verdict = DROP
                        rule = None
                    elif ruleset.offload_bit != 0 and hook == FORWARD:
                        clean = self.offload.mark(rule, conn, packet, clean, ruleset.offload_bit)
            elif verdict == REJECT:
                verdict = DROP
                judgement.reject = rule.reject_with
                if judgement.reject == AUTOMATIC:
                    judgement.reject = TCP_RESET if packet.proto == TCP else PORT_UNREACHABLE
                clean = rejecting(clean, ruleset.reject_bit, judgement.reject)
        elif packet.reason == reason.KILLED and tracker.killed.is_told(packet, now):
            judgement.reject = TCP_RESET
            clean = rejecting(clean, ruleset.reject_bit, TCP_RESET)
        judgement.mark = clean if clean != mark else -1
        if packet.more and packet.fragment == 0:
            left = -1 if judgement.reject != 0 else judgement.mark
            self._begin(packet, hook, indev, verdict, rule, conn, left, now)
        return self._finish(packet, verdict, rule, conn, hook, now)

    def _track_as_asked(
        self, packet: Packet, hook: i64, indev: str, outdev: str, mark: i64, check: bool, now: i64, mac: bytes
    ) -> Conn | None:
        """Tracks the packet as the rules ahead of tracking want it, or not at all."""
        wanted = self.ruleset.tracking(packet, hook, indev, outdev, mark, mac, now)
        if wanted == TRACK_NONE:
            packet.state = UNTRACKED
            return None
        self.tracker.leniency = wanted
        conn = self.tracker.track(packet, check, now)
        self.tracker.leniency = 0
        return conn

    def _judge_again(
        self, conn: Conn, packet: Packet, hook: i64, indev: str, outdev: str, mark: i64, now: i64, mac: bytes
    ) -> Rule | None:
        """Asks the new rules about a connection that older ones accepted.

        None when they accept it as well; else the rule that does not, and the connection is no more.
        """
        ruleset = self.ruleset
        began = opening(conn, packet)
        at = opening_hook(hook, packet.direction)
        if packet.direction == REPLY:
            rule = ruleset.evaluate(began, at, outdev, indev, conn, 0, b"", now, AGAIN)
        else:
            rule = ruleset.evaluate(began, at, indev, outdev, conn, mark, mac, now, AGAIN)
        if rule.verdict == ACCEPT:
            conn.generation = ruleset.generation
            wish(conn, rule)
            return None
        self.tracker.remove(conn, now, RELOADED)
        return rule

    def _begin(
        self,
        packet: Packet,
        hook: i64,
        indev: str,
        verdict: i64,
        rule: Rule | None,
        conn: Conn | None,
        mark: i64,
        now: i64,
    ) -> None:
        """The first fragment of a datagram was judged. An ICMP error's is not a packet of the connection it quotes."""
        own = conn if conn is not None and packet.key in (conn.key, conn.reply_key) else None
        end = self.tracker.counted_end(own, packet) if own is not None and verdict == ACCEPT else -1
        generation = self.ruleset.generation
        datagram = Datagram(verdict, packet.state, packet.direction, rule, own, now, mark, generation, end)
        self._fragments.begin(packet, place(hook, indev), datagram, now)

    def _follow(self, first: Datagram, packet: Packet, hook: i64, now: i64) -> Judgement:
        """A later fragment: what its datagram's first one got."""
        packet.state = first.state
        packet.direction = first.direction
        packet.reason = 0
        conn = first.conn
        if conn is not None and first.verdict == ACCEPT:
            first.end = self.tracker.extend(conn, packet, first.end, payload_size(packet))
        return self._finish(packet, first.verdict, first.rule, conn, hook, now)

    def _finish(
        self, packet: Packet, verdict: i64, rule: Rule | None, conn: Conn | None, hook: i64, now: i64
    ) -> Judgement:
        """Counts the packet and fills in the judgement."""
        judgement = self._judgement
        length = packet.length
        if rule is not None:
            rule.packets += 1
            rule.bytes += length
            rule.last = now
        judgement.verdict = verdict
        judgement.state = packet.state
        judgement.direction = packet.direction
        judgement.reason = packet.reason
        judgement.rule = rule
        judgement.conn = conn
        judgement.packet = packet
        self.counters.count(hook, verdict, packet.state, packet.reason, length)
        return judgement


def _is_known(conn: Conn, packet: Packet) -> bool:
    """True for a packet of a connection in the table, but not for an ICMP error about it."""
    return conn.status & CONFIRMED != 0 and (packet.key == conn.key or packet.key == conn.reply_key)
