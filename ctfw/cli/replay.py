"""`ctfw replay`: a capture judged under a rule file, a line a packet, and the sums at the end.

This file owns the words and columns; what is judged and how is in `tools/replay.py`. The capture is read as a
stream: a line is printed before the next packet is read, so a broken file is an error (exit 1) after
everything that came before its broken place.

With --against it is judged under two rule files, and the lines are the connections whose verdict differs
(`tools/difference.py`, `cli/changes.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import BinaryIO, Final, TextIO

from ctfw import config
from ctfw.cli import changes
from ctfw.cli.changes import counted, rfc3339
from ctfw.cli.problems import print_problems
from ctfw.config import Config
from ctfw.nfqueue import UNVERIFIED, VERIFIED
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service.record import Annotation
from ctfw.tools.capture import CaptureError, Frame, Gaps, open_capture, read
from ctfw.tools.difference import Difference
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
        "chain, interfaces and mark; for others they are taken from the options. With --against, prints the "
        "connections that two rule files judge otherwise: exit status 0 when there are none, 1 when there are.",
    )
    parser.add_argument("file", metavar="FILE", help="the capture; - is standard input")
    parser.add_argument("--rules", metavar="FILE", required=True, help="the rule file")
    parser.add_argument(
        "--against",
        metavar="FILE",
        help="an older rule file: print only the connections whose verdict differs from that; exit 1 if any does",
    )
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
        against = config.load(arguments.against) if arguments.against is not None else None
    except config.ConfigError as error:
        print_problems(error.problems)
        return 1
    print_problems(loaded.warnings)
    checksum = UNVERIFIED if arguments.checksum else VERIFIED
    given = Annotation(HOOK_NAMES.index(arguments.chain), arguments.indev, arguments.outdev, 0, checksum)
    as_json = arguments.output == "jsonl"
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open_capture(arguments.file))
        except OSError as error:
            return _fail(f"{arguments.file}: {error.strerror or error}")
        if against is not None:
            return _compare(Difference(against, loaded, given), stream, arguments.file, as_json)
        replay = Replay(loaded, given)
        gaps = Gaps()
        broken = _print_results(replay, stream, gaps, loaded, as_json)
    sys.stdout.flush()  # the lines come before the sums also where both streams go to one place
    out = sys.stderr if as_json else sys.stdout
    print("\n".join(summary_lines(replay.summary, gaps, loaded)), file=out)
    return _fail(f"{arguments.file}: {broken}") if broken else 0


def _compare(difference: Difference, stream: BinaryIO, name: str, as_json: bool) -> int:
    """Prints what differs between the two rule files; returns the exit code."""
    progress = Progress(stream, sys.stderr) if sys.stderr.isatty() else None
    gaps = Gaps()
    frames = read(stream, gaps)
    broken = ""
    try:
        difference.judge(frames if progress is None else progress.watch(frames))
    except CaptureError as error:
        broken = str(error)
    finally:
        if progress is not None:
            progress.clear()
    found = difference.changes
    for line in changes.json_lines(found) if as_json else changes.table_lines(found):
        print(line)
    sys.stdout.flush()
    print("\n".join(difference_lines(difference, gaps)), file=sys.stderr if as_json else sys.stdout)
    if broken:
        return _fail(f"{name}: {broken}")
    return 1 if found.packets else 0


def _print_results(replay: Replay, stream: BinaryIO, gaps: Gaps, loaded: Config, as_json: bool) -> str:
    """Prints every result; returns what is wrong with the capture, or nothing."""
    progress = Progress(stream, sys.stderr) if sys.stderr.isatty() and not sys.stdout.isatty() else None
    frames = read(stream, gaps) if progress is None else progress.watch(read(stream, gaps))
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


def difference_lines(difference: Difference, gaps: Gaps) -> list[str]:
    """The sums of a comparison."""
    found = difference.changes
    old, new = difference.old.summary, difference.new.summary
    concerned = f"{found.packets} with another verdict, {counted(found.bytes, 'byte')}"
    lines = [f"packets      {new.packets} judged, {concerned}", *_notes(new, gaps)]
    lines += [f"connections  {len(found)} with another verdict", *changes.beyond_line(found)]
    for title, summary in (("was", old), ("now", new)):
        sums = ", ".join(f"{name} {count}" for name, count in summary.verdicts.most_common())
        lines.append(f"{title:<11}  {sums or 'nothing'}")
    return lines


def summary_lines(summary: Summary, gaps: Gaps, loaded: Config) -> list[str]:
    """The sums at the end."""
    lines = ["", f"packets      {summary.packets}", *_notes(summary, gaps)]
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
                origin = f" ({rule.origin})" if rule.origin else ""
                lines.append(f"{count:>11}  {rule.name}{origin}{' offload' * rule.offload}")
    lines.append(f"connections  {summary.connections} at the end, of at most {loaded.settings.max}")
    return lines


def _notes(summary: Summary, gaps: Gaps) -> list[str]:
    notes = (
        ("missing in the capture, as it says itself; what follows may be judged otherwise", gaps.missing),
        ("frames without IP, skipped", summary.not_ip),
        ("captured in part, checksum not verified", summary.cut),
        ("older than a frame before, clock held", summary.backwards),
        ("without a time, clock held", summary.timeless),
        ("comments like the recorder's, not understood", summary.annotations_ignored),
    )
    return [f"             {what}: {count}" for what, count in notes if count]


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
