"""What takes long in compiled code lets others in: how much is done between two breaths, counted and not timed."""

import random
from functools import total_ordering

from hypothesis import given
from hypothesis import strategies as st

from ctfw.packet import FORWARD
from ctfw.ruleset.breath import RUN, STEP, put_in_order
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import AddressSet, NumberSet, subtract_addresses
from ctfw.ruleset.verdict import ACCEPT, DROP

MANY = 20_000
NETWORKS = [((n << 9).to_bytes(4, "big"), ((n << 9) + 255).to_bytes(4, "big")) for n in range(MANY)]


class Breath:
    """Counts how often it was drawn."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self) -> None:
        self.drawn += 1


@total_ordering
class Weighed:
    """A number that counts how often it is compared."""

    compared = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weighed) and self.number == other.number

    def __lt__(self, other: "Weighed") -> bool:
        Weighed.compared += 1
        return self.number < other.number


@given(st.lists(st.integers(0, 50), max_size=5 * RUN), st.randoms(use_true_random=False))
def test_put_in_order_is_sorted(some: list[int], chance: random.Random) -> None:
    more = some * chance.randint(1, 20)
    chance.shuffle(more)
    assert put_in_order(more) == sorted(more)


def test_a_sort_breathes_every_few_thousand_comparisons() -> None:
    numbers = [Weighed(n) for n in range(MANY)]
    random.Random(1).shuffle(numbers)
    steps: list[int] = []

    def breathe() -> None:
        steps.append(Weighed.compared)

    Weighed.compared = 0
    in_order = put_in_order(numbers, breathe)
    steps.append(Weighed.compared)
    assert [one.number for one in in_order] == list(range(MANY))
    assert max(after - before for before, after in zip([0, *steps], steps, strict=False)) < 2 * RUN * 10


def test_a_set_of_addresses_breathes() -> None:
    breath = Breath()
    assert len(AddressSet(NETWORKS, breath)) == MANY
    assert breath.drawn > 7 * MANY // STEP  # seven ways through all of them
    breath = Breath()
    assert len(subtract_addresses([(bytes(4), b"\xff" * 4)], NETWORKS, breath)) == MANY
    assert breath.drawn > MANY + 3 * MANY // STEP


def test_a_set_of_numbers_breathes() -> None:
    breath = Breath()
    NumberSet([(n, n) for n in range(0, 65536, 2)], breath)
    assert breath.drawn > 32768 // STEP


def test_an_index_of_large_sets_breathes() -> None:
    breath = Breath()
    rules = [Rule("one", "", DROP, 1 << FORWARD, 255, src=AddressSet(NETWORKS))]
    Ruleset(rules, {FORWARD: ACCEPT}, breathe=breath)
    assert breath.drawn > MANY + 2 * MANY // RUN + 2 * MANY // STEP  # cut, in order, added up
