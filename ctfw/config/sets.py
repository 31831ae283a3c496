"""Values that match: lists, negation, named sets -> compiled sets.

A list means any of its members; members behind `!` are taken away: (positives, or everything when there are none)
minus negatives. The subtraction is done here, once, so that the packet's way sees nothing but sorted intervals. `$name`
stands for the *value* of a set, so a set that holds negatives means the same wherever it is used.

A set has no declared kind: its members are read as what the key that uses it wants, once for each such kind. When a set
cannot be read as wanted but can as something else, the mistake is at the use (`dport: $lan`), else at the member.

Equal texts and equal `$name`s share one compiled set: ten thousand rules that say `$lan` hold it once. What a file can
make grow is limited by MAX_INTERVALS over all its lists, and by MAX_NESTING for sets in sets, which also bounds the
recursion here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctfw.config import values
from ctfw.config.document import Mapping, Node, Scalar, Sequence, is_empty
from ctfw.config.problems import GiveUp, Report, did_you_mean, quote
from ctfw.config.schema import Kind
from ctfw.config.values import Wrong
from ctfw.config.walk import Skip, Walker, negation
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
MAX_NESTING = 16

Interval = tuple[Any, Any]  # both int, or both bytes of one length

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Domain:
    """How values of one kind are read, taken apart and compiled."""

    plural: str
    parse: Callable[[str], Interval]
    everything: list[Any]
    subtract: Callable[[Any, Any], Any]
    compile: Callable[[Any], "AddressSet | NumberSet"]


DOMAINS = {
    Kind.ADDRESSES: Domain("addresses", values.address, EVERY_ADDRESS, subtract_addresses, AddressSet),
    Kind.PORTS: Domain("ports", values.port, EVERY_NUMBER, subtract_numbers, NumberSet),
    Kind.PROTOS: Domain("protocols", values.proto, [(0, 255)], subtract_numbers, NumberSet),
    Kind.ICMP: Domain("icmp types", values.icmp_type, EVERY_NUMBER, subtract_numbers, NumberSet),
    Kind.ICMPV6: Domain("icmpv6 types", values.icmpv6_type, EVERY_NUMBER, subtract_numbers, NumberSet),
}


class Match:
    """What one key of a rule matches. `compiled` is None for `any`; then `intervals` is everything."""

    __slots__ = ("_families", "_numbers", "compiled", "intervals")

    def __init__(self, intervals: list[Interval], compiled: AddressSet | NumberSet | None) -> None:
        self.intervals = intervals
        self.compiled = compiled
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


class Definition:
    """One named set. `broken`: a member is no text, names an unknown set or leads back here; nobody gets its value."""

    def __init__(self, place: Scalar) -> None:
        self.place = place
        self.members: list[Scalar] = []
        self.used = False
        self.broken = False
        self.height = 0  # levels of sets below; 0 until it is known
        self.open = False  # on the way from a set down to its members


class Sets:
    """The named sets of a file, and the reader of every value that may use them."""

    def __init__(self, walker: Walker) -> None:
        self.report: Report = walker.report
        self.walker = walker
        self.definitions: dict[str, Definition] = {}
        self._budget = MAX_INTERVALS
        self._values: dict[tuple[str, Kind], list[Interval] | None] = {}
        self._refusals: dict[tuple[str, Kind], str] = {}
        self._matches: dict[tuple[str, Kind], Match] = {}
        for kind in DOMAINS:
            walker.readers[kind] = lambda node, key: self.match(node, key.kind, key.name)
        walker.readers[Kind.INTERFACES] = lambda node, key: self.interfaces(node, key.name)

    def define(self, node: Node) -> None:
        """Take in the file's `sets` mapping; names, references and cycles are checked here, members when used."""
        if not isinstance(node, Mapping):
            raise Wrong("'sets' is a mapping of names to members", "as in 'lan: [192.168.0.0/16, fd00::/8]'")
        for name, value in node.pairs:
            definition = self.definitions[name.text] = Definition(name)
            if _NAME.fullmatch(name.text) is None:
                hint = "letters, digits, '_', '-' and '.', a letter first"
                if name.text.startswith("$"):
                    hint = "the '$' is written where the set is used, not where it is defined"
                self.report.error(name, f"{quote(name.text)} cannot name a set", hint)
                definition.broken = True
            try:
                definition.members = self._members(name, value)
            except Skip:
                definition.broken = True
        for text in self.definitions:
            self._check(text, [])

    def warn_unused(self) -> None:
        for text, definition in self.definitions.items():
            if not definition.used:
                self.report.warning(definition.place, f"set {quote(text)} is not used")

    def match(self, node: Node, kind: Kind, what: str) -> Match:
        """The value of a key of this kind. Raises Wrong or Skip."""
        domain = DOMAINS[kind]
        if isinstance(node, Scalar):
            if node.text == "any":
                return Match(domain.everything, None)
            shared = self._matches.get((node.text, kind))
            if shared is not None:
                return shared
        intervals = self._expand(self.walker.members(node, what), kind)
        result = Match(intervals, domain.compile(intervals))
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

    def _members(self, name: Scalar, value: Node) -> list[Scalar]:
        if isinstance(value, Scalar):
            if is_empty(value):
                self.report.error(name, f"set {quote(name.text)} has no value", "an empty set is written []")
                raise Skip
            return [value]
        if isinstance(value, Sequence):
            return self.walker.scalars(value)
        self.report.error(value, "a set is one value or a list of values", "a list is written [a, b]")
        raise Skip

    def _check(self, text: str, path: list[str]) -> int:
        """Follow the references of a set: its height, with unknown names, cycles and too deep nesting reported."""
        definition = self.definitions[text]
        if definition.height:
            return definition.height
        definition.open = True
        path.append(text)
        height = 1
        for member in definition.members:
            word = negation(member.text)[1]
            if not word.startswith("$"):
                continue
            inner = self._find(member, word)
            if inner is None:
                definition.broken = True
            elif inner.open:
                way = " -> ".join("$" + step for step in path[path.index(word[1:]) :] + [word[1:]])
                self.report.error(member, f"set {quote(text)} contains itself", way)
                definition.broken = True
            elif len(path) >= MAX_NESTING:
                self.report.error(member, f"sets are nested more than {MAX_NESTING} deep")
                definition.broken = True
            else:
                height = max(height, self._check(word[1:], path) + 1)
                definition.broken = definition.broken or inner.broken
        if height > MAX_NESTING and not definition.broken:
            self.report.error(definition.place, f"sets are nested more than {MAX_NESTING} deep")
            definition.broken = True
        definition.open = False
        definition.height = height
        path.pop()
        return height

    def _find(self, member: Scalar, word: str) -> Definition | None:
        definition = self.definitions.get(word[1:])
        if definition is None:
            hint = did_you_mean(word[1:], self.definitions, "$") or "define it under 'sets:'"
            self.report.error(member, f"no set is named {quote(word)}", hint)
            return None
        definition.used = True
        return definition

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
        return list(domain.subtract(base, negatives)) if negatives else base

    def _value(self, member: Scalar, word: str, kind: Kind) -> list[Interval]:
        """The value of the set that `member` names. Raises Wrong for a set of another kind, Skip for a broken one."""
        definition = self._find(member, word)
        if definition is None or definition.broken:
            raise Skip
        at = (word, kind)
        if at not in self._values:
            self._values[at] = None
            other = self._other_kind(definition, kind)
            if other:
                self._refusals[at] = f"set {quote(word)} holds {other}, not {DOMAINS[kind].plural}"
            else:
                self._values[at] = self._expand(definition.members, kind)
        if at in self._refusals:
            raise Wrong(self._refusals[at], f"the set stands at line {definition.place.line}")
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
        definition = self._find(member, text)
        if definition is None or definition.broken:
            raise Skip
        if not definition.members:
            raise Wrong(f"set {quote(text)} is empty", f"it stands at line {definition.place.line}")
        names: list[str] = []
        for inner in definition.members:
            if inner.text.startswith("!"):
                raise Wrong(f"set {quote(text)} negates inside", "negate interfaces where the set is used: !$name")
            if not inner.text.startswith("$") and _readable([inner.text], values.address):
                raise Wrong(f"set {quote(text)} holds addresses, not interfaces", f"it stands at line {inner.line}")
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


def _readable(texts: list[str], parse: Callable[[str], Interval]) -> bool:
    try:
        for text in texts:
            parse(text)
    except Wrong:
        return False
    return True
