"""Bytes -> verdict: the packet's whole way, in the order in which it matters.

Owns the order and the counters, nothing else. The order is the kernel's (CONNTRACK.md section 1): the state machine
steps before the rules are asked, the helper runs after them, and only an accepted packet's connection enters the table.
Never raises, whatever the bytes; knows no queue, clock, file or log.
"""

from mypy_extensions import i64

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import STATE_NAMES
from ctfw.conntrack.tracker import ConnTrack
from ctfw.fragments import Datagram, Fragments, payload_size
from ctfw.packet import HOOK_NAMES, NO_DIRECTION, Packet, decode
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.verdict import ACCEPT, DROP

_STATES = (0, 1, 2, 4, 8, 16)


class Judgement:
    """What was decided about one packet, and why. ``Engine.handle`` returns the same object each time.

    ``state`` is a bit of ctfw.conntrack.state, or 0 when conntrack itself dropped the packet; ``rule`` is None exactly
    when no rule gave the verdict: conntrack or a helper did. ``log`` says that the rule wants a line about it now.
    """

    def __init__(self) -> None:
        self.verdict: i64 = DROP
        self.state: i64 = 0
        self.direction: i64 = NO_DIRECTION
        self.reason: i64 = 0
        self.log: bool = False
        self.rule: Rule | None = None
        self.conn: Conn | None = None
        self.packet: Packet = decode(b"", 0)


class Counters:
    """What the engine has judged: ``packets[hook][verdict]``, ``bytes`` likewise, ``states`` by bit, ``reasons``."""

    def __init__(self) -> None:
        self.packets: list[list[int]] = [[0, 0] for _ in HOOK_NAMES]
        self.bytes: list[list[int]] = [[0, 0] for _ in HOOK_NAMES]
        self.states: list[int] = [0] * 17
        self.reasons: list[int] = [0] * reason.COUNT

    def by_state(self) -> dict[str, int]:
        """Packets by the name of their state; "" are those that conntrack dropped."""
        return {STATE_NAMES.get(bit, ""): self.states[bit] for bit in _STATES}


class Engine:
    """The firewall without its queue. ``ruleset`` may be replaced between two packets."""

    def __init__(self, tracker: ConnTrack, ruleset: Ruleset) -> None:
        self.tracker = tracker
        self.ruleset = ruleset
        self.counters = Counters()
        self._judgement = Judgement()
        self._fragments = Fragments()

    def handle(
        self, data: bytes, length: i64, hook: i64, indev: str, outdev: str, mark: i64, check: bool, now: i64
    ) -> Judgement:
        """The judgement on the packet in ``data``, valid until the next call.

        ``length`` is the packet's true length (the kernel may copy only its head), ``hook`` where it was caught,
        ``indev`` and ``outdev`` interface names or "", ``check`` says that its checksum is still to be verified.
        ``now`` is in nanoseconds, from the same clock at each call.
        """
        judgement = self._judgement
        judgement.log = False
        packet = decode(data, length)
        verdict: i64 = DROP
        rule: Rule | None = None
        if packet.fragment != 0 and packet.reason == reason.FRAGMENT:
            first = self._fragments.follow(packet, now)
            if first is not None:
                return self._follow(first, packet, hook, now)
        conn = self.tracker.track(packet, check, now)
        if packet.state != 0:
            rule = self.ruleset.evaluate(packet, hook, indev, outdev)
            verdict = rule.verdict
            log = rule.log
            if log is not None:
                limit = log.limit
                judgement.log = limit is None or limit.take(now)
            if verdict == ACCEPT and conn is not None:
                why = self.tracker.confirm(packet, conn, now)
                if why != 0:
                    packet.reason = why
                    verdict = DROP
                    rule = None
        if packet.more and packet.fragment == 0:
            self._fragments.begin(packet, verdict, rule, conn, now)
        return self._finish(packet, verdict, rule, conn, hook, now)

    def _follow(self, first: Datagram, packet: Packet, hook: i64, now: i64) -> Judgement:
        """A later fragment: what its datagram's first one got."""
        packet.state = first.state
        packet.direction = first.direction
        packet.reason = 0
        conn = first.conn
        if conn is not None and first.verdict == ACCEPT:
            self.tracker.extend(conn, packet, payload_size(packet))
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
        counters = self.counters
        counters.packets[hook][verdict] += 1
        counters.bytes[hook][verdict] += length
        counters.states[packet.state] += 1
        if packet.reason != 0:
            counters.reasons[packet.reason] += 1
        return judgement
