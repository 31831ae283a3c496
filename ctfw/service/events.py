"""What happens to connections, brought to who listens: clients of the control socket, and the EVE log.

The table keeps a bounded list of events (conntrack/events.py) for as long as somebody listens, and only then. Here they
are taken from it a slice at a time, ``step`` once a turn of the loop and no longer than SLICE, so that a flood of
connections costs packets a share of the time and never a wait. What the table's list had no room for, each client is
told as a ``dropped`` event, like the lines that he himself was too slow for (session.py).

A client subscribes by the method ``events``; from then on he is sent one line for each event that he asked for::

    {"event": "NEW", "time": 1700000000.123456, "line": "    [NEW] udp      17 30 src=..."}

Events of before are never told, and a conversation ends with its connection: there is nothing to unsubscribe.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from ctfw.conntrack.events import DESTROY, KIND_NAMES, Event, Events
from ctfw.conntrack.record import event_dict, event_line
from ctfw.conntrack.tracker import ConnTrack
from ctfw.service.selection import Selection, selection_of
from ctfw.service.session import INVALID_PARAMS, Refused, Session

SLICE: Final = 500_000  # nanoseconds of a turn: less than what its packets take
TAKEN: Final = 16  # events between two looks at the clock
SECOND: Final = 1_000_000_000

FORMS: Final = ("conntrack", "dict")


class _Subscriber:
    def __init__(self, session: Session, kinds: frozenset[int], form: str, selection: Selection, lost: int) -> None:
        self.session = session
        self.kinds = kinds
        self.form = form
        self.selection = selection
        self.lost = lost  # of the table's list, when he was last told


class EventStream:
    """The listeners of one table. ``lost`` events of all times were lost before anybody took them."""

    def __init__(self, tracker: ConnTrack) -> None:
        self.lost = 0
        self._tracker = tracker
        self._subscribers: list[_Subscriber] = []
        self._ended: Callable[[Event, int], None] | None = None

    def subscribe(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """The method ``events``: ``kinds`` (all of them unless given), ``form`` and ``only`` as for ``list``."""
        form, names = params.get("form", FORMS[0]), params.get("kinds", KIND_NAMES)
        if form not in FORMS:
            raise Refused(INVALID_PARAMS, f"form is one of {', '.join(FORMS)}")
        if not isinstance(names, list | tuple) or not all(name in KIND_NAMES for name in names):
            raise Refused(INVALID_PARAMS, f"kinds is a list of {', '.join(KIND_NAMES)}")
        selection = selection_of(params)
        self._subscribers = [one for one in self._subscribers if one.session is not session]
        kinds = frozenset(KIND_NAMES.index(name) for name in names)
        self._subscribers.append(_Subscriber(session, kinds, form, selection, self.lost))
        self._listen()
        session.is_subscribed = True
        return {}

    def tell_ends(self, ended: Callable[[Event, int], None] | None) -> None:
        """Has every connection's end told to ``ended``, with the nanoseconds from the daemon's clock to Unix time."""
        self._ended = ended
        self._listen()

    def step(self) -> bool:
        """Hands out what has happened, for SLICE at most. True: there is more, come back soon."""
        events = self._tracker.table.events
        if events is None:
            return False
        self._listen()
        self._count_lost(events)
        began = time.monotonic_ns()
        offset = time.time_ns() - began
        while time.monotonic_ns() - began < SLICE:
            taken = events.take(TAKEN)
            for event in taken:
                self._hand_out(event, offset)
            if len(taken) < TAKEN:
                return False
        return True

    def _hand_out(self, event: Event, offset: int) -> None:
        if self._ended is not None and event.kind == DESTROY:
            self._ended(event, offset)
        lines: dict[str, bytes] = {}  # made once, however many want it
        for one in self._subscribers:
            if event.kind in one.kinds and one.selection.has(event.conn):
                line = lines.get(one.form)
                if line is None:
                    line = lines[one.form] = self._line(event, one.form, offset)
                one.session.push(line)

    def _line(self, event: Event, form: str, offset: int) -> bytes:
        acct = self._tracker.settings.acct
        told: dict[str, Any] = {"event": KIND_NAMES[event.kind], "time": (event.time + offset) / SECOND}
        told |= {"line": event_line(event, acct)} if form == FORMS[0] else event_dict(event, acct)
        return json.dumps(told, separators=(",", ":")).encode()

    def _count_lost(self, events: Events) -> None:
        self.lost += events.lost
        events.lost = 0
        for one in self._subscribers:
            if self.lost > one.lost:
                one.session.push(json.dumps({"event": "dropped", "count": self.lost - one.lost}).encode())
                one.lost = self.lost

    def _listen(self) -> None:
        """Has the table keep events, if anybody is there to be told of them."""
        self._subscribers = [one for one in self._subscribers if one.session.is_open]
        wanted = bool(self._subscribers) or self._ended is not None
        table = self._tracker.table
        if wanted and table.events is None:
            table.events = Events()
        elif not wanted:
            table.events = None

    def figures(self) -> Mapping[str, int]:
        """For status and metrics: how many listen, and how many events nobody heard."""
        events = self._tracker.table.events
        return {"listeners": len(self._subscribers), "lost": self.lost + (events.lost if events is not None else 0)}
