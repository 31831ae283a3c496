"""One rule: what a packet must be, what then happens, and how often it did.

A field that is None asks for nothing. ``matches`` tests the cheap fields first; a packet whose headers could not be
read has no ports and no ICMP type, so a rule that asks for one does not match it.
"""

from mypy_extensions import i64

from ctfw.packet import AF_INET, AF_INET6, ICMP, ICMPV6, Packet, has_ports, read16
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

    def matches(self, packet: Packet, indev: str, outdev: str) -> bool:
        """Does the rule ask for this packet? Chain and state have been looked at by the Ruleset."""
        protos = self.protos
        if protos is not None and not protos.contains(packet.proto):
            return False
        if self.sport is not None or self.dport is not None:
            if not has_ports(packet):
                return False
            sport = self.sport
            if sport is not None and not sport.contains(read16(packet.data, packet.l4)):
                return False
            dport = self.dport
            if dport is not None and not dport.contains(read16(packet.data, packet.l4 + 2)):
                return False
        if (self.icmp is not None or self.icmpv6 is not None) and not self._matches_icmp(packet):
            return False
        wanted = self.indev
        if wanted is not None and not wanted.contains(indev):
            return False
        wanted = self.outdev
        if wanted is not None and not wanted.contains(outdev):
            return False
        addresses = self.src
        if addresses is not None and not addresses.contains(packet.src):
            return False
        addresses = self.dst
        return addresses is None or addresses.contains(packet.dst)

    def _matches_icmp(self, packet: Packet) -> bool:
        wanted: NumberSet | None = None
        if packet.proto == ICMP and packet.family == AF_INET:
            wanted = self.icmp
        elif packet.proto == ICMPV6 and packet.family == AF_INET6:
            wanted = self.icmpv6
        if wanted is None or packet.fragment != 0 or packet.l4 == 0 or len(packet.data) < packet.l4 + 2:
            return False
        return wanted.contains(read16(packet.data, packet.l4))
