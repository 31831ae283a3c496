"""Taking connections out by hand: ``delete``, ``kill`` and ``flush``.

``delete`` forgets a connection, as `conntrack -D`: its next packet is judged as the first of a new one, and may be
taken up in the middle where rules and ``tcp_loose`` allow it. ``kill`` also cuts it (conntrack/killed.py). Both need a
filter, so that nobody means a few and gets all; ``flush`` is the word for all.

Each goes through the table in slices, as everything long does here (pages.py). A client that goes away in the middle
leaves it at what is done; a connection that comes meanwhile may be taken or not. What an answer tells of is on record
already (saving.py): no crash brings it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from ipaddress import ip_address
from typing import Any

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import conntrack_line
from ctfw.conntrack.state import DYING
from ctfw.conntrack.tracker import ConnTrack
from ctfw.packet import TCP
from ctfw.service.pages import LOOK, SLICE, page, paged
from ctfw.service.selection import selection_of
from ctfw.service.session import INVALID_PARAMS, Method, Refused, Session


class Removal:
    """The methods, about one table; ``note`` puts on record what was taken out of it until now."""

    def __init__(self, tracker: ConnTrack, note: Callable[[], object]) -> None:
        self._tracker = tracker
        self._note = note

    def table(self) -> dict[str, Method]:
        """Every method by name."""
        return {"delete": self.delete, "kill": self.kill, "flush": self.flush, "meets": self.meets}

    def delete(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """Forgets the connections of ``only``; the answer is their lines. With ``dry_run`` nothing but that."""
        remove = self._tracker.remove
        return self._take(params, session, lambda conn, now: remove(conn, now))

    def kill(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The same, and cuts them; with ``reset`` both ends of a TCP connection are told by a reset."""
        kill = self._tracker.kill
        tell = bool(params.get("reset"))
        return self._take(params, session, lambda conn, now: kill(conn, tell, now))

    def flush(self, params: dict[str, Any], session: Session) -> Generator[None, None, dict[str, int]]:
        """Forgets every connection, and what was killed before; how many connections that were."""
        tracker, killed = self._tracker, self._tracker.killed
        removed = 0
        until = time.monotonic_ns() + SLICE
        for shard, remove in ((tracker.table.shard, tracker.remove), (killed.shard, killed.remove)):
            for number in range(tracker.table.shards):
                conns = shard(number)
                while conns:
                    now = time.monotonic_ns()
                    if len(conns) % LOOK == 0 and now > until:
                        self._note()
                        yield
                        now = time.monotonic_ns()
                        until = now + SLICE
                    before = len(tracker.table)
                    remove(conns.pop(), now)  # popped, so that it is freed here and not with thousands of others
                    removed += before - len(tracker.table)
        self._note()
        return {"removed": removed}

    def meets(self, params: dict[str, Any], session: Session) -> dict[str, bool]:
        """Whether ``only`` means the TCP connection ``tuple``: [source, port, destination, port]."""
        selection = selection_of(params)
        try:
            source, sport, target, dport = params["tuple"]
            ends = ip_address(source).packed + ip_address(target).packed
            key = bytes([TCP]) + ends + int(sport).to_bytes(2, "big") + int(dport).to_bytes(2, "big")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Refused(INVALID_PARAMS, "tuple is [source, port, destination, port]") from error
        conn = self._tracker.table.find(key, time.monotonic_ns())
        return {"meets": conn is not None and selection.has(conn)}

    def _take(self, params: dict[str, Any], session: Session, remove: Any) -> dict[str, Any]:
        if not params.get("only"):
            raise Refused(INVALID_PARAMS, "this needs a filter, as {'only': {'src': '192.0.2.1'}}; flush takes all")
        selection = selection_of(params)
        dry_run = bool(params.get("dry_run"))

        def taken() -> Iterator[str | None]:
            acct = self._tracker.settings.acct
            for conn, now in self._living():
                if not selection.has(conn):
                    yield None
                    continue
                line = conntrack_line(conn, now, acct)
                if not dry_run:
                    remove(conn, now)
                yield line

        def noted() -> Iterator[list[str]]:
            for lines in paged(taken()):
                self._note()
                yield lines

        return page(params, session, noted)

    def _living(self) -> Iterator[tuple[Conn, int]]:
        table = self._tracker.table
        for number in range(table.shards):
            conns = table.shard(number)
            while conns:
                conn = conns.pop()  # see flush
                now = time.monotonic_ns()
                if conn.expires > now and not conn.status & DYING:
                    yield conn, now
