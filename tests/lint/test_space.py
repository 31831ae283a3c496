"""The arithmetic of boxes against counting: a small world, each packet of which is shown to the rules.

What rules ask for is taken from a few values, and the world has a packet for each way in which packets can differ in
these. So whatever is true of all packets can be seen by looking at everyone. Who meets a field is asked of
``ruleset.trace``, which knows nothing of boxes; then everyone walks along the rules at once, as bits of one number.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pytest
from engine.packets import packed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctfw.config import invariants
from ctfw.config.conditions import conditions_of, exclude, follow
from ctfw.config.packet_words import parse
from ctfw.config.space import Space, Undecided
from ctfw.conntrack.state import ESTABLISHED, NEW
from ctfw.packet import FORWARD, GRE, ICMP, ICMPV6, INPUT, OUTPUT, TCP, UDP, Packet, decode
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import AddressSet, InterfaceSet, MaskedSet, NumberSet
from ctfw.ruleset.trace import trace
from ctfw.ruleset.verdict import ACCEPT, CONTINUE, DROP, JUMP, RETURN
from ctfw.tools.build_packet import Talk

BUDGET = 1_000_000
SETTINGS = settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))

SOURCES = ("10.0.0.0", "10.0.0.1", "192.0.2.1", "fd00::1", "2001:db8::1")
TARGETS = ("10.9.9.9", "198.51.100.1", "fd00::9", "2001:db8::9")
INS, OUTS = ("lan0", "lan2", "wan0", "eth0"), ("wan0", "eth0")
PATHS = (*((INPUT, name, "") for name in INS), *((FORWARD, *names) for names in product(INS, OUTS)))
PORTED = ("tcp 9 syn", "tcp 22 syn", "tcp 80 syn ack", "udp 9", "udp 22", "udp 80", "sctp 9", "sctp 22", "sctp 80")
HEADERS = (*PORTED, "query", "other query", "gre", "ospf")
TYPES = {"query": (8, 128), "other query": (13, 139)}
TTLS = (3, 7, 64)


@dataclass
class Seen:
    """A packet as the rules see it."""

    packet: Packet
    hook: int
    indev: str
    outdev: str


def world() -> list[Seen]:
    """A packet of each sort. Its TTL has nothing to do with the rest: three sorts of that are enough for conditions."""
    found = []
    for number, (source, target, header, state) in enumerate(product(SOURCES, TARGETS, HEADERS, (NEW, ESTABLISHED))):
        v6 = ":" in source
        if v6 != (":" in target):
            continue
        proto, *rest = header.split()
        if header in PORTED:
            text = f"{proto} {end(source, '40000')} > {end(target, rest[0])} {' '.join(rest[1:])}"
        elif header in TYPES:
            text = f"{'icmpv6' if v6 else 'icmp'} {source} > {target} type={TYPES[header][v6]} code=0"
        else:
            text = f"{proto} {source} > {target}"
        data = Talk().build(parse(f"{text} ttl={TTLS[number % 3]}"))
        for path in PATHS:
            packet = decode(data, len(data))
            packet.state = state
            found.append(Seen(packet, *path))
    return found


def end(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


WORLD = world()
EVERYONE = (1 << len(WORLD)) - 1


def addresses(*texts: tuple[str, str]) -> AddressSet:
    return AddressSet((packed(first), packed(last)) for first, last in texts)


def numbers(*values: int | tuple[int, int]) -> NumberSet:
    return NumberSet(value if isinstance(value, tuple) else (value, value) for value in values)


HIGHEST = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
PRIVATE6 = ("fd00::", "fd" + HIGHEST[2:])
FIELDS: dict[str, list[object]] = {
    "protos": [numbers(TCP), numbers(UDP), numbers(TCP, UDP), numbers((0, 57)), numbers(ICMP, ICMPV6), numbers(GRE)],
    "src": [
        addresses(("10.0.0.0", "10.0.0.1")),
        addresses(("10.0.0.1", "10.0.0.1"), PRIVATE6),
        addresses(("0.0.0.0", "255.255.255.255")),
        addresses(("::", HIGHEST)),
    ],
    "dst": [addresses(("10.9.9.9", "10.9.9.9"), PRIVATE6), addresses(("0.0.0.0", "255.255.255.255"))],
    "dport": [numbers(22), numbers((23, 65535)), numbers((0, 65535))],
    "icmp": [numbers((8 << 8, 8 << 8 | 255)), numbers((0, 65535))],
    "icmpv6": [numbers((128 << 8, 128 << 8 | 255)), numbers((0, 65535))],
    "indev": [InterfaceSet(["lan0"]), InterfaceSet(["lan+"]), InterfaceSet([], ["lan0"]), InterfaceSet(["wan0"])],
    "outdev": [InterfaceSet(["wan0"]), InterfaceSet(["+"]), InterfaceSet([], ["wan0"])],
}
CONDITIONS: dict[str, list[object]] = {
    "ttl": [numbers((1, 5)), numbers((1, 10)), numbers((6, 255))],
    "tcp_flags": [MaskedSet([(2, 0x17)]), MaskedSet([(2, 2)]), MaskedSet([], [(2, 2)])],
}
VERDICTS = (ACCEPT, DROP, CONTINUE, RETURN)

fields = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in FIELDS.items()})
narrow = fields.filter(lambda chosen: len(chosen) <= 3)
conditions = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in CONDITIONS.items()})
chains = st.sampled_from([1 << INPUT, 1 << FORWARD, 1 << INPUT | 1 << FORWARD])
states = st.sampled_from([NEW, ESTABLISHED, NEW | ESTABLISHED])


@st.composite
def one_rule(draw: st.DrawFn, jumps: tuple[str, ...] = (), with_conditions: bool = False) -> Rule:
    asked: dict[str, object] = dict(draw(narrow))
    if with_conditions:
        asked |= draw(conditions)
    verdict = draw(st.sampled_from((*VERDICTS, *[JUMP] * bool(jumps))))
    jump = draw(st.sampled_from(jumps)) if verdict == JUMP else ""
    shadow = verdict in (ACCEPT, DROP) and draw(st.integers(0, 9)) == 0
    return Rule("", "", verdict, draw(chains), draw(states), jump=jump, shadow=shadow, **asked)  # type: ignore[arg-type]


@st.composite
def rulesets(draw: st.DrawFn, with_conditions: bool = False) -> Ruleset:
    def some(most: int, *jumps: str) -> list[Rule]:
        return draw(st.lists(one_rule(jumps, with_conditions), max_size=most))

    main, inner, outer = some(6, "inner", "outer"), some(3), some(3, "inner")
    policy = {INPUT: draw(st.sampled_from((ACCEPT, DROP))), FORWARD: draw(st.sampled_from((ACCEPT, DROP)))}
    return Ruleset(main, policy, chains={"inner": inner, "outer": outer})


@cache
def who_meets(name: str, value: object) -> int:
    """The packets that meet one field, as the rules themselves see it."""
    chosen: Any = {"chains": 1 << INPUT | 1 << FORWARD | 1 << OUTPUT, "states": 31} | {name: value}
    alone = Ruleset([Rule("", "", CONTINUE, **chosen)], {})
    found = 0
    for at, seen in enumerate(WORLD):
        if next(trace(alone, seen.packet, seen.hook, seen.indev, seen.outdev))[1] is None:
            found |= 1 << at
    return found


def who_matches(rule: Rule) -> int:
    found = who_meets("chains", rule.chains) & who_meets("states", rule.states)
    if rule.icmp is not None or rule.icmpv6 is not None:  # one of them is enough
        found &= who_meets("icmp", rule.icmp) * (rule.icmp is not None) | who_meets("icmpv6", rule.icmpv6) * (
            rule.icmpv6 is not None
        )
    for name in (*FIELDS, *CONDITIONS):
        value = getattr(rule, name)
        if value is not None and not name.startswith("icmp"):
            found &= who_meets(name, value)
    return found


class Walk:
    """Everyone walks along the rules at once: who matches which, and who is accepted by which."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.chains = {chain.name: chain.rules for chain in ruleset.chains}
        self.matched: dict[Rule, int] = {}
        self.accepted: dict[Rule, int] = {}
        undecided = self._along(ruleset.rules, EVERYONE)
        for policy in ruleset.policies.values():
            self._take(policy, undecided & who_meets("chains", policy.chains))

    def _along(self, rules: list[Rule], packets: int) -> int:
        """Who comes out at the end, or returns."""
        returned = 0
        for rule in rules:
            those = packets & who_matches(rule)
            self.matched[rule] = self.matched.get(rule, 0) | those
            if rule.shadow or rule.verdict == CONTINUE:
                continue
            packets &= ~those
            if rule.verdict == JUMP:
                packets |= self._along(self.chains[rule.jump], those)
            elif rule.verdict == RETURN:
                returned |= those
            else:
                self._take(rule, those)
        return packets | returned

    def _take(self, rule: Rule, packets: int) -> None:
        if rule.verdict == ACCEPT:
            self.accepted[rule] = self.accepted.get(rule, 0) | packets


def reached(space: Space, rule: Rule) -> bool:
    """Does the space say that some packet matches the rule on its way?"""
    return any(
        space.boxes(space.entries[at].parts) and not space.is_hidden(at, set()) for at in space.places.get(rule, [])
    )


@SETTINGS
@given(ruleset=rulesets(with_conditions=True), at=st.lists(st.integers(0, len(WORLD) - 1), max_size=20))
def test_the_walk_is_the_rules_own(ruleset: Ruleset, at: list[int]) -> None:
    walk = Walk(ruleset)
    for place in at:
        seen = WORLD[place]
        decided = ruleset.evaluate(seen.packet, seen.hook, seen.indev, seen.outdev)
        assert bool(walk.accepted.get(decided, 0) >> place & 1) == (decided.verdict == ACCEPT)


@SETTINGS
@given(ruleset=rulesets())
def test_a_rule_is_reached_when_a_packet_reaches_it(ruleset: Ruleset) -> None:
    space, walk = Space(ruleset, budget=BUDGET), Walk(ruleset)
    told = [reached(space, rule) for rule in ruleset.every]
    assert told == [walk.matched.get(rule, 0) != 0 for rule in ruleset.every]


@SETTINGS
@given(ruleset=rulesets(with_conditions=True))
def test_what_is_hidden_is_hidden_whatever_conditions_say(ruleset: Ruleset) -> None:
    space, walk = Space(ruleset, budget=BUDGET), Walk(ruleset)
    for rule in ruleset.every:
        assert reached(space, rule) or not walk.matched.get(rule)


@SETTINGS
@given(ruleset=rulesets(), pattern=one_rule())
def test_something_is_accepted_when_a_packet_is(ruleset: Ruleset, pattern: Rule) -> None:
    space = Space(ruleset, [pattern], budget=BUDGET)
    found = {space.entries[at].rule for at, _ in space.accepted(space.boxes_of(pattern))}
    those = who_matches(pattern)
    assert found == {rule for rule, packets in Walk(ruleset).accepted.items() if packets & those}


@SETTINGS
@given(ruleset=rulesets(with_conditions=True), pattern=one_rule(with_conditions=True))
def test_whatever_is_accepted_is_found_under_conditions_too(ruleset: Ruleset, pattern: Rule) -> None:
    space = Space(ruleset, [pattern], budget=BUDGET)
    found = {space.entries[at].rule for at, _ in space.accepted(space.boxes_of(pattern), conditions_of(pattern))}
    those = who_matches(pattern)
    assert found >= {rule for rule, packets in Walk(ruleset).accepted.items() if packets & those}


@SETTINGS
@given(ruleset=rulesets(), pattern=one_rule(with_conditions=True))
def test_the_packet_named_is_accepted_by_the_rule_named(ruleset: Ruleset, pattern: Rule) -> None:
    """The words are read and made a packet, and the rules are asked about it."""
    wanted = conditions_of(pattern)
    space = Space(ruleset, [pattern], budget=BUDGET)
    for at, box in space.accepted(space.boxes_of(pattern), wanted):
        point = space.point(box)
        data = Talk().build(parse(invariants.words(point, wanted)))
        packet = decode(data, len(data))
        packet.state = point.state
        where = packet, point.hook, point.indev, point.outdev
        assert ruleset.evaluate(*where) is space.entries[at].rule
        if not exclude(wanted, wanted) and (rule_has_tcp(packet) or not pattern.tcp_flags):
            assert next(trace(Ruleset([pattern], {}, chains={"inner": [], "outer": []}), *where))[1] is None


def rule_has_tcp(packet: Packet) -> bool:
    return packet.proto == TCP


@given(one=conditions, other=conditions)
@SETTINGS
def test_conditions_follow_and_exclude_as_packets_do(one: dict[str, object], other: dict[str, object]) -> None:
    first, second = (Rule("", "", ACCEPT, 1 << FORWARD, 31, **some) for some in (one, other))  # type: ignore[arg-type]
    those, others = (who_matches(rule) for rule in (first, second))
    if follow(conditions_of(first), conditions_of(second), False):
        assert not those & ~others
    if exclude(conditions_of(first), conditions_of(second)):
        assert not those & others


def test_many_rules_that_hide_one_together() -> None:
    """One port each, in no order; and one port less, which leaves something."""
    ports = [port * 40503 % 65536 for port in range(1000)]
    last = Rule("", "", DROP, 1 << FORWARD, NEW, numbers(TCP), dport=numbers(*ports))
    some = [Rule("", "", ACCEPT, 1 << FORWARD, NEW, numbers(TCP), dport=numbers(port)) for port in ports]
    for missing in (0, 1):
        space = Space(Ruleset([*some[missing:], last], {}), budget=BUDGET)
        (at,) = space.places[last]
        assert space.is_hidden(at, set()) == (not missing)


def test_the_work_is_bounded() -> None:
    """Three of nine coordinates wrong at a time: too many pieces for an answer, and soon said."""
    some = [
        Rule(
            "", "", ACCEPT, 1 << FORWARD, NEW, numbers(TCP),
            sport=subtracted(number), dport=subtracted(number * 7 % 4999), src=without(number * 13 % 251),
        )
        for number in range(300)
    ]  # fmt: skip
    last = Rule("", "", DROP, 1 << FORWARD, NEW, numbers(TCP), sport=numbers((0, 400)), dport=numbers((0, 5000)))
    space = Space(Ruleset([*some, last], {}), budget=100)
    with pytest.raises(Undecided):
        space.is_hidden(space.places[last][0], set())
        while True:
            space.budget -= 1
            space.is_hidden(space.places[last][0], set())


def subtracted(number: int) -> NumberSet:
    return numbers((0, number), (number + 2, 65535))


def without(number: int) -> AddressSet:
    return AddressSet([(bytes([10, 0, 0, 0]), bytes([10, 0, 0, number])), (bytes([10, 0, 0, number + 2]), b"\xff" * 4)])
