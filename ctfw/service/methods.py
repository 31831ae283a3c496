"""What the daemon answers on its control socket: connections, expectations, figures, rules, and the wish to reload.

One dict of functions, ``method(params, session) -> result``; a later command adds its own. Results are plain data for
JSON. A method that could have much to say answers in pages, ``{"entries": [...], "more": true}``, and goes on when it
is called with ``{"next": true}`` on the same connection; no page takes longer than SLICE, because packets wait
meanwhile. A connection that comes or goes between two pages may be in or not, as in the kernel's own listing.

This file reads the engine and changes nothing in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ctfw.conntrack.record import as_dict, conntrack_line, expect_line, proc_line
from ctfw.conntrack.state import DYING
from ctfw.engine import Engine
from ctfw.nfqueue import Queue
from ctfw.packet import HOOK_NAMES
from ctfw.reason import NAMES
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.verdict import ACCEPT, DROP
from ctfw.service.control import INVALID_PARAMS, Method, Refused, Session
from ctfw.service.kernel_queue import KernelQueue
from ctfw.service.selection import Selection

SLICE: Final = 2_000_000  # nanoseconds of the loop's time for one page
PAGE: Final = 200  # entries of one page, far below what a client may leave unread
LOOK: Final = 8  # entries between two looks at the clock

FORMS: Final = {"proc": proc_line, "conntrack": conntrack_line, "dict": as_dict}


class Methods:
    """The answers about one running engine and its queue. ``status`` and ``reload`` are the daemon's own."""

    def __init__(
        self,
        engine: Engine,
        queue: Queue,
        kernel: KernelQueue,
        status: Callable[[], dict[str, Any]],
        reload: Callable[[], dict[str, Any]],
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._kernel = kernel
        self._status = status
        self._reload = reload

    def table(self) -> dict[str, Method]:
        """Every method by name."""
        return {
            "list": self.list_connections,
            "expect": self.list_expectations,
            "stats": self.stats,
            "rules": self.rules,
            "status": lambda params, session: self._status(),
            "reload": lambda params, session: self._reload(),
        }

    def list_connections(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The connections: ``form`` is proc, conntrack (lines) or dict, ``only`` the words of a Selection."""
        form = FORMS.get(params.get("form", "proc"))
        if form is None:
            raise Refused(INVALID_PARAMS, f"form is one of {', '.join(FORMS)}")
        words = params.get("only", {})
        if not isinstance(words, dict):
            raise Refused(INVALID_PARAMS, "only is an object")
        try:
            selection = Selection(words)
        except ValueError as error:
            raise Refused(INVALID_PARAMS, str(error)) from error
        return _page(params, session, lambda: _paged(self._connections(form, selection)))

    def list_expectations(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The connections that helpers expect, as lines."""
        expectations = self._engine.tracker.expectations
        return _page(params, session, lambda: _paged(expect_line(e, time.monotonic_ns()) for e in expectations()))

    def rules(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The rules in their order, then the policies, each with what it counted."""
        ruleset = self._engine.ruleset
        every = [*ruleset.rules, *ruleset.policies.values()]
        return _page(params, session, lambda: _paged(_rule(rule) for rule in every))

    def stats(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """Every counter but those of the rules."""
        engine = self._engine
        counters = engine.counters
        return {
            "conntrack": {
                "entries": len(engine.tracker.table),
                "max": engine.tracker.settings.max,
                "expectations": len(engine.tracker.expectations()),
                **engine.tracker.stats.as_dict(),
            },
            "packets": {
                name: {"accept": counters.packets[hook][ACCEPT], "drop": counters.packets[hook][DROP]}
                for hook, name in enumerate(HOOK_NAMES)
            },
            "states": {name or "dropped": count for name, count in counters.by_state().items()},
            "reasons": {NAMES[i]: count for i, count in enumerate(counters.reasons) if i and count},
            "queue": self.queue_counters(),
        }

    def queue_counters(self) -> dict[str, Any]:
        """The queue's own counters and, where they may be read, the kernel's of it (else None)."""
        queue = self._queue
        return {
            "received": queue.received,
            "answered": queue.answered,
            "lost": queue.lost,
            "errors": queue.errors,
            "malformed": queue.malformed,
            "uncheckable": queue.uncheckable,
            "overruns": queue.overruns,
            "refused": queue.refused,
            "retries": queue.retries,
            "kernel": self._kernel.figures(),
        }

    def _connections(self, form: Callable[[Any, int, bool], Any], selection: Selection) -> Iterator[Any]:
        """A connection that is not meant is a None, so that the search for others ends a page too."""
        table = self._engine.tracker.table
        acct = self._engine.tracker.settings.acct
        for number in range(table.shards):
            for conn in table.shard(number):
                now = time.monotonic_ns()
                if conn.expires > now and not conn.status & DYING:  # it may have ended since the last page
                    yield form(conn, now, acct) if selection.has(conn) else None


def _page(params: dict[str, Any], session: Session, begin: Callable[[], Iterator[list[Any]]]) -> dict[str, Any]:
    if not params.get("next"):
        session.pages = begin()
    if session.pages is None:
        raise Refused(INVALID_PARAMS, "there is no listing to go on with")
    entries = next(session.pages, None)
    if entries is None:
        session.pages = None
    return {"entries": entries or [], "more": entries is not None}


def _paged(entries: Iterable[Any]) -> Iterator[list[Any]]:
    """The entries in lists, each of which took no longer than SLICE to make; a None is not listed."""
    page: list[Any] = []
    until = time.monotonic_ns() + SLICE
    for looked, entry in enumerate(entries, 1):
        if entry is not None:
            page.append(entry)
        if len(page) == PAGE or (looked % LOOK == 0 and time.monotonic_ns() > until):
            yield page
            page = []
            until = time.monotonic_ns() + SLICE
    if page:
        yield page


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "origin": rule.origin,
        "verdict": "accept" if rule.verdict == ACCEPT else "drop",
        "packets": rule.packets,
        "bytes": rule.bytes,
        "idle": (time.monotonic_ns() - rule.last) // 1_000_000_000 if rule.packets else None,
    }
