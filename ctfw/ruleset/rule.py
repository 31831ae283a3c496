"""One rule: what a packet must be, what then happens, and how often it did.

A rule is plain data: a field that is None (0 for the masks, -1 for the choices) asks for nothing, and what asks is an
object with ``contains`` or ``matches``. Three kinds of fields:

* chain, state, protocol, ports, addresses and interfaces are answered for all rules at once (``index``);
* the rest is asked here, of a rule whose indexed fields all agree with the packet: ``first_miss``, the cheapest first,
  and last what counts (connections, then rate), so that a packet is counted only by a rule that it matches otherwise;
* of addresses only what the index could not hold is asked here (``src_tree``: sets that change; ``late_src``: large
  sets in a large list).

A packet whose headers cannot be read has no ports, flags or ICMP type, so a rule that asks for one does not match it;
and one without a connection has no direction and no status, has lived for no time and carried nothing.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.packet import AF_INET, AF_INET6, ICMP, ICMPV6, TCP, Packet, read16
from ctfw.ruleset.connlimit import ConnLimit
from ctfw.ruleset.dynamic import AddressTree
from ctfw.ruleset.effects import AddTo, Log, SetMark
from ctfw.ruleset.limit import RateLimit
from ctfw.ruleset.question import AGAIN, LIVE, Question
from ctfw.ruleset.schedule import SECOND, Schedule
from ctfw.ruleset.sets import AddressSet, InterfaceSet, MaskedSet, NumberSet
from ctfw.ruleset.verdict import CONTINUE, JUMP, RETURN

__all__ = ["FIELDS", "Log", "Rule"]

# Every field that can fail, under its key in the rule file, in the order in which they are asked. The first nine are
# the index's; a rule's ``first_miss`` answers with the place in this list, 0 for none.
FIELDS: Final = (
    "", "chain", "state", "in", "out", "proto", "src", "dst", "sport", "dport",
    "icmp", "direction", "status", "fragment", "ttl", "dscp", "length", "mark", "tcp_flags", "mac", "helper", "time",
    "connage", "connpackets", "connbytes", "connlimit", "limit",
)  # fmt: skip
SRC: Final = 6
DST: Final = 7
_ICMP: Final = 10
_DIRECTION: Final = 11
_STATUS: Final = 12
_FRAGMENT: Final = 13
_TTL: Final = 14
_DSCP: Final = 15
_LENGTH: Final = 16
_MARK: Final = 17
_TCP_FLAGS: Final = 18
_MAC: Final = 19
_HELPER: Final = 20
_TIME: Final = 21
_AGE: Final = 22
_PACKETS: Final = 23
_BYTES: Final = 24
_CONNLIMIT: Final = 25
_LIMIT: Final = 26


class Rule:
    """A rule, or a chain's policy. ``origin`` is "file:line"; ``chains`` is a mask of 1 << hook.

    ``status`` and ``not_status`` are masks: one of the former (when there is one) and none of the latter. ``helpers``
    is a mask of 1 << helper, bit 0 for none. ``connage`` is in seconds. ``track`` makes it a rule before tracking,
    which has no verdict. What is derived (below "derived") is worked out by the Ruleset through ``settle``.
    """

    def __init__(
        self,
        name: str,
        origin: str,
        verdict: int,
        chains: int,
        states: int,
        protos: NumberSet | None = None,
        src: AddressSet | None = None,
        dst: AddressSet | None = None,
        sport: NumberSet | None = None,
        dport: NumberSet | None = None,
        icmp: NumberSet | None = None,
        icmpv6: NumberSet | None = None,
        indev: InterfaceSet | None = None,
        outdev: InterfaceSet | None = None,
        log: Log | None = None,
        *,
        src_tree: AddressTree | None = None,
        dst_tree: AddressTree | None = None,
        direction: int = -1,
        status: int = 0,
        not_status: int = 0,
        fragment: int = -1,
        ttl: NumberSet | None = None,
        dscp: NumberSet | None = None,
        length: NumberSet | None = None,
        mark: MaskedSet | None = None,
        tcp_flags: MaskedSet | None = None,
        mac: NumberSet | None = None,
        helpers: int = 0,
        schedule: Schedule | None = None,
        connage: NumberSet | None = None,
        connpackets: NumberSet | None = None,
        connbytes: NumberSet | None = None,
        connlimit: ConnLimit | None = None,
        limit: RateLimit | None = None,
        jump: str = "",
        reject_with: int = 0,
        track: int = 0,
        shadow: bool = False,
        set_mark: SetMark | None = None,
        add: AddTo | None = None,
        offload: bool = False,
    ) -> None:
        self.name = name
        self.origin = origin
        self.verdict: i64 = verdict
        self.chains: i64 = chains
        self.states: i64 = states
        self.protos = protos
        self.src = src
        self.dst = dst
        self.sport = sport
        self.dport = dport
        self.icmp = icmp
        self.icmpv6 = icmpv6
        self.indev = indev
        self.outdev = outdev
        self.log = log
        # ``src`` and ``dst`` bound their trees from above: the index uses them, the tree says exactly.
        self.src_tree = src_tree
        self.dst_tree = dst_tree
        self.direction: i64 = direction
        self.status: i64 = status
        self.not_status: i64 = not_status
        self.fragment: i64 = fragment
        self.ttl = ttl
        self.dscp = dscp
        self.length = length
        self.mark = mark
        self.tcp_flags = tcp_flags
        self.mac = mac
        self.helpers: i64 = helpers
        self.schedule = schedule
        self.connage = connage
        self.connpackets = connpackets
        self.connbytes = connbytes
        self.connlimit = connlimit
        self.limit = limit
        self.jump = jump
        self.reject_with: i64 = reject_with
        self.track: i64 = track
        self.shadow = shadow
        self.set_mark = set_mark
        self.add = add
        self.offload = offload
        self.packets: i64 = 0
        self.bytes: i64 = 0
        self.last: i64 = 0
        # Derived.
        self.late_src: bool = False
        self.late_dst: bool = False
        self.has_rest: bool = False
        self.is_plain: bool = False
        self.target: i64 = -1
        self.number: i64 = 0  # written by ``Ruleset.number_rules``

    def settle(self, late_src: bool, late_dst: bool, target: i64) -> None:
        """Works out what is derived. ``target``: the place of the chain that ``jump`` names, or -1."""
        self.late_src = late_src
        self.late_dst = late_dst
        self.target = target
        self.has_rest = self._asks_the_rest()
        ends = self.verdict != JUMP and self.verdict != RETURN and self.verdict != CONTINUE
        self.is_plain = ends and not self.shadow and self.set_mark is None and self.add is None and self.track == 0

    def asks_nothing(self) -> bool:
        """True when chain and state are all that the rule asks for. ``settle`` came before."""
        fields = (self.protos, self.src, self.dst, self.sport, self.dport)
        return not self.has_rest and all(field is None for field in (*fields, self.indev, self.outdev))

    def _asks_the_rest(self) -> bool:
        objects = (
            self.icmp, self.icmpv6, self.ttl, self.dscp, self.length, self.mark, self.tcp_flags, self.mac,
            self.schedule, self.connage, self.connpackets, self.connbytes, self.connlimit, self.limit,
            self.src_tree, self.dst_tree,
        )  # fmt: skip
        masks = self.status | self.not_status | self.helpers
        choices = self.direction >= 0 or self.fragment >= 0 or self.late_src or self.late_dst
        return masks != 0 or choices or any(field is not None for field in objects)

    def first_miss(self, question: Question) -> i64:
        """Of a rule whose indexed fields all agree with the packet: the first other field that does not, or 0.

        In LIVE mode ``limit`` and ``connlimit`` count the packet when they are reached.
        """
        packet = question.packet
        if self.icmp is not None or self.icmpv6 is not None:
            if not self._matches_icmp(packet):
                return _ICMP
        if self.direction >= 0 and packet.direction != self.direction:
            return _DIRECTION
        if self.fragment >= 0 and (packet.more or packet.fragment != 0) != (self.fragment == 1):
            return _FRAGMENT
        conn = question.conn
        if self.status != 0 or self.not_status != 0:
            status: i64 = conn.status if conn is not None else 0
            if (self.status != 0 and status & self.status == 0) or status & self.not_status != 0:
                return _STATUS
        ttl = self.ttl
        if ttl is not None and not ttl.contains(hop_limit(packet)):
            return _TTL
        dscp = self.dscp
        if dscp is not None and not dscp.contains(service(packet)):
            return _DSCP
        length = self.length
        if length is not None and not length.contains(packet.length):
            return _LENGTH
        mark = self.mark
        if mark is not None and not mark.contains(question.mark):
            return _MARK
        flags = self.tcp_flags
        if flags is not None:
            bits = read_flags(packet)
            if bits < 0 or not flags.contains(bits):
                return _TCP_FLAGS
        mac = self.mac
        if mac is not None:
            if len(question.mac) != 6 or not mac.contains(int.from_bytes(question.mac, "big")):
                return _MAC
        if self.helpers != 0:
            helper: i64 = 0
            if conn is not None:
                master = conn.master
                if master is not None:
                    helper = master.helper
            if self.helpers & (1 << helper) == 0:
                return _HELPER
        schedule = self.schedule
        if schedule is not None and not schedule.active:
            return _TIME
        return self._miss_of_connection(question)

    def _miss_of_connection(self, question: Question) -> i64:
        conn = question.conn
        age = self.connage
        if age is not None:
            seconds: i64 = (question.now - conn.created) // SECOND if conn is not None else 0
            if not age.contains(seconds):
                return _AGE
        packets = self.connpackets
        if packets is not None:
            count: i64 = conn.original_packets + conn.reply_packets if conn is not None else 0
            if not packets.contains(count):
                return _PACKETS
        octets = self.connbytes
        if octets is not None:
            size: i64 = conn.original_bytes + conn.reply_bytes if conn is not None else 0
            if not octets.contains(size):
                return _BYTES
        packet = question.packet
        if self.late_src or self.src_tree is not None:
            if not _contains(self.src, self.src_tree, packet.src, question.now):
                return SRC
        if self.late_dst or self.dst_tree is not None:
            if not _contains(self.dst, self.dst_tree, packet.dst, question.now):
                return DST
        again = question.mode == AGAIN
        connlimit = self.connlimit
        if connlimit is not None:
            if again:
                if connlimit.above:
                    return _CONNLIMIT
            elif not connlimit.matches(packet, conn, question.now, question.mode == LIVE):
                return _CONNLIMIT
        limit = self.limit
        if limit is not None:
            if again:
                if limit.over:
                    return _LIMIT
            elif not limit.matches(packet, question.now, question.mode == LIVE):
                return _LIMIT
        return 0

    def _matches_icmp(self, packet: Packet) -> bool:
        wanted: NumberSet | None = None
        if packet.proto == ICMP and packet.family == AF_INET:
            wanted = self.icmp
        elif packet.proto == ICMPV6 and packet.family == AF_INET6:
            wanted = self.icmpv6
        if wanted is None or packet.fragment != 0 or packet.l4 == 0 or len(packet.data) < packet.l4 + 2:
            return False
        return wanted.contains(read16(packet.data, packet.l4))


def hop_limit(packet: Packet) -> i64:
    """TTL or hop limit; -1 when the packet is not IP."""
    if packet.family == AF_INET:
        return packet.data[8]
    return packet.data[7] if packet.family == AF_INET6 else -1


def service(packet: Packet) -> i64:
    """The differentiated services code point (RFC 2474); -1 when the packet is not IP."""
    if packet.family == AF_INET:
        tos: i64 = packet.data[1]
        return tos >> 2
    return (read16(packet.data, 0) >> 6) & 63 if packet.family == AF_INET6 else -1


def read_flags(packet: Packet) -> i64:
    """The TCP flags; -1 when the packet has none, or none that can be read."""
    if packet.proto != TCP or packet.fragment != 0 or packet.l4 == 0 or len(packet.data) < packet.l4 + 14:
        return -1
    return packet.data[packet.l4 + 13]


def _contains(addresses: AddressSet | None, tree: AddressTree | None, address: bytes, now: i64) -> bool:
    if tree is not None and not tree.contains(address, now):
        return False
    return addresses is None or addresses.contains(address)
