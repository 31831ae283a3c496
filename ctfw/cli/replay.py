"""`ctfw replay`: a capture judged under a rule file, a line a packet, and the sums at the end.

This file owns the words and columns; what is judged and how is in `tools/replay.py`. The capture is read as a
stream: a line is printed before the next packet is read, so a broken file is an error (exit 1) after
everything that came before its broken place.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import lru_cache
from typing import BinaryIO, Final, TextIO

from ctfw import config
from ctfw.config import Config
from ctfw.nfqueue import UNVERIFIED, VERIFIED
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service.record import Annotation
from ctfw.tools.capture import CaptureError, Frame, open_capture, read
from ctfw.tools.replay import Replay, Result, Summary

CHAINS: Final = (HOOK_NAMES[INPUT], HOOK_NAMES[FORWARD], HOOK_NAMES[OUTPUT])
PACKET_WIDTH: Final = 88  # most packets in words; longer ones push their line to the right
MAX_RULE_WIDTH: Final = 30
PROGRESS_INTERVAL: Final = 0.2
PROGRESS_FRAMES: Final = 512  # between two looks at the clock


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "replay",
        help="judge the packets of a capture under a rule file",
        description="Judges every packet of a capture (pcap or pcapng, also gzipped) as the daemon would, "
        "with the times of the capture as the clock. Packets that `ctfw run --record` wrote carry their "
        "chain, interfaces and mark; for others they are taken from the options.",
    )
    parser.add_argument("file", metavar="FILE", help="the capture; - is standard input")
    parser.add_argument("--rules", metavar="FILE", required=True, help="the rule file")
    parser.add_argument(
        "--chain",
        choices=CHAINS,
        default=HOOK_NAMES[FORWARD],
        help="the packets' chain (default: %(default)s)",
    )
    parser.add_argument("--in", dest="indev", metavar="NAME", default="", help="the interface they came in by")
    parser.add_argument("--out", dest="outdev", metavar="NAME", default="", help="the interface they leave by")
    parser.add_argument(
        "--checksum",
        action="store_true",
        help="verify transport checksums; a capture made on the sending machine has wrong ones where the "
        "network card fills them in",
    )
    parser.add_argument("-o", "--output", choices=("table", "jsonl"), default="table", help="form of the output")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; returns the exit code."""
    try:
        loaded = config.load(arguments.rules)
    except config.ConfigError as error:
        _print_problems(error.problems)
        return 1
    _print_problems(loaded.warnings)
    checksum = UNVERIFIED if arguments.checksum else VERIFIED
    given = Annotation(HOOK_NAMES.index(arguments.chain), arguments.indev, arguments.outdev, 0, checksum)
    replay = Replay(loaded, given)
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open_capture(arguments.file))
        except OSError as error:
            return _fail(f"{arguments.file}: {error.strerror or error}")
        broken = _print_results(replay, stream, loaded, arguments.output == "jsonl")
    sys.stdout.flush()  # the lines come before the sums also where both streams go to one place
    out = sys.stdout if arguments.output == "table" else sys.stderr
    print("\n".join(summary_lines(replay.summary, loaded)), file=out)
    return _fail(f"{arguments.file}: {broken}") if broken else 0


def _print_results(replay: Replay, stream: BinaryIO, loaded: Config, as_json: bool) -> str:
    """Prints every result; returns what is wrong with the capture, or nothing."""
    progress = Progress(stream, sys.stderr) if sys.stderr.isatty() and not sys.stdout.isatty() else None
    frames = read(stream) if progress is None else progress.watch(read(stream))
    rules = [*loaded.ruleset.rules, *loaded.ruleset.policies.values()]
    rule_width = min(max(len(rule.name) for rule in rules), MAX_RULE_WIDTH)
    write = sys.stdout.write
    try:
        for result in replay.judge(frames):
            write(json_line(result) if as_json else table_line(result, rule_width))
    except CaptureError as error:
        return str(error)
    finally:
        if progress is not None:
            progress.clear()
    return ""


def _print_problems(problems: Sequence[config.Problem]) -> None:
    color = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    for problem in problems:
        print(config.render(problem, color), file=sys.stderr)


def table_line(result: Result, rule_width: int) -> str:
    """One line of the table, with its line end."""
    line = (
        f"{result.number:>6}  {rfc3339(result.time)}  {result.packet:<{PACKET_WIDTH}}  "
        f"{result.state or '-':<11}  {result.direction or '-':<8}  {result.verdict:<6}  "
        f"{result.rule or '-':<{rule_width}}  {result.reason}"
    )
    return line.rstrip() + "\n"


def json_line(result: Result) -> str:
    """One JSON object, with its line end; null where there is nothing to say."""
    members: Mapping[str, int | str | None] = {
        "n": result.number,
        "time": rfc3339(result.time),
        "packet": result.packet,
        "state": result.state or None,
        "direction": result.direction or None,
        "verdict": result.verdict,
        "rule": result.rule or None,
        "reason": result.reason or None,
    }
    return json.dumps(members) + "\n"


def summary_lines(summary: Summary, loaded: Config) -> list[str]:
    """The sums at the end."""
    lines = ["", f"packets      {summary.packets}"]
    notes = (
        ("frames without IP, skipped", summary.not_ip),
        ("captured in part, checksum not verified", summary.cut),
        ("older than a frame before, clock held", summary.backwards),
        ("without a time, clock held", summary.timeless),
        ("comments like the recorder's, not understood", summary.annotations_ignored),
    )
    lines += [f"             {what}: {count}" for what, count in notes if count]
    for title, counts in (
        ("verdicts", summary.verdicts),
        ("states", summary.states),
        ("reasons", summary.reasons),
    ):
        if counts:
            sums = ", ".join(f"{name or 'none'} {count}" for name, count in counts.most_common())
            lines.append(f"{title:<11}  {sums}")
    if summary.rules:
        lines.append("rules")
        for rule, count in summary.rules.most_common():
            if rule is None:
                lines.append(f"{count:>11}  no rule: connection tracking itself")
            else:
                lines.append(f"{count:>11}  {rule.name}" + (f" ({rule.origin})" if rule.origin else ""))
    lines.append(f"connections  {summary.connections} at the end, of at most {loaded.settings.max}")
    return lines


def rfc3339(nanoseconds: int) -> str:
    """A time since 1970 as RFC 3339 writes it, to the nanosecond."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{fraction:09}Z"


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Progress:
    """One line on a terminal that says how far the reading is; rewritten in place and cleared at the end."""

    def __init__(self, stream: BinaryIO, terminal: TextIO) -> None:
        self._terminal = terminal
        self._file = stream.fileno()
        status = os.fstat(self._file)
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self._next = time.monotonic() + PROGRESS_INTERVAL

    def watch(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The same frames; the line is renewed as they pass."""
        for number, frame in enumerate(frames):
            if number % PROGRESS_FRAMES == 0 and time.monotonic() >= self._next:
                self._show(number)
            yield frame

    def clear(self) -> None:
        self._terminal.write("\r\x1b[K")
        self._terminal.flush()

    def _show(self, number: int) -> None:
        self._next = time.monotonic() + PROGRESS_INTERVAL
        # The descriptor's position: right for gzip as well, ahead of the packets by one buffer.
        share = f" {100 * os.lseek(self._file, 0, os.SEEK_CUR) // self._size} %" if self._size else ""
        self._terminal.write(f"\r\x1b[Kreplay:{share} {number} frames")
        self._terminal.flush()


def _fail(message: str) -> int:
    print(f"ctfw: replay: {message}", file=sys.stderr)
    return 1
