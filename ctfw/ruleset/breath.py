"""Long work of compiled code in short steps, for whoever has packets waiting.

Python hears a signal between its own instructions only, and compiled code has none. So whoever makes sets and indexes
of a hundred thousand members gives a function ``breathe`` that is not compiled: it is called every STEP members, and
what waits has its turn in it (service/aside.py). A sort is one step in C, however long; ``put_in_order`` makes it of
sorts of RUN members, in about the same time. So is the end of a long list whose members nobody else holds: ``drained``
gives them out and lets go of each.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Final

STEP: Final = 64  # members: some tens of microseconds
RUN: Final = 512  # members: a third of a millisecond


def hold_breath() -> None:
    """Nobody waits."""


def drained(items: list[Any], breathe: Callable[[], None] = hold_breath) -> Iterator[Any]:
    """The items in their order, each of which is gone from the list when it is given out."""
    items.reverse()
    while items:
        if len(items) % STEP == 0:
            breathe()
        yield items.pop()


def put_in_order(items: list[Any], breathe: Callable[[], None] = hold_breath) -> list[Any]:
    """The same as ``sorted``, of items that can be compared; equal ones come in any order."""
    runs: list[list[Any]] = []
    for at in range(0, len(items), RUN):
        breathe()
        runs.append(sorted(items[at : at + RUN]))
    while len(runs) > 1:
        longer: list[list[Any]] = []
        for at in range(0, len(runs) - 1, 2):
            longer.append(_merge(runs[at], runs[at + 1], breathe))
        runs = longer if len(runs) % 2 == 0 else [*longer, runs[-1]]
    return runs[0] if runs else []


def _merge(left: list[Any], right: list[Any], breathe: Callable[[], None]) -> list[Any]:
    """Two sorted lists as one: in each step what is not above the lower end of the next RUN members of both."""
    merged: list[Any] = []
    at_left, at_right = 0, 0
    while at_left < len(left) and at_right < len(right):
        breathe()
        end_left, end_right = min(at_left + RUN, len(left)), min(at_right + RUN, len(right))
        most = min(left[end_left - 1], right[end_right - 1])
        end_left = bisect_right(left, most, at_left, end_left)
        end_right = bisect_right(right, most, at_right, end_right)
        merged += sorted(left[at_left:end_left] + right[at_right:end_right])
        at_left, at_right = end_left, end_right
    return merged + left[at_left:] + right[at_right:]
