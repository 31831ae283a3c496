"""The EVE log of a running daemon: which records are made, how many, and of whom.

Off unless the rule file has a section ``eve``. Then every connection's end becomes a `flow` record (events.py tells),
and every dropped packet that a rule's ``log`` lets through a `drop` record. A limit keeps a flood from filling the
disk: what is beyond it is counted, not written. The records are made here, in the loop's time, but in its slices; the
file is another thread's (eve_file.py), for a disk may be slow, full, or gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from ctfw.config.eve import EveSettings
from ctfw.conntrack.events import Event
from ctfw.engine import Engine, Judgement
from ctfw.ruleset.limit import Limit
from ctfw.ruleset.verdict import DROP
from ctfw.service.alarms import Alarms
from ctfw.service.eve import drop_record, flow_record
from ctfw.service.eve_file import EveFile
from ctfw.service.events import EventStream
from ctfw.service.kinds import SINK_FAILED

BURST: Final = 10_000_000_000  # the limit holds over this time: ends come in crowds
LEAST_BURST: Final = 10


class EveLog:
    """The log of one engine. ``suppressed`` records were beyond the limit."""

    def __init__(self, engine: Engine, events: EventStream) -> None:
        self.suppressed = 0
        self._engine = engine
        self._events = events
        self._settings: EveSettings | None = None
        self._limit = Limit(1, 1)
        self._file: EveFile | None = None
        self._former: list[EveFile] = []  # whose threads may still write what waited
        self._before = [0, 0]  # written and lost to those that have ended

    def configure(self, settings: EveSettings | None) -> None:
        """What the rule file says now; None ends the log."""
        if self._file is not None and (settings is None or settings.path != self._file.path):
            self._leave(self._file)
        if settings is not None and self._file is None:
            self._file = EveFile(settings.path)
        if settings is not None and settings != self._settings:
            self._limit = Limit(settings.interval, max(BURST // settings.interval, LEAST_BURST))
        self._settings = settings
        self._events.tell_ends(self.flow if settings is not None and settings.flow else None)

    def flow(self, event: Event, offset: int) -> None:
        """A connection has ended."""
        if self._takes(event.time):
            self._write(flow_record(event, self._engine.tracker.settings, offset))

    def packet(self, judgement: Judgement, indev: str, outdev: str, mark: int, now: int) -> None:
        """A packet that a rule wants logged."""
        settings = self._settings
        if settings is None or not settings.drop or judgement.verdict != DROP or not self._takes(now):
            return
        generation = int(self._engine.ruleset.generation)
        self._write(drop_record(judgement, indev, outdev, mark, generation, time.time_ns()))

    def figures(self) -> dict[str, Any] | None:
        """For status and metrics; None when there is no log."""
        if self._file is None:
            return None
        return {
            "path": self._file.path,
            "written": self.written(),
            "lost": self.lost(),
            "suppressed": self.suppressed,
            "error": self._file.error or None,
        }

    def written(self) -> int:
        """Records that are in the file, or were in those of before."""
        return self._before[0] + sum(one.written for one in self._files())

    def lost(self) -> int:
        """Records that found no room or no disk."""
        return self._before[1] + sum(one.lost for one in self._files())

    def error(self) -> str:
        """What is wrong with the file."""
        return self._file.error if self._file is not None else ""

    def close(self) -> None:
        """The end of the daemon."""
        if self._file is not None:
            self._file.close()

    def _takes(self, now: int) -> bool:
        if self._limit.take(now):
            return True
        self.suppressed += 1
        return False

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record, separators=(",", ":")).encode())

    def _files(self) -> list[EveFile]:
        return self._former if self._file is None else [*self._former, self._file]

    def _leave(self, file: EveFile) -> None:
        """Has its thread write what waits and end; packets do not wait for that."""
        file.close(0)
        for ended in [one for one in self._former if one.is_over()]:
            self._former.remove(ended)
            self._before = [self._before[0] + ended.written, self._before[1] + ended.lost]
        self._former.append(file)
        self._file = None


def watch_eve(alarms: Alarms, log: EveLog) -> None:
    """Has an admin hear of records that were lost."""
    alarms.watch(
        SINK_FAILED,
        log.lost,
        lambda count: f"eve: records lost={count}: {log.error() or 'the disk is too slow'}",
    )


def both(one: Callable[..., None], other: Callable[..., None]) -> Callable[[Judgement, str, str, int, int], None]:
    """Tells two of each logged packet."""

    def tell(judgement: Judgement, indev: str, outdev: str, mark: int, now: int) -> None:
        one(judgement, indev, outdev, mark, now)
        other(judgement, indev, outdev, mark, now)

    return tell
