"""Expectations: connections that a helper has read about on another one, and that will be RELATED when they come.

A connection's first packet fulfils an expectation when protocol, destination and destination port are the announced
ones and its source is too, as far as it was announced: exactly, by network, or not at all. The master, on which it was
announced, must be in the table then, in the same zone; when it leaves, its expectations are over.

Life: a helper adds an expectation and its time runs. The first connection that fulfils it takes it out, unless it is
``permanent`` (SIP registrations, broadcasts), and may get a helper of its own from it. One that is ``inactive`` waits
for its master's confirmation: it holds its place and cannot be fulfilled.

Limits. A helper sorts what it expects into classes, each with a ``Policy``: how many of the class one master may have
(the oldest gives way) and how long each lives. ``expect_max`` limits them all. No first packet can fulfil two: one that
overlaps another (same protocol, destination and port, and sources that have some address in common) is refused, but for
an equal one of the same master and class, which it replaces. docs/state-machine.md, "Helpers and expectations".
"""

from typing import Final

from mypy_extensions import i64

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.settings import HELPER_NAMES
from ctfw.conntrack.siblings import Siblings
from ctfw.conntrack.state import CONFIRMED, DYING
from ctfw.packet import address_size

# What ``Expectations.add`` answers.
ADDED: Final = 0
KNOWN: Final = 1  # an equal one of another class, or of another master when that may be
OVERLAPS: Final = 2
FULL: Final = 3


class Policy:
    """A class of expectations: who announces them, the class's name ("" when the helper has just one) and its limits.

    ``most`` is how many a master may have, ``lifetime`` nanoseconds. Classes are told apart by identity.
    """

    def __init__(self, helper: i64, name: str, most: i64, lifetime: i64) -> None:
        self.helper: i64 = helper
        self.name = name
        self.most: i64 = most
        self.lifetime: i64 = lifetime

    def full_name(self) -> str:
        """As the kernel prints it: ``ftp``, ``sip/audio``."""
        return HELPER_NAMES[self.helper] + ("/" + self.name if self.name else "")


class Expectation:
    """A connection to come: from ``src`` (b"": from anywhere) and any source port, to ``dst`` and ``dport``.

    A helper may change these before it adds the expectation: ``prefix``, how many bits of ``src`` count; ``sport``, two
    bytes, b"" for any; ``permanent``, ``inactive``; and ``assign``, the helper that the new connection gets.
    """

    def __init__(
        self, master: Conn, policy: Policy, proto: i64, src: bytes, dst: bytes, dport: bytes, now: i64
    ) -> None:
        self.master = master
        self.policy = policy
        self.proto: i64 = proto
        self.src = src
        self.prefix: i64 = len(src) << 3
        self.sport: bytes = b""
        self.dst = dst
        self.dport = dport
        self.expires: i64 = now + policy.lifetime
        self.permanent: bool = False
        self.inactive: bool = False
        self.assign: i64 = 0

    def is_over(self, now: i64) -> bool:
        """True when its time is up, or its master's."""
        master = self.master
        return self.expires <= now or master.status & DYING != 0 or (
            master.status & CONFIRMED != 0 and master.expires <= now
        )  # fmt: skip

    def is_from(self, src: bytes, sport: bytes) -> bool:
        """True when ``src`` and ``sport`` are a source that is expected."""
        return (self.sport == b"" or self.sport == sport) and _is_same_network(self.src, src, self.prefix)

    def overlaps(self, other: "Expectation") -> bool:
        """True when one source would fulfil both. Their destinations are known to be the same."""
        if self.sport != b"" and other.sport != b"" and self.sport != other.sport:
            return False
        return _is_same_network(self.src, other.src, min(self.prefix, other.prefix))

    def equals(self, other: "Expectation") -> bool:
        """True when both expect the same sources. Their destinations are known to be the same."""
        return self.src == other.src and self.prefix == other.prefix and self.sport == other.sport


class Expectations:
    """All expectations: by (protocol, destination, port) for new connections, and by master, the oldest first."""

    def __init__(self) -> None:
        self._by_target: dict[bytes, list[Expectation]] = {}
        self._by_master: dict[Conn, list[Expectation]] = {}
        self.count: i64 = 0
        self.created: i64 = 0
        self.siblings: Siblings | None = None

    def all(self) -> list[Expectation]:
        """Those whose master is still there; some may have expired."""
        return [one for several in self._by_target.values() for one in several if one.master.status & DYING == 0]

    def of(self, master: Conn) -> list[Expectation]:
        """What ``master`` expects, the newest first; the list is the caller's."""
        return self._by_master.get(master, [])[::-1]

    def take(self, key: bytes, now: i64) -> Expectation | None:
        """The expectation that a new connection with ``key`` fulfils; removed unless it is permanent."""
        one = self.find_exactly(key, now)
        if one is None or one.inactive or one.master.status & CONFIRMED == 0:
            return None
        if not one.permanent:
            self.remove(one)
        return one

    def find_exactly(self, key: bytes, now: i64) -> Expectation | None:
        """The expectation, active or not, that a connection with ``key`` would fulfil."""
        size = address_size(key)
        ports = 1 + 2 * size
        for one in self._by_target.get(key[0:1] + key[1 + size : ports] + key[ports + 2 :], [])[::-1]:
            if one.is_over(now):
                self.remove(one)
            elif one.is_from(key[1 : 1 + size], key[ports : ports + 2]):
                return one
        return None

    def expecting(self, target: bytes, now: i64) -> list[Expectation]:
        """Those for this protocol, destination, port and zone (as in a key) that are not over."""
        return [one for one in self._by_target.get(target, []) if not one.is_over(now)]

    def add(self, one: Expectation, limit: i64, now: i64, known_elsewhere: bool = False) -> i64:
        """Adds ``one``: ADDED, or why not: KNOWN, OVERLAPS, FULL. ``limit``: how many there may be in all.

        An equal one of another master is OVERLAPS, unless ``known_elsewhere`` lets it be KNOWN.
        """
        target = _target(one)
        for other in self._by_target.get(target, [])[::-1]:
            if other.is_over(now):
                self.remove(other)
            elif (known_elsewhere or other.master is one.master) and other.equals(one):
                if other.policy is not one.policy or other.master is not one.master:
                    return KNOWN
                self.remove(other)
            elif other.overlaps(one):
                return OVERLAPS
        siblings = self.siblings
        if siblings is not None:
            answer = siblings.clash(target, one.src, one.prefix, one.sport, known_elsewhere, now)
            if answer != 0:
                return answer
            limit -= siblings.expected_elsewhere(self.count)
        self._make_room(one, now)
        if self.count >= limit:
            self.sweep(now)
            if self.count >= limit:
                return FULL
        self._by_target.setdefault(target, []).append(one)
        self._by_master.setdefault(one.master, []).append(one)
        self.count += 1
        self.created += 1
        if siblings is not None:
            siblings.announce(target, one.src, one.prefix, one.sport)
        return ADDED

    def require(self, one: Expectation, limit: i64, now: i64) -> i64:
        """Adds ``one``; 0, or the reason to drop the packet that announces it."""
        return 0 if self.add(one, limit, now) == ADDED else reason.HELPER_EXPECT_FULL

    def remove(self, one: Expectation) -> None:
        """Takes ``one`` out."""
        target = _target(one)
        several = self._by_target[target]
        several.remove(one)
        if not several:
            del self._by_target[target]
        mine = self._by_master[one.master]
        mine.remove(one)
        if not mine:
            del self._by_master[one.master]
        self.count -= 1

    def remove_master(self, conn: Conn) -> None:
        """Takes out all that ``conn`` expects; for a connection that leaves the table."""
        for one in self.of(conn):
            self.remove(one)

    def clear(self) -> None:
        """Forgets every expectation."""
        self._by_target.clear()
        self._by_master.clear()
        self.count = 0

    def sweep(self, now: i64) -> None:
        """Frees those that are over."""
        for several in list(self._by_target.values()):
            for one in list(several):
                if one.is_over(now):
                    self.remove(one)

    def _make_room(self, one: Expectation, now: i64) -> None:
        """Removes the master's oldest of the class when it has as many as it may."""
        of_class: i64 = 0
        oldest: Expectation | None = None
        for other in self.of(one.master):
            if other.policy is one.policy:
                if other.is_over(now):
                    self.remove(other)
                else:
                    of_class += 1
                    oldest = other
        if oldest is not None and of_class >= one.policy.most:
            self.remove(oldest)


def _target(one: Expectation) -> bytes:
    """Protocol, destination, port, and the master's zone as its key has it: what the keys that fulfil ``one`` share."""
    key = one.master.key
    return bytes([one.proto]) + one.dst + one.dport + key[5 + 2 * address_size(key) :]


def _is_same_network(a: bytes, b: bytes, prefix: i64) -> bool:
    if prefix == 0:
        return True
    if prefix == len(a) << 3:
        return a == b
    beyond = (len(a) << 3) - prefix
    return int.from_bytes(a, "big") >> beyond == int.from_bytes(b, "big") >> beyond
