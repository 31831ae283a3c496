"""What the loop has for a disk or a pipe, on its way to a thread that writes it.

The loop hands over pieces and never waits, whatever the disk does: between the two stands a queue with room for so
much, and whoever has a piece asks first whether there is room for it, and counts it as lost when there is none. What
is being written still takes its room. What a piece is, how much room it takes, and what becomes of a write that fails
are its owner's business, whose ``write`` runs in the thread and raises nothing.

Life-cycle: the thread runs from the beginning; ``close`` has it write what waits, call ``finish`` and end. It is not
waited for longer than ``close`` is told, and the end of the process does not wait for it at all.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

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
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def has_room(self, size: int = 1) -> bool:
        """Whether so much more may wait."""
        return self._put - self._written + size <= self._room

    def put(self, piece: Piece, size: int = 1) -> None:
        """One piece, for which there was room. Never waits."""
        self._put += size
        self._pieces.put((piece, size))

    def close(self, patience: float) -> None:
        """Has what waits written, as far as that takes ``patience`` seconds at most, and the thread end."""
        self._ending.set()
        self._pieces.put(None)
        self._thread.join(patience)

    def is_over(self) -> bool:
        """True when the thread has ended: nothing is written any more."""
        return not self._thread.is_alive()

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
