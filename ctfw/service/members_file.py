"""Dynamic sets on disk, so that a ban outlives a restart: ``sets.json`` in the daemon's state directory.

Written whole or not at all (whole_file.py); what is stored are the remaining times and when that was. A file that is
missing is no sets; one of which anything could not be used is said in lines and put aside
as ``sets.json.unread``, for the next writing would end it, and never stops the start.

While packets come nobody waits for it: ``SetsKeeper`` makes the text in slices, one a tick, and a thread writes it. It
may take the disk as long as it likes. A change that comes meanwhile is in this file or in the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from ctfw.ruleset.ruleset import Ruleset
from ctfw.service.beside import begin
from ctfw.service.members import restore, texts
from ctfw.service.whole_file import replacing

NAME: Final = "sets.json"
MOST_BYTES: Final = 64 << 20  # unless the sets that there are may have more members than that
MEMBER_BYTES: Final = 80  # at most, for one
INTERVAL: Final = 60_000_000_000
SLICE: Final = 1_000_000  # nanoseconds of a tick


class SetsKeeper:
    """Keeps the file of one daemon up to date. ``complain`` is told, in words, when it cannot be written."""

    def __init__(self, directory: str, complain: Callable[[str], None]) -> None:
        self._directory = directory
        self._complain = complain
        self._due = time.monotonic_ns() + INTERVAL
        self._texts: Iterator[str] | None = None
        self._made: list[str] = []
        self._writer: threading.Thread | None = None
        self._error: OSError | None = None

    def tick(self, ruleset: Ruleset, now: int) -> None:
        """A slice of what is to be done now, if anything is."""
        if self._writer is not None and not self._writer.is_alive():
            self._writer = None
            self._tell()
        if self._texts is None:
            if now < self._due or self._writer is not None or not ruleset.sets:
                return
            self._due = now + INTERVAL
            self._texts = texts(ruleset, now, time.time_ns())
        until = time.monotonic_ns() + SLICE
        for text in self._texts:
            self._made.append(text)
            if time.monotonic_ns() > until:
                return
        made, self._made, self._texts = self._made, [], None
        try:
            self._writer = begin(self._write, made)
        except OSError as error:
            self._error = error
            self._tell()

    def close(self, ruleset: Ruleset) -> None:
        """The last writing, which is waited for."""
        if self._writer is not None:
            self._writer.join()
        if ruleset.sets:
            try:
                write_members(self._directory, ruleset, time.monotonic_ns(), time.time_ns())
            except OSError as error:
                self._error = error
        self._tell()

    def _write(self, made: list[str]) -> None:
        try:
            _replace(self._directory, made)
        except OSError as error:
            self._error = error

    def _tell(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._complain(f"sets not saved: {error.filename or self._directory}: {error.strerror}")


def write_members(directory: str, ruleset: Ruleset, now: int, unix: int) -> None:
    """Writes the members of every dynamic set; times in nanoseconds. Raises OSError."""
    _replace(directory, list(texts(ruleset, now, unix)))


def _replace(directory: str, made: list[str]) -> None:
    with replacing(os.path.join(directory, NAME)) as file:
        file.writelines(text.encode("ascii") for text in made)


def read_members(directory: str, ruleset: Ruleset, now: int, unix: int) -> list[str]:
    """Adds what was written, less the time that has passed; returns what could not be used, in words."""
    path = os.path.join(directory, NAME)
    complaints = _read(path, ruleset, now, unix)
    if complaints:
        with contextlib.suppress(OSError):
            os.replace(path, f"{path}.unread")
            complaints.append(f"{path}.unread: kept there")
    return complaints


def _read(path: str, ruleset: Ruleset, now: int, unix: int) -> list[str]:
    most = max(sum(one.most for one in ruleset.sets.values()) * MEMBER_BYTES, MOST_BYTES)
    try:
        with open(path, "rb") as file:
            text = file.read(most + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    if len(text) > most:
        return [f"{path}: larger than {most} bytes, not read"]
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [f"{path}: not what was written: {error}"]
    return [f"{path}: {complaint}" for complaint in restore(ruleset, data, now, unix)]
