"""What the daemon answers on its control socket: connections, expectations, figures, rules, and the wish to reload.

What a reload would change is worked out by who asks (``ctfw reload --dry-run``): packets shall not wait for it. The
daemon hands out what that needs: its clock, the flight recorder's chunks, the connections with the place that they
would be judged at, and the members of the sets that rules and people change.

One dict of functions, ``method(params, session) -> result``; a later command adds its own. Results are plain data for
JSON. A method that could have much to say answers in pages (pages.py). A connection that comes or goes between two of
them may be in or not, as in the kernel's own listing.

This file reads the engine and changes nothing in it but, when asked to, the counters of the rules.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any, Final

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import Tuple, as_dict, conntrack_line, expect_line, proc_line
from ctfw.conntrack.state import DYING
from ctfw.engine import Engine
from ctfw.nfqueue import Queue
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.reason import NAMES
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.verdict import ACCEPT, DROP, JUMP, TRACK_NAMES
from ctfw.ruleset.verdict import NAMES as VERDICT_NAMES
from ctfw.service.flight import Flight
from ctfw.service.heat import Heat
from ctfw.service.kernel_queue import KernelQueue
from ctfw.service.members import MOST_TTL, MemberError, add, remove
from ctfw.service.packed import packed
from ctfw.service.pages import page, paged
from ctfw.service.routes import Routes
from ctfw.service.selection import Selection, selection_of
from ctfw.service.session import FAILED, INVALID_PARAMS, Method, Refused, Session
from ctfw.service.status import queue_counters

SECOND: Final = 1_000_000_000

# The methods that the right READ is enough for; what is not here needs WRITE.
READING: Final = frozenset(
    {
        "clock",
        "directions",
        "events",
        "expect",
        "explain",
        "flight",
        "list",
        "live",
        "meets",
        "members",
        "metrics",
        "rules",
        "stats",
        "status",
    }
)

PACKED: Final = "packed"  # as ctfw's own commands have it (packed.py)
FORMS: Final = {"proc": proc_line, "conntrack": conntrack_line, "dict": as_dict}


class Methods:
    """The answers about one running engine and its queue. ``status`` is the daemon's own."""

    def __init__(
        self,
        engine: Engine,
        queue: Queue,
        kernel: KernelQueue,
        status: Callable[[], dict[str, Any]],
        flight: Flight,
        heat: Heat,
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._kernel = kernel
        self._status = status
        self._flight = flight
        self._heat = heat

    def table(self) -> dict[str, Method]:
        """Every method by name."""
        return {
            "list": self.list_connections,
            "expect": self.list_expectations,
            "stats": self.stats,
            "rules": self.rules,
            "reset_rules": self.reset_rules,
            "clock": self.clock,
            "flight": self.flight,
            "live": self.live,
            "members": self.members,
            "set_add": self.add_member,
            "set_del": self.remove_member,
            "status": lambda params, session: self._status(),
        }

    def add_member(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """Adds ``member`` to the dynamic ``set`` for ``ttl`` seconds (0 or none: as the set says)."""
        ttl = params.get("ttl", 0)
        if not isinstance(ttl, int) or not 0 <= ttl <= MOST_TTL // SECOND:
            raise Refused(INVALID_PARAMS, "ttl is a number of seconds")
        try:
            add(self._engine.ruleset, *_member(params), ttl * SECOND, time.monotonic_ns())
        except MemberError as error:
            raise Refused(FAILED, str(error)) from error
        return {}

    def remove_member(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """Takes ``member`` out of the dynamic ``set``; ``removed`` says whether it was one."""
        try:
            return {"removed": remove(self._engine.ruleset, *_member(params), time.monotonic_ns())}
        except MemberError as error:
            raise Refused(FAILED, str(error)) from error

    def list_connections(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The connections: ``form`` is proc, conntrack (lines), dict or packed, ``only`` the words of a Selection."""
        name = params.get("form", "proc")
        form = FORMS.get(name) if isinstance(name, str) else None
        if form is None and name != PACKED:
            raise Refused(INVALID_PARAMS, f"form is one of {', '.join([*FORMS, PACKED])}")
        selection = selection_of(params)
        if form is None:
            return page(params, session, lambda: packed(self._engine.tracker, selection))
        return page(params, session, lambda: paged(self._connections(form, selection)))

    def list_expectations(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The connections that helpers expect, as lines."""
        expectations = self._engine.tracker.expectations
        return page(params, session, lambda: paged(expect_line(e, time.monotonic_ns()) for e in expectations()))

    def rules(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The rules in their order, those of the chains behind them, then the policies, each with what it counted."""
        return page(params, session, lambda: paged(self._rules()))

    def reset_rules(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The same, and what each counted is zero from then on."""

        def reset() -> Iterator[dict[str, Any]]:
            self._heat.follow()
            for told, rule in zip(self._rules(), list(self._heat.rules), strict=True):
                rule.packets = rule.bytes = rule.last = 0
                yield told
            self._heat.renew(time.monotonic_ns())

        return page(params, session, lambda: paged(reset()))

    def clock(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The daemon's time in nanoseconds, by its own clock and since 1970; its generation; the flight recorder."""
        now = time.monotonic_ns()
        generation = int(self._engine.ruleset.generation)
        return {"now": now, "unix": time.time_ns(), "generation": generation, "recorder": self._flight.figures(now)}

    def flight(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The flight recorder's chunks in base64, one a page; null for one that went away meanwhile."""
        if self._flight.settings is None:
            hint = "add 'recorder: {minutes: 10}' to the rule file, reload, and wait for packets"
            raise Refused(FAILED, f"the flight recorder is off; {hint}")
        chunks = self._flight.chunks
        return page(params, session, lambda: ([b64encode(one).decode() if one else None] for one in chunks()))

    def live(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """What the rules could ask about each connection that ``only`` means, and where its original direction is."""
        selection = selection_of(params)
        return page(params, session, lambda: paged(self._live(selection)))

    def members(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The members of the dynamic sets: set, network in hexadecimal, prefix length, nanoseconds left or -1."""
        sets = list(self._engine.ruleset.sets.values())
        return page(
            params,
            session,
            lambda: paged(
                [one.name, network.hex(), int(length), int(left)]
                for one in sets
                for piece in one.pieces(time.monotonic_ns())
                for network, length, left in piece
            ),
        )

    def stats(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """Every counter but those of the rules."""
        engine = self._engine
        counters = engine.counters
        return {
            "conntrack": {
                "entries": len(engine.tracker.table),
                "max": engine.tracker.settings.max,
                "expectations": len(engine.tracker.expectations()),
                "killed": engine.tracker.killed.count,
                **engine.tracker.stats.as_dict(),
            },
            "packets": {
                name: {"accept": counters.packets[hook][ACCEPT], "drop": counters.packets[hook][DROP]}
                for hook, name in enumerate(HOOK_NAMES)
            },
            "states": {name or "dropped": count for name, count in counters.by_state().items()},
            "reasons": {NAMES[i]: count for i, count in enumerate(counters.reasons) if i and count},
            "queue": queue_counters(self._queue, self._kernel),
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

    def _live(self, selection: Selection) -> Iterator[dict[str, Any] | None]:
        table = self._engine.tracker.table
        with Routes() as routes:
            for number in range(table.shards):
                for conn in table.shard(number):
                    now = time.monotonic_ns()
                    living = conn.expires > now and not conn.status & DYING
                    yield _situation(conn, now, routes) if living and selection.has(conn) else None

    def _rules(self) -> Iterator[dict[str, Any]]:
        ruleset = self._heat.ruleset
        chains = {rule: chain.name for chain in ruleset.chains for rule in chain.rules}
        policies = set(ruleset.policies.values())
        self._heat.follow()
        for rule in list(self._heat.rules):
            now = time.monotonic_ns()
            yield {
                "name": rule.name,
                "origin": rule.origin,
                "verdict": _verdict(rule),
                "packets": rule.packets,
                "bytes": rule.bytes,
                "idle": (now - rule.last) // SECOND if rule.packets else None,
                "last": time.time() - (now - rule.last) / SECOND if rule.packets else None,
                "chain": chains.get(rule),
                "hooks": [HOOK_NAMES[hook] for hook in (INPUT, FORWARD, OUTPUT) if rule.chains >> hook & 1],
                "policy": rule in policies,
                "shadow": bool(rule.shadow),
                "generation": self._heat.since(rule),
                "heat": self._heat.of(rule, now),
            }


def _member(params: dict[str, Any]) -> tuple[str, str]:
    return str(params.get("set", "")), str(params.get("member", ""))


def _verdict(rule: Rule) -> str:
    if rule.track:
        return f"track {TRACK_NAMES[rule.track]}"
    return f"jump {rule.jump}" if rule.verdict == JUMP else VERDICT_NAMES[rule.verdict]


def _situation(conn: Conn, now: int, routes: Routes) -> dict[str, Any]:
    original = Tuple(conn.key)
    return {
        "key": conn.key.hex(),
        "status": conn.status,
        "l4state": conn.l4state,
        "age": now - conn.created,
        "packets": conn.original_packets + conn.reply_packets,
        "bytes": conn.original_bytes + conn.reply_bytes,
        "helper": conn.master.helper if conn.master is not None else 0,
        "generation": conn.generation,
        "place": routes.place(original.src, original.dst),
    }
