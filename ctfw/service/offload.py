"""The care of connections that were handed to the kernel: their life, their figures, and how they come back.

``ctfw.ruleset.offload`` marks packets; the kernel's rules save the mark to the kernel's connection and let it pass.
What was marked comes here (``fresh``) and is looked up in the kernel's table about every ROUND, in slices:

* there, with the mark: the record lives as long as the kernel's entry does, and counts what that counts (acct);
* there, without it: TCP's SYN, FIN or RST took it away, so the packets come to us again, and the record is ours again;
* gone: the record is removed as well.

And the other way: a record that is no more (deleted, flushed), or that newer rules want to look at again (recheck,
kill, or no rule that offloads any more), has the mark cleared in the kernel, so that its next packet comes to the
queue and is judged like any other. At the start the same is done with every marked entry that has no record here.

When the kernel keeps no mark at all, there are no rules of the hook that save it. Then nothing is marked for RETRY, one
line says so, and the connections simply stay with us. At most MOST, or a few more, are offloaded at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import DYING, OFFLOAD
from ctfw.engine import Engine
from ctfw.packet import address_size
from ctfw.service.kernel_table import Entry, KernelTable

SECOND: Final = 1_000_000_000
ROUND: Final = 2 * SECOND
FIRST: Final = SECOND // 2  # after it was marked
SLICE: Final = 2_000_000  # nanoseconds of the loop's time, a tick
RETRY: Final = 30 * SECOND
MOST: Final = 65536
NOT_KEPT: Final = "offload: the kernel keeps no mark of ours: `ctfw hook apply` makes the rules for it"


class OffloadCare:
    """Of one engine. ``log`` takes a line for the journal, a warning."""

    def __init__(self, engine: Engine, log: Callable[[str], None]) -> None:
        self._engine = engine
        self._log = log
        self._table: KernelTable | None = None
        self._bit = 0
        self._floor = 0
        self._cared: set[Conn] = set()
        # When to look, the earliest first: at those that were never seen in the kernel yet, and at the others.
        self._fresh: deque[tuple[int, Conn]] = deque()
        self._due: deque[tuple[int, Conn]] = deque()
        self._hurry = 0  # so many are looked at before their time
        self._kept = False  # a mark of ours was seen in the kernel
        self._retry = 0

    def __len__(self) -> int:
        """How many connections are in the kernel's hands, as far as is known."""
        return len(self._cared)

    def start(self, now: int) -> None:
        """Takes care of what the kernel holds marked from before: ours go on, the others come back to the queue."""
        self._configure()
        table = self._table
        if table is None:
            return
        known = self._engine.tracker.table
        try:
            for entry in list(table.marked(self._bit)):
                conn = known.find(entry.key, now) or known.find(entry.reply_key, now)
                if conn is None or len(self._cared) >= MOST:
                    table.clear(entry, self._bit)
                else:
                    conn.status |= OFFLOAD
                    self._cared.add(conn)
                    self._due.append((now, conn))
        except OSError as error:
            self._log(f"offload: the kernel's table cannot be read: {error.strerror or error}")

    def tick(self, now: int) -> None:
        """Looks after those that are due, for SLICE; to be called about ten times a second."""
        offload = self._engine.offload
        if self._is_over() and not self._cared and not offload.fresh:
            self._configure()
        if self._table is None:
            return
        floor = int(self._engine.ruleset.floor)
        if self._is_over() or floor != self._floor:
            offload.on = offload.on and not self._is_over()
            self._floor = floor
            self._hurry = len(self._cared)
        self._take_fresh(now)
        if self._retry and now >= self._retry:
            self._retry = 0
            offload.on = not self._is_over()
        until = time.monotonic_ns() + SLICE
        self._look(self._fresh, now, until)
        self._look(self._due, now, until)

    def close(self) -> None:
        if self._table is not None:
            self._table.close()

    def _is_over(self) -> bool:
        """True when the rules offload by another bit now, or not at all."""
        return self._bit != int(self._engine.ruleset.offload_bit)

    def _configure(self) -> None:
        self._bit = int(self._engine.ruleset.offload_bit)
        if self._bit and self._table is None:
            try:
                self._table = KernelTable()
            except OSError as error:
                self._log(f"offload: the kernel's table cannot be asked: {error.strerror or error}")
        self._engine.offload.on = self._bit != 0 and self._table is not None
        self._kept, self._retry = False, 0

    def _take_fresh(self, now: int) -> None:
        offload = self._engine.offload
        fresh, offload.fresh = offload.fresh, []
        for conn in fresh:
            if conn not in self._cared:
                self._cared.add(conn)
                self._fresh.append((now + FIRST, conn))
        if len(self._cared) >= MOST:
            offload.on = False
            self._retry = now + RETRY

    def _look(self, queue: deque[tuple[int, Conn]], now: int, until: int) -> None:
        table = self._table
        is_new = queue is self._fresh
        while table is not None and queue and (queue[0][0] <= now or self._hurry > 0) and time.monotonic_ns() < until:
            _, conn = queue.popleft()
            self._hurry -= self._hurry > 0
            try:
                stays = self._check(table, conn, is_new, now)
            except OSError:
                stays = True  # the kernel has no memory for an answer: another time
            if stays:
                self._due.append((now + ROUND, conn))
            else:
                self._cared.discard(conn)

    def _check(self, table: KernelTable, conn: Conn, is_new: bool, now: int) -> bool:
        """One look; False when the connection needs no care any more."""
        entry = table.find(conn.key, conn.reply_key)
        marked = entry is not None and entry.mark & self._bit != 0
        if conn.status & DYING or conn.generation < self._engine.ruleset.floor or self._is_over():
            conn.status &= ~OFFLOAD
            if entry is not None and marked:
                table.clear(entry, self._bit)
            return False
        if entry is not None and marked:
            self._kept = True
            conn.status |= OFFLOAD
            conn.expires = max(now + entry.left * SECOND, now + 2 * ROUND)
            _count(conn, entry)
            return True
        if entry is None and not is_new and conn.status & OFFLOAD:
            self._engine.tracker.remove(conn, now)
        elif conn.status & OFFLOAD and not self._kept and self._engine.offload.on:
            self._engine.offload.on = False
            self._retry = now + RETRY
            self._log(NOT_KEPT)
        conn.status &= ~OFFLOAD
        return False


def _count(conn: Conn, entry: Entry) -> None:
    """What passed in the kernel counts too, where it counts at all (net.netfilter.nf_conntrack_acct)."""
    original, reply = entry.original, entry.reply
    size = address_size(conn.key)
    source, port = slice(1, 1 + size), slice(1 + 2 * size, 3 + 2 * size)
    if entry.key[source] != conn.key[source] or entry.key[port] != conn.key[port]:
        original, reply = reply, original  # the kernel met it the other way round
    conn.original_packets = max(conn.original_packets, original[0])
    conn.original_bytes = max(conn.original_bytes, original[1])
    conn.reply_packets = max(conn.reply_packets, reply[0])
    conn.reply_bytes = max(conn.reply_bytes, reply[1])
