"""The space of packets: what a rule can match, and whether other rules leave anything of it over. Exact arithmetic.

Every packet is a point with nine coordinates (DIMENSIONS). What a rule asks for is one set in each of them, so a rule
is a box, and questions about rules are questions about boxes: one rule hides another when its box holds the other's, a
few do when theirs cover it together, and something is never accepted when no accepting box meets it outside of those
that come before. Each coordinate is cut at the values that occur in the rules, as in ``ruleset.index``; between two
cuts all values are alike. So a set is an integer with a bit a segment, boxes meet with nine ANDs, and nothing is
sampled.

Not every point is a packet (``_universe``): only some protocols have ports, ICMP has a type, an incoming packet leaves
by no interface. What protocol, IP version and header have to do with each other is one coordinate, WHAT; the type of
an ICMP packet stands where others have their destination port, each kind on a stretch of its own.

Chains that rules jump to are written out at each jump (``_write_out``), with the box of the jump around their rules.
What `return` sends back is cut out of the rules behind it. So one rule may have several entries, and it is hidden when
each of them is.

What a rule asks for beside (``conditions``) is no coordinate: such a rule hides another only when the other asks for
no less, and it may let pass whatever its box holds.

Whether boxes cover a box is hard in general (it takes exponential time in the worst case), so it is bounded:
MOST_STEPS for one question, the caller's ``budget`` for all, MOST_ENTRIES for the chains written out. Beyond,
Undecided is raised.

The search (``uncovered``): take a point of the box; if no rule holds it, it is the answer; else one does, and what of
the box lies outside of that rule is searched in the same way. Which rules hold a point is nine look-ups (``_rows``).
"""

import string
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import xor
from typing import Any, Final

from ctfw.config.conditions import DOUBT, Condition, conditions_of, exclude, follow, is_stateful
from ctfw.config.values import MAX_INTERFACE
from ctfw.conntrack.icmp import is_query
from ctfw.conntrack.state import ANY, INVALID, NEW, UNTRACKED
from ctfw.packet import FORWARD, ICMP, ICMPV6, INPUT, OUTPUT, SCTP, TCP, UDP, UDPLITE
from ctfw.ruleset.index import bits
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import AddressSet, InterfaceSet, NumberSet, subtract_numbers
from ctfw.ruleset.verdict import ACCEPT, CONTINUE, JUMP, RETURN

MOST_STEPS: Final = 5_000  # pieces of a box looked at for one question
MOST_ENTRIES: Final = 50_000
MOST_PIECES: Final = 64  # that rules which end a chain leave of the box of one behind them

DIMENSIONS: Final = 9
HOOK, STATE, IN, OUT, WHAT, SRC, DST, SPORT, DPORT = range(DIMENSIONS)

# WHAT: IP version, whether the header behind IP's is there with ports or a type, and protocol.
_V6: Final = 512
_HEADED: Final = 256
_WHATS: Final = 1024
PORTED: Final = (TCP, UDP, SCTP, UDPLITE)
_ICMPS: Final = (ICMP, ICMPV6)

# SRC and DST: IPv4 first, IPv6 behind it.
_FIRST6: Final = 1 << 32
_BEHIND6: Final = _FIRST6 + (1 << 128)
_USUAL: Final = (10 << 24, _FIRST6 + (0xFD << 120))  # where private addresses begin

# SPORT and DPORT: ports, then for DPORT the types of either ICMP (type << 8 | code), and last: it has none.
_TYPES: Final = (1 << 16, 2 << 16)
_NO_PORT: Final = 3 << 16

_HOOKS: Final = (INPUT, FORWARD, OUTPUT)

# What makes a name that no rule names of a wildcard's beginning, and of nothing.
_LETTERS: Final = string.digits + string.ascii_lowercase + string.ascii_uppercase + "_-"
_ENDINGS: Final = ("", *_LETTERS, *(one + other for one in _LETTERS for other in _LETTERS))
_OTHERS: Final = ("eth0", "wan0", "lan0", *_ENDINGS[1:])

# Where the search begins at the other end: two interfaces rather than one, and a source port as programs get it.
_HIGHEST: Final = (OUT, SPORT)

Ranges = list[tuple[int, int]]
Box = list[int]


class Undecided(Exception):
    """The question costs more than it may."""


class Part:
    """A set in one coordinate, as ranges of segments and as a mask of them."""

    __slots__ = ("_mask", "ranges")

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self._mask = -1

    @property
    def mask(self) -> int:
        if len(self.ranges) == 1:  # cheaper to make than to keep
            first, last = self.ranges[0]
            return (1 << last + 1) - (1 << first)
        if self._mask < 0:
            self._mask = _mask_of(self.ranges)
        return self._mask


_NOTHING: Final = Part([])


@dataclass
class Entry:
    """A rule, at one of the places where packets can meet it. ``jumps`` are the rules that lead there."""

    rule: Rule
    parts: list[Part]
    conditions: tuple[Condition, ...]
    jumps: tuple[Rule, ...]


@dataclass(frozen=True)
class Point:
    """One packet of the space. Ports are -1 where there are none; ``kind`` is an ICMP type << 8 | code, or -1."""

    hook: int
    state: int
    indev: str
    outdev: str
    proto: int
    src: bytes
    dst: bytes
    sport: int
    dport: int
    kind: int


class Space:
    """Rules as boxes. ``patterns`` are rules that questions are about, and which decide nothing themselves."""

    def __init__(
        self, ruleset: Ruleset, patterns: Sequence[Rule] = (), tracking: bool = False, budget: int = 0
    ) -> None:
        """``tracking``: the rules ahead of tracking, instead of the others."""
        self.budget = budget
        self.is_whole = True  # False: some chains were not written out
        self._parts: dict[Any, Part] = {}
        self._kept: list[object] = []  # whose id is a key of _parts
        every = [*ruleset.every, *patterns]
        self._marks_change = any(rule.set_mark is not None for rule in every)
        self._names = _interface_names(every)
        self._cuts = [_cuts([rule.src for rule in every]), _cuts([rule.dst for rule in every])]
        self._cuts += [_port_cuts([rule.sport for rule in every], [])]
        self._cuts += [_port_cuts([rule.dport for rule in every], [(rule.icmp, rule.icmpv6) for rule in every])]
        self._whole = [Part([(0, 2)]), Part([(0, 4)]), Part([(0, len(self._names) - 1)])]
        self._whole += [self._whole[IN], Part([(0, _WHATS - 1)])]
        self._whole += [Part([(0, len(cuts) - 1)]) for cuts in self._cuts]
        self._universe = self._packets()

        self.entries: list[Entry] = []
        self.places: dict[Rule, list[int]] = {}
        self._ends = 0  # the entries whose rules decide, and ask for no conditions
        self._conditional: dict[tuple[Condition, ...], int] = {}
        if tracking:
            for rule in ruleset.rules:
                if rule.track:
                    self._enter(rule, self._parts_of(rule), conditions_of(rule), (), True)
        else:
            self._write_out(ruleset)
        self._rows = [self._rows_of(dimension) for dimension in range(DIMENSIONS)]

    def boxes(self, parts: list[Part]) -> list[Box]:
        """The packets that lie in this set of each coordinate, as boxes without common points."""
        masks = [part.mask for part in parts]
        hook, what, src = masks[HOOK], masks[WHAT], masks[SRC]
        found = []
        for valid in self._universe:
            if valid[HOOK] & hook and valid[WHAT] & what and valid[SRC] & src:  # what most of them differ in
                box = [one & other for one, other in zip(masks, valid, strict=True)]
                if all(box):
                    found.append(box)
        return found

    def boxes_of(self, pattern: Rule) -> list[Box]:
        """The packets that a rule's indexed fields hold."""
        return self.boxes(self._parts_of(pattern))

    def ahead_of(self, at: int, given: Sequence[Condition] = ()) -> int:
        """The entries, as bits, that surely decide before entry ``at`` about each packet of theirs.

        ``given`` is known about the packets.
        """
        own = self.entries[at].conditions
        found = self._ends
        if own or given:
            for wanted, entries in self._conditional.items():
                if self._follows((*own, *given), wanted):
                    found |= entries
        return found & ((1 << at) - 1)

    def is_hidden(self, at: int, used: set[int]) -> bool:
        """Do entries before this one take every packet of it? ``used`` gets those that do. Raises Undecided."""
        ahead = self.ahead_of(at)
        return all(self.uncovered(box, ahead, used) is None for box in self.boxes(self.entries[at].parts))

    def holds(self, outer: int, inner: int) -> bool:
        """Does the box of one entry hold that of another?"""
        masks = [part.mask for part in self.entries[outer].parts]
        return all(_is_within(box, masks) for box in self.boxes(self.entries[inner].parts))

    def uncovered(self, box: Box, cover: int, used: set[int] | None = None) -> Box | None:
        """One point of the box, as a box, that none of the entries ``cover`` holds; None when there is none.

        ``used`` gets the entries that were needed. Raises Undecided.
        """
        steps = 0
        stack = [box]
        while stack:
            steps += 1
            self.budget -= 1
            if steps > MOST_STEPS or self.budget < 0:
                raise Undecided
            box = stack.pop()
            found = cover
            point = [mask & -mask for mask in box]
            for dimension in _HIGHEST:
                point[dimension] = 1 << box[dimension].bit_length() - 1
            for dimension in range(DIMENSIONS):
                found &= self._rows[dimension][point[dimension].bit_length() - 1]
                if not found:
                    return point
            self._cut(box, found, stack, used)
        return None

    def accepted(self, boxes: list[Box], given: Sequence[Condition] = ()) -> Iterator[tuple[int, Box]]:
        """Each entry that may accept a packet of these boxes, with one such packet. Raises Undecided.

        ``given`` is known about the packets.
        """
        if not self.is_whole:
            raise Undecided
        for at, entry in enumerate(self.entries):
            if entry.rule.verdict != ACCEPT or entry.rule.shadow or exclude(given, entry.conditions):
                continue
            masks = [part.mask for part in entry.parts]
            for box in boxes:
                met = [one & other for one, other in zip(box, masks, strict=True)]
                left = self.uncovered(met, self.ahead_of(at, given)) if all(met) else None
                if left is not None:
                    yield at, left
                    break

    def point(self, box: Box) -> Point:
        """A packet in words of people, from a box that ``uncovered`` gave."""
        at = [mask.bit_length() - 1 for mask in box]
        proto = at[WHAT] & 255
        kind = self._value(DPORT, at[DPORT])
        is_icmp = kind < _NO_PORT and kind >= _TYPES[0]
        return Point(
            _HOOKS[at[HOOK]],
            1 << at[STATE],
            self._names[at[IN]],
            self._names[at[OUT]],
            proto,
            self._address(SRC, at[SRC]),
            self._address(DST, at[DST]),
            self._port(SPORT, at[SPORT]),
            self._port(DPORT, at[DPORT]),
            kind & 0xFFFF if is_icmp else -1,
        )

    # --- boxes from rules -------------------------------------------------------------------------

    def _write_out(self, ruleset: Ruleset) -> None:
        """The entries: the main list, at each jump the chain that it leads to, and the policies."""
        chains = {chain.name: chain.rules for chain in ruleset.chains}
        self._write_chain(chains, ruleset.rules, self._whole, (), ())
        for policy in ruleset.policies.values():
            self._enter(policy, self._parts_of(policy), (), (), True)

    def _write_chain(
        self,
        chains: dict[str, list[Rule]],
        rules: list[Rule],
        around: list[Part],
        given: tuple[Condition, ...],
        jumps: tuple[Rule, ...],
    ) -> None:
        returns: list[tuple[list[Part], bool]] = []  # of this chain, so far: the box, and whether it is certain
        for rule in rules:
            if rule.track:
                continue
            conditions = (*given, *conditions_of(rule))
            ends = rule.verdict not in (JUMP, RETURN, CONTINUE) and not rule.shadow
            whole = self._common(self._parts_of(rule), around)
            for parts, doubt in self._without_returns(whole, returns) if returns else [(whole, ())]:
                if len(self.entries) >= MOST_ENTRIES:
                    self.is_whole = False
                    return
                self._enter(rule, parts, (*conditions, *doubt), jumps, ends)
                if rule.verdict == JUMP and not rule.shadow:
                    self._write_chain(chains, chains[rule.jump], parts, (*conditions, *doubt), (*jumps, rule))
            if rule.verdict == RETURN and not rule.shadow:
                returns.append((whole, not conditions_of(rule)))

    def _without_returns(
        self, parts: list[Part], returns: list[tuple[list[Part], bool]]
    ) -> list[tuple[list[Part], tuple[Condition, ...]]]:
        """What of a box comes past rules that end its chain, as boxes; and with DOUBT, what may come past."""
        pieces: list[tuple[list[Part], tuple[Condition, ...]]] = [(parts, ())]
        for hole, certain in returns:
            left: list[tuple[list[Part], tuple[Condition, ...]]] = []
            for piece, doubt in pieces:
                inside = self._common(piece, hole)
                if not all(part.ranges for part in inside):
                    left.append((piece, doubt))
                    continue
                rest = list(piece)
                for dimension in range(DIMENSIONS):
                    outside = self._less(rest[dimension], inside[dimension])
                    if outside.ranges:
                        left.append(([*rest[:dimension], outside, *rest[dimension + 1 :]], doubt))
                        rest[dimension] = inside[dimension]
                if not certain:
                    left.append((inside, DOUBT))
            if len(left) > MOST_PIECES:
                self.is_whole = False
                return [(parts, DOUBT)]
            pieces = left
        return pieces

    def _enter(
        self, rule: Rule, parts: list[Part], conditions: tuple[Condition, ...], jumps: tuple[Rule, ...], ends: bool
    ) -> None:
        at = len(self.entries)
        self.entries.append(Entry(rule, parts, conditions, jumps))
        self.places.setdefault(rule, []).append(at)
        if ends and not conditions:
            self._ends |= 1 << at
        elif ends and not any(is_stateful(condition) for condition in conditions):
            self._conditional[conditions] = self._conditional.get(conditions, 0) | 1 << at

    def _follows(self, given: Iterable[Condition], wanted: Iterable[Condition]) -> bool:
        return follow(given, wanted, self._marks_change)

    def _parts_of(self, rule: Rule) -> list[Part]:
        hooks = [at for at, hook in enumerate(_HOOKS) if rule.chains >> hook & 1]
        return [
            self._part(("hooks", rule.chains), lambda: _runs(hooks)),
            self._part(("states", rule.states), lambda: _runs([at for at in range(5) if rule.states >> at & 1])),
            self._interfaces(rule.indev),
            self._interfaces(rule.outdev),
            self._what(rule),
            self._line(SRC, rule.src, _address_numbers),
            self._line(DST, rule.dst, _address_numbers),
            self._line(SPORT, rule.sport, NumberSet.intervals),
            self._detail(rule),
        ]

    def _part(self, key: Any, make: Callable[[], Ranges]) -> Part:
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = Part(make())
        return part

    def _keep(self, thing: object) -> int:
        """A name for the object that nothing else gets as long as this space is there."""
        if thing is None:
            return 0
        self._kept.append(thing)
        return id(thing)

    def _interfaces(self, wanted: InterfaceSet | None) -> Part:
        if wanted is None:
            return self._whole[IN]
        return self._part(
            ("names", wanted.names, wanted.negated),
            lambda: _runs([at for at, name in enumerate(self._names) if wanted.contains(name)]),
        )

    def _what(self, rule: Rule) -> Part:
        """IP version, header and protocol, as all of the rule's fields leave them."""
        has_ports = rule.sport is not None or rule.dport is not None
        has_flags = rule.tcp_flags is not None
        icmp, icmpv6 = rule.icmp is not None, rule.icmpv6 is not None
        protos = rule.protos
        if protos is None and not (has_ports or has_flags or icmp or icmpv6):
            return self._whole[WHAT]

        def values() -> Ranges:
            numbers = range(256)
            wanted = {number for number in numbers if protos is None or protos.contains(number)}
            if not (has_ports or has_flags or icmp or icmpv6):
                return _runs([start + n for start in range(0, _WHATS, 256) for n in sorted(wanted)])
            wanted &= set(PORTED) if has_ports else {TCP} if has_flags else set(_ICMPS)
            if has_flags:
                wanted &= {TCP}
            found = [family + _HEADED + n for family in (0, _V6) for n in sorted(wanted)]
            if icmp or icmpv6:
                types = [_HEADED + ICMP] * icmp + [_V6 + _HEADED + ICMPV6] * icmpv6
                found = [what for what in found if what in types]
            return _runs(found)

        return self._part(("what", self._keep(protos), has_ports, has_flags, icmp, icmpv6), values)

    def _detail(self, rule: Rule) -> Part:
        """The destination port, or the type."""
        if rule.dport is not None or (rule.icmp is None and rule.icmpv6 is None):
            return self._line(DPORT, rule.dport, NumberSet.intervals)
        icmp, icmpv6 = rule.icmp, rule.icmpv6

        def values() -> Ranges:
            found: Ranges = []
            for start, types in zip(_TYPES, (icmp, icmpv6), strict=True):
                if types is not None:
                    found += [(start + first, start + last) for first, last in types.intervals()]
            return self._segments(DPORT, found)

        return self._part(("types", self._keep(icmp), self._keep(icmpv6)), values)

    def _line(self, dimension: int, wanted: Any, intervals: Callable[[Any], Ranges]) -> Part:
        if wanted is None:
            return self._whole[dimension]
        return self._part((dimension, self._keep(wanted)), lambda: self._segments(dimension, intervals(wanted)))

    def _segments(self, dimension: int, intervals: Ranges) -> Ranges:
        """Of intervals of values, which the cuts were made for."""
        cuts = self._cuts[dimension - SRC]
        return [(bisect_left(cuts, first), bisect_left(cuts, last + 1) - 1) for first, last in intervals]

    def _types(self, family: int, kinds: Iterable[int]) -> Ranges:
        """ICMP types with any code."""
        return self._segments(DPORT, [(_TYPES[family] + (n << 8), _TYPES[family] + (n << 8) + 255) for n in kinds])

    def _common(self, some: list[Part], others: list[Part]) -> list[Part]:
        return [self._meet(one, other, at) for at, (one, other) in enumerate(zip(some, others, strict=True))]

    def _less(self, one: Part, other: Part) -> Part:
        if one is other:
            return _NOTHING
        return self._part(
            ("less", self._keep(one), self._keep(other)), lambda: subtract_numbers(one.ranges, other.ranges)
        )

    def _meet(self, one: Part, other: Part, dimension: int) -> Part:
        whole = self._whole[dimension]
        if other is whole or one is other:
            return one
        if one is whole:
            return other
        return self._part(("both", self._keep(one), self._keep(other)), lambda: _shared(one.ranges, other.ranges))

    def _packets(self) -> list[Box]:
        """The points that are packets, as boxes: for each chain and each kind of header in each IP version."""
        no_name, names = 1, self._whole[IN].mask - 1
        ports = Part(self._segments(DPORT, [(0, 65535)])).mask
        sports = Part(self._segments(SPORT, [(0, 65535)])).mask
        no_port, no_sport = 1 << len(self._cuts[3]) - 1, 1 << len(self._cuts[2]) - 1
        unreadable = (INVALID | UNTRACKED) & ANY
        found = []
        for at, hook in enumerate(_HOOKS):
            ends = (names if hook != OUTPUT else no_name, names if hook != INPUT else no_name)
            for family, (low, high) in enumerate(((0, _FIRST6), (_FIRST6, _BEHIND6))):
                lines = [Part(self._segments(line, [(low, high - 1)])).mask for line in (SRC, DST)]
                start, icmp = family * _V6, _ICMPS[family]
                queries = [kind for kind in range(256) if is_query(icmp, kind)]
                types = [Part(self._types(family, kinds)).mask for kinds in (queries, range(256))]
                headed = [*PORTED, *_ICMPS]
                plain = [start + n for n in range(256) if n not in headed]
                kinds = [
                    (_bits(start + _HEADED + n for n in PORTED), ANY, sports, ports),
                    (_bits([start + _HEADED + icmp]), NEW, no_sport, types[0]),
                    (_bits([start + _HEADED + icmp]), ANY & ~NEW, no_sport, types[1]),
                    (_bits(plain), ANY, no_sport, no_port),
                    # Later fragments, headers that are cut off, and the ICMP of the other version.
                    (_bits(start + n for n in headed), unreadable, no_sport, no_port),
                ]
                found += [[1 << at, states, *ends, what, *lines, one, two] for what, states, one, two in kinds]
        return found

    # --- the search -------------------------------------------------------------------------------

    def _rows_of(self, dimension: int) -> list[int]:
        """For each segment the entries that hold it, as bits."""
        entries: dict[int, list[int]] = {}
        parts: dict[int, Part] = {}
        for at, entry in enumerate(self.entries):
            part = entry.parts[dimension]
            parts[id(part)] = part
            entries.setdefault(id(part), []).append(at)
        size = self._whole[dimension].ranges[0][1] + 1
        toggles = [0] * (size + 1)
        for name, part in parts.items():
            those = bits(entries[name])
            for first, last in part.ranges:
                toggles[first] ^= those
                toggles[last + 1] ^= those
        seen: dict[int, int] = {}  # equal rows are one object, for neighbours often agree
        return [seen.setdefault(row, row) for row in accumulate(toggles[:size], xor)]

    def _cut(self, box: Box, found: int, stack: list[Box], used: set[int] | None) -> None:
        """Puts what one of the entries ``found`` leaves of the box on the stack; the first of them that leaves nothing,
        if one does."""
        first = -1
        for at in _first_bits(found, 8):
            masks = [part.mask for part in self.entries[at].parts]
            if first < 0:
                first, holes = at, masks
            if _is_within(box, masks):
                first = at
                break
        else:
            for dimension in range(DIMENSIONS):
                outside = box[dimension] & ~holes[dimension]
                if outside:
                    piece = box.copy()
                    piece[dimension] = outside
                    stack.append(piece)
                    box[dimension] &= holes[dimension]
        if used is not None:
            used.add(first)

    # --- points in words --------------------------------------------------------------------------

    def _value(self, dimension: int, segment: int) -> int:
        return self._cuts[dimension - SRC][segment]

    def _port(self, dimension: int, segment: int) -> int:
        """A port of the segment: of many, one that programs use."""
        cuts = self._cuts[dimension - SRC]
        first = cuts[segment]
        if first > 65535:
            return -1
        last = cuts[segment + 1] - 1
        for usual in (40000,) if dimension == SPORT else (443, 80, 53, 8080):
            if first <= usual <= last:
                return usual
        return first if first or last == 0 else 1

    def _address(self, dimension: int, segment: int) -> bytes:
        """An address of the segment: of many, not the first, which is the name of a network."""
        cuts = self._cuts[dimension - SRC]
        first = cuts[segment]
        last = (cuts[segment + 1] if segment + 1 < len(cuts) else _BEHIND6) - 1
        family = first >= _FIRST6
        for usual in _USUAL:
            if first < usual <= last and first in (0, _FIRST6):
                first = usual
                break
        value = min(first + 7, last)
        return (value - _FIRST6).to_bytes(16, "big") if family else value.to_bytes(4, "big")


def _first_bits(mask: int, most: int) -> Iterator[int]:
    while mask and most:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
        most -= 1


def _is_within(box: Box, masks: Sequence[int]) -> bool:
    for one, other in zip(box, masks, strict=True):
        if one & ~other:
            return False
    return True


def _mask_of(ranges: Ranges) -> int:
    if not ranges:
        return 0
    if len(ranges) < 64:
        mask = 0
        for first, last in ranges:
            mask |= (1 << last + 1) - (1 << first)
        return mask
    digits = bytearray(b"0") * (ranges[-1][1] + 1)
    for first, last in ranges:
        digits[first : last + 1] = b"1" * (last + 1 - first)
    digits.reverse()
    return int(digits, 2)


def _bits(places: Iterable[int]) -> int:
    mask = 0
    for place in places:
        mask |= 1 << place
    return mask


def _runs(places: Iterable[int]) -> Ranges:
    """Sorted places -> ranges."""
    found: Ranges = []
    for place in places:
        if found and place == found[-1][1] + 1:
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
    return found


def _shared(one: Ranges, other: Ranges) -> Ranges:
    found: Ranges = []
    at = 0
    for first, last in one:
        while at < len(other) and other[at][1] < first:
            at += 1
        behind = at
        while behind < len(other) and other[behind][0] <= last:
            found.append((max(first, other[behind][0]), min(last, other[behind][1])))
            behind += 1
    return found


def _address_numbers(addresses: AddressSet) -> Ranges:
    """Intervals on the line of SRC and DST."""
    found: Ranges = []
    for first, last in addresses.intervals():
        start = _FIRST6 if len(first) == 16 else 0
        found.append((start + int.from_bytes(first, "big"), start + int.from_bytes(last, "big")))
    return found


def _cuts(wanted: Iterable[AddressSet | None]) -> list[int]:
    """Where the segments of a line of addresses begin."""
    distinct = {id(addresses): addresses for addresses in wanted if addresses is not None}
    cuts = {0, _FIRST6}
    for addresses in distinct.values():
        for first, last in _address_numbers(addresses):
            cuts.add(first)
            cuts.add(last + 1)
    cuts.discard(_BEHIND6)
    return sorted(cuts)


def _port_cuts(
    ports: Iterable[NumberSet | None], types: Iterable[tuple[NumberSet | None, NumberSet | None]]
) -> list[int]:
    """Where the segments of a line of ports begin; the last one is that of packets without."""
    cuts = {0, *_TYPES, _NO_PORT}
    for start, proto in zip(_TYPES, _ICMPS, strict=True):
        for kind in range(256):
            if is_query(proto, kind):
                cuts |= {start + (kind << 8), start + (kind + 1 << 8)}
    stretches = [(0, numbers) for numbers in ports]
    for pair in types:
        stretches += list(zip(_TYPES, pair, strict=True))
    distinct = {(start, id(numbers)): numbers for start, numbers in stretches if numbers is not None}
    for (start, _), numbers in distinct.items():
        for first, last in numbers.intervals():
            cuts.add(start + first)
            cuts.add(start + last + 1)
    return sorted(cuts)


def _interface_names(rules: Iterable[Rule]) -> list[str]:
    """Names that stand for all: no interface; each one named; for each wildcard one that nothing longer describes;
    and one of which no rule speaks."""
    words: dict[str, None] = {}
    for rule in rules:
        for names in (rule.indev, rule.outdev):
            if names is not None:
                words.update(dict.fromkeys(names.names + names.negated))
    exact = [word for word in words if not word.endswith("+")]
    patterns = [word[:-1] for word in words if word.endswith("+")]
    found = [""]
    taken = {"", *exact}
    for prefix in dict.fromkeys(["", *patterns]):
        longer = tuple(other for other in patterns if len(other) > len(prefix) and other.startswith(prefix))
        for ending in _ENDINGS if prefix else _OTHERS:
            name = prefix + ending
            if name not in taken and not name.startswith(longer) and len(name.encode()) <= MAX_INTERFACE:
                found.append(name)
                taken.add(name)
                break
    return found + exact
