"""`never:` of a rule file: packets that no rule may accept. Decided over all packets there can be, not over examples.

An invariant says like a rule which packets it is about (of NEW ones, of chain forward, unless it says otherwise). It is
broken when one of these is accepted: by a rule, behind whatever stands before it, or by a policy. Then the file has an
error, with such a packet in words and the rule that lets it pass.

Where a rule asks for what nobody can know beforehand (a rate, a time of day, members of a set that changes, the status
of a connection), the cautious reading counts: it may match when it accepts, and may not when it drops. So an invariant
that holds, holds always; one that is reported as broken may need luck to be seen broken, and the message says what.
A NEW packet for which a rule says `track: none` is UNTRACKED when the rules see it; an invariant means it all the same.

What is beyond the limits of `space` is a warning: not decided.
"""

from dataclasses import dataclass
from typing import Final

from ctfw.config.conditions import Condition, conditions_of
from ctfw.config.document import Mapping, Node, Sequence
from ctfw.config.names import TCP_FLAGS
from ctfw.config.problems import Report, clean, quote
from ctfw.config.rules import Rules
from ctfw.config.schema import NEVER, Key, Kind
from ctfw.config.space import MOST_STEPS, Box, Point, Space, Undecided
from ctfw.config.values import Wrong
from ctfw.config.walk import Fields, Walker
from ctfw.conntrack.state import INVALID, NEW, UNTRACKED
from ctfw.packet import FORWARD, HOOK_NAMES, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE
from ctfw.packet_text import endpoint_text, proto_name
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.verdict import TRACK_NONE

BUDGET: Final = 200_000  # pieces looked at for all invariants of a file
MOST_NAMED: Final = 3

_HEADERS: Final = {TCP: 20, UDP: 8, UDPLITE: 8, ICMP: 8, ICMPV6: 8, SCTP: 12}
_LUCK: Final = {
    "limit": "rate",
    "connlimit": "number of connections",
    "src_tree": "set that changes",
    "dst_tree": "set that changes",
    "schedule": "time",
    "status": "connection's status",
    "not_status": "connection's status",
    "helpers": "helper",
    "connage": "connection's age",
    "connpackets": "connection's packets",
    "connbytes": "connection's bytes",
    "mac": "MAC address",
}


@dataclass
class Invariant:
    """`pattern` is about the packets that shall never be accepted."""

    name: str
    fields: Fields
    pattern: Rule


class Invariants:
    """Reads `never:` and holds the rules to it."""

    def __init__(self, walker: Walker, rules: Rules) -> None:
        self.walker = walker
        self.report: Report = walker.report
        self.rules = rules
        self.found: list[Invariant] = []
        walker.readers[Kind.NEVER] = self._read

    def check(self, ruleset: Ruleset) -> None:
        """Reports each invariant that the rules break. Costs nothing when there is none."""
        if not self.found:
            return
        space = Space(ruleset, [invariant.pattern for invariant in self.found], budget=BUDGET)
        for invariant in self.found:
            boxes = _boxes(space, ruleset, invariant)
            if not boxes:
                message = f"{quote(invariant.name)} is about no packet at all: its keys exclude each other"
                self.report.error(invariant.fields.node, message)
                continue
            try:
                self._check(space, invariant, boxes)
            except Undecided:
                message = f"whether {quote(invariant.name)} holds could not be decided within {MOST_STEPS} steps"
                hint = "say it narrower, as with 'in', 'out' and 'proto', or in several"
                self.report.warning(invariant.fields.node, message, hint)

    def _read(self, node: Node, key: Key) -> None:
        if isinstance(node, Mapping):
            self._read_one(node)
        elif isinstance(node, Sequence):
            for item in node.items:
                self._read_one(item)
        else:
            raise Wrong("'never' is a list of mappings, or one", "as in 'never: {from: $guests, to: $lan}'")

    def _read_one(self, node: Node) -> None:
        try:
            fields = self.walker.section(node, NEVER)
        except Wrong as wrong:
            self.report.error(node, wrong.message, wrong.hint)
            return
        self.rules.checks.check_pattern(fields)
        name = fields.get("name", f"never {len(self.found) + 1}")
        if not fields.keys.keys() - {"name", "comment"}:
            message = "'never' without a key that says which packets would forbid every one"
            self.report.error(node, message, "as in 'never: {from: $guests, to: $lan}'")
        elif fields.complete():
            own = Fields(fields.node)
            own.values = {**fields.values, "src": fields.get("from"), "dst": fields.get("to")}
            own.values = {key: value for key, value in own.values.items() if value is not None}
            own.values.setdefault("chain", 1 << FORWARD)
            own.values.setdefault("state", NEW)
            self.found.append(Invariant(name, fields, self.rules.build(own, name)))

    def _check(self, space: Space, invariant: Invariant, boxes: list[Box]) -> None:
        given = conditions_of(invariant.pattern)
        leaks: list[tuple[Rule, str, str, tuple[Condition, ...]]] = []
        for at, box in space.accepted(boxes, given):
            entry = space.entries[at]
            conditions = (*given, *entry.conditions)
            point = space.point(box)
            leaks.append((entry.rule, words(point, conditions), options(point), entry.conditions))
            if len(leaks) > MOST_NAMED:
                break
        if not leaks:
            return
        place = invariant.fields.node
        rule, packet, how, conditions = leaks[0]
        message = (
            f"{quote(invariant.name)} does not hold: {self._named(rule, place)} accepts {packet}{_when(conditions)}"
        )
        hint = f"'ctfw explain --rules {clean(self.report.main.path)} \"{packet}\"{how}' shows its way"
        if len(leaks) > 1:
            others = [self._named(other, place) for other, *_ in leaks[1 : MOST_NAMED + 1]]
            hint += "; so does, for other packets, " if len(others) == 1 else "; so do, for other packets, "
            hint += ", ".join(others)
        self.report.error(place, message, hint)

    def _named(self, rule: Rule, place: Node) -> str:
        fields = self.rules.fields.get(rule)
        return f"rule {quote(rule.name)} at {self.report.where(fields.node, place)}" if fields else rule.name


def _boxes(space: Space, ruleset: Ruleset, invariant: Invariant) -> list[Box]:
    """The packets that it is about; if it says nothing of states, also those that a rule keeps from being tracked."""
    boxes = space.boxes_of(invariant.pattern)
    untracking = [rule for rule in ruleset.rules if rule.track == TRACK_NONE]
    if untracking and "state" not in invariant.fields.values:
        pattern = invariant.pattern
        pattern.states = UNTRACKED
        alike = space.boxes_of(pattern)
        pattern.states = NEW
        for rule in untracking:
            for other in space.boxes_of(rule):
                for box in alike:
                    met = [one & two for one, two in zip(box, other, strict=True)]
                    if all(met):
                        boxes.append(met)
    return boxes


def words(point: Point, conditions: tuple[Condition, ...] = ()) -> str:
    """The packet as docs/packets.md writes packets, so that it meets the conditions that packets in words can meet."""
    ports = (point.sport, point.dport) if point.dport >= 0 else (None, None)
    ends = endpoint_text(point.src, ports[0]), endpoint_text(point.dst, ports[1])
    found = [proto_name(point.proto), ends[0], ">", ends[1]]
    if point.proto == TCP and point.dport >= 0:
        found += _flag_words(conditions)
    if point.kind >= 0:
        found += [f"type={point.kind >> 8}", f"code={point.kind & 255}"]
    for name in ("ttl", "dscp"):
        number = _lowest(name, conditions)
        if number >= 0:
            found.append(f"{name}={number}")
    head = (20 if len(point.src) == 4 else 40) + _HEADERS.get(point.proto, 0)
    length = _lowest("length", conditions, head)
    if length >= 0:
        found.append(f"len={length - head}")
    for name, value in conditions:
        if name == "mark" and value[0]:
            found.append(f"mark={value[0][0][0]:#x}")
            break
    if point.state in (INVALID, UNTRACKED) and point.dport < 0 and point.kind < 0 and point.proto in _HEADERS:
        found.append("fragment=8")
    return " ".join(found)


def options(point: Point) -> str:
    """How the packet comes, as options of `ctfw explain`."""
    chain = "" if point.hook == FORWARD else f" --chain {HOOK_NAMES[point.hook]}"
    return chain + "".join(f" --{key} {name}" for key, name in (("in", point.indev), ("out", point.outdev)) if name)


def _when(conditions: tuple[Condition, ...]) -> str:
    """What else has to come together."""
    luck = dict.fromkeys(_LUCK[name] for name, _ in conditions if name in _LUCK)
    return f", when the {' and the '.join(luck)} {'allow' if len(luck) > 1 else 'allows'} it" if luck else ""


def _flag_words(conditions: tuple[Condition, ...]) -> list[str]:
    masks = [value for name, value in conditions if name == "tcp_flags"]
    wanted = 2
    if any(not mask >> wanted & 1 for mask in masks):
        wanted = next((number for number in range(256) if all(mask >> number & 1 for mask in masks)), wanted)
    return [name for name, bit in TCP_FLAGS.items() if wanted & bit] or ["null"]


def _lowest(name: str, conditions: tuple[Condition, ...], least: int = 0) -> int:
    """The lowest number from ``least`` on that all conditions of this name hold; -1 when none asks."""
    intervals: list[tuple[tuple[int, int], ...]] = [value for key, value in conditions if key == name]
    if not intervals:
        return -1
    starts = sorted({least, *(first for one in intervals for first, _ in one if first > least)})
    for number in starts:
        if all(any(first <= number <= last for first, last in one) for one in intervals):
            return number
    return -1
