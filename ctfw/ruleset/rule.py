"""One rule: what a packet must be, what then happens, and how often it did.

A field that is None asks for nothing. Which rules agree with a packet in protocol, ports, addresses and interfaces is
answered by ``index`` for all rules at once; only what is left is asked here. A packet whose headers could not be read
has no ports and no ICMP type, so a rule that asks for one does not match it.
"""

from mypy_extensions import i64

from ctfw.packet import AF_INET, AF_INET6, ICMP, ICMPV6, Packet, read16
from ctfw.ruleset.limit import Limit
from ctfw.ruleset.sets import AddressSet, InterfaceSet, NumberSet


class Log:
    """That a rule's packets are logged, at most as often as ``limit`` says (None: each)."""

    def __init__(self, limit: Limit | None, prefix: str = "") -> None:
        self.limit = limit
        self.prefix = prefix


class Rule:
    """A rule, or a chain's policy. ``origin`` is "file:line"; ``chains`` is a mask of 1 << hook."""

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
        self.packets: i64 = 0
        self.bytes: i64 = 0
        self.last: i64 = 0

    def asks_nothing(self) -> bool:
        """True when chain and state are all that the rule asks for."""
        fields = (self.protos, self.src, self.dst, self.sport, self.dport, self.icmp, self.icmpv6)
        return all(field is None for field in (*fields, self.indev, self.outdev))

    def matches_rest(self, packet: Packet) -> bool:
        """Does the rule ask for this packet? Of a rule whose indexed fields all agree with it."""
        return (self.icmp is None and self.icmpv6 is None) or self._matches_icmp(packet)

    def _matches_icmp(self, packet: Packet) -> bool:
        wanted: NumberSet | None = None
        if packet.proto == ICMP and packet.family == AF_INET:
            wanted = self.icmp
        elif packet.proto == ICMPV6 and packet.family == AF_INET6:
            wanted = self.icmpv6
        if wanted is None or packet.fragment != 0 or packet.l4 == 0 or len(packet.data) < packet.l4 + 2:
            return False
        return wanted.contains(read16(packet.data, packet.l4))
