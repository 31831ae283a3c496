"""What happens to connections, for whoever listens: NEW, UPDATE, DESTROY, as the kernel tells its listeners.

The kernel's order (ctnetlink, measured with ``conntrack -E``): a change is noted on the connection where it happens
(UPDATED and STATE_UPDATED of its status) and told when a packet of it is accepted, so that what several dropped packets
changed is told at once, and nothing at all of a connection that never entered the table. NEW swallows what was noted
before it. DESTROY is told when the connection leaves the table, whatever took it out; what was noted and not told goes
with it.

An Event is a picture: what may change by the time somebody prints it is copied. The list of them is bounded. When
nobody takes them in time the newest are lost and counted, as netlink would have it; the packet that caused one never
waits. Without a listener there is no Events object, and a connection costs one test of its status bits.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn

NEW: Final = 0
UPDATE: Final = 1
DESTROY: Final = 2
KIND_NAMES: Final = ("NEW", "UPDATE", "DESTROY")

# Why a connection left the table.
EXPIRED: Final = 0
DELETED: Final = 1
EARLY_DROP: Final = 2
RESET: Final = 3
REOPENED: Final = 4
RELOADED: Final = 5
KILLED: Final = 6
CAUSE_NAMES: Final = ("expired", "deleted", "early_drop", "reset", "reopened", "reloaded", "killed")

LIMIT: Final = 16384  # events that wait to be taken; with the connections that they hold below 16 MiB


class Event:
    """One thing that happened to ``conn`` at ``time``; ``left`` nanoseconds it had then to live.

    ``status`` and ``l4state`` are what they were then; ``cause`` is meaningful for DESTROY alone.
    """

    __slots__ = ("cause", "conn", "kind", "l4state", "left", "status", "time")

    def __init__(self, kind: i64, conn: Conn, cause: i64, now: i64) -> None:
        self.kind: i64 = kind
        self.conn = conn
        self.cause: i64 = cause
        self.time: i64 = now
        self.left: i64 = conn.expires - now
        self.status: i64 = conn.status
        self.l4state: i64 = conn.l4state


class Events:
    """What happened and was not yet taken. ``lost`` counts what did not fit; it only grows."""

    def __init__(self, limit: i64 = LIMIT) -> None:
        self.lost: i64 = 0
        self._limit: i64 = limit
        self._waiting: list[Event] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, kind: i64, conn: Conn, cause: i64, now: i64) -> None:
        """Something happened."""
        if len(self._waiting) >= self._limit:
            self.lost += 1
            return
        self._waiting.append(Event(kind, conn, cause, now))

    def take(self, most: i64) -> list[Event]:
        """The oldest ``most`` events, which wait no longer."""
        taken = self._waiting[:most]
        del self._waiting[:most]
        return taken
