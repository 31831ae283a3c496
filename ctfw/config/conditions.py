"""What a rule asks for beside its box (``space``): conditions that are not coordinates.

What is known of them is little, and it is enough: whether one follows from others (who asks for TTL 1 to 5 is a match
for who asks for TTL 1 to 10), and whether two exclude each other. In doubt the answer is no, which makes a rule that
drops look narrower and one that accepts look wider than it may be.

Limits, numbers of connections and sets that change are never known to match: what they say depends on what went before.
"""

from collections.abc import Iterable
from typing import Any, Final

from ctfw.conntrack.state import ESTABLISHED, NEW, RELATED
from ctfw.packet import REPLY
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.sets import MaskedSet, NumberSet

Condition = tuple[str, Any]  # the rule's attribute, and what it asks for, in a form that compares

_NUMBERS: Final = ("ttl", "dscp", "length", "mac", "connage", "connpackets", "connbytes")
_STATEFUL: Final = ("limit", "connlimit", "src_tree", "dst_tree")
DOUBT: Final[tuple[Condition, ...]] = (("doubt", 0),)  # of packets that may have been sent back before
_CONNECTION: Final = NEW | ESTABLISHED | RELATED


def conditions_of(rule: Rule) -> tuple[Condition, ...]:
    """What the rule asks for that is no coordinate of ``space``."""
    found: list[Condition] = []
    for name in _NUMBERS:
        numbers: NumberSet | None = getattr(rule, name)
        if numbers is not None:
            found.append((name, tuple(numbers.intervals())))
    if rule.tcp_flags is not None:
        found.append(("tcp_flags", flags_of(rule.tcp_flags)))
    if rule.mark is not None:
        found.append(("mark", (tuple(rule.mark.wanted), tuple(rule.mark.unwanted))))
    for name in ("direction", "fragment"):
        if getattr(rule, name) >= 0:
            found.append((name, getattr(rule, name)))
    for name in ("status", "not_status", "helpers"):
        if getattr(rule, name):
            found.append((name, getattr(rule, name)))
    if rule.schedule is not None:
        found.append(("schedule", (rule.schedule.days, tuple(rule.schedule.windows), rule.schedule.text)))
    for name in _STATEFUL:
        if getattr(rule, name) is not None:
            found.append((name, id(getattr(rule, name))))
    return tuple(found)


def is_stateful(condition: Condition) -> bool:
    """Can nobody say beforehand whether it matches?"""
    return condition[0] in _STATEFUL or condition in DOUBT


def follow(given: Iterable[Condition], wanted: Iterable[Condition], marks_change: bool) -> bool:
    """Does a packet that meets every condition ``given`` surely meet those ``wanted``?"""
    given = list(given)
    return all(any(_follows(one, other, marks_change) for one in given) for other in wanted)


def exclude(some: Iterable[Condition], others: Iterable[Condition]) -> bool:
    """Can no packet meet all of them?"""
    others = list(others)
    return any(_excludes(one, other) for one in some for other in others if one[0] == other[0])


def why_never(rule: Rule) -> str:
    """Why no packet can meet the rule's own conditions; "" when one can."""
    if rule.tcp_flags is not None and not flags_of(rule.tcp_flags):
        return "no combination of TCP flags is left"
    if rule.track == 0 and not rule.states & _CONNECTION:
        asked = rule.direction >= 0 or rule.status or (rule.helpers & ~1 and not rule.helpers & 1)
        if asked:
            return "packets of these states have no connection, so no direction, status or helper"
    if rule.direction == REPLY and rule.states == NEW:
        return "a reply is never NEW"
    return ""


def flags_of(flags: MaskedSet) -> int:
    """The combinations of TCP flags that match, as bits of one number."""
    return sum(1 << number for number in range(256) if flags.contains(number))


def _follows(given: Condition, wanted: Condition, marks_change: bool) -> bool:
    name, one, other = given[0], given[1], wanted[1]
    if name != wanted[0] or is_stateful(wanted):
        return False
    if name in _NUMBERS:
        return all(any(low <= first and last <= high for low, high in other) for first, last in one)
    if name == "mark":
        return bool(one == other) and not marks_change
    if name in ("tcp_flags", "status", "helpers"):
        return not one & ~other
    if name == "not_status":
        return not other & ~one
    return bool(one == other)


def _excludes(one: Condition, other: Condition) -> bool:
    name, first, second = one[0], one[1], other[1]
    if name in _NUMBERS:
        return not any(low <= last and begin <= high for low, high in first for begin, last in second)
    if name == "tcp_flags":
        return not first & second
    return name in ("direction", "fragment") and bool(first != second)
