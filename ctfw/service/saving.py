"""The table goes on record while packets are judged: in small steps, so that none of them waits for it.

Two logs (snapshot.py) take turns. A cycle begins one anew and goes round the table, some connections at a time, SLICE
of the loop's time in each tick; then the other log is out of date. So there is always one that is complete, or two that
are so together, however abruptly this process ends. While a cycle takes longer than YOUNG, the connections that came
since are written twice each, ahead of their turn: nearly all of what is worth keeping is at most a second old.

What somebody takes out of the table by hand is said at once, in the log that is under way and in the complete one: no
crash brings it back, and neither does the copy on disk that is made of the complete one.

The logs lie in memory (memfd): writing to them waits for no disk. ``finish`` writes a last one at the end, when no
packet comes any more, and marks it exact.

Bounded: a log by MOST_BYTES, beyond which the cycle is given up and said so; time by SLICE; the rest by the table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ctfw.config import Stored
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.image import call_to_bytes, conn_to_bytes, expectation_to_bytes
from ctfw.conntrack.state import DYING
from ctfw.engine import Engine
from ctfw.service.snapshot import (
    CALLS,
    COMPLETE,
    CONNECTIONS,
    EXACT,
    EXPECTATIONS,
    FORGIVEN,
    KILLED,
    MOST_BYTES,
    REMOVED,
    RULES,
    SHARD,
    WRITER_SIZE,
    Header,
    RulesNote,
    frame_bytes,
    keys_to_bytes,
)

SECOND: Final = 1_000_000_000
SLICE: Final = 1_500_000  # of the loop's time in one tick, and what the last part takes beyond it
CYCLE: Final = SECOND  # the least time between the beginnings of two
YOUNG: Final = SECOND
PART: Final = 64  # connections in one frame: between a tenth and a third of a millisecond
KEYS: Final = 1024  # in one frame
PIECE: Final = 4 << 20  # bytes that are given back by one call: a fifth of a millisecond
SHARDS_A_TICK: Final = 26  # all of them in a second


class Saving:
    """``logs`` are two descriptors to write to; ``cycle`` is the number of the first one, and says which is begun.

    ``stored`` is what the rules in force were read from; ``clock`` is that of the packets.
    """

    def __init__(
        self,
        engine: Engine,
        logs: Sequence[int],
        cycle: int,
        boot: bytes,
        stored: Callable[[], Stored],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.complete = -1  # the number of the last cycle that came to its end
        self._engine = engine
        self._logs = logs
        self._cycle = cycle
        self._boot = boot
        self._stored = stored
        self._clock = clock
        self._writer = os.urandom(WRITER_SIZE)
        self._work: Iterator[None] | None = None
        self._begun = 0
        self._sizes = dict.fromkeys(logs, 0)
        self._young_shard = 0
        self._noted = 0
        engine.tracker.table.removed = []
        engine.tracker.killed.table.removed = []

    def size_of_table(self) -> int:
        """How many connections there are."""
        return len(self._engine.tracker.table)

    def log_of(self, cycle: int) -> int:
        """The descriptor that a cycle is written to."""
        return self._logs[cycle % 2]

    def begin(self, now: int) -> None:
        """Begins a cycle: from now on the log before is not exact any more. Raises OSError."""
        self._work = self._go_round(*self._begin(now), now, COMPLETE)

    def step(self, now: int, may_begin: bool = True) -> None:
        """One tick's share. ``may_begin``: the log that is out of date is not wanted any more. Raises OSError."""
        if self._work is None:
            if now - self._begun < CYCLE or not may_begin or not self._is_emptied(self.log_of(self._cycle), now):
                return
            self.begin(now)
        assert self._work is not None
        deadline = now + SLICE
        if now - self._begun > YOUNG:
            self._write_young(now, deadline)
        while self._clock() < deadline:
            if next(self._work, self) is self:
                self._work = None
                return

    def note_removed(self, now: int) -> bool:
        """Puts on record what was taken out since the last time; whether there was any of it. Raises OSError."""
        table, killed = self._engine.tracker.table, self._engine.tracker.killed
        removed, forgiven = table.removed, killed.table.removed
        if not removed and not forgiven:
            return False
        table.removed, killed.table.removed = [], []
        keys = []
        cut = []
        for key in removed or ():
            entry = killed.find(key, now)
            if entry is None:
                keys.append(key)
            else:
                cut.append(entry)
        last = self._cycle - 1
        for log in {self.log_of(last), self.log_of(self.complete if self.complete >= 0 else last)}:
            self._write_keys(log, FORGIVEN, forgiven or [], now)
            self._write_keys(log, REMOVED, keys, now)
            for at in range(0, len(cut), PART):
                self._write_conns(log, KILLED, 0, cut[at : at + PART], now)
        return True

    def finish(self, now: int) -> int:
        """Writes all of the table at once, which is not to change any more; the log's descriptor. Raises OSError."""
        if self._work is not None:
            self._cycle -= 1  # the one that was begun is begun again
        self._work = None
        for _ in self._go_round(*self._begin(now), now, EXACT):
            pass
        return self.log_of(self.complete)

    def _begin(self, now: int) -> tuple[int, int]:
        """Begins a log; the number of its cycle, and the log."""
        cycle = self._cycle
        self._cycle += 1
        self._begun = now
        log = self.log_of(cycle)
        self._sizes[log] = 0
        os.ftruncate(log, 0)
        os.lseek(log, 0, os.SEEK_SET)
        self._write(log, Header(self._boot, self._writer, cycle).to_bytes())
        self._note(log, now)
        return cycle, log

    def _is_emptied(self, log: int, now: int) -> bool:
        """Gives the memory of a log that is out of date back to the system, as much as may be in one tick; is that all?

        All at once would take ten milliseconds for a million connections.
        """
        size = os.fstat(log).st_size
        while size > PIECE:
            size -= PIECE
            os.ftruncate(log, size)
            if self._clock() >= now + SLICE:
                break
        return size <= PIECE

    def _go_round(self, cycle: int, log: int, now: int, mark: int) -> Iterator[None]:
        """Writes the table, a part at a time."""
        table = self._engine.tracker.table
        killed = self._engine.tracker.killed.all()
        for at in range(0, len(killed), PART):
            self._write_conns(log, KILLED, 0, killed[at : at + PART], now)
            yield
        for shard in range(table.shards):
            conns = table.shard(shard)
            yield
            for at in range(0, len(conns), PART):
                self._write_conns(log, CONNECTIONS, shard, conns[at : at + PART], now)
                yield
                now = self._clock() if mark == COMPLETE else now
                if now - self._noted > SECOND:
                    self._note(log, now)
            self._frame(log, SHARD, shard, b"", now)
            yield
        self._note(log, now)
        self._frame(log, mark, 0, b"", now)
        self.complete = cycle

    def _write_young(self, now: int, deadline: int) -> None:
        table = self._engine.tracker.table
        log = self.log_of(self._cycle - 1)
        for _ in range(SHARDS_A_TICK):
            conns = table.youngest(self._young_shard, now - 2 * YOUNG)
            for at in range(0, len(conns), PART):
                self._write_conns(log, CONNECTIONS, self._young_shard, conns[at : at + PART], now)
                if self._clock() >= deadline:
                    return
            self._young_shard = (self._young_shard + 1) % table.shards

    def _write_conns(self, log: int, kind: int, shard: int, conns: list[Conn], now: int) -> None:
        body = b"".join([conn_to_bytes(conn, now) for conn in conns if not conn.status & DYING and conn.expires > now])
        if body:
            self._frame(log, kind, shard, body, now)

    def _write_keys(self, log: int, kind: int, keys: list[bytes], now: int) -> None:
        for at in range(0, len(keys), KEYS):
            self._frame(log, kind, 0, keys_to_bytes(keys[at : at + KEYS]), now)

    def _note(self, log: int, now: int) -> None:
        """What is there beside connections: the rules' numbers, what is expected, the calls."""
        self._noted = now
        ruleset = self._engine.ruleset
        note = RulesNote(ruleset.generation, ruleset.floor, ruleset.floor_means, self._stored().digest())
        self._frame(log, RULES, 0, note.to_bytes(), now)
        tracker = self._engine.tracker
        expected = [one for one in tracker.expectations() if not one.is_over(now)]
        self._frame(log, EXPECTATIONS, 0, b"".join([expectation_to_bytes(one, now) for one in expected]), now)
        calls = [call for call in tracker.calls() if not call[0].is_over(now)]
        self._frame(log, CALLS, 0, b"".join([call_to_bytes(call) for call in calls]), now)

    def _frame(self, log: int, kind: int, shard: int, body: bytes, now: int) -> None:
        self._write(log, frame_bytes(kind, shard, body, now, time.time_ns()))

    def _write(self, log: int, data: bytes) -> None:
        self._sizes[log] += len(data)
        if self._sizes[log] > MOST_BYTES:
            self._work = None
            raise OSError(f"more than {MOST_BYTES} bytes")
        while data:
            data = data[os.write(log, data) :]
