"""What the logs of an earlier life say goes back into the table.

Two ways. Exact: the writer stopped in order and no packet has passed since but those that wait in the queue; every
connection is what it was, to the number. Loose: the writer died, or packets may have passed unjudged meanwhile; TCP
connections are then as if picked up in their middle (``tcp.loosen``), all else is taken as it was noted.

The newest word on a connection counts, be it that somebody took it out; so the frames are read backwards, and what was
seen once is not looked at again. When two logs come from one writer, a shard that the newer one has whole is not asked
of the older one. How much time has passed is counted from the last frame: until then the writer lived, and may have
refreshed what it had noted before.

The limit on the table holds. The rules' numbers go on: with the same rule file as before nothing is new to a
connection, with another one it is as after a reload.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ctfw.conntrack import tcp
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.image import calls_of_bytes, conn_key, conn_of_bytes, conn_size, expectations_of_bytes
from ctfw.conntrack.killed import Killed
from ctfw.conntrack.state import ASSURED
from ctfw.engine import Engine
from ctfw.service.snapshot import (
    CALLS,
    CONNECTIONS,
    EXPECTATIONS,
    FORGIVEN,
    KILLED,
    REMOVED,
    SHARD,
    Frame,
    Log,
    SnapshotError,
    keys_of_bytes,
)

KEYS: Final = (REMOVED, FORGIVEN)  # frames that name keys and nothing more
_LONGEST: Final = 1 << 61  # nanoseconds; no connection lives that long


@dataclass
class Restored:
    """What came of it. ``left_out``: connections for which there was no room."""

    connections: int = 0
    expectations: int = 0
    left_out: int = 0


def restore(
    logs: Sequence[Log], engine: Engine, now: int, unix: int, boot: bytes, exact: bool, rules: bytes
) -> Restored:
    """Fills the empty table from ``logs``, the newest first; ``rules`` is the digest of the rules in force now.

    Raises SnapshotError when something in them makes no sense; the table is empty then.
    """
    try:
        return _restore(logs, engine, now - _passed(logs[0], now, unix, boot), now, exact, rules)
    except (ValueError, SnapshotError) as error:
        engine.tracker.flush()
        engine.tracker.killed.clear()
        raise SnapshotError(f"makes no sense: {error}") from None


def _restore(logs: Sequence[Log], engine: Engine, then: int, now: int, exact: bool, rules: bytes) -> Restored:
    """``then`` is the end of the earlier life on today's steady clock."""
    _follow_rules(logs, engine, rules)
    tracker = engine.tracker
    table, limit = tracker.table, tracker.settings.max
    done = Restored()
    unassured: list[Conn] = []
    children: list[tuple[Conn, bytes]] = []
    for conn, master_key in _connections(logs, then, now, exact, tracker.killed):
        if not exact and conn.tcp is not None:
            tcp.loosen(conn, conn.tcp)
        if master_key:
            children.append((conn, master_key))
        if not conn.status & ASSURED:
            unassured.append(conn)
        elif limit and len(table) >= limit:
            done.left_out += 1
        elif table.insert(conn, now):
            done.connections += 1
    unassured.sort(key=lambda conn: conn.created)  # the order in which they make room
    room = max(0, limit - len(table)) if limit else len(unassured)
    done.left_out += max(0, len(unassured) - room)
    for conn in unassured[-room:] if room else []:
        done.connections += table.insert(conn, now)
    for conn, master_key in children:
        conn.master = table.find(master_key, now)
    _restore_announced(logs, engine, then, now, done)
    return done


def _follow_rules(logs: Sequence[Log], engine: Engine, rules: bytes) -> None:
    note = next((note for note in [log.rules() for log in logs] if note is not None), None)
    if note is None:
        return
    ruleset = engine.ruleset
    if note.digest == rules:
        ruleset.generation = note.generation
        ruleset.floor = note.floor
        ruleset.floor_means = note.floor_means
    else:
        ruleset.follow(note.generation, note.floor, note.floor_means)


def _connections(logs: Sequence[Log], then: int, now: int, exact: bool, killed: Killed) -> Iterator[tuple[Conn, bytes]]:
    """Those that live, each once, and their masters' keys. On the way ``killed`` gets back what was killed."""
    seen: set[bytes] = set()
    settled: set[bytes] = set()  # the same of what was killed
    for log, frame in _frames(logs):
        if frame.kind in KEYS:
            keys = keys_of_bytes(log.data[frame.body])
            seen.update(keys)
            if frame.kind == FORGIVEN:
                settled.update(keys)
            continue
        for at in _places(log, frame):
            if not exact:
                key = conn_key(log.data, at)
                known = settled if frame.kind == KILLED else seen
                if key in known:
                    continue
                known.add(key)
                seen.add(key)
            conn, master_key = conn_of_bytes(log.data, at, then)
            if conn.expires <= now:
                continue
            if frame.kind == KILLED:
                killed.restore(conn, now)
            else:
                yield conn, master_key


def _places(log: Log, frame: Frame) -> Iterator[int]:
    """Where in the log the connections of a frame begin."""
    at, end = frame.body.start, frame.body.stop
    while at < end:
        size = conn_size(log.data, at)
        if at + size > end:
            raise ValueError("a connection ends early")
        yield at
        at += size


def _frames(logs: Sequence[Log]) -> Iterator[tuple[Log, Frame]]:
    whole: set[int] = set()
    for log in logs:
        writer = log.header.writer
        known = whole if writer == logs[0].header.writer else set()
        for frame in reversed(log.frames):
            if frame.kind == CONNECTIONS:
                if log is logs[0] or frame.shard not in known:
                    yield log, frame
            elif frame.kind == KILLED or frame.kind in KEYS:
                yield log, frame
        if log is logs[0]:
            whole = {frame.shard for frame in log.frames if frame.kind == SHARD}


def _restore_announced(logs: Sequence[Log], engine: Engine, then: int, now: int, done: Restored) -> None:
    """Expectations and PPTP calls whose control connections are there."""
    tracker = engine.tracker
    log, frame = _newest(logs, EXPECTATIONS)
    if frame is not None:
        for read in expectations_of_bytes(log.data[frame.body], then):
            master = tracker.table.find(read.master_key, now)
            if master is not None and read.expires > now:
                done.expectations += tracker.restore_expectation(read.of(master, now), now)
    log, frame = _newest(logs, CALLS)
    if frame is not None:
        for call in calls_of_bytes(log.data[frame.body]):
            master = tracker.table.find(call.master_key, now)
            if master is not None:
                tunnel = tracker.table.find(call.tunnel_key, now) if call.tunnel_key else None
                tracker.restore_call(master, call.keys, tunnel, now)


def _newest(logs: Sequence[Log], kind: int) -> tuple[Log, Frame | None]:
    for log in logs:
        frame = log.last(kind)
        if frame is not None:
            return log, frame
    return logs[0], None


def _passed(newest: Log, now: int, unix: int, boot: bytes) -> int:
    """Nanoseconds since the last frame; none when the clocks say that it lies ahead of us."""
    if not newest.frames:
        return 0
    last = newest.frames[-1]
    passed = now - last.monotonic if newest.header.boot == boot else unix - last.unix
    return min(max(passed, 0), _LONGEST)
