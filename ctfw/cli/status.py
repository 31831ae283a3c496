"""`ctfw status`: how the daemon is, on one screen; the first word says it.

Exit code as `systemctl is-system-running` has it: 0 only for ok, 1 for degraded and failing (and 3 when nobody answers,
as everywhere). What the words mean is service/status.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from ctfw.cli import color
from ctfw.cli.socket_option import add_socket
from ctfw.service.client import Client, NotRunning, socket_path
from ctfw.service.kernel_queue import PROC
from ctfw.service.status import DEGRADED, FAILING, OK

BAR: Final = 24  # columns
PATIENCE: Final = 5.0  # seconds; longer than any pause of a daemon that is well
_COLORS: Final = {OK: color.GOOD, DEGRADED: color.DOUBTFUL, FAILING: color.BAD}
_MEBIBYTE: Final = 1 << 20
_MILLISECONDS: Final = 1000


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "status",
        help="say how the daemon is",
        description="Says how the daemon is: first ok, degraded or failing with the reasons, which are about the last "
        "minute and what still holds; then rates, the table, the queue and what was lost, the failure policy, the "
        "rules in force, and what else it does. One that does not answer for five seconds is failing. Exits 0 when it "
        "is ok, 1 when it is degraded or failing, 3 when it is not running.",
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the output")
    color.add_option(parser)
    add_socket(parser)
    parser.set_defaults(handler=status)


def status(arguments: argparse.Namespace) -> int:
    """`ctfw status`; returns the exit code."""
    path = socket_path(arguments.socket)
    try:
        with Client(path, PATIENCE) as client:
            answer = client.call("status")
    except NotRunning as error:
        if not isinstance(error.__cause__, TimeoutError):
            raise
        answer = hung(path)
    if arguments.output == "json":
        json.dump(answer, sys.stdout, indent=2)
        print()
    else:
        for line in screen(answer, color.is_wanted(arguments.color, sys.stdout)):
            print(line)
    return 0 if answer["health"] == OK else 1


def hung(path: str) -> dict[str, Any]:
    """What can be said of a daemon that is there and does not answer."""
    reasons = [f"{path}: somebody listens and has not answered for {PATIENCE:g} s: the daemon hangs"]
    with contextlib.suppress(OSError), open(PROC, encoding="ascii") as file:
        for line in file:
            number, _, waiting, _, _, dropped, *_ = line.split()
            reasons.append(f"queue {number}: waiting={waiting} dropped={dropped}")
    return {"health": FAILING, "reasons": reasons}


def screen(answer: dict[str, Any], colored: bool = False) -> Iterator[str]:
    """The lines."""
    word = color.paint(answer["health"], _COLORS[answer["health"]], colored)
    if "version" not in answer:
        yield f"{word}:"
        yield from _reasons(answer)
        return
    build = "compiled" if answer["compiled"] else "interpreted"
    yield f"{word}: ctfw {answer['version']} ({build}), pid {answer['pid']}, up {duration(answer['uptime'])}"
    yield from _reasons(answer)
    for name, text in _rows(answer, colored):
        yield f"{name + ':':<13}{text}"


def _reasons(answer: dict[str, Any]) -> Iterator[str]:
    for reason in answer["reasons"]:
        yield from textwrap.wrap(reason, 100, initial_indent="  - ", subsequent_indent="    ")


def _rows(answer: dict[str, Any], colored: bool) -> Iterator[tuple[str, str]]:
    for span, title in (("1s", "rate"), ("60s", "last minute")):
        rate = answer["rates"][span]
        said = f"packets/s={rate['received']:g} accepted/s={rate['accepted']:g} dropped/s={rate['dropped']:g}"
        yield title, f"{said} connections/s={rate['new']:g}"
    yield "connections", _table(answer["connections"], colored)
    yield from _queue(answer["queue"])
    yield "failure", " ".join(f"{name}={fate}" for name, fate in answer["failure"].items())
    yield "unjudged", _unjudged(answer["unjudged"])
    if answer["unjudged"]["unavailable"]:
        yield "note", answer["unjudged"]["unavailable"]
    yield from _rules(answer["rules"])
    watchdog = f"{answer['watchdog']:g}s" if answer["watchdog"] else "off"
    delay = answer["delay"] * _MILLISECONDS
    yield "watchdog", f"{watchdog} last_progress={answer['progress']:.1f}s loop_delay={delay:.1f}ms in the last minute"
    log = answer["log"]
    yield "log", f"sink={log['sink']} packets={log['packets']} suppressed={log['suppressed']} lost={log['lost']}"
    yield "clients", f"connected={answer['control']['clients']} dropped={answer['control']['dropped']}"
    kept = answer["recorder"]
    if kept:
        used = f"{kept['used'] / _MEBIBYTE:.1f} of {kept['memory'] / _MEBIBYTE:g} MiB"
        yield "recorder", f"seconds={kept['seconds']} packets={kept['kept']} used={used}"
    eve = answer["eve"]
    if eve:
        wrong = f" error={eve['error']}" if eve["error"] else ""
        yield "eve", f"{eve['path']} written={eve['written']} suppressed={eve['suppressed']} lost={eve['lost']}{wrong}"
    record = answer["record"]
    if record:
        wrong = f" error={record['error']}" if record["error"] else ""
        yield (
            "record",
            f"{record['path']} written={record['written']} slow={record['slow']} ended={record['ended']}{wrong}",
        )
    for note in answer["notes"]:
        yield "note", note


def _table(connections: dict[str, Any], colored: bool) -> str:
    entries, most = connections["entries"], connections["max"]
    tail = f"early_drop={connections['early_drop']} insert_failed={connections['insert_failed']}"
    if not most:
        return f"entries={entries} max=unlimited {tail}"
    share = min(entries / most, 1.0)
    full = round(share * BAR)
    paint = color.BAD if share >= 0.9 else color.DOUBTFUL if share >= 0.7 else color.GOOD
    bar = color.paint("#" * full, paint, colored) + "." * (BAR - full)
    return f"[{bar}] {share:.0%} entries={entries} max={most} {tail}"


def _queue(queue: dict[str, Any]) -> Iterator[tuple[str, str]]:
    kernel = queue["kernel"]
    waiting = "?" if kernel is None else kernel["waiting"]
    oldest = "?" if queue["oldest"] is None else f"{queue['oldest']:.1f}s"
    yield (
        "queue",
        f"number={queue['number']} waiting={waiting}/{queue['maxlen']} oldest={oldest}"
        f" gso={'on' if queue['gso'] else 'off'} copy_range={queue['copy_range']}",
    )
    yield "packets", f"received={queue['received']} answered={queue['answered']} errors={queue['errors']}"
    if kernel is None:
        yield "losses", f"socket={queue['lost']} queue_full=unavailable"
        yield "note", "what the queue dropped is for root to read: the unit's SupplementaryGroups=root gives it to ctfw"
    else:
        yield "losses", f"socket={queue['lost']} queue_full={kernel['queue_dropped']}"


def _unjudged(figures: dict[str, Any]) -> str:
    """Packets that nobody judged, by why and what became of them."""
    known = [
        f"{why}: passed={_known(counts['accept'])} dropped={_known(counts['drop'])}"
        for why, counts in figures["unjudged"].items()
    ]
    return ", ".join(known)


def _known(count: int | None) -> str:
    return "unavailable" if count is None else str(count)


def _rules(rules: dict[str, Any]) -> Iterator[tuple[str, str]]:
    since = moment(rules["loaded"])
    yield "rules", f"{rules['path']} count={rules['count']} generation={rules['generation']} loaded={since}"
    result = "ok" if rules["successful"] else "failed"
    counts = rules["reloads"]
    if rules["last_good"] is not None:
        yield "LAST GOOD", f"rules of {moment(rules['last_good']['saved'])}, not the file: {rules['last_good']['why']}"
    if rules["trial"] is not None:
        left = rules["trial"]["seconds"]
        yield "ON TRIAL", f"the old rules come back in {left} s; to keep these: ctfw reload --confirmed"
    yield "reload", f"last={result} at={moment(rules['tried'])} done={counts['done']} failed={counts['failed']}"


def moment(unix: float) -> str:
    """As RFC 3339 has it."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def duration(seconds: int) -> str:
    """As 3d 04:05:06."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock
