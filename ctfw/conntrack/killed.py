"""Connections that somebody killed: their packets are dropped until both ends have stopped.

Taking a connection out of the table is not enough to cut it: its next packet would be looked at as the first of a new
one, and taken up in the middle where the rules and ``tcp_loose`` allow it. So what was killed is remembered by its two
tuples, in a table of the same kind, and a packet that finds no connection is looked for here before it may open one.

A killed connection is remembered for as long as its entry would have lived, and at least until nobody has tried for
QUIET. A TCP end that opens anew with a SYN is not the killed connection: it is forgotten, and the rules judge the
newcomer. Where its ends are to be told, each gets a TCP reset in answer to its next segment.

There are at most as many as connections in the table may be; the oldest gives way.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack import tcp
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.table import Table
from ctfw.packet import TCP, Packet

QUIET: Final = 300_000_000_000  # longer than any pause between two retransmissions
MOST: Final = 1_000_000  # when the table of connections has no limit

# What an entry's ``l4state`` says here: whether its ends are told.
_SILENT: Final = 0
_TOLD: Final = 1


class Killed:
    """What was killed. ``count`` of them, some perhaps over; for packets that find no connection, and only then."""

    def __init__(self, secret: bytes) -> None:
        self.count: i64 = 0
        self.table = Table(secret)

    def add(self, conn: Conn, tell: bool, now: i64, most: i64) -> None:
        """``conn`` was killed; ``tell`` resets its ends. ``most``: the limit of the table of connections."""
        entry = Conn(conn.key, conn.reply_key, now)
        entry.expires = max(conn.expires, now + QUIET)
        entry.l4state = _TOLD if tell and conn.key[0] == TCP else _SILENT
        if len(self.table) >= (most if most != 0 else MOST):
            self.table.early_drop(now)
        self.table.insert(entry, now)
        self.count = len(self.table)

    def all(self) -> list[Conn]:
        """What is remembered, for whoever puts it on record; some may be over."""
        return [entry for number in range(self.table.shards) for entry in self.table.shard(number)]

    def find(self, key: bytes, now: i64) -> Conn | None:
        """What is remembered of the connection that had ``key`` as one of its two tuples."""
        return self.table.find(key, now)

    def restore(self, entry: Conn, now: i64) -> None:
        """Remembers again what was remembered in an earlier life."""
        self.table.insert(entry, now)
        self.count = len(self.table)

    def meets(self, packet: Packet, now: i64) -> bool:
        """True when the packet is one of a killed connection. ``packet.key`` is complete, the zone included."""
        entry = self.table.find(packet.key, now)
        if entry is None:
            self.count = len(self.table)
            return False
        if packet.proto == TCP and tcp.check_header(packet) == 0:
            flags: i64 = packet.data[packet.l4 + 13]
            if tcp.segment_kind(flags) == tcp.SYN:
                self.table.remove(entry, now)
                self.count = len(self.table)
                return False
        if entry.expires < now + QUIET:
            entry.expires = now + QUIET
        return True

    def is_told(self, packet: Packet, now: i64) -> bool:
        """True when who sent a packet that ``meets`` is to get a reset for it."""
        entry = self.table.find(packet.key, now)
        return entry is not None and entry.l4state == _TOLD

    def sweep(self, now: i64) -> None:
        """One bounded step of freeing what is over."""
        self.table.sweep(now)
        self.count = len(self.table)

    def shard(self, number: int) -> list[Conn]:
        """The entries of one shard, as those of a Table."""
        return self.table.shard(number)

    def remove(self, entry: Conn, now: i64) -> None:
        """Forgets one of them: its packets are judged like others."""
        self.table.remove(entry, now)
        self.count = len(self.table)

    def clear(self) -> None:
        """Forgets them all, at once."""
        self.table.clear(0)
        self.count = 0
