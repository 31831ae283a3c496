"""How many connections a source (or destination) has at the same time: a rule's ``connlimit``.

Each rule counts for itself, as the kernel's does: a connection counts from the packet on that asked, if the rules let
it live. So a rule holds for every prefix the connections that have asked; those that never entered the table or have
left it are taken out when the prefix is asked about again, and a bounded sweep looks after prefixes that nobody asks
about any more. Whatever comes, at most MOST connections are held: the prefix that was new longest ago is forgotten.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import CONFIRMED, DYING
from ctfw.packet import Packet
from ctfw.ruleset.prefix import Per

MOST: Final = 1 << 20
_SWEEP: Final = 256  # prefixes a tick


class ConnLimit:
    """Matches while a prefix has at most ``limit`` connections, this one included; with ``above``, when it has more."""

    def __init__(self, limit: int, above: bool, per: Per) -> None:
        self.limit: i64 = limit
        self.above = above
        self.per = per
        self._connections: dict[bytes, list[Conn]] = {}
        self._held: i64 = 0
        self._to_sweep: list[bytes] = []

    def __len__(self) -> int:
        return self._held

    def matches(self, packet: Packet, conn: Conn | None, now: i64, count: bool) -> bool:
        """Is the prefix within its number (``above``: over it)? ``count``: and this connection is one of them.

        A packet without a connection or without that address never matches.
        """
        if conn is None:
            return False
        prefix = self.per.of(packet)
        if len(prefix) == 0:
            return False
        before = self._connections.get(prefix)
        others: i64 = 0
        if before is None:
            if count:
                self._connections[prefix] = [conn]
                self._hold(1)
        else:
            others = _living(before, conn, now)
            if count:
                living = [one for one in before if one is not conn and _is_alive(one, now)]
                living.append(conn)
                self._connections[prefix] = living
                self._hold(len(living) - len(before))
        return (others + 1 > self.limit) == self.above

    def sweep(self, now: i64) -> None:
        """Lets go of connections that are over, for some of the prefixes."""
        if not self._to_sweep:
            self._to_sweep = list(self._connections)
        for prefix in self._to_sweep[-_SWEEP:]:
            before = self._connections.get(prefix)
            if before is not None:
                living = [one for one in before if _is_alive(one, now)]
                self._held += len(living) - len(before)
                if living:
                    self._connections[prefix] = living
                else:
                    del self._connections[prefix]
        del self._to_sweep[-_SWEEP:]

    def inherit(self, other: "ConnLimit | None") -> None:
        """Takes over what the rule's former self counted, when it counted by the same."""
        if other is not None and self.per.is_like(other.per):
            self._connections = other._connections
            self._held = other._held

    def _hold(self, more: i64) -> None:
        self._held += more
        while self._held > MOST:
            oldest = next(iter(self._connections))
            self._held -= len(self._connections.pop(oldest))


def _is_alive(conn: Conn, now: i64) -> bool:
    return conn.status & (CONFIRMED | DYING) == CONFIRMED and conn.expires > now


def _living(connections: list[Conn], but: Conn, now: i64) -> i64:
    found: i64 = 0
    for conn in connections:
        if conn is not but and _is_alive(conn, now):
            found += 1
    return found
