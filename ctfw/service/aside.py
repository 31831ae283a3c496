"""Long work that the packets do not notice: a timer interrupts it again and again, and the loop turns meanwhile.

Loading ten thousand rules takes a second or two of Python, and nothing else may run in a process that has one thread
and one lock for it. A second thread would hold that lock for whole switch intervals, and take it from the loop at every
system call; a child process would have to hand over a hundred thousand objects. So the work stays on the loop's own
thread: SIGALRM interrupts it every SLICE, the handler lets the loop turn once (packets, clients, ticks, everything),
and the work goes on. It never sees that, for it shares nothing with the loop: it makes new objects from files.

What an interrupt cannot reach is a single long step in C (a sort, freeing a large tree, compiled code): Python looks
for signals between its own instructions only. Compiled work takes a function ``breathe`` for that (ruleset/breath.py),
and what is freed goes in pieces (config/remains.py). ``longest`` tells how long the loop waited at most.

One work at a time, begun from outside a turn. ``abandon`` ends it where it is: the loop is to stop. It ends by an
exception that may come between any two instructions, so the work takes no lock of Python's that would be left half
taken. Where the instruction is one of a callback (``__del__``, a weak reference) Python drops the exception; so it
comes again until the work is over.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, TypeVar

SLICE: Final = 0.001  # seconds of work between two turns
AGAIN: Final = 0.1  # seconds after which work that was given up is given up again

T = TypeVar("T")


class Abandoned(BaseException):
    """The work was given up, or the loop failed: nobody on the way may take it for an error of the work."""


def breathe() -> None:
    """For compiled work: an interrupt that waits comes here, where something is called that is not."""


class Aside:
    """``turn`` lets the loop turn once, without waiting for anything."""

    def __init__(self, turn: Callable[[], None]) -> None:
        self.longest = 0  # nanoseconds that the loop had to wait for the last work
        self.is_busy = False
        self._turn = turn
        self._is_abandoned = False
        self._resumed = 0
        self._failure: Exception | None = None

    def run(self, work: Callable[[], T]) -> T:
        """What the work returns; raises what it raises, and Abandoned."""
        self.longest = 0
        self.is_busy = True
        self._is_abandoned = False
        self._failure = None
        before = signal.signal(signal.SIGALRM, self._interrupt)
        self._resumed = time.monotonic_ns()
        signal.setitimer(signal.ITIMER_REAL, SLICE)
        try:
            try:
                return work()
            finally:
                self.is_busy = False  # an interrupt that is under way finds nothing to do
        except Abandoned:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            self.is_busy = False  # should one have come just ahead of the first
            signal.setitimer(signal.ITIMER_REAL, 0)
            # Never to the default, which ends the process: an alarm may still be on its way through another thread.
            if callable(before):
                signal.signal(signal.SIGALRM, before)
            self.longest = max(self.longest, time.monotonic_ns() - self._resumed)

    def abandon(self) -> None:
        """Gives the work up, from within a turn."""
        self._is_abandoned = True

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if not self.is_busy:
            return
        self.longest = max(self.longest, time.monotonic_ns() - self._resumed)
        if not self._is_abandoned:
            try:
                self._turn()
            except Exception as error:
                self._failure = error
                self._is_abandoned = True
        if self._is_abandoned:
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            raise Abandoned
        self._resumed = time.monotonic_ns()
        signal.setitimer(signal.ITIMER_REAL, SLICE)
