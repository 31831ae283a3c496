"""Prometheus' figures: what ctfw counts, one table, FAMILIES.

A row is a metric's name, type, help, labels, and how it is read from the daemon's parts. The documentation's table is
held against it by a test, and so are the dashboard and the alert rules in packaging/. How a row is written is
metrics.py's.

What goes into a label is bounded by the program or by the admin, never by a packet: chains, verdicts, states, reasons,
cases of the failure policy, names of rules and sets in the rule file. No address and no port, ever. Of rules the first
MOST_RULES have figures of their own (``ctfw_rules`` says how many there are).

A family whose figure cannot be known here (the kernel's own of the queue, for a daemon that may not read them) has no
sample, rather than a wrong one. Every other series is there from the start, with 0, so that its first increase shows.
"""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ctfw import __version__, engine
from ctfw.packet import HOOK_NAMES
from ctfw.reason import FRAGMENT_OVERLAP, NAMES, TABLE_FULL
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.verdict import ACCEPT, DROP
from ctfw.service.status import DEGRADED, FAILING, OK, SECOND, Parts, answer

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
MOST_RULES: Final = 10_000

Samples = Iterable[tuple[tuple[str, ...], float]]


@dataclass(frozen=True)
class Family:
    """``read`` gives a value for each combination of the values of ``labels`` that there is."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[Parts], Samples]


def _plain(name: str, kind: str, text: str, read: Callable[[Parts], float | None]) -> Family:
    """A family of one sample without labels; None: it is not known."""

    def samples(parts: Parts) -> Samples:
        value = read(parts)
        return [] if value is None else [((), value)]

    return Family(name, kind, text, (), samples)


def _stat(name: str, text: str) -> Family:
    """One of the counters that `conntrack -S` knows."""
    return _plain(
        f"ctfw_conntrack_{name}_total", COUNTER, text, lambda parts: int(getattr(parts.engine.tracker.stats, name))
    )


def _build(parts: Parts) -> Samples:
    compiled = "no" if str(engine.__file__).endswith(".py") else "yes"
    return [((__version__, platform.python_version(), compiled), 1)]


def _reasons(is_invalid: bool) -> Callable[[Parts], Samples]:
    """By reason, either those that make a packet INVALID or those of packets that conntrack itself dropped."""
    invalid = {*range(TABLE_FULL), FRAGMENT_OVERLAP}
    wanted = [number for number in range(1, len(NAMES)) if (number in invalid) == is_invalid]

    def samples(parts: Parts) -> Samples:
        reasons = parts.engine.counters.reasons
        return [((NAMES[number],), reasons[number]) for number in wanted]

    return samples


def _by_hook(of: str) -> Callable[[Parts], Samples]:
    def samples(parts: Parts) -> Samples:
        counts: list[list[int]] = getattr(parts.engine.counters, of)
        for hook, name in enumerate(HOOK_NAMES):
            yield (name, "accept"), counts[hook][ACCEPT]
            yield (name, "drop"), counts[hook][DROP]

    return samples


def _rules(value: Callable[[Rule], int]) -> Callable[[Parts], Samples]:
    def samples(parts: Parts) -> Samples:
        ruleset = parts.reloading.config.ruleset  # a panic's rules have its names, and counters that go back
        for rule in ruleset.policies.values():
            yield (rule.name,), value(rule)
        for rule in islice(ruleset.every, MOST_RULES):
            yield (rule.name,), value(rule)

    return samples


def _sets(value: Callable[..., int]) -> Callable[[Parts], Samples]:
    return lambda parts: [((name,), value(one)) for name, one in parts.engine.ruleset.sets.items()]


def _kernel(name: str) -> Callable[[Parts], float | None]:
    """A figure of the kernel's own about the queue."""

    def read(parts: Parts) -> float | None:
        figures = parts.kernel.figures()
        return None if figures is None else figures[name]

    return read


def _dropped(parts: Parts) -> Samples:
    figures = parts.kernel.figures()
    if figures is not None:
        yield ("queue",), figures["queue_dropped"]
    yield ("socket",), int(parts.queue.lost)


def _failures(parts: Parts) -> Samples:
    for event, counts in parts.account.figures()["unjudged"].items():
        for verdict, count in counts.items():
            if count is not None:
                yield (event, verdict), count


def _resident(parts: Parts) -> float:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # a sandbox without /proc: the most there ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _health(parts: Parts) -> Samples:
    word = answer(parts, time.monotonic_ns())["health"]
    return [((one,), int(one == word)) for one in (OK, DEGRADED, FAILING)]


def _states(parts: Parts) -> Samples:
    return [((name or "dropped",), count) for name, count in parts.engine.counters.by_state().items()]


def _policy(parts: Parts) -> Samples:
    """As the kernel has it; as the file wants it where the kernel cannot be asked."""
    in_force = parts.account.figures()["in_force"]
    return [((event, in_force[event] or wanted), 1) for event, wanted in parts.reloading.config.failure.items()]


def _reloads(parts: Parts) -> Samples:
    return [((result,), count) for result, count in parts.reloading.counts.items()]


def _of_queue(name: str) -> Callable[[Parts], float]:
    return lambda parts: int(getattr(parts.queue, name))


def _eve(parts: Parts) -> Samples:
    eve = parts.eve
    return [(("written",), eve.written()), (("lost",), eve.lost()), (("suppressed",), eve.suppressed)]


def _record(parts: Parts) -> Samples:
    """Nothing when nothing is recorded, which only a restart can change."""
    if parts.recorder is not None:
        figures = parts.recorder.figures()
        yield from (((fate,), figures[fate]) for fate in ("written", "slow", "ended"))


def _recorder(name: str) -> Callable[[Parts], float | None]:
    def read(parts: Parts) -> float | None:
        figures = parts.flight.figures(time.monotonic_ns())
        return None if figures is None else figures[name]

    return read


def _seconds_since(then: int) -> float:
    return (time.monotonic_ns() - then) / SECOND


FAMILIES: Final = (
    # The daemon.
    Family("ctfw_build_info", GAUGE, "Always 1; what runs.", ("version", "python", "compiled"), _build),
    _plain("ctfw_uptime_seconds", GAUGE, "Since the daemon started.", lambda p: _seconds_since(p.started)),
    _plain(
        "ctfw_metrics_written_timestamp_seconds", GAUGE, "When this text was made, in Unix time.", lambda p: time.time()
    ),
    _plain("ctfw_resident_memory_bytes", GAUGE, "Memory of the daemon's process.", _resident),
    Family(
        "ctfw_health", GAUGE, "1 for the word that `ctfw status` says first, 0 for the others.", ("state",), _health
    ),
    _plain(
        "ctfw_progress_age_seconds",
        GAUGE,
        "Since verdicts went out or the queue was seen empty; the watchdog is fed by this alone.",
        lambda p: _seconds_since(p.pulse.progress),
    ),
    _plain(
        "ctfw_watchdog_seconds",
        GAUGE,
        "How long without progress until systemd restarts the daemon; 0 means never.",
        lambda p: p.notifier.watchdog_ns / SECOND,
    ),
    _plain(
        "ctfw_loop_delay_seconds",
        GAUGE,
        "The most that the packet loop was late in the last minute.",
        lambda p: p.pulse.delay(time.monotonic_ns()) / SECOND,
    ),
    # Packets.
    Family(
        "ctfw_packets_total", COUNTER, "Packets judged, by chain and verdict.", ("hook", "verdict"), _by_hook("packets")
    ),
    Family("ctfw_bytes_total", COUNTER, "Bytes of the packets judged.", ("hook", "verdict"), _by_hook("bytes")),
    Family("ctfw_state_packets_total", COUNTER, "Packets by their connection tracking state.", ("state",), _states),
    _plain(
        "ctfw_rules", GAUGE, "Rules in force, those of user chains included.", lambda p: len(p.engine.ruleset.every)
    ),
    Family(
        "ctfw_rule_packets_total",
        COUNTER,
        f"Packets by the rule or policy that matched; at most {MOST_RULES} rules.",
        ("rule",),
        _rules(lambda rule: int(rule.packets)),
    ),
    Family(
        "ctfw_rule_bytes_total",
        COUNTER,
        f"Bytes by the rule or policy that matched; at most {MOST_RULES} rules.",
        ("rule",),
        _rules(lambda rule: int(rule.bytes)),
    ),
    Family("ctfw_set_members", GAUGE, "Members of a dynamic set.", ("set",), _sets(len)),
    Family("ctfw_set_members_limit", GAUGE, "Members that it may have.", ("set",), _sets(lambda one: int(one.most))),
    Family(
        "ctfw_set_refused_total",
        COUNTER,
        "Addresses that did not become members because the set was full.",
        ("set",),
        _sets(lambda one: int(one.refused)),
    ),
    # Connections.
    _plain("ctfw_conntrack_entries", GAUGE, "Connections in the table.", lambda p: len(p.engine.tracker.table)),
    _plain(
        "ctfw_conntrack_entries_limit",
        GAUGE,
        "Connections that it may hold (conntrack.max).",
        lambda p: int(p.engine.tracker.settings.max),
    ),
    _plain(
        "ctfw_conntrack_expectations",
        GAUGE,
        "Connections that helpers expect.",
        lambda p: len(p.engine.tracker.expectations()),
    ),
    _stat("insert", "Connections that entered the table."),
    _stat("insert_failed", "Connections that could not enter it because another has their tuple."),
    _stat("early_drop", "Connections that had to make room for others."),
    _stat("expired", "Connections whose time was over."),
    _stat("drop", "Packets dropped by connection tracking itself."),
    _stat("search_restart", "Connections begun anew over one that had ended."),
    _stat("expect_new", "Expected connections that came."),
    _stat("expect_create", "Connections announced by helpers."),
    Family("ctfw_conntrack_invalid_total", COUNTER, "INVALID packets by reason.", ("reason",), _reasons(True)),
    Family(
        "ctfw_conntrack_refused_total",
        COUNTER,
        "Packets that connection tracking itself dropped, by reason.",
        ("reason",),
        _reasons(False),
    ),
    # The queue.
    _plain(
        "ctfw_nfqueue_length", GAUGE, "Packets that wait, by the kernel; absent when not readable.", _kernel("waiting")
    ),
    _plain("ctfw_nfqueue_length_limit", GAUGE, "Packets that may wait.", lambda p: p.kernel.maxlen),
    _plain(
        "ctfw_nfqueue_oldest_packet_age_seconds",
        GAUGE,
        "How long the oldest packet in the queue has waited at most; absent when not readable.",
        lambda p: None if p.pulse.oldest is None else p.pulse.oldest / SECOND,
    ),
    Family(
        "ctfw_nfqueue_dropped_total",
        COUNTER,
        "Packets lost before they were judged: in the queue when it was full, or in the socket behind it.",
        ("where",),
        _dropped,
    ),
    *(
        _plain(f"ctfw_nfqueue_{name}_total", COUNTER, text, _of_queue(name))
        for name, text in (
            ("received", "Packets read from the queue."),
            ("answered", "Packets that got their verdict."),
            ("errors", "Packets on which ctfw itself failed."),
            ("malformed", "Messages of the queue that could not be read."),
            ("uncheckable", "Packets whose checksum nobody could verify, because the copy was cut."),
            ("overruns", "Times that the socket overflowed."),
            ("refused", "Verdicts that the kernel did not take."),
            ("retries", "Times that sending verdicts had to be repeated."),
        )
    ),
    # The failure policy.
    Family("ctfw_failure_policy", GAUGE, "Always 1; the failure policy in force.", ("event", "verdict"), _policy),
    Family(
        "ctfw_failure_packets_total",
        COUNTER,
        "Packets that were not judged by the rules, by why and what became of them; absent where it is not known.",
        ("event", "verdict"),
        _failures,
    ),
    # The rule file.
    _plain(
        "ctfw_config_last_reload_successful",
        GAUGE,
        "1 when the rule file came into force the last time it was read.",
        lambda p: int(p.reloading.successful),
    ),
    _plain(
        "ctfw_config_last_reload_timestamp_seconds",
        GAUGE,
        "When the rule file was last read, in Unix time.",
        lambda p: p.reloading.tried,
    ),
    _plain(
        "ctfw_config_last_reload_success_timestamp_seconds",
        GAUGE,
        "Since when the rules in force are in force, in Unix time.",
        lambda p: p.reloading.since,
    ),
    Family("ctfw_config_reloads_total", COUNTER, "Reloads by their result.", ("result",), _reloads),
    _plain(
        "ctfw_config_last_good",
        GAUGE,
        "1 while the last good rules are in force, because the rule file could not be used.",
        lambda p: int(p.reloading.begun.why != ""),
    ),
    _plain(
        "ctfw_config_on_trial",
        GAUGE,
        "1 while rules are in force that are still to be confirmed.",
        lambda p: int(p.reloading.trial is not None),
    ),
    _plain(
        "ctfw_panic",
        GAUGE,
        "1 while everything is dropped by hand.",
        lambda p: int(p.reloading.panic.left() is not None),
    ),
    _plain("ctfw_config_generation", GAUGE, "Of the rules in force.", lambda p: int(p.engine.ruleset.generation)),
    # The log, the control socket, the flight recorder.
    _plain("ctfw_log_packet_lines_total", COUNTER, "Lines about packets.", lambda p: p.packet_log.lines),
    Family(
        "ctfw_log_suppressed_lines_total",
        COUNTER,
        "Lines held back by a limit: of a rule, or of a kind of event; counted when it is told.",
        ("limit",),
        lambda p: [(("rule",), p.packet_log.suppressed), (("event",), p.journal.suppressed)],
    ),
    _plain("ctfw_log_lost_lines_total", COUNTER, "Lines that found no room or no reader.", lambda p: p.journal.lost),
    _plain("ctfw_control_clients", GAUGE, "Clients of the control socket.", lambda p: p.control.count),
    _plain(
        "ctfw_control_dropped_clients_total",
        COUNTER,
        "Clients that took too much room or time, or made room for others.",
        lambda p: p.control.dropped,
    ),
    _plain(
        "ctfw_events_lost_total",
        COUNTER,
        "Events of connections that nobody took in time.",
        lambda p: p.events.figures()["lost"],
    ),
    Family("ctfw_eve_records_total", COUNTER, "Records of the EVE log by their fate.", ("result",), _eve),
    Family(
        "ctfw_record_packets_total",
        COUNTER,
        "Packets of the recording (--record) by their fate: written, left out because what it is written to was too "
        "slow, or because it had ended; absent without one.",
        ("result",),
        _record,
    ),
    _plain("ctfw_recorder_bytes", GAUGE, "What the flight recorder holds; absent when it is off.", _recorder("used")),
    _plain("ctfw_recorder_bytes_limit", GAUGE, "What it may hold; absent when it is off.", _recorder("memory")),
    _plain("ctfw_recorder_age_seconds", GAUGE, "How far back it reaches; absent when it is off.", _recorder("seconds")),
)
