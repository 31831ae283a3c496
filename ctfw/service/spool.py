"""What the loop has for a disk or a pipe, on its way to a thread that writes it.

The loop hands over pieces and never waits, whatever the disk does: between the two stands a queue with room for so
much, and whoever has a piece asks first whether there is room for it, and counts it as lost when there is none. What
is being written still takes its room. What a piece is, how much room it takes, and what becomes of a write that fails
are its owner's business, whose ``write`` runs in the thread and raises nothing.

Life-cycle: the thread runs from the beginning; where the system has none to give (beside.py), pieces wait as for a disk
that hangs, and it is asked again, every RETRY seconds at most, when there are new ones. ``close`` has the thread write
what waits, call ``finish`` and end. It is not waited for longer than ``close`` is told, and the end of the process does
not wait for it at all.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from ctfw.service.beside import begin

RETRY: Final = 1.0  # seconds

Piece = TypeVar("Piece")


class Spool(Generic[Piece]):
    """The queue and its thread. ``write`` gets up to ``batch`` pieces at once, ``pause`` seconds after the first."""

    def __init__(
        self,
        name: str,
        room: int,
        write: Callable[[list[Piece]], None],
        finish: Callable[[], None],
        *,
        batch: int = 1,
        pause: float = 0.0,
    ) -> None:
        self._name = name
        self._room = room
        self._write = write
        self._finish = finish
        self._batch = batch
        self._pause = pause
        # Each of these is counted up by one thread alone, so that none has to lock the other out.
        self._put = 0
        self._written = 0
        self._pieces: queue.SimpleQueue[tuple[Piece, int] | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._next = 0.0  # when a thread is asked for again
        self._begin()

    def has_room(self, size: int = 1) -> bool:
        """Whether so much more may wait."""
        if self._thread is None and time.monotonic() >= self._next:
            self._begin()
        return self._put - self._written + size <= self._room

    def put(self, piece: Piece, size: int = 1) -> None:
        """One piece, for which there was room. Never waits."""
        self._put += size
        self._pieces.put((piece, size))

    def close(self, patience: float) -> None:
        """Has what waits written, as far as that takes ``patience`` seconds at most, and the thread end."""
        self._ending.set()
        self._pieces.put(None)
        if self._thread is None:
            self._begin()
        if self._thread is not None:
            self._thread.join(patience)

    def is_over(self) -> bool:
        """True when the thread has ended: all that waited was written, and nothing is any more."""
        return self._thread is not None and not self._thread.is_alive()

    def _begin(self) -> None:
        self._next = time.monotonic() + RETRY
        with contextlib.suppress(OSError):
            self._thread = begin(self._run, name=self._name)

    def _run(self) -> None:
        going_on = True
        while going_on:
            taken = [self._pieces.get()]
            if self._pause:
                self._ending.wait(self._pause)
            with contextlib.suppress(queue.Empty):
                while taken[-1] is not None and len(taken) < self._batch:
                    taken.append(self._pieces.get_nowait())
            going_on = taken[-1] is not None
            pieces = [one for one in taken if one is not None]
            if pieces:
                self._write([piece for piece, _ in pieces])
                self._written += sum(size for _, size in pieces)
        self._finish()
