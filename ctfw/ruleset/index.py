"""Which rules can match this packet? Answered for all rules at once, field by field.

The bit-vector scheme (Lakshman and Stiliadis, SIGCOMM 1998): number the rules in their order, and for each field cut
the values that it can have into the intervals on which the same rules agree. Each interval holds a set of rules, as the
bits of one integer. A packet's candidates are the intersection of its fields' sets, and the first rule that matches is
the lowest bit. So a packet that opens a connection pays a binary search and an AND per field, not a look at each rule:
10,000 rules are 1,250 bytes to AND.

A rule that does not ask for a field has its bit everywhere in it. What cannot be indexed (limits, sets that change) is
not known here: the caller asks the candidates themselves, in their order.

Making an index of ten thousand rules takes a third of a second, so it is made in short steps (see breath).

A boundary costs a bit for each rule, so long lists of addresses times long lists of rules would fill the memory. Up to
BUDGET the largest sets are left to the caller as well (``late_srcs``, ``late_dsts``): for the few rules that use them a
second binary search costs a packet less than the memory would.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, Final

from mypy_extensions import i64

from ctfw.packet import AF_INET, Packet, has_ports, read16
from ctfw.ruleset.breath import drained, hold_breath, put_in_order
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.sets import AddressSet, InterfaceSet, NumberSet

# Names that a packet's interface was looked up by. More than a gateway has interfaces: forget and begin again.
_MOST_NAMES: Final = 4096
BUDGET: Final = 64 << 20  # bytes that the boundaries of one field of addresses may take
_OBJECT: Final = 100  # bytes that a boundary takes beside its rules


class Numbers:
    """One field of whole numbers, up to ``highest``. ``none`` holds the rules that do not ask for it."""

    def __init__(self, wanted: list[NumberSet | None], highest: int, breathe: Callable[[], None] = hold_breath) -> None:
        self.none = bits(at for at, numbers in enumerate(wanted) if numbers is None)
        edges: list[tuple[int, int]] = [(0, 0)]
        for at, numbers in enumerate(wanted):
            if numbers is not None:
                bit = 1 << at
                for first, last in numbers.intervals():
                    breathe()
                    edges.append((first, bit))
                    if last < highest:
                        edges.append((last + 1, bit))
        self.is_used = any(numbers is not None for numbers in wanted)
        self._firsts: list[int] = []
        self._rules: list[int] = []
        add_up(edges, self.none, self._firsts, self._rules, breathe)

    def find(self, number: i64) -> int:
        """The rules that agree with ``number`` in this field."""
        return self._rules[bisect_right(self._firsts, number) - 1]


class Addresses:
    """One field of addresses, IPv4 and IPv6. ``none`` holds the rules that do not ask for it."""

    def __init__(self, wanted: list[AddressSet | None], breathe: Callable[[], None] = hold_breath) -> None:
        self.none = bits(at for at, addresses in enumerate(wanted) if addresses is None)
        edges4: list[tuple[bytes, int]] = [(bytes(4), 0)]
        edges6: list[tuple[bytes, int]] = [(bytes(16), 0)]
        self.is_used = False
        for place, addresses in enumerate(wanted):
            if addresses is not None:
                self.is_used = True
                bit = 1 << place
                for at in range(len(addresses)):
                    breathe()
                    first, last = addresses.interval(at)
                    edges = edges4 if len(first) == 4 else edges6
                    edges.append((first, bit))
                    behind = int.from_bytes(last, "big") + 1
                    if behind >> (8 * len(last)) == 0:
                        edges.append((behind.to_bytes(len(last), "big"), bit))
        self._firsts4: list[bytes] = []
        self._firsts6: list[bytes] = []
        self._rules4: list[int] = []
        self._rules6: list[int] = []
        add_up(edges4, self.none, self._firsts4, self._rules4, breathe)
        add_up(edges6, self.none, self._firsts6, self._rules6, breathe)

    def find4(self, address: bytes) -> int:
        """The rules that agree with an IPv4 address in this field."""
        return self._rules4[bisect_right(self._firsts4, address) - 1]

    def find6(self, address: bytes) -> int:
        """The rules that agree with an IPv6 address in this field."""
        return self._rules6[bisect_right(self._firsts6, address) - 1]


class Interfaces:
    """One field of interface names. A name's rules are worked out when it is first seen."""

    def __init__(self, wanted: list[InterfaceSet | None]) -> None:
        self._wanted = wanted
        self._known: dict[str, int] = {}
        self.is_used = any(names is not None for names in wanted)

    def find(self, name: str) -> int:
        """The rules that agree with the interface ``name`` ("" when the packet has none)."""
        rules = self._known.get(name, -1)
        if rules < 0:
            rules = bits(at for at, names in enumerate(self._wanted) if names is None or names.contains(name))
            if len(self._known) >= _MOST_NAMES:
                self._known.clear()
            self._known[name] = rules
        return rules


class Index:
    """All fields of a list of rules. The rules' places in the list are their bits."""

    def __init__(self, rules: list[Rule], breathe: Callable[[], None] = hold_breath) -> None:
        self._protos = Numbers([rule.protos for rule in rules], 255, breathe)
        self._by_proto: list[int] = [self._protos.find(proto) for proto in range(256)]
        self._sports = Numbers([rule.sport for rule in rules], 65535, breathe)
        self._dports = Numbers([rule.dport for rule in rules], 65535, breathe)
        self._portless: int = self._sports.none & self._dports.none
        sources = [rule.src for rule in rules]
        destinations = [rule.dst for rule in rules]
        self.late_srcs = too_large(sources, BUDGET, breathe)
        self.late_dsts = too_large(destinations, BUDGET, breathe)
        asked = [None if at in self.late_srcs else one for at, one in enumerate(sources)]
        self._sources = Addresses(asked, breathe)
        asked = [None if at in self.late_dsts else one for at, one in enumerate(destinations)]
        self._destinations = Addresses(asked, breathe)
        self._ins = Interfaces([rule.indev for rule in rules])
        self._outs = Interfaces([rule.outdev for rule in rules])

    def candidates(self, among: int, packet: Packet, indev: str, outdev: str) -> int:
        """Of the rules ``among``, those whose indexed fields all agree with the packet."""
        found = among & self._by_proto[packet.proto]
        if self._dports.is_used or self._sports.is_used:
            if has_ports(packet):
                if self._dports.is_used:
                    found &= self._dports.find(read16(packet.data, packet.l4 + 2))
                if self._sports.is_used:
                    found &= self._sports.find(read16(packet.data, packet.l4))
            else:
                found &= self._portless
        if self._ins.is_used:
            found &= self._ins.find(indev)
        if self._outs.is_used:
            found &= self._outs.find(outdev)
        if packet.family == AF_INET:
            if self._sources.is_used:
                found &= self._sources.find4(packet.data[12:16])
            if self._destinations.is_used:
                found &= self._destinations.find4(packet.data[16:20])
        elif packet.family != 0:
            if self._sources.is_used:
                found &= self._sources.find6(packet.data[8:24])
            if self._destinations.is_used:
                found &= self._destinations.find6(packet.data[24:40])
        else:
            found &= self._sources.none & self._destinations.none
        return found


def too_large(
    wanted: list[AddressSet | None], budget: int = BUDGET, breathe: Callable[[], None] = hold_breath
) -> set[int]:
    """The places of the sets, largest first, without which the others keep to the budget."""
    each = 2 * (_OBJECT + len(wanted) // 8)
    sizes: dict[int, int] = {}  # by identity: many rules share a named set
    for addresses in wanted:
        breathe()
        if addresses is not None:
            sizes[id(addresses)] = len(addresses)
    total = sum(sizes.values()) * each
    if total <= budget:
        return set()
    large: set[int] = set()
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if total <= budget:
            break
        large.add(name)
        total -= size * each
    return {at for at, addresses in enumerate(wanted) if addresses is not None and id(addresses) in large}


def bits(places: Iterable[int]) -> int:
    """The integer that has just these bits."""
    octets = bytearray()
    for place in places:
        if place >> 3 >= len(octets):
            octets.extend(bytes((place >> 3) + 1 - len(octets)))
        octets[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(octets, "little")


def add_up(
    edges: list[Any], start: int, firsts: list[Any], rules: list[int], breathe: Callable[[], None] = hold_breath
) -> None:
    """From the edges, which are places and the bits that change there: ``firsts``, the places in their order, and
    ``rules``, the bits from each of them on, ``start`` before the first. ``edges`` is empty then.

    Equal bits are one object, for neighbours often agree.
    """
    ordered = put_in_order(edges, breathe)
    edges.clear()
    seen: dict[int, int] = {}
    for edge in drained(ordered, breathe):
        place, bit = edge
        if len(firsts) == 0:
            firsts.append(place)
        elif place != firsts[-1]:
            rules.append(seen.setdefault(start, start))
            firsts.append(place)
        start ^= bit
    rules.append(seen.setdefault(start, start))
