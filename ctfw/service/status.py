"""What `ctfw status` says: how the daemon is, in one answer.

Owns the parts of the running daemon that figures are read from (``Parts``, which metrics reads too), the answer made of
them, and the judgement of its health. Health is about now: what went wrong within the last minute, or is wrong still.
A counter that grew last week is for metrics; whoever looks at `status` at night wants to know whether to get up.

* ``failing``: packets wait and nothing moves, none comes because the hook is gone, or all is shut by hand.
* ``degraded``: packets are judged, but something is lost, refused, or not as the admin wrote it.
* ``ok``: neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ctfw import __version__, engine
from ctfw.engine import Engine
from ctfw.nfqueue import Queue
from ctfw.reason import SOURCE_FULL, TABLE_FULL
from ctfw.ruleset.verdict import ACCEPT, DROP
from ctfw.service.control import Control
from ctfw.service.eve_log import EveLog
from ctfw.service.events import EventStream
from ctfw.service.failure import GONE, Account
from ctfw.service.flight import Flight
from ctfw.service.journal import Journal
from ctfw.service.kernel_queue import KernelQueue
from ctfw.service.notify import Notifier
from ctfw.service.packet_log import PacketLog
from ctfw.service.pulse import SPAN, Pulse
from ctfw.service.recorder import Recorder
from ctfw.service.reloading import Reloading

SECOND: Final = 1_000_000_000
PATIENCE: Final = 2 * SECOND  # packets wait and nothing moves: longer than any pause of ours, shorter than a watchdog
NEARLY_FULL: Final = 90  # per cent of the table

OK: Final = "ok"
DEGRADED: Final = "degraded"
FAILING: Final = "failing"


@dataclass(frozen=True)
class Parts:
    """The running daemon's parts that figures are read from. ``started`` is on the daemon's clock."""

    started: int
    number: int
    engine: Engine
    queue: Queue
    kernel: KernelQueue
    account: Account
    reloading: Reloading
    journal: Journal
    packet_log: PacketLog
    control: Control
    flight: Flight
    notifier: Notifier
    pulse: Pulse
    events: EventStream
    eve: EveLog
    recorder: Recorder | None


def watched(
    engine: Engine, queue: Queue, kernel: KernelQueue, journal: Journal, account: Account
) -> dict[str, Callable[[], int]]:
    """The counters whose last minute is wanted (see ``Pulse``)."""
    counters, stats = engine.counters, engine.tracker.stats
    return {
        "received": lambda: int(queue.received),
        "accepted": lambda: sum(hook[ACCEPT] for hook in counters.packets),
        "dropped": lambda: sum(hook[DROP] for hook in counters.packets),
        "new": lambda: int(stats.insert),
        "lost": lambda: int(queue.lost),
        "queue_full": lambda: (kernel.figures() or {}).get("queue_dropped", 0) + account.passed(),
        "error": lambda: int(queue.errors + queue.malformed),
        "table_full": lambda: counters.reasons[TABLE_FULL],
        "source_full": lambda: counters.reasons[SOURCE_FULL],
        "log_lost": lambda: journal.lost,
    }


def queue_counters(queue: Queue, kernel: KernelQueue) -> dict[str, Any]:
    """The queue's own counters and, where they may be read, the kernel's of it (else None)."""
    return {
        "received": queue.received,
        "answered": queue.answered,
        "lost": queue.lost,
        "errors": queue.errors,
        "malformed": queue.malformed,
        "uncheckable": queue.uncheckable,
        "overruns": queue.overruns,
        "refused": queue.refused,
        "retries": queue.retries,
        "kernel": kernel.figures(),
    }


def answer(parts: Parts, now: int) -> dict[str, Any]:
    """The whole answer."""
    pulse, reloading, tracker = parts.pulse, parts.reloading, parts.engine.tracker
    recent = {name: pulse.grown(name, SPAN, now)[0] for name in pulse.names}
    told: dict[str, Any] = {
        "version": __version__,
        "compiled": not str(engine.__file__).endswith(".py"),
        "pid": os.getpid(),
        "uptime": (now - parts.started) // SECOND,
        "rules": {"path": os.path.abspath(reloading.path), **reloading.figures()},
        "connections": {
            "entries": len(tracker.table),
            "max": tracker.settings.max,
            "early_drop": tracker.stats.early_drop,
            "insert_failed": tracker.stats.insert_failed,
        },
        "rates": {
            f"{seconds}s": {
                name: round(pulse.rate(name, seconds, now), 1) for name in ("received", "accepted", "dropped", "new")
            }
            for seconds in (1, SPAN)
        },
        "queue": {
            "number": parts.number,
            "gso": parts.kernel.gso,
            "copy_range": parts.kernel.copy_range,
            "maxlen": parts.kernel.maxlen,
            "oldest": None if pulse.oldest is None else pulse.oldest / SECOND,
            **queue_counters(parts.queue, parts.kernel),
        },
        "failure": dict(reloading.config.failure),
        "unjudged": parts.account.figures(),
        "recent": recent,
        "progress": (now - pulse.progress) / SECOND,
        "delay": pulse.delay(now) / SECOND,
        "watchdog": parts.notifier.watchdog_ns / SECOND,
        "log": {
            "sink": parts.journal.sink,
            "lost": parts.journal.lost,
            "packets": parts.packet_log.lines,
            "suppressed": parts.packet_log.suppressed + parts.journal.suppressed,
        },
        "control": {"clients": parts.control.count, "dropped": parts.control.dropped},
        "record": parts.recorder.figures() if parts.recorder is not None else None,
        "recorder": parts.flight.figures(now),
        "events": parts.events.figures(),
        "eve": parts.eve.figures(),
        "notes": parts.kernel.notes,
    }
    told["health"], told["reasons"] = health(told)
    return told


def health(told: dict[str, Any]) -> tuple[str, list[str]]:
    """One word for it, and what it is for; ``told`` is the answer without it."""
    failing = []
    queue = told["queue"]
    waiting = queue["kernel"]["waiting"] if queue["kernel"] is not None else 0
    if waiting and told["progress"] * SECOND > PATIENCE:
        failing.append(f"{waiting} packets wait and nothing has moved for {told['progress']:.1f} s")
    panic = told["rules"]["panic"]
    if panic is not None:
        failing.append(f"panic: everything is dropped for {panic['seconds']} s more; `ctfw panic off` ends it")
    if told["unjudged"]["unhooked"] and not told["unjudged"]["replaced"]:
        failing.append(f"the kernel's rules that send packets here are gone: {GONE}")
    degraded = _of_rules(told["rules"]) + _of_policy(told) + _of_last_minute(told)
    entries, most = told["connections"]["entries"], told["connections"]["max"]
    if most and entries * 100 >= most * NEARLY_FULL:
        degraded.append(f"the table is {entries * 100 // most} % full: entries={entries} max={most}")
    word = FAILING if failing else DEGRADED if degraded else OK
    return word, failing + degraded


def _of_rules(rules: dict[str, Any]) -> list[str]:
    said = []
    if rules["last_good"] is not None:
        said.append("the file's rules are broken, the last good ones are in force; see `ctfw check`")
    elif not rules["successful"]:
        said.append("the last reload failed, the rules before are in force; see `ctfw check`")
    return said


def _of_policy(told: dict[str, Any]) -> list[str]:
    if told["unjudged"]["replaced"]:
        return ["packets come by other rules than the hook's, which are gone; `ctfw hook apply` puts them back"]
    wanted, in_force = told["failure"]["no_listener"], told["unjudged"]["in_force"]["no_listener"]
    if in_force in (None, wanted):
        return []
    return [f"the kernel's rules say no_listener={in_force}, the file {wanted}; run 'ctfw hook apply'"]


def _of_last_minute(told: dict[str, Any]) -> list[str]:
    recent, failure = told["recent"], told["failure"]
    sentences = (
        ("lost", "packets were lost on their way to ctfw"),
        ("queue_full", f"packets found the queue full (failure.queue_full: {failure['queue_full']})"),
        ("error", f"packets met an error of ctfw (failure.error: {failure['error']})"),
        ("table_full", "packets found the table of connections full"),
        ("source_full", "packets came from a source that has its share of the table"),
        ("log_lost", "lines of the log were lost"),
    )
    return [f"{recent[name]} {text} in the last minute" for name, text in sentences if recent[name]]
