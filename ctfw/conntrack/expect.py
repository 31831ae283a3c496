"""Expectations: connections that a helper has read about on another one, and that will be RELATED when they come.

A connection's first packet fulfils an expectation when destination, port and protocol are the announced ones and its
source is the announced one too (or any, where the protocol does not say). It is taken then, once. Its master must be in
the table, and takes its expectations along when it leaves.

Limits: a class of helper says how many a master may have (the oldest gives way), ``expect_max`` how many there are.
CONNTRACK.md section 6.
"""

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.settings import HELPER_NAMES
from ctfw.conntrack.state import CONFIRMED, DYING


class Expectation:
    """A connection to come. ``src`` is empty when any source will do; the source port never matters."""

    def __init__(
        self, master: Conn, proto: i64, src: bytes, dst: bytes, dport: bytes, expires: i64, helper: i64
    ) -> None:
        self.master = master
        self.proto: i64 = proto
        self.src = src
        self.dst = dst
        self.dport = dport
        self.expires: i64 = expires
        self.helper: i64 = helper  # who announced it

    def helper_name(self) -> str:
        return HELPER_NAMES[self.helper]


class Expectations:
    """All expectations by (protocol, destination, port), each place holding those that differ in their source."""

    def __init__(self) -> None:
        self._by_target: dict[bytes, list[Expectation]] = {}
        self._by_master: dict[bytes, list[Expectation]] = {}
        self.count: i64 = 0

    def all(self) -> list[Expectation]:
        return [one for several in self._by_target.values() for one in several]

    def take(self, key: bytes, now: i64) -> Expectation | None:
        """Removes and returns the expectation that a new connection with ``key`` fulfils."""
        half = (len(key) - 5) >> 1
        src = key[1 : 1 + half]
        several = self._by_target.get(key[0:1] + key[1 + half : 1 + 2 * half] + key[3 + 2 * half :])
        if several is None:
            return None
        for one in list(several):
            if one.expires <= now:
                self.remove(one)
            elif (one.src == b"" or one.src == src) and one.master.status & (CONFIRMED | DYING) == CONFIRMED:
                self.remove(one)
                return one
        return None

    def add(self, one: Expectation, most: i64, limit: i64, now: i64) -> bool:
        """Adds ``one``. ``most`` is how many its master may have, ``limit`` how many there may be in all.

        False, and nothing added, when another master expects the same or the limit is reached. The same expectation of
        the same master starts anew.
        """
        target = _target(one)
        for other in list(self._by_target.get(target, [])):
            if other.expires <= now:
                self.remove(other)
            elif other.src == b"" or one.src == b"" or other.src == one.src:
                if other.master is not one.master or other.src != one.src:
                    return False
                self.remove(other)
        mine = self._by_master.get(one.master.key, [])
        if len(mine) >= most:
            self.remove(mine[0])
        if self.count >= limit:
            return False
        self._by_target.setdefault(target, []).append(one)
        self._by_master.setdefault(one.master.key, []).append(one)
        self.count += 1
        return True

    def remove(self, one: Expectation) -> None:
        """Takes ``one`` out."""
        self._remove_from(self._by_target, _target(one), one)
        self._remove_from(self._by_master, one.master.key, one)
        self.count -= 1

    def remove_master(self, conn: Conn) -> None:
        """Takes out all that ``conn`` expects; for a connection that leaves the table."""
        for one in list(self._by_master.get(conn.key, [])):
            self.remove(one)

    def sweep(self, now: i64) -> None:
        """Frees the expired, and those whose master is gone."""
        for one in self.all():
            if one.expires <= now or one.master.status & DYING != 0:
                self.remove(one)

    @staticmethod
    def _remove_from(index: dict[bytes, list[Expectation]], place: bytes, one: Expectation) -> None:
        several = index[place]
        several.remove(one)
        if not several:
            del index[place]


def _target(one: Expectation) -> bytes:
    return bytes([one.proto]) + one.dst + one.dport
