"""The figures as a file for node_exporter's textfile collector, written anew every so many seconds.

The loop makes the text, SLICE of its time a tick, and a thread writes it: a file system that stalls (a full disk, a
network's) must not stall packets. The thread has one text at a time; when it has not finished by the next turn, that
turn is left out. A reader never sees half of it (whole_file.py); the disk is not waited for, since after a crash of the
machine nobody wants old figures. The file is for everybody to read: it holds names of rules, and no addresses.

That it cannot be written is said once, and once more when it can be again. At the end the file is removed: figures of
a daemon that is not there would look like one at rest.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Final

from ctfw.config import MetricsSettings
from ctfw.service.beside import begin
from ctfw.service.journal import NOTICE, WARNING, Journal
from ctfw.service.kinds import SINK_FAILED, SINK_WORKS
from ctfw.service.metrics import lines
from ctfw.service.status import SECOND, Parts
from ctfw.service.whole_file import replacing

SLICE: Final = 1_000_000  # nanoseconds of the loop's time for one piece of the text
LOOK: Final = 16  # lines between two looks at the clock
PATIENCE: Final = 1.0  # seconds for a writer that has not finished at the end


class Textfile:
    """The file of one daemon; ``configure`` says which one, None for none. ``skipped`` turns were left out."""

    def __init__(self, parts: Parts, journal: Journal) -> None:
        self.skipped = 0
        self._parts = parts
        self._journal = journal
        self._settings: MetricsSettings | None = None
        self._next = 0
        self._making: Iterator[str] | None = None
        self._made: list[str] = []
        self._writer: threading.Thread | None = None
        self._trouble = ""  # what was said last; "" when all is well
        self._found = ("", "")  # what the writer met, and where

    def configure(self, settings: MetricsSettings | None) -> None:
        """Another file from now on; the one before is removed."""
        if settings == self._settings:
            return
        before, self._settings = self._settings, settings
        self._making, self._made, self._trouble, self._next = None, [], "", 0
        if before is not None:
            with contextlib.suppress(OSError):  # then it stays
                self._writer = begin(_remove, before.textfile, self._writer)

    def tick(self, now: int) -> None:
        """A piece of the text, when it is time for one."""
        settings = self._settings
        if settings is None:
            return
        if self._writer is not None and not self._writer.is_alive():
            self._writer = None
            self._tell(settings.textfile)
        if self._making is None:
            if now < self._next:
                return
            self._next = now + settings.every * SECOND
            if self._writer is not None:
                self.skipped += 1
                return
            self._making = lines(self._parts)
        if self._is_made(now + SLICE):
            self._making = None
            text = "".join(self._made).encode()
            self._made = []
            try:
                self._writer = begin(self._write, settings.textfile, text)
            except OSError as error:
                self._found = (str(error.strerror), settings.textfile)
                self._tell(settings.textfile)

    def close(self) -> None:
        """Remove the file; packets are not waited for any more."""
        if self._writer is not None:
            self._writer.join(PATIENCE)
        if self._settings is not None:
            _remove(self._settings.textfile)

    def _is_made(self, until: int) -> bool:
        """Go on with the text until it is complete, or until then."""
        assert self._making is not None
        for count, line in enumerate(self._making, 1):
            self._made.append(line)
            if count % LOOK == 0 and time.monotonic_ns() > until:
                return False
        return True

    def _write(self, path: str, text: bytes) -> None:
        try:
            with replacing(path, mode=0o644, durable=False, draft=_draft(path)) as file:
                file.write(text)
            self._found = ("", path)
        except OSError as error:
            self._found = (str(error.strerror), path)

    def _tell(self, path: str) -> None:
        found, where = self._found
        if where != path or found == self._trouble:
            return
        self._trouble = found
        if found:
            text = f"metrics: {path}: cannot be written: {found}"
            self._journal.log(text, WARNING, {"CTFW_PATH": path}, SINK_FAILED)
        else:
            self._journal.log(f"metrics: {path}: written again", NOTICE, {"CTFW_PATH": path}, SINK_WORKS)


def _remove(path: str, writer: threading.Thread | None = None) -> None:
    """Once its writer has finished."""
    if writer is not None:
        writer.join()
    for one in (path, _draft(path)):
        with contextlib.suppress(OSError):
            os.unlink(one)


def _draft(path: str) -> str:
    """Beside it, under a name that the collector does not read."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")
