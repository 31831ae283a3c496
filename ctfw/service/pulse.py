"""The pulse of the daemon: does it get on, how fast, and how long do packets wait for it?

Looked at once a tick, from the loop itself. A loop that stands still cannot say so; whoever asks from outside sees it
by an answer that does not come (`ctfw status`), a file that gets old (metrics) or the watchdog that ends it. What can
be said from inside:

* when it last got on (``progress``): verdicts went out, or the queue was seen empty. The watchdog is fed by this alone.
* how late the latest tick of the last minute was (``delay``): no packet waited longer for the loop's attention.
* how old the oldest packet in the queue is at most (``oldest``). The kernel tells no ages, but how many packets it has
  numbered and how many of them wait; they are answered in their order, so the oldest one's number is known, and when
  that number had not yet been given out is remembered by the tick. Exact to a tick; None where the kernel's figures
  may not be read.

Beside it, what the counters were in each of the last SPAN seconds, so that `status` can say what happens now and not
only what has happened since the start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ctfw.nfqueue import Queue
from ctfw.service.kernel_queue import KernelQueue

SECOND: Final = 1_000_000_000
SPAN: Final = 60  # seconds
TICKS: Final = 600  # ticks that are remembered, a minute of them


class Sample:
    """What the counters were at ``time``, in the order of ``Pulse``'s ``counters``."""

    def __init__(self, time: int, counts: list[int]) -> None:
        self.time = time
        self.counts = counts


class Pulse:
    """``counters`` are those whose recent past is wanted, by name; each only grows."""

    def __init__(self, queue: Queue, kernel: KernelQueue, counters: dict[str, Callable[[], int]], now: int) -> None:
        self.progress = now
        figures = kernel.figures()
        self.oldest: int | None = None if figures is None else 0
        self._queue = queue
        self._kernel = kernel
        self._counters = counters
        self.names = list(counters)
        self._answered = int(queue.answered)
        self._numbered: deque[tuple[int, int]] = deque(maxlen=TICKS)  # when, and how many the kernel had numbered
        if figures is not None:
            self._numbered.append((now, figures["numbered"]))
        self._late: deque[tuple[int, int]] = deque(maxlen=SPAN)  # the worst of each second
        self._samples: deque[Sample] = deque(maxlen=SPAN + 1)
        self._sample(now)

    def tick(self, now: int, late: int) -> None:
        """Look at the queue; ``late`` is by how much this tick missed its time."""
        if self._queue.idle or self._queue.answered != self._answered:
            self.progress = now
            self._answered = int(self._queue.answered)
        self._look_at_ages(self._kernel.figures(), now)
        if not self._late or now - self._late[-1][0] >= SECOND:
            self._late.append((now, late))
        elif late > self._late[-1][1]:
            self._late[-1] = (self._late[-1][0], late)
        if now - self._samples[-1].time >= SECOND:
            self._sample(now)

    def delay(self, now: int) -> int:
        """The most that a tick of the last minute was late."""
        return max((late for when, late in self._late if now - when <= SPAN * SECOND), default=0)

    def grown(self, name: str, seconds: int, now: int) -> tuple[int, float]:
        """How much a counter has grown in the last so many seconds, and in how many this was (fewer at the start)."""
        place = self.names.index(name)
        begin = self._samples[0]
        for sample in self._samples:
            if now - sample.time >= seconds * SECOND:
                begin = sample
        return max(self._counters[name]() - begin.counts[place], 0), max(now - begin.time, 1) / SECOND

    def rate(self, name: str, seconds: int, now: int) -> float:
        """The same by the second."""
        count, over = self.grown(name, seconds, now)
        return count / over

    def _sample(self, now: int) -> None:
        self._samples.append(Sample(now, [read() for read in self._counters.values()]))

    def _look_at_ages(self, figures: dict[str, int] | None, now: int) -> None:
        if figures is None:
            self.oldest = None
            return
        numbered, waiting = figures["numbered"], figures["waiting"]
        answered = numbered - waiting
        self.oldest = 0
        if waiting:
            since = self._numbered[0][0] if self._numbered else now  # at least, for one that is older than we are
            for when, count in reversed(self._numbered):
                if (answered - count) & 0xFFFFFFFF < 0x80000000:  # the oldest of those that wait had no number yet
                    since = when
                    break
            self.oldest = now - since
        self._numbered.append((now, numbered))
