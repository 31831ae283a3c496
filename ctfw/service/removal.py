"""Taking connections out by hand: ``delete``, ``kill`` and ``flush``.

``delete`` forgets a connection, as `conntrack -D`: its next packet is judged as the first of a new one, and may be
taken up in the middle where rules and ``tcp_loose`` allow it. ``kill`` also cuts it (conntrack/killed.py), and with it
those that were accepted for its sake: who cuts an FTP session does not want its transfer to go on. They are looked for
when nothing that is meant lives any more to bring forth others. Both need a filter, so that nobody means a few and gets
all; ``flush`` is the word for all.

Each goes through the table in slices, as everything long does here (pages.py). A client that goes away in the middle
leaves it at what is done; a connection that comes meanwhile may be taken or not. What an answer tells of is on record
already (saving.py): no crash brings it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from ipaddress import ip_address
from typing import Any, Final

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import conntrack_line
from ctfw.conntrack.state import DYING
from ctfw.conntrack.tracker import ConnTrack
from ctfw.packet import TCP
from ctfw.service.pages import LOOK, SLICE, page, paged
from ctfw.service.selection import Selection, selection_of
from ctfw.service.session import INVALID_PARAMS, Method, Refused, Session

MOST_MASTERS: Final = 16  # of a connection that are asked for: each may have one itself


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

        def remove(conn: Conn, now: int) -> list[Conn]:
            self._tracker.remove(conn, now)
            return [conn]

        return self._take(params, session, remove)

    def kill(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """Cuts them, and what belongs to them; with ``reset`` both ends of a TCP connection are told by a reset."""
        kill = self._tracker.kill
        tell = bool(params.get("reset"))
        selection = selection_of(params)

        def belongs(conn: Conn) -> bool:
            return conn.master is not None and not selection.has(conn) and self._has_master_in(selection, conn)

        return self._take(params, session, lambda conn, now: kill(conn, tell, now), belongs)

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
        """Whether ``only`` means the TCP connection ``tuple``: [source, port, destination, port].

        With ``related`` also whether that belongs to one that is meant.
        """
        selection = selection_of(params)
        try:
            source, sport, target, dport = params["tuple"]
            ends = ip_address(source).packed + ip_address(target).packed
            key = bytes([TCP]) + ends + int(sport).to_bytes(2, "big") + int(dport).to_bytes(2, "big")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Refused(INVALID_PARAMS, "tuple is [source, port, destination, port]") from error
        conn = self._tracker.table.find(key, time.monotonic_ns())
        if conn is None:
            return {"meets": False}
        is_related = bool(params.get("related")) and self._has_master_in(selection, conn)
        return {"meets": selection.has(conn) or is_related}

    def _take(
        self,
        params: dict[str, Any],
        session: Session,
        remove: Callable[[Conn, int], list[Conn]],
        *then: Callable[[Conn], bool],
    ) -> dict[str, Any]:
        """Removes what the filter means, and after that what ``then`` means; the answer is what ``remove`` took."""
        if not params.get("only"):
            raise Refused(INVALID_PARAMS, "this needs a filter, as {'only': {'src': '192.0.2.1'}}; flush takes all")
        selection = selection_of(params)
        dry_run = bool(params.get("dry_run"))

        def taken() -> Iterator[str | None]:
            acct = self._tracker.settings.acct
            for is_meant in (selection.has, *then):
                for conn, now in self._living():
                    if not is_meant(conn):
                        yield None
                        continue
                    for one in [conn] if dry_run else remove(conn, now):
                        yield conntrack_line(one, now, acct)

        def noted() -> Iterator[list[str]]:
            for lines in paged(taken()):
                self._note()
                yield lines

        return page(params, session, noted)

    def _has_master_in(self, selection: Selection, conn: Conn) -> bool:
        """Whether the selection means one of those for whose sake ``conn`` was accepted: one that lives, or was cut."""
        master = conn.master
        for _ in range(MOST_MASTERS):
            if master is None:
                return False
            is_of_account = not master.status & DYING or self._tracker.killed.find(master.key, time.monotonic_ns())
            if is_of_account and selection.has(master):
                return True
            master = master.master
        return False

    def _living(self) -> Iterator[tuple[Conn, int]]:
        table = self._tracker.table
        for number in range(table.shards):
            conns = table.shard(number)
            while conns:
                conn = conns.pop()  # see flush
                now = time.monotonic_ns()
                if conn.expires > now and not conn.status & DYING:
                    yield conn, now
