"""Sets that a packet's fields are looked up in: addresses, numbers, interface names.

Addresses and numbers are sorted, merged intervals; a lookup is one binary search, whatever the size. Addresses compare
as bytes, so that IPv4 and IPv6 need no two kinds of code. Negation is gone before a set is made: what a rule does not
want is subtracted from everything (``subtract_numbers``, ``subtract_addresses``). A list from the net may have a
hundred thousand members, so all that makes sets takes a ``breathe`` (see breath).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from mypy_extensions import i64

from ctfw.ruleset.breath import STEP, drained, hold_breath, put_in_order

Interval = tuple[int, int]
AddressInterval = tuple[bytes, bytes]

EVERY_ADDRESS: Final[list[AddressInterval]] = [(b"\0" * 4, b"\xff" * 4), (b"\0" * 16, b"\xff" * 16)]
EVERY_NUMBER: Final[list[Interval]] = [(0, 65535)]


def merge_numbers(intervals: Iterable[Interval], breathe: Callable[[], None] = hold_breath) -> list[Interval]:
    """The same numbers as sorted intervals with gaps between them."""
    merged: list[Interval] = []
    for first, last in drained(put_in_order(list(intervals), breathe), breathe):
        if merged and first <= merged[-1][1] + 1:
            if last > merged[-1][1]:
                merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged


def subtract_numbers(
    wanted: Iterable[Interval], unwanted: Iterable[Interval], breathe: Callable[[], None] = hold_breath
) -> list[Interval]:
    """The numbers in ``wanted`` that are not in ``unwanted``, merged."""
    rest: list[Interval] = []
    holes = merge_numbers(unwanted, breathe)
    at = 0
    for first, last in drained(merge_numbers(wanted, breathe), breathe):
        while at < len(holes) and holes[at][1] < first:
            breathe()
            at += 1
        hole = at
        while hole < len(holes) and holes[hole][0] <= last:
            breathe()
            if first < holes[hole][0]:
                rest.append((first, holes[hole][0] - 1))
            first = holes[hole][1] + 1
            hole += 1
        if first <= last:
            rest.append((first, last))
    return rest


def _as_numbers(intervals: list[AddressInterval], size: int, breathe: Callable[[], None]) -> list[Interval]:
    found: list[Interval] = []
    for at in range(len(intervals)):
        if at % STEP == 0:
            breathe()
        first, last = intervals[at]
        if len(first) == size:
            found.append((int.from_bytes(first, "big"), int.from_bytes(last, "big")))
    return found


def merge_addresses(
    intervals: Iterable[AddressInterval], breathe: Callable[[], None] = hold_breath
) -> list[AddressInterval]:
    """The same addresses as sorted intervals with gaps between them, IPv4 first."""
    return subtract_addresses(intervals, [], breathe)


def subtract_addresses(
    wanted: Iterable[AddressInterval],
    unwanted: Iterable[AddressInterval],
    breathe: Callable[[], None] = hold_breath,
) -> list[AddressInterval]:
    """The addresses in ``wanted`` that are not in ``unwanted``, merged, IPv4 first."""
    wanted = list(wanted)
    unwanted = list(unwanted)
    rest: list[AddressInterval] = []
    for size in (4, 16):
        plus, minus = _as_numbers(wanted, size, breathe), _as_numbers(unwanted, size, breathe)
        for first, last in drained(subtract_numbers(plus, minus, breathe), breathe):
            rest.append((first.to_bytes(size, "big"), last.to_bytes(size, "big")))
        for _ in drained(plus, breathe):
            pass
        for _ in drained(minus, breathe):
            pass
    return rest


class AddressSet:
    """IPv4 and IPv6 addresses. Intervals are inclusive, of 4- or 16-byte addresses, in any order."""

    def __init__(self, intervals: Iterable[AddressInterval], breathe: Callable[[], None] = hold_breath) -> None:
        self._firsts4: list[bytes] = []
        self._lasts4: list[bytes] = []
        self._firsts6: list[bytes] = []
        self._lasts6: list[bytes] = []
        for first, last in drained(merge_addresses(intervals, breathe), breathe):
            firsts, lasts = (self._firsts4, self._lasts4) if len(first) == 4 else (self._firsts6, self._lasts6)
            firsts.append(first)
            lasts.append(last)

    def __len__(self) -> int:
        """Intervals, merged."""
        return len(self._firsts4) + len(self._firsts6)

    def contains(self, address: bytes) -> bool:
        """False for anything that is not 4 or 16 bytes long."""
        if len(address) == 4:
            firsts = self._firsts4
            lasts = self._lasts4
        elif len(address) == 16:
            firsts = self._firsts6
            lasts = self._lasts6
        else:
            return False
        at = bisect_right(firsts, address)
        return at > 0 and address <= lasts[at - 1]

    def interval(self, at: int) -> AddressInterval:
        """One of them, of ``len`` many, IPv4 first."""
        fours = len(self._firsts4)
        if at < fours:
            return self._firsts4[at], self._lasts4[at]
        return self._firsts6[at - fours], self._lasts6[at - fours]

    def intervals(self) -> list[AddressInterval]:
        """What the set holds, merged, IPv4 first."""
        return list(zip(self._firsts4 + self._firsts6, self._lasts4 + self._lasts6, strict=True))


class NumberSet:
    """Whole numbers: ports, protocols, ICMP type << 8 | code. Intervals are inclusive, in any order."""

    def __init__(self, intervals: Iterable[Interval], breathe: Callable[[], None] = hold_breath) -> None:
        merged = merge_numbers(intervals, breathe)
        self._firsts: list[int] = [first for first, _ in merged]
        self._lasts: list[int] = [last for _, last in merged]
        # A rule with one port or range is by far the most frequent: two comparisons.
        self._first: i64 = self._firsts[0] if len(merged) == 1 else 1
        self._last: i64 = self._lasts[0] if len(merged) == 1 else 0

    def contains(self, number: i64) -> bool:
        if self._first <= self._last:
            return self._first <= number <= self._last
        at = bisect_right(self._firsts, number)
        return at > 0 and number <= self._lasts[at - 1]

    def intervals(self) -> list[Interval]:
        """What the set holds, merged."""
        return list(zip(self._firsts, self._lasts, strict=True))


class InterfaceSet:
    """Interface names; a trailing ``+`` stands for any rest. A packet without the interface ("") is never contained."""

    def __init__(self, names: Sequence[str], negated: Sequence[str] = ()) -> None:
        self.names: tuple[str, ...] = tuple(names)
        self.negated: tuple[str, ...] = tuple(negated)

    def contains(self, name: str) -> bool:
        if name == "" or _matches_any(self.negated, name):
            return False
        return len(self.names) == 0 or _matches_any(self.names, name)


def _matches_any(patterns: tuple[str, ...], name: str) -> bool:
    for pattern in patterns:
        if pattern == name or (pattern.endswith("+") and name.startswith(pattern[:-1])):
            return True
    return False


class MaskedSet:
    """Bit patterns, as (value, mask): a number is contained when it agrees with one of ``wanted`` in the bits of its
    mask (with none of them wanted: always) and with none of ``unwanted``."""

    def __init__(self, wanted: Sequence[Interval], unwanted: Sequence[Interval] = ()) -> None:
        self.wanted: list[Interval] = list(wanted)
        self.unwanted: list[Interval] = list(unwanted)

    def contains(self, number: i64) -> bool:
        for value, mask in self.unwanted:
            if number & mask == value:
                return False
        if not self.wanted:
            return True
        for value, mask in self.wanted:
            if number & mask == value:
                return True
        return False
