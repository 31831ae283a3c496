"""The table of connections: find by tuple, insert, remove, expire, make room.

Each connection stands in it twice, under its original and its reply key. Three invariants:

* both keys are present or neither is, and ``len(table)`` counts connections;
* an expired connection is never found (and is removed when it is met), so it does not matter when the sweep comes by;
* exactly the unassured connections are in the list that starts at ``_oldest``, oldest first: the one that makes room
  when the table is full is found without a search.

Sharded into many small dictionaries, because one dictionary of two million keys stops everything for a seventh of a
second when it grows. The shard is picked by a secret permutation of a few key bytes (2 ns compiled; hashing the key a
second time would cost 23): a stranger who does not know it cannot send all connections into one shard, and one who
could would only bring back that stall, not a collision, for the dictionaries hash with Python's own secret.

Who has how many connections is counted only on demand (``count_sources``): by the address that opened them, and in IPv6
by its first 64 bits, the least that one subscriber gets.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.events import DELETED, DESTROY, EARLY_DROP, EXPIRED, KILLED, Events
from ctfw.conntrack.state import ASSURED, CONFIRMED, DYING, UPDATED

SHARDS: Final = 256
# What one sweep does at most, in a large table some two milliseconds. Looking is waiting for memory. Freeing costs
# little until the last connections of a million go: each may let Python give a megabyte back to the system.
MOST_FREED: Final = 256
MOST_LOOKED_AT: Final = 16384


class Table:
    """Connections by key. ``secret`` is 256 bytes that the shell drew at random; any will do for tests."""

    def __init__(self, secret: bytes = bytes(range(256))) -> None:
        if len(secret) != 256:
            raise ValueError("the secret is 256 bytes long")
        self._secret = secret
        self._shards: list[dict[bytes, Conn]] = [{} for _ in range(SHARDS)]
        self._count: i64 = 0
        self._oldest: Conn | None = None
        self._newest: Conn | None = None
        self._swept: i64 = 0
        self._counts_sources: bool = False
        self._by_source: dict[bytes, int] = {}
        self.shards: int = SHARDS
        self.events: Events | None = None  # None: nobody listens
        # Keys of those that somebody took out. Who wants them empties it after each slice of such work; None: nobody.
        self.removed: list[bytes] | None = None

    def __len__(self) -> int:
        return self._count

    def _shard(self, key: bytes) -> dict[bytes, Conn]:
        secret = self._secret
        last = len(key) - 1
        a: i64 = secret[key[last]]
        b: i64 = secret[key[last - 2] ^ key[last - 4]]
        c: i64 = secret[key[last - 1] ^ key[last - 8]]
        return self._shards[a ^ b ^ c ^ key[last - 3]]

    def find(self, key: bytes, now: i64) -> Conn | None:
        """The living connection that has ``key`` as one of its two tuples."""
        conn = self._shard(key).get(key)
        if conn is not None and conn.expires <= now:
            self.remove(conn, now, EXPIRED)
            return None
        return conn

    def insert(self, conn: Conn, now: i64) -> bool:
        """Puts the connection in; False, and nothing done, when a living one has either of its tuples."""
        if self.find(conn.key, now) is not None or self.find(conn.reply_key, now) is not None:
            return False
        self._shard(conn.key)[conn.key] = conn
        self._shard(conn.reply_key)[conn.reply_key] = conn
        self._count += 1
        conn.status |= CONFIRMED
        if conn.status & ASSURED == 0:
            self._link(conn)
        if self._counts_sources:
            source = _source(conn.key)
            self._by_source[source] = self._by_source.get(source, 0) + 1
        return True

    def remove(self, conn: Conn, now: i64, cause: i64 = DELETED) -> None:
        """Takes the connection out, for one of the causes of ``events``; does nothing when it is not in."""
        if conn.status & CONFIRMED == 0 or conn.status & DYING != 0:
            return
        events = self.events
        if events is not None:
            events.add(DESTROY, conn, cause, now)
        removed = self.removed
        if removed is not None and (cause == DELETED or cause == KILLED):
            removed.append(conn.key)
        conn.status |= DYING
        self._shard(conn.key).pop(conn.key, None)
        self._shard(conn.reply_key).pop(conn.reply_key, None)
        self._count -= 1
        if conn.status & ASSURED == 0:
            self._unlink(conn)
        if self._counts_sources:
            source = _source(conn.key)
            left = self._by_source.get(source, 0) - 1
            if left > 0:
                self._by_source[source] = left
            else:
                self._by_source.pop(source, None)

    def count_sources(self, wanted: bool) -> None:
        """Begins or ends counting connections by source; when it begins, those in the table are counted."""
        if wanted == self._counts_sources:
            return
        self._counts_sources = wanted
        self._by_source = {}
        if wanted:
            for number in range(SHARDS):
                for conn in self.shard(number):
                    source = _source(conn.key)
                    self._by_source[source] = self._by_source.get(source, 0) + 1

    def count_of_source(self, key: bytes) -> int:
        """How many connections the source of ``key`` has opened that are in the table; 0 unless they are counted."""
        return self._by_source.get(_source(key), 0)

    def assure(self, conn: Conn) -> None:
        """Sets ASSURED: from now on the connection is not dropped to make room."""
        if conn.status & ASSURED != 0:
            return
        if conn.status & CONFIRMED != 0 and conn.status & DYING == 0:
            self._unlink(conn)
        conn.status |= ASSURED | UPDATED

    def early_drop(self, now: i64) -> Conn | None:
        """Removes and returns the oldest unassured connection; None when every one is assured."""
        conn = self._oldest
        if conn is not None:
            self.remove(conn, now, EARLY_DROP)
        return conn

    def clear(self, now: i64 = 0) -> None:
        """Forgets every connection."""
        for shard in self._shards:
            for conn in list(shard.values()):
                self.remove(conn, now)

    def shard(self, number: int) -> list[Conn]:
        """The connections whose original tuple is in shard ``number`` (0 to ``shards`` - 1), expired ones included."""
        return [conn for key, conn in self._shards[number].items() if conn.key == key]

    def with_tuple_in(self, number: int) -> list[Conn]:
        """The connections that have either tuple in shard ``number``: of all shards, each connection twice.

        They are listed by one step, so whoever is interrupted for packets (where this is not compiled) may ask.
        """
        return list(self._shards[number].values())

    def youngest(self, number: int, since: i64) -> list[Conn]:
        """Those of ``shard(number)`` that came into the table at ``since`` or later, the newest first."""
        found: list[Conn] = []
        for key, conn in reversed(self._shards[number].items()):
            if conn.created < since:
                break
            if conn.key == key:
                found.append(conn)
        return found

    def sweep(self, now: i64, shards: i64 = 8) -> int:
        """Frees the expired of the next ``shards`` shards; returns how many. 32 calls go once round the table.

        Packets wait meanwhile: in a large table it stops earlier, and the next call goes on from there. MOST_FREED says
        that there may be more to free at once.
        """
        freed: i64 = 0
        looked: i64 = 0
        step: i64 = 0
        while step < shards and looked < MOST_LOOKED_AT:
            shard = list(self._shards[self._swept].values())
            looked += len(shard)
            for conn in shard:
                if conn.expires <= now and conn.status & DYING == 0:
                    self.remove(conn, now, EXPIRED)
                    freed += 1
                    if freed >= MOST_FREED:
                        return freed
            if 2 * len(self._shards[self._swept]) < len(shard):
                # Those who are left would be looked for among the empty places of those who went.
                self._shards[self._swept] = dict(self._shards[self._swept])
            self._swept = (self._swept + 1) % SHARDS
            step += 1
        return freed

    def _link(self, conn: Conn) -> None:
        newest = self._newest
        conn.previous = newest
        conn.next = None
        if newest is None:
            self._oldest = conn
        else:
            newest.next = conn
        self._newest = conn

    def _unlink(self, conn: Conn) -> None:
        before = conn.previous
        after = conn.next
        if before is None:
            self._oldest = after
        else:
            before.next = after
        if after is None:
            self._newest = before
        else:
            after.previous = before
        conn.previous = None
        conn.next = None


def _source(key: bytes) -> bytes:
    """Whom a connection is counted for. An IPv6 key is the longer one, whatever else it holds."""
    return key[1:9] if len(key) > 20 else key[1:5]
