"""The daemon's log: lines for people on standard error, or the same with fields in the systemd journal.

Owns where a line goes, and that nobody waits for it: the loop hands lines to a thread, and the thread waits for a pipe
nobody reads or a journal that is stuck. Between the two stands a queue of MAX_WAITING lines; what finds it full is
counted, not kept.

What a line is about is its kind: ``log(text, WARNING, fields, kinds.TABLE_FULL)``; ``kinds`` says how to add one. In
the journal it gives the entry its MESSAGE_ID and the field CTFW_EVENT. A kind with a limit is held back beyond it, and
a line of the kind ``suppressed`` says how many were, with the next one that passes or when a token is there again
(``tick``), whichever comes first. How often packets are logged is their rules' decision (``packet_log``).
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from ctfw.ruleset.limit import Limit
from ctfw.service.kinds import SUPPRESSED, Kind

MAX_WAITING: Final = 4096
SINKS: Final = ("auto", "stderr", "journal")

ERROR: Final = 3
WARNING: Final = 4
NOTICE: Final = 5
INFO: Final = 6

Write = Callable[[str, int, Mapping[str, str]], None]


class Journal:
    """The log. ``sink`` is one of SINKS; auto: the journal, when standard error leads there anyway.

    ``lost`` lines found no room or no reader, ``suppressed`` ones were beyond the limit of their kind.
    """

    def __init__(
        self,
        sink: str = "auto",
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.lost = 0
        self.suppressed = 0
        self._clock = clock
        self._limits: dict[Kind, Limit] = {}
        self._held: dict[Kind, int] = {}
        write = None
        if sink == "journal" or (
            sink == "auto" and _is_under_journal(os.environ if environment is None else environment)
        ):
            write = _journal_writer()
        self.sink = "stderr" if write is None else "journal"
        self._lines: queue.Queue[tuple[str, int, Mapping[str, str]] | None] = queue.Queue(MAX_WAITING)
        self._write: Write = write or _to_stderr
        self._thread = threading.Thread(target=self._run, name="ctfw-log", daemon=True)
        self._thread.start()
        if sink == "journal" and write is None:
            self.log(
                "log: the journal was asked for, but systemd-python is not installed; using standard error", WARNING
            )

    def log(
        self, text: str, priority: int = INFO, fields: Mapping[str, str] | None = None, kind: Kind | None = None
    ) -> None:
        """One line, without the name of the program, which is added. Never waits."""
        if kind is None:
            self._put(text, priority, fields or {})
            return
        if kind.interval:
            limit = self._limits.setdefault(kind, Limit(kind.interval, kind.burst))
            if not limit.take(self._clock()):
                self._held[kind] = self._held.get(kind, 0) + 1
                self.suppressed += 1
                return
            self._tell_held(kind)
        self._put(text, priority, {"MESSAGE_ID": kind.id, "CTFW_EVENT": kind.name, **(fields or {})})

    def tick(self, now: int) -> None:
        """Tell of the lines that were held back and not followed by others."""
        for kind in [kind for kind in self._held if self._limits[kind].has(now)]:
            self._tell_held(kind)

    def close(self, patience: float = 1.0) -> None:
        """Write what waits, as far as that takes ``patience`` seconds at most."""
        for kind in list(self._held):
            self._tell_held(kind)
        try:
            self._lines.put(None, timeout=patience)
        except queue.Full:
            return
        self._thread.join(patience)

    def _tell_held(self, kind: Kind) -> None:
        count = self._held.pop(kind, 0)
        if count:
            fields = {"CTFW_SUPPRESSED": str(count), "CTFW_ABOUT": kind.name}
            self.log(f"{count} lines suppressed: event={kind.name}", NOTICE, fields, SUPPRESSED)

    def _put(self, text: str, priority: int, fields: Mapping[str, str]) -> None:
        try:
            self._lines.put_nowait((f"ctfw: {text}", priority, fields))
        except queue.Full:
            self.lost += 1

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            if line is None:
                return
            try:
                self._write(*line)
            except (OSError, ValueError):  # the reader is gone, standard error is closed
                self.lost += 1


def _is_under_journal(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the journal's stream (systemd.exec(5), JOURNAL_STREAM)."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return device == str(stream.st_dev) and inode == str(stream.st_ino)


def _journal_writer() -> Write | None:
    """A writer to the journal, None when systemd-python is not there."""
    try:
        from systemd import journal
    except ImportError:
        return None

    def write(text: str, priority: int, fields: Mapping[str, str]) -> None:
        journal.send(text, PRIORITY=str(priority), SYSLOG_IDENTIFIER="ctfw", **fields)

    return write


def _to_stderr(text: str, priority: int, fields: Mapping[str, str]) -> None:
    # Not by sys.stderr: whoever stands in its write holds its lock, and the interpreter waits for that at its end.
    line = f"{text}\n".encode("utf-8", "backslashreplace")
    while line:
        line = line[os.write(2, line) :]
