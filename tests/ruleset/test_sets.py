"""Dynamic sets, prefixes and large lists, each against the plain way to say the same."""

import ipaddress
import itertools
import random

from hypothesis import given
from hypothesis import strategies as st
from ruleset.gateway import SECOND, query

from ctfw.conntrack.state import NEW
from ctfw.packet import FORWARD, decode
from ctfw.ruleset.dynamic import DynamicSet
from ctfw.ruleset.index import too_large
from ctfw.ruleset.limit import RateLimit
from ctfw.ruleset.prefix import Per, network
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import AddressSet
from ctfw.ruleset.verdict import ACCEPT

ADDRESSES = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


@given(address=ADDRESSES, length=st.integers(0, 128))
def test_network_clears_what_lies_behind_the_prefix(address: bytes, length: int) -> None:
    length = min(length, len(address) * 8)
    expected = ipaddress.ip_network((address, length), strict=False).network_address.packed
    assert network(address, length) == expected


FEW = [bytes([10, 0, third, fourth]) for third in (0, 1) for fourth in (0, 1, 200)]
LENGTHS = st.sampled_from([0, 8, 23, 24, 25, 32])
STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(FEW), LENGTHS, st.integers(0, 3)),
    st.tuples(st.just("remove"), st.sampled_from(FEW), LENGTHS, st.just(0)),
    st.tuples(st.just("wait"), st.just(b""), st.just(0), st.integers(0, 4)),
    st.tuples(st.just("sweep"), st.just(b""), st.just(0), st.just(0)),
)


@given(steps=st.lists(STEPS, max_size=30))
def test_a_dynamic_set_is_a_dictionary_with_ends(steps: list[tuple[str, bytes, int, int]]) -> None:
    found, naive, now = DynamicSet("bans", ttl=2 * SECOND, most=4), dict[tuple[bytes, int], int](), SECOND
    for what, address, length, seconds in steps:
        member = (network(address, length), length) if address else (b"", 0)
        if what == "add":
            end = now + (seconds or 2) * SECOND
            alive = {one for one, until in naive.items() if until > now}
            if found.add(address, length, seconds * SECOND, now):
                naive[member] = max(end, naive.get(member, 0))
            else:
                # Full of members that live, or died only after the last sweep: never fewer than there is room for.
                assert member not in alive and len(found) == 4
        elif what == "remove":
            assert found.remove(address, length, now) == (naive.pop(member, 0) > now)
        elif what == "wait":
            now += seconds * SECOND
        else:
            found.sweep(now)
        for asked in FEW:
            expected = any(
                until > now and network(asked, length) == member for (member, length), until in naive.items()
            )
            assert found.contains(asked, now) == expected
    assert {(member, length) for member, length, _ in found.members(now)} == {
        member for member, until in naive.items() if until > now
    }


@given(
    members=st.lists(st.tuples(st.sampled_from(FEW), st.sampled_from([8, 24, 32]), st.integers(0, 3)), max_size=20),
    most=st.integers(1, 30),
)
def test_what_a_set_takes_over_is_its_own(members: list[tuple[bytes, int, int]], most: int) -> None:
    old, new = DynamicSet("bans", most=30), DynamicSet("bans", most=most)
    for address, length, seconds in members:
        old.add(address, length, seconds * SECOND, SECOND)
    now = 3 * SECOND  # some have expired
    before = sorted(old.members(now))
    new.inherit(old, now)
    taken = sorted(new.members(now))
    assert set(taken) <= set(before) and len(taken) == min(len(before), most)
    for address, length, _ in taken:
        assert new.contains(address, now)
        assert new.remove(address, length, now)
    new.sweep(now)
    assert len(new) == 0 and sorted(old.members(now)) == before


def test_members_may_come_and_go_while_they_are_told() -> None:
    bans = DynamicSet("bans", most=10_000)
    for number in range(5000):
        bans.add(number.to_bytes(4, "big"), 32, 0, 1)
    told = []
    for number, piece in enumerate(bans.pieces(2)):
        told += [int.from_bytes(address, "big") for address, _, _ in piece]
        assert len(piece) <= 256
        bans.remove((4999 - number).to_bytes(4, "big"), 32, 2)
        bans.add((5000 + number).to_bytes(4, "big"), 32, 0, 2)
    assert told == list(range(len(told))) and 4900 < len(told) < 5000


def test_a_sweep_goes_on_where_it_stopped_and_frees_them_all() -> None:
    bans = DynamicSet("bans", most=100_000)
    for number in range(10_000):
        bans.add(number.to_bytes(4, "big"), 32, SECOND, 1)
        bans.add(b"\x20" + number.to_bytes(15, "big"), 128, SECOND, 1)
    bans.add(bytes(4), 8, 0, 1)
    left = [len(bans)]
    while left[-1] > 1:
        bans.sweep(2 * SECOND)
        left.append(len(bans))
    freed = [before - after for before, after in itertools.pairwise(left)]
    assert len(freed) == 5 and max(freed) <= 4096


def test_a_full_set_refuses_and_never_forgets() -> None:
    bans = DynamicSet("bans", most=1000)
    for number in range(5000):
        bans.add(number.to_bytes(4, "big"), 32, 0, 1)
    assert (len(bans), bans.refused) == (1000, 4000)
    assert bans.contains(bytes(4), 2) and not bans.contains((4999).to_bytes(4, "big"), 2)


def test_a_limit_per_source_remembers_so_many_and_forgets_the_one_that_rested_longest() -> None:
    limit = RateLimit(3600 * SECOND, 1, Per(), most=2)

    def asks(last: int) -> bool:
        data = query(src=f"10.0.0.{last}")
        return limit.matches(decode(data, len(data)), SECOND, True)

    assert [asks(1), asks(2), asks(1), asks(3)] == [True, True, False, True]
    assert len(limit) == 2
    assert [asks(3), asks(2), asks(1)] == [False, False, True]


def test_sets_too_large_for_the_index_are_asked_one_by_one() -> None:
    drawn = random.Random(7)

    def one(count: int) -> AddressSet:
        firsts = [drawn.randbytes(3) for _ in range(count)]
        return AddressSet([(first + b"\0", first + b"\xff") for first in firsts])

    wanted: list[AddressSet | None] = [one(3), None, one(50), one(7)]
    assert too_large(wanted, 1 << 30) == set()
    assert too_large(wanted, 12 * 2 * 100) == {2}
    assert too_large(wanted, 0) == {0, 2, 3}
    sets = [one(60) for _ in range(2000)]  # 120,000 networks times 2,000 rules
    rules = [Rule(f"r{number}", "", ACCEPT, 1 << FORWARD, NEW, src=src) for number, src in enumerate(sets)]
    ruleset = Ruleset(rules, {})
    late = [rule for rule in rules if rule.late_src]
    assert 0 < len(late) < 2000
    for _ in range(300):
        src = drawn.choice(sets).intervals()[0][0] if drawn.random() < 0.7 else drawn.randbytes(4)
        data = query(src=str(ipaddress.ip_address(src)))
        packet = decode(data, len(data))
        packet.state = NEW
        expected = next((rule.name for rule, wanted in zip(rules, sets, strict=True) if wanted.contains(src)), None)
        assert ruleset.evaluate(packet, FORWARD, "", "").name == (expected or "policy forward")
