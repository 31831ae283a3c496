"""Sets whose members come and go while packets are judged: bans, allowances, whatever a program or a rule adds.

A member is an address or a network, with a time at which it ends or without. For each prefix length that occurs there
is one dictionary, so a lookup costs a dictionary access a length (bans are nearly always of one length), and adding or
removing costs the same whatever the size. An expired member is never found; the sweep frees it.

Such a set cannot be part of the index (``index``), and neither can a named set that contains one. What a rule asks then
is an AddressTree: the static members in one sorted set, the others asked one by one.

Bounded: a set holds at most ``most`` members. A full one refuses (``refused`` counts) rather than forget an older ban:
who sends from a thousand forged addresses shall not free a banned one.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.siblings import Siblings
from ctfw.ruleset.prefix import network
from ctfw.ruleset.sets import AddressSet

MOST: Final = 65536
NEVER: Final = (1 << 62) - 1  # the end of a member that has none
_SWEEP: Final = 4096  # members a tick
_PIECE: Final = 256  # members
_TOLD: Final = 1_000_000_000  # so much later an end has to be for siblings to hear of it
_ROUND: Final = 10_000_000_000  # a sweep begins anew at most this often, in nanoseconds


class DynamicSet:
    """``ttl``: what members get, in nanoseconds, when whoever adds them names none; 0: they stay until removed."""

    def __init__(self, name: str, ttl: int = 0, most: int = MOST) -> None:
        self.name = name
        self.ttl: i64 = ttl
        self.most: i64 = most
        self.refused: i64 = 0
        self.siblings: Siblings | None = None  # are told what comes and goes
        self._count: i64 = 0
        # By prefix length: network -> when it ends. The lengths in use, for each family.
        self._ends4: list[dict[bytes, int]] = [{} for _ in range(33)]
        self._ends6: list[dict[bytes, int]] = [{} for _ in range(129)]
        self._lengths4: list[int] = []
        self._lengths6: list[int] = []
        # A sweep goes through the dictionaries one by one: what is left of one, and the number of the next.
        self._to_sweep: list[bytes] = []
        self._sweep_length: i64 = 0
        self._swept: i64 = 0
        self._next_round: i64 = 0

    def __len__(self) -> int:
        """Members, those included that have expired and were not swept yet."""
        return self._count

    def contains(self, address: bytes, now: i64) -> bool:
        if self._count == 0:
            return False
        if len(address) == 4:
            for length in self._lengths4:
                if self._ends4[length].get(network(address, length), 0) > now:
                    return True
        elif len(address) == 16:
            for length in self._lengths6:
                if self._ends6[length].get(network(address, length), 0) > now:
                    return True
        return False

    def add(self, address: bytes, length: i64, ttl: i64, now: i64) -> bool:
        """Adds the network, or gives it a later end; False when the set is full. ``ttl`` 0: as the set says."""
        before: i64 = self._ends(address, length).get(network(address, length), 0)
        if not self.put(address, length, ttl, now):
            return False
        if self.siblings is not None:
            end: i64 = self._ends(address, length)[network(address, length)]
            if end - before >= _TOLD or before <= now:
                self.siblings.tell_member(self.name, address, length, ttl, now)
        return True

    def put(self, address: bytes, length: i64, ttl: i64, now: i64) -> bool:
        """``add``, and nobody is told."""
        ends = self._ends(address, length)
        member = network(address, length)
        if ttl == 0:
            ttl = self.ttl
        end: i64 = now + ttl if ttl != 0 else NEVER
        before: i64 = ends.get(member, 0)
        if before == 0:
            if self._count >= self.most:
                self.sweep(now)
                if self._count >= self.most:
                    self.refused += 1
                    return False
            self._count += 1
            if not ends:
                self._use(len(address), length)
        ends[member] = end if end > before or before <= now else before
        return True

    def remove(self, address: bytes, length: i64, now: i64) -> bool:
        """Takes the network out; False when it is not a member (a network within which it lies does not count)."""
        if self.siblings is not None:
            self.siblings.forget_member(self.name, address, length, now)
        return self.take_out(address, length, now)

    def take_out(self, address: bytes, length: i64, now: i64) -> bool:
        """``remove``, and nobody is told."""
        ends = self._ends(address, length)
        end: i64 = ends.pop(network(address, length), 0)
        if end == 0:
            return False
        self._count -= 1
        if not ends:
            self._disuse(len(address), length)
        return end > now

    def clear(self) -> None:
        """Takes every member out."""
        for ends in (*self._ends4, *self._ends6):
            ends.clear()
        self._lengths4 = []
        self._lengths6 = []
        self._count = 0

    def members(self, now: i64) -> list[tuple[bytes, int, int]]:
        """Network, prefix length and remaining nanoseconds (-1: no end) of each living member."""
        return [member for piece in self.pieces(now) for member in piece]

    def pieces(self, now: i64) -> Iterator[list[tuple[bytes, int, int]]]:
        """The same, some hundred at a time: members may come and go between two, and then are in or not."""
        for table in (self._ends4, self._ends6):
            for length in range(len(table)):
                ends = table[length]
                members = list(ends)
                for at in range(0, len(members), _PIECE):
                    yield _living(members[at : at + _PIECE], length, ends, now)

    def sweep(self, now: i64) -> None:
        """Frees what has expired, of some thousand members at a time."""
        left: i64 = _SWEEP
        while left > 0:
            if not self._to_sweep and not self._go_on_sweeping(now):
                return
            part = self._to_sweep[-left:]
            for member in part:
                end: i64 = self._ends(member, self._sweep_length).get(member, NEVER)
                if end <= now:
                    self.take_out(member, self._sweep_length, now)
            del self._to_sweep[-left:]
            left -= len(part)

    def _go_on_sweeping(self, now: i64) -> bool:
        """Takes up the next dictionary that is not empty; False when the round is over, or is not due."""
        if self._swept == 0:
            if now < self._next_round:
                return False
            self._next_round = now + _ROUND
        while self._swept < len(self._ends4) + len(self._ends6):
            at = self._swept
            self._swept += 1
            if at < len(self._ends4):
                self._sweep_length = at
                self._to_sweep = list(self._ends4[at])
            else:
                self._sweep_length = at - len(self._ends4)
                self._to_sweep = list(self._ends6[self._sweep_length])
            if self._to_sweep:
                return True
        self._swept = 0
        return False

    def add_for_ever(self, address: bytes, length: i64, now: i64) -> bool:
        """Adds the network without an end, whatever the set says; False when it is full."""
        if not self.put_for_ever(address, length, now):
            return False
        if self.siblings is not None:
            self.siblings.tell_member(self.name, address, length, -1, now)
        return True

    def put_for_ever(self, address: bytes, length: i64, now: i64) -> bool:
        """``add_for_ever``, and nobody is told."""
        if not self.put(address, length, 1, now):
            return False
        self._ends(address, length)[network(address, length)] = NEVER
        return True

    def inherit(self, other: "DynamicSet", now: i64) -> None:
        """Takes over the members of the set's former self, as far as there is room; siblings do so themselves."""
        if self._count == 0 and other._count <= self.most:
            for own, others in ((self._ends4, other._ends4), (self._ends6, other._ends6)):
                for length in range(len(own)):
                    own[length].update(others[length])
            self._lengths4 = list(other._lengths4)
            self._lengths6 = list(other._lengths6)
            self._count = other._count
            return
        for member, length, left in other.members(now):
            if left < 0:
                self.put_for_ever(member, length, now)
            else:
                self.put(member, length, left, now)

    def _ends(self, address: bytes, length: i64) -> dict[bytes, int]:
        return self._ends4[length] if len(address) == 4 else self._ends6[length]

    def _use(self, size: i64, length: i64) -> None:
        if size == 4:
            self._lengths4 = sorted([*self._lengths4, length], reverse=True)
        else:
            self._lengths6 = sorted([*self._lengths6, length], reverse=True)

    def _disuse(self, size: i64, length: i64) -> None:
        if size == 4:
            self._lengths4 = [other for other in self._lengths4 if other != length]
        else:
            self._lengths6 = [other for other in self._lengths6 if other != length]


def _living(members: list[bytes], length: i64, ends: dict[bytes, int], now: i64) -> list[tuple[bytes, int, int]]:
    """Those that have not expired, as ``pieces`` tells them."""
    found: list[tuple[bytes, int, int]] = []
    for member in members:
        end: i64 = ends.get(member, 0)
        if end > now:
            found.append((member, length, -1 if end == NEVER else end - now))
    return found


class AddressTree:
    """(``base`` or any of ``plus`` or ``dynamic``) without ``minus_base`` and any of ``minus``."""

    def __init__(
        self,
        base: AddressSet,
        plus: "Sequence[AddressTree]" = (),
        minus_base: AddressSet | None = None,
        minus: "Sequence[AddressTree]" = (),
        dynamic: DynamicSet | None = None,
    ) -> None:
        self.base = base
        self.plus: list[AddressTree] = list(plus)
        self.minus_base = minus_base
        self.minus: list[AddressTree] = list(minus)
        self.dynamic = dynamic

    def contains(self, address: bytes, now: i64) -> bool:
        if not self.base.contains(address):
            dynamic = self.dynamic
            if (dynamic is None or not dynamic.contains(address, now)) and not _any(self.plus, address, now):
                return False
        if self.minus_base is not None and self.minus_base.contains(address):
            return False
        return not self.minus or not _any(self.minus, address, now)


def _any(trees: list[AddressTree], address: bytes, now: i64) -> bool:
    for tree in trees:
        if tree.contains(address, now):
            return True
    return False
