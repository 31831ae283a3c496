"""Values that match: lists, negation, named sets -> compiled sets.

A list means any of its members; members behind `!` are taken away: (positives, or everything when there are none)
minus negatives. The subtraction is done here, once, so that the packet's way sees nothing but sorted intervals. `$name`
stands for the *value* of a set, so a set that holds negatives means the same wherever it is used.

A set has no declared kind: its members are read as what the key that uses it wants, once for each such kind. When a set
cannot be read as wanted but can as something else, the mistake is at the use (`dport: $lan`), else at the member.

Equal texts and equal `$name`s share one compiled set: ten thousand rules that say `$lan` hold it once. What a file
can make grow is limited by MAX_INTERVALS over all its lists, and by the nesting of sets in sets (`named`), which also
bounds the recursion here.

Where a dynamic set is part of a value there is nothing to compile: the value becomes a tree that is asked about each
address, and an upper bound for the index.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctfw.config import matches, values
from ctfw.config.document import Node, Scalar
from ctfw.config.named import Definition, NamedSets
from ctfw.config.problems import GiveUp, Report, quote
from ctfw.config.schema import Kind
from ctfw.config.values import Wrong
from ctfw.config.walk import Skip, Walker, negation
from ctfw.ruleset.dynamic import AddressTree
from ctfw.ruleset.sets import (
    EVERY_ADDRESS,
    EVERY_NUMBER,
    AddressSet,
    InterfaceSet,
    NumberSet,
    subtract_addresses,
    subtract_numbers,
)

MAX_INTERVALS = 4_000_000
Interval = tuple[Any, Any]  # both int, or both bytes of one length


@dataclass(frozen=True)
class Domain:
    """How values of one kind are read, taken apart and compiled."""

    plural: str
    parse: Callable[[str], Interval]
    everything: list[Any]
    subtract: Callable[[Any, Any, Callable[[], None]], Any]
    compile: Callable[[Any, Callable[[], None]], "AddressSet | NumberSet"]


def breathe() -> None:
    """Called by compiled code on its long ways: this is not, so what waits for a signal has its turn here."""


DOMAINS = {
    Kind.ADDRESSES: Domain("addresses", values.address, EVERY_ADDRESS, subtract_addresses, AddressSet),
    Kind.PORTS: Domain("ports", values.port, EVERY_NUMBER, subtract_numbers, NumberSet),
    Kind.PROTOS: Domain("protocols", values.proto, [(0, 255)], subtract_numbers, NumberSet),
    Kind.ICMP: Domain("icmp types", values.icmp_type, EVERY_NUMBER, subtract_numbers, NumberSet),
    Kind.ICMPV6: Domain("icmpv6 types", values.icmpv6_type, EVERY_NUMBER, subtract_numbers, NumberSet),
    Kind.HOPS: Domain("hop limits", matches.hops, [(0, 255)], subtract_numbers, NumberSet),
    Kind.LENGTHS: Domain("lengths", matches.length, [(0, matches.MAX_LENGTH)], subtract_numbers, NumberSet),
    Kind.DSCPS: Domain("DSCPs", matches.dscp, [(0, 63)], subtract_numbers, NumberSet),
    Kind.MACS: Domain("MAC addresses", matches.mac, [(0, (1 << 48) - 1)], subtract_numbers, NumberSet),
    Kind.SECONDS: Domain("ages", matches.seconds, [(0, matches.MAX_COUNT)], subtract_numbers, NumberSet),
    Kind.PACKETS: Domain("counts", matches.packets, [(0, matches.MAX_COUNT)], subtract_numbers, NumberSet),
    Kind.OCTETS: Domain("counts of bytes", matches.octets, [(0, matches.MAX_COUNT)], subtract_numbers, NumberSet),
}


class Match:
    """What one key of a rule matches. `compiled` is None for `any`; then `intervals` is everything.

    Where a dynamic set is in it, `tree` says exactly what matches, and the others what could at most.
    """

    __slots__ = ("_families", "_numbers", "compiled", "intervals", "tree")

    def __init__(
        self, intervals: list[Interval], compiled: AddressSet | NumberSet | None, tree: AddressTree | None = None
    ) -> None:
        self.intervals = intervals
        self.compiled = compiled
        self.tree = tree
        self._numbers: frozenset[int] | None = None
        self._families: frozenset[int] | None = None

    def numbers(self) -> frozenset[int]:
        """Every protocol number of a match of protocols."""
        if self._numbers is None:
            self._numbers = frozenset(n for first, last in self.intervals for n in range(first, last + 1))
        return self._numbers

    def families(self) -> frozenset[int]:
        """The lengths of address, 4 and 16, in a match of addresses."""
        if self._families is None:
            self._families = frozenset(len(first) for first, _ in self.intervals)
        return self._families


class Sets:
    """The reader of every value that may use named sets."""

    def __init__(self, walker: Walker, named: NamedSets) -> None:
        self.report: Report = walker.report
        self.walker = walker
        self.named = named
        self._budget = MAX_INTERVALS
        self._values: dict[tuple[str, Kind], list[Interval] | None] = {}
        self._refusals: dict[tuple[str, Kind], str] = {}
        self._matches: dict[tuple[str, Kind], Match] = {}
        self._trees: dict[str, AddressTree] = {}
        for kind in DOMAINS:
            walker.readers[kind] = lambda node, key: self.match(node, key.kind, key.name)
        walker.readers[Kind.INTERFACES] = lambda node, key: self.interfaces(node, key.name)

    def match(self, node: Node, kind: Kind, what: str) -> Match:
        """The value of a key of this kind. Raises Wrong or Skip."""
        domain = DOMAINS[kind]
        if isinstance(node, Scalar):
            if node.text == "any":
                return Match(domain.everything, None)
            shared = self._matches.get((node.text, kind))
            if shared is not None:
                return shared
        members = self.walker.members(node, what)
        if kind is Kind.ADDRESSES and self._changes(members):
            return self._changing_match(members)
        intervals = self._expand(members, kind)
        result = Match(intervals, domain.compile(intervals, breathe))
        if not intervals:
            self.report.warning(node, f"{quote(what)} is an empty set: the rule can never match")
        if isinstance(node, Scalar):
            self._matches[node.text, kind] = result
        return result

    def interfaces(self, node: Node, what: str) -> InterfaceSet | None:
        """The value of `in` or `out`; None is any. Raises Wrong or Skip."""
        if isinstance(node, Scalar) and node.text == "any":
            return None
        names: list[str] = []
        negated: list[str] = []
        bad = False
        for member in self.walker.members(node, what):
            taken_away, text = negation(member.text)
            try:
                (negated if taken_away else names).extend(self._interface_names(member, text))
            except Wrong as wrong:
                self.report.error(member, wrong.message, wrong.hint)
                bad = True
            except Skip:
                bad = True
        if bad:
            raise Skip
        return InterfaceSet(names, negated)

    def _expand(self, members: list[Scalar], kind: Kind) -> list[Interval]:
        """(Positives or everything) minus negatives. Raises Skip after reporting every bad member."""
        domain = DOMAINS[kind]
        positives: list[Interval] = []
        negatives: list[Interval] = []
        positive, bad = False, False
        for member in members:
            taken_away, text = negation(member.text)
            positive = positive or not taken_away
            into = negatives if taken_away else positives
            try:
                if text.startswith("$"):
                    found = self._value(member, text, kind)
                    self._spend(member, len(found))
                    into.extend(found)
                else:
                    into.append(domain.parse(text))
            except Wrong as wrong:
                bad = True
                self.report.error(member, wrong.message, wrong.hint)
            except Skip:
                bad = True
        if bad:
            raise Skip
        # No members at all is the empty set, never everything.
        base = positives if positive or not members else domain.everything
        return list(domain.subtract(base, negatives, breathe)) if negatives else base

    def _changes(self, members: list[Scalar]) -> bool:
        """Does a dynamic set stand in this list, or in a set in it?"""
        for member in members:
            word = negation(member.text)[1]
            if word.startswith("$"):
                definition = self.named.definitions.get(word[1:])
                if definition is not None and definition.changes:
                    return True
        return False

    def _changing_match(self, members: list[Scalar]) -> Match:
        tree = self._tree(members)
        wanted = EVERY_ADDRESS if tree.plus or tree.dynamic is not None else tree.base.intervals()
        unwanted = tree.minus_base.intervals() if tree.minus_base is not None else []
        bound = subtract_addresses(wanted, unwanted, breathe)
        return Match(bound, AddressSet(bound, breathe), tree)

    def _tree(self, members: list[Scalar]) -> AddressTree:
        """A list with dynamic sets in it, as what is asked of each address. Raises Skip as `_expand` does."""
        static: tuple[list[Scalar], list[Scalar]] = ([], [])
        changing: tuple[list[AddressTree], list[AddressTree]] = ([], [])
        positive = False
        for member in members:
            taken_away, word = negation(member.text)
            positive = positive or not taken_away
            if word.startswith("$") and self._changes([member]):
                changing[taken_away].append(self._tree_of(member, word))
            else:
                static[taken_away].append(member)
        base = self._expand(static[False], Kind.ADDRESSES) if positive else EVERY_ADDRESS
        minus = self._expand([_without_sign(member) for member in static[True]], Kind.ADDRESSES)
        minus_base = AddressSet(minus, breathe) if minus else None
        return AddressTree(AddressSet(base, breathe), changing[False], minus_base, changing[True])

    def _tree_of(self, member: Scalar, word: str) -> AddressTree:
        """The tree of a named set in which a dynamic one is."""
        definition = self.named.find(member, word)
        if definition is None or definition.broken:
            raise Skip
        if word not in self._trees:
            inner = self._tree(definition.members)
            if definition.dynamic is not None:
                if not definition.members:
                    inner = AddressTree(AddressSet([]))
                # Whatever its static members take away, an address that was added is in.
                inner = AddressTree(AddressSet([]), [inner], dynamic=definition.dynamic)
            self._trees[word] = inner
        return self._trees[word]

    def _value(self, member: Scalar, word: str, kind: Kind) -> list[Interval]:
        """The value of the set that `member` names. Raises Wrong for a set of another kind, Skip for a broken one."""
        definition = self.named.find(member, word)
        if definition is None or definition.broken:
            raise Skip
        if definition.changes and kind is not Kind.ADDRESSES:
            where = self.report.where(definition.place, member)
            raise Wrong(f"set {quote(word)} is dynamic: it holds addresses", f"the set stands at {where}")
        at = (word, kind)
        if at not in self._values:
            self._values[at] = None
            other = self._other_kind(definition, kind)
            if other:
                self._refusals[at] = f"set {quote(word)} holds {other}, not {DOMAINS[kind].plural}"
            else:
                self._values[at] = self._expand(definition.members, kind)
        if at in self._refusals:
            raise Wrong(self._refusals[at], f"the set stands at {self.report.where(definition.place, member)}")
        found = self._values[at]
        if found is None:
            raise Skip
        return found

    def _other_kind(self, definition: Definition, kind: Kind) -> str:
        """What a set holds when its members cannot be read as `kind` but can as something else; "" otherwise."""
        texts = [negation(member.text)[1] for member in definition.members]
        texts = [text for text in texts if not text.startswith("$")]
        if not texts or _readable(texts[:1], DOMAINS[kind].parse):
            return ""
        for other in (Kind.ADDRESSES, Kind.PORTS, Kind.PROTOS):
            if other is not kind and _readable(texts, DOMAINS[other].parse):
                return DOMAINS[other].plural
        return ""

    def _interface_names(self, member: Scalar, text: str) -> list[str]:
        if not text.startswith("$"):
            return [values.interface(text)]
        definition = self.named.find(member, text)
        if definition is None or definition.broken:
            raise Skip
        if definition.changes:
            where = self.report.where(definition.place, member)
            raise Wrong(f"set {quote(text)} is dynamic: it holds addresses", f"the set stands at {where}")
        if not definition.members:
            where = self.report.where(definition.place, member)
            raise Wrong(f"set {quote(text)} is empty", f"it stands at {where}")
        names: list[str] = []
        for inner in definition.members:
            if inner.text.startswith("!"):
                raise Wrong(f"set {quote(text)} negates inside", "negate interfaces where the set is used: !$name")
            if not inner.text.startswith("$") and _readable([inner.text], values.address):
                where = self.report.where(inner, member)
                raise Wrong(f"set {quote(text)} holds addresses, not interfaces", f"it stands at {where}")
            try:
                names += self._interface_names(inner, inner.text)
            except Wrong as wrong:
                self.report.error(inner, wrong.message, wrong.hint)
                raise Skip from None
        self._spend(member, len(names))
        return names

    def _spend(self, place: Scalar, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            self.report.error(place, f"the lists of this file have more than {MAX_INTERVALS} members, sets followed")
            raise GiveUp


def _without_sign(member: Scalar) -> Scalar:
    return Scalar(member.source, member.line, member.column, negation(member.text)[1], member.plain)


def _readable(texts: list[str], parse: Callable[[str], Interval]) -> bool:
    try:
        for text in texts:
            parse(text)
    except Wrong:
        return False
    return True
