"""What an admin must hear without asking: packets that got lost, refused, or judged by nobody.

Each row watches one counter that only grows. When it has grown, a line says by how much and what to do about it; the
next one comes PAUSE later at the earliest and carries all that happened meanwhile, so that a flood costs lines by the
clock and never by the packet. What was there before the start (a queue may live longer than the daemon) is not news.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ctfw.engine import Engine
from ctfw.nfqueue import Queue
from ctfw.reason import SOURCE_FULL as SOURCE_FULL_REASON
from ctfw.reason import TABLE_FULL as TABLE_FULL_REASON
from ctfw.ruleset.limit import Limit
from ctfw.service.journal import WARNING, Journal
from ctfw.service.kernel_queue import KernelQueue
from ctfw.service.kinds import FAILURE_POLICY, QUEUE_OVERRUN, SOURCE_FULL, TABLE_FULL, Kind

PAUSE: Final = 5_000_000_000
TABLE_FULL_TEXT: Final = (
    "nf_conntrack: table full, dropping packet"  # the kernel's own words: people's alarms look for them
)


class _Watched:
    def __init__(self, kind: Kind, read: Callable[[], int], say: Callable[[int], str]) -> None:
        self.kind = kind
        self.read = read
        self.say = say
        self.seen = read()
        self.limit = Limit(PAUSE, 1)


class Alarms:
    """The counters that are watched; ``watch`` adds one."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._watched: list[_Watched] = []

    def watch(self, kind: Kind, read: Callable[[], int], say: Callable[[int], str]) -> None:
        """From now on, tell when ``read()`` has grown; ``say`` makes the line of the difference."""
        self._watched.append(_Watched(kind, read, say))

    def tick(self, now: int) -> None:
        """Look at all of them; about once a second."""
        for one in self._watched:
            total = one.read()
            grown = total - one.seen
            if grown > 0 and one.limit.take(now):
                self._journal.log(one.say(grown), WARNING, {"CTFW_COUNT": str(grown)}, one.kind)
                one.seen = total


def watch_packets(
    alarms: Alarms, engine: Engine, queue: Queue, kernel: KernelQueue, failure: Callable[[], Mapping[str, str]]
) -> None:
    """The alarms of one engine and its queue. ``failure`` says which failure policy is in force."""
    reasons = engine.counters.reasons
    settings = engine.tracker
    alarms.watch(
        TABLE_FULL,
        lambda: reasons[TABLE_FULL_REASON],
        lambda count: f"{TABLE_FULL_TEXT}: dropped={count} max={settings.settings.max}; raise conntrack.max",
    )
    alarms.watch(
        SOURCE_FULL,
        lambda: reasons[SOURCE_FULL_REASON],
        lambda count: f"a source has its share of the table: dropped={count} per_source={settings.settings.per_source}",
    )
    alarms.watch(
        QUEUE_OVERRUN,
        lambda: queue.lost,
        lambda count: f"packets lost on their way to ctfw: lost={count}; ctfw is too slow for a burst: see ctfw doctor",
    )
    alarms.watch(
        FAILURE_POLICY,
        lambda: queue.errors + queue.malformed,
        lambda count: f"failure policy at work: error={failure()['error']} packets={count}",
    )
    alarms.watch(
        FAILURE_POLICY,
        lambda: (kernel.figures() or {}).get("queue_dropped", 0),
        lambda count: f"failure policy at work: queue_full=drop packets={count}; see ctfw doctor",
    )
