"""Rules, sets and limits against naive ones that were written without looking at them."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import pytest
from engine import packets
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, STRANGER
from hypothesis import given, settings
from hypothesis import strategies as st

from ctfw.conntrack.state import ANY, ESTABLISHED, INVALID, NEW, RELATED, UNTRACKED
from ctfw.packet import FORWARD, INPUT, OUTPUT, decode
from ctfw.ruleset.limit import Limit
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import (
    EVERY_ADDRESS,
    EVERY_NUMBER,
    AddressSet,
    InterfaceSet,
    NumberSet,
    subtract_addresses,
    subtract_numbers,
)
from ctfw.ruleset.verdict import ACCEPT, DROP

Numbers = list[tuple[int, int]]
Addresses = list[tuple[bytes, bytes]]

# Numbers and addresses close together and at both ends, so that intervals touch, overlap and end at the last one.
NUMBER = st.integers(0, 12) | st.integers(65530, 65535)
ADDRESS4 = NUMBER.map(lambda number: (number * 0x10001 & 0xFFFFFFFF if number > 12 else number).to_bytes(4, "big"))
ADDRESS6 = NUMBER.map(lambda number: (2**128 - 65536 + number if number > 12 else number).to_bytes(16, "big"))


def intervals(ends: st.SearchStrategy[int]) -> st.SearchStrategy[Numbers]:
    return st.lists(st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair))), max_size=6)


def address_intervals(ends: st.SearchStrategy[bytes]) -> st.SearchStrategy[Addresses]:
    return st.lists(st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair))), max_size=4)


ADDRESSES = st.tuples(address_intervals(ADDRESS4), address_intervals(ADDRESS6)).map(lambda both: both[1] + both[0])


def has_number(wanted: Numbers, number: int) -> bool:
    return any(first <= number <= last for first, last in wanted)


def has_address(wanted: Addresses, address: bytes) -> bool:
    number = int(ipaddress.ip_address(address))
    return any(
        len(first) == len(address)
        and int(ipaddress.ip_address(first)) <= number <= int(ipaddress.ip_address(last))
        for first, last in wanted
    )  # fmt: skip


# Sets


@given(intervals(NUMBER), NUMBER)
def test_a_number_is_in_a_set_when_it_is_in_an_interval_of_it(wanted: Numbers, number: int) -> None:
    assert NumberSet(wanted).contains(number) == has_number(wanted, number)


@given(intervals(NUMBER), intervals(NUMBER), NUMBER)
def test_numbers_are_subtracted(wanted: Numbers, unwanted: Numbers, number: int) -> None:
    rest = subtract_numbers(wanted, unwanted)
    assert has_number(rest, number) == (has_number(wanted, number) and not has_number(unwanted, number))
    assert NumberSet(rest).intervals() == rest  # sorted and merged already
    assert has_number(subtract_numbers(EVERY_NUMBER, unwanted), number) != has_number(unwanted, number)


@given(ADDRESSES, ADDRESS4 | ADDRESS6)
def test_an_address_is_in_a_set_when_it_is_in_an_interval_of_it(wanted: Addresses, address: bytes) -> None:
    assert AddressSet(wanted).contains(address) == has_address(wanted, address)


@given(ADDRESSES, ADDRESSES, ADDRESS4 | ADDRESS6)
def test_addresses_are_subtracted(wanted: Addresses, unwanted: Addresses, address: bytes) -> None:
    rest = subtract_addresses(wanted, unwanted)
    assert has_address(rest, address) == (has_address(wanted, address) and not has_address(unwanted, address))
    assert AddressSet(rest).intervals() == rest
    assert has_address(subtract_addresses(EVERY_ADDRESS, unwanted), address) != has_address(unwanted, address)


def test_what_is_no_address_is_in_no_set() -> None:
    for address in (b"", b"\0", bytes(15), bytes(17)):
        assert not AddressSet(EVERY_ADDRESS).contains(address)


@pytest.mark.parametrize(
    ("names", "negated", "members"),
    [
        (["lan0"], [], {"lan0"}),
        (["lan+"], [], {"lan", "lan0", "lan1"}),
        (["lan+"], ["lan1"], {"lan", "lan0"}),
        ([], ["lan+"], {"wan0", "la"}),
        (["+"], [], {"lan", "lan0", "lan1", "wan0", "la"}),
        (["lan0", "wan+"], ["wan0"], {"lan0"}),
    ],
)
def test_interface_names(names: list[str], negated: list[str], members: set[str]) -> None:
    interfaces = InterfaceSet(names, negated)
    assert {name for name in ("lan", "lan0", "lan1", "wan0", "la", "") if interfaces.contains(name)} == members


# Rules


@dataclass(frozen=True)
class Seen:
    """A packet and what a person says of it."""

    data: bytes
    proto: int
    src: bytes = b""
    dst: bytes = b""
    ports: tuple[int, int] | None = None
    icmp: int | None = None
    icmpv6: int | None = None


@dataclass(frozen=True)
class Wanted:
    """A rule in plain values; None asks for nothing."""

    chains: frozenset[int]
    states: frozenset[int]
    protos: Numbers | None
    src: Addresses | None
    dst: Addresses | None
    sport: Numbers | None
    dport: Numbers | None
    icmp: Numbers | None
    icmpv6: Numbers | None
    indev: tuple[list[str], list[str]] | None
    outdev: tuple[list[str], list[str]] | None

    def agrees(self, seen: Seen, hook: int, state: int, indev: str, outdev: str) -> bool:
        sport, dport = seen.ports or (None, None)
        return (
            hook in self.chains
            and state in self.states
            and is_wanted(self.protos, seen.proto)
            and (self.src is None or (seen.src != b"" and has_address(self.src, seen.src)))
            and (self.dst is None or (seen.dst != b"" and has_address(self.dst, seen.dst)))
            and is_wanted(self.sport, sport)
            and is_wanted(self.dport, dport)
            and self.agrees_in_icmp(seen)
            and is_interface(self.indev, indev)
            and is_interface(self.outdev, outdev)
        )

    def agrees_in_icmp(self, seen: Seen) -> bool:
        if self.icmp is None and self.icmpv6 is None:
            return True
        if seen.icmp is not None:
            return self.icmp is not None and has_number(self.icmp, seen.icmp)
        return seen.icmpv6 is not None and self.icmpv6 is not None and has_number(self.icmpv6, seen.icmpv6)

    def compiled(self, name: str) -> Rule:
        def numbers(wanted: Numbers | None) -> NumberSet | None:
            return None if wanted is None else NumberSet(wanted)

        def addresses(wanted: Addresses | None) -> AddressSet | None:
            return None if wanted is None else AddressSet(wanted)

        def interfaces(wanted: tuple[list[str], list[str]] | None) -> InterfaceSet | None:
            return None if wanted is None else InterfaceSet(*wanted)

        return Rule(
            name,
            "",
            ACCEPT,
            sum(1 << hook for hook in self.chains),
            sum(self.states),
            numbers(self.protos),
            addresses(self.src),
            addresses(self.dst),
            numbers(self.sport),
            numbers(self.dport),
            numbers(self.icmp),
            numbers(self.icmpv6),
            interfaces(self.indev),
            interfaces(self.outdev),
        )


def is_wanted(wanted: Numbers | None, number: int | None) -> bool:
    return wanted is None or (number is not None and has_number(wanted, number))


def is_interface(wanted: tuple[list[str], list[str]] | None, name: str) -> bool:
    def is_among(patterns: list[str]) -> bool:
        return any(name.startswith(one[:-1]) if one[-1] == "+" else name == one for one in patterns)

    if wanted is None:
        return True
    names, negated = wanted
    return name != "" and (not names or is_among(names)) and not is_among(negated)


def seen(make: Callable[..., bytes], src: str, dst: str, proto: int, *fields: int) -> Seen:
    ends = packets.packed(src), packets.packed(dst)
    if make is packets.icmp:
        kind = fields[0] << 8 | fields[1]
        six = packets.is_ipv6(src)
        return Seen(make(src, dst, *fields), proto, *ends, None, None if six else kind, kind if six else None)
    return Seen(make(src, dst, *fields), proto, *ends, (fields[0], fields[1]))


V4 = st.sampled_from([CLIENT, SERVER, STRANGER])
V6 = st.sampled_from([CLIENT6, SERVER6])
PORT = st.sampled_from([0, 1, 22, 53, 65535])
KIND = st.tuples(st.sampled_from([0, 3, 8, 128, 255]), st.sampled_from([0, 1, 255]))
ENDS = st.tuples(V4, V4) | st.tuples(V6, V6)


def lone(ends: tuple[str, str], proto: int) -> Seen:
    """A packet without ports or type: of another protocol, or a later fragment of one that has them."""
    addresses = packets.packed(ends[0]), packets.packed(ends[1])
    if proto in (1, 6, 17, 58, 132):
        if packets.is_ipv6(ends[0]):
            header = (44, b"\0\0\x05\xc8\0\0\0\x01")
            return Seen(packets.ip(*ends, proto, b"12345678", extensions=[header]), proto, *addresses)
        return Seen(packets.ip(*ends, proto, b"12345678", offset=1480), proto, *addresses)
    return Seen(packets.ip(*ends, proto, b"12345678"), proto, *addresses)


PACKETS = st.one_of(
    st.builds(lambda ends, a, b: seen(packets.tcp, *ends, 6, a, b), ENDS, PORT, PORT),
    st.builds(lambda ends, a, b: seen(packets.udp, *ends, 17, a, b), ENDS, PORT, PORT),
    st.builds(
        lambda ends, kind: seen(packets.icmp, *ends, 58 if packets.is_ipv6(ends[0]) else 1, *kind), ENDS, KIND
    ),
    st.builds(lone, ENDS, st.sampled_from([1, 4, 6, 17, 50, 58, 132, 255])),
    st.just(Seen(b"junk", 0)),
)  # fmt: skip

HOOKS, STATES = (INPUT, FORWARD, OUTPUT), (NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED)
DEVICES = ["lan0", "lan1", "wan0"]
PATTERNS = st.lists(st.sampled_from([*DEVICES, "lan+", "+", "x+"]), max_size=2)


def test_a_rule_that_wants_no_port_at_all_matches_nothing() -> None:
    nothing = NumberSet(subtract_numbers([(80, 80)], [(80, 80)]))
    found = decode(b"junk", 4)
    found.state = NEW
    sport = Rule("sport", "", ACCEPT, 1 << FORWARD, NEW, sport=nothing)
    dport = Rule("dport", "", ACCEPT, 1 << FORWARD, NEW, dport=nothing)
    for rules in ([sport], [dport], [sport, dport]):
        ruleset = Ruleset(rules, {})
        assert ruleset.evaluate(found, FORWARD, "", "").name == "policy forward"


def some(*values: int) -> st.SearchStrategy[Numbers]:
    """A few intervals whose ends are among these."""
    return intervals(st.sampled_from(values))


HOST_RANGES = st.one_of(
    address_intervals(V4.map(packets.packed)),
    address_intervals(V6.map(packets.packed)),
    st.sampled_from([EVERY_ADDRESS[:1], EVERY_ADDRESS[1:], EVERY_ADDRESS]),
)
TYPES = st.sampled_from([kind << 8 | code for kind in (0, 3, 8, 128, 255) for code in (0, 1, 255)])
RULES = st.builds(
    Wanted,
    st.frozensets(st.sampled_from(HOOKS), min_size=1),
    st.frozensets(st.sampled_from(STATES), min_size=1),
    st.none() | some(1, 6, 17, 50, 58, 132, 255),
    st.none() | HOST_RANGES,
    st.none() | HOST_RANGES,
    st.none() | some(0, 1, 22, 53, 65535),
    st.none() | some(0, 1, 22, 53, 65535),
    st.none() | intervals(TYPES),
    st.none() | intervals(TYPES),
    st.none() | st.tuples(PATTERNS, PATTERNS),
    st.none() | st.tuples(PATTERNS, PATTERNS),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(RULES, max_size=12),
    st.lists(
        st.tuples(
            PACKETS,
            st.sampled_from(HOOKS),
            st.sampled_from(STATES),
            st.sampled_from([*DEVICES, ""]),
            st.sampled_from([*DEVICES, ""]),
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_the_first_rule_that_agrees_decides(
    wanted: list[Wanted], arriving: list[tuple[Seen, int, int, str, str]]
) -> None:
    ruleset = Ruleset([one.compiled(str(at)) for at, one in enumerate(wanted)], {FORWARD: ACCEPT})
    for packet, hook, state, indev, outdev in arriving:
        found = decode(packet.data, len(packet.data))
        found.state = state
        agreeing = [str(at) for at, one in enumerate(wanted) if one.agrees(packet, hook, state, indev, outdev)]
        policy = {INPUT: "policy input", FORWARD: "policy forward", OUTPUT: "policy output"}[hook]
        assert ruleset.evaluate(found, hook, indev, outdev).name == [*agreeing, policy][0]


def test_a_chain_that_has_no_policy_drops() -> None:
    ruleset = Ruleset([], {FORWARD: ACCEPT})
    assert [ruleset.policies[hook].verdict for hook in HOOKS] == [DROP, ACCEPT, DROP]


def test_a_rule_that_asks_for_nothing_takes_all() -> None:
    everything = Rule("everything", "", ACCEPT, 1 << INPUT | 1 << FORWARD | 1 << OUTPUT, ANY)
    ruleset = Ruleset([everything, everything], {})
    found = decode(b"junk", 4)
    for state in STATES:
        found.state = state
        assert [ruleset.evaluate(found, hook, "", "") for hook in HOOKS] == [everything] * 3


# Limits


@given(st.integers(1, 10), st.integers(0, 5), st.integers(100, 10**18), st.lists(st.integers(0, 25), max_size=60))
def test_a_limit_is_a_token_bucket(interval: int, burst: int, now: int, pauses: list[int]) -> None:
    limit = Limit(interval, burst)
    tokens, taken, elapsed = Fraction(burst), 0, 0
    for pause in pauses:
        elapsed += pause
        tokens = min(Fraction(burst), tokens + Fraction(pause, interval))
        was_taken = limit.take(now + elapsed)
        assert was_taken == (tokens >= 1)
        tokens -= was_taken
        taken += was_taken
        assert taken <= burst + elapsed / interval


def test_a_limit_gains_nothing_by_a_clock_that_goes_backwards() -> None:
    limit = Limit(10, 2)
    assert [limit.take(now) for now in (1000, 1000, 900, 500, 1000, 1010)] == [True, True, False, False, False, True]


def test_a_limit_holds_from_the_first_instant_of_its_clock() -> None:
    limit = Limit(1, 10)
    assert sum(limit.take(8) for _ in range(100)) == 10
