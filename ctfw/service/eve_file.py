"""The file of the EVE log: one JSON object a line, written by a thread of its own.

The loop hands over finished lines and never waits (spool.py): what finds MAX_WAITING lines before it is lost and
counted, as is what the disk refuses. A line is in the file whole or not at all: what a full disk cut is cut off again.
The thread writes PAUSE after the first line of a batch, so that a thousand flows that end together are one write, and
the loop is not disturbed a thousand times.

Rotation needs no signal: when the path names another file than the open one, or none, it is opened anew, within a
second. What happens to the old one is logrotate's business (packaging/logrotate/ctfw).
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

from ctfw.service.spool import Spool

MAX_WAITING: Final = 16384  # lines: about ten megabytes
BATCH: Final = 1024  # lines of one write
PAUSE: Final = 0.1  # seconds
RETRY: Final = 1.0  # seconds between two attempts at a file that cannot be opened, and two looks at its name
MODE: Final = 0o640  # of a new file, as in packaging/logrotate/ctfw


class EveFile:
    """The open log. ``written`` and ``lost`` count lines; ``error`` says what is wrong now, "" when nothing is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.written = 0
        self.lost = 0
        self.error = ""
        self._file = -1
        self._looked = 0.0
        self._spool: Spool[bytes] = Spool("ctfw-eve", MAX_WAITING, self._put, self._finish, batch=BATCH, pause=PAUSE)

    def write(self, line: bytes) -> None:
        """One line, without its newline. Never waits."""
        if self._spool.has_room():
            self._spool.put(line)
        else:
            self.lost += 1

    def close(self, patience: float = 1.0) -> None:
        """Writes what waits, as far as that takes ``patience`` seconds at most, and ends the thread."""
        self._spool.close(patience)

    def is_over(self) -> bool:
        """True when its thread has ended: the counters stay as they are."""
        return self._spool.is_over()

    def _finish(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def _put(self, lines: list[bytes]) -> None:
        now = time.monotonic()
        if now - self._looked >= RETRY or self._file < 0:
            self._reopen(now)
        if self._file < 0:
            self.lost += len(lines)
            return
        begun = -1
        try:
            begun = os.fstat(self._file).st_size
            left = b"\n".join(lines) + b"\n"
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            self.error = error.strerror or str(error)
            self.lost += len(lines)
            with contextlib.suppress(OSError):  # a pipe cannot be shortened
                if begun >= 0:
                    os.ftruncate(self._file, begun)
            return
        self.error = ""
        self.written += len(lines)

    def _reopen(self, now: float) -> None:
        """Opens the file that has the name now, unless it is open already."""
        if self._file < 0 and now - self._looked < RETRY:
            return
        self._looked = now
        try:
            if self._file >= 0:
                named, open_one = os.stat(self.path), os.fstat(self._file)
                if (named.st_dev, named.st_ino) == (open_one.st_dev, open_one.st_ino):
                    return
        except OSError:
            pass  # moved away, and nothing in its place
        try:
            file = _opened(self.path)
        except OSError as error:
            self.error = error.strerror or str(error)
            file = -1
        if self._file >= 0:
            os.close(self._file)
        self._file = file


def _opened(path: str) -> int:
    """The file, to be written to its end. A new one is its group's to read, whatever the umask (the unit's is 0077)."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        file = os.open(path, flags | os.O_CREAT, MODE)
        with contextlib.suppress(OSError):  # somebody else was faster, and it is his
            os.fchmod(file, MODE)
        return file
