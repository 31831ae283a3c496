"""`ctfw test`: the tests of a rule file, played; or a test written from a captured conversation.

Every test is a line, and one that fails is shown step by step with what differs. Exit 1 when one fails, or when a file
has errors. With `--from-pcap` the test goes to standard output as YAML, ready to be put under `tests:`, and what is to
be said about it to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys

from ctfw import config
from ctfw.cli.problems import print_problems
from ctfw.cli.rules import DEFAULT_PATH
from ctfw.nfqueue import VERIFIED
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service.record import Annotation
from ctfw.tools import from_pcap, rule_tests
from ctfw.tools.capture import CaptureError, open_capture, read

CHAINS = (HOOK_NAMES[INPUT], HOOK_NAMES[FORWARD], HOOK_NAMES[OUTPUT])
MOST_LISTED = 50


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "test",
        help="play the tests of a rule file",
        description="Plays the tests of rule files (their key 'tests') and exits 1 when one of them fails. With "
        "--from-pcap it writes a test from a captured conversation instead: what the rules do with it today.",
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help=f"rule files (default: {DEFAULT_PATH})")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the output")
    capture = parser.add_argument_group("a test from a capture")
    capture.add_argument("--from-pcap", metavar="CAPTURE", help="a pcap or pcapng file; - is standard input")
    capture.add_argument("--rules", metavar="FILE", help="the rule file (as FILE)")
    capture.add_argument("--conn", metavar="N", type=int, help="the Nth conversation of the capture")
    capture.add_argument("--filter", metavar="TEXT", default="", help="conversations whose first packet has this text")
    capture.add_argument("--chain", choices=CHAINS, default=HOOK_NAMES[FORWARD], help="the first packet's chain")
    capture.add_argument("--in", dest="indev", metavar="NAME", default="", help="the interface it came in by")
    capture.add_argument("--out", dest="outdev", metavar="NAME", default="", help="the interface it leaves by")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; returns the exit code."""
    if arguments.from_pcap is not None:
        return _write(arguments)
    played: list[rule_tests.Played] = []
    failed = False
    for path in [*arguments.files, *([arguments.rules] if arguments.rules else [])] or [DEFAULT_PATH]:
        try:
            loaded = config.load(path)
        except config.ConfigError as error:
            print_problems(error.problems)
            failed = True
            continue
        print_problems(loaded.warnings)
        played += rule_tests.run(loaded)
    if arguments.output == "json":
        print(json.dumps([rule_tests.as_dict(one) for one in played], indent=2))
    else:
        for one in played:
            print("\n".join(rule_tests.lines(one)))
        bad = sum(one.failed for one in played)
        print(f"{len(played)} test{'s' * (len(played) != 1)}, {bad} failed" if played else "no tests")
    return int(failed or any(one.failed for one in played))


def _write(arguments: argparse.Namespace) -> int:
    path = arguments.rules or (arguments.files[0] if arguments.files else DEFAULT_PATH)
    try:
        config.load(path)
        with open_capture(arguments.from_pcap) as stream:
            found = from_pcap.conversations(from_pcap.annotated(read(stream)))
    except config.ConfigError as error:
        print_problems(error.problems)
        return 1
    except OSError as error:
        return _fail(f"{arguments.from_pcap}: {error.strerror or error}")
    except CaptureError as error:
        return _fail(f"{arguments.from_pcap}: {error}")
    numbered = [(number, one) for number, one in enumerate(found, 1) if arguments.filter in one.name]
    chosen = [one for number, one in numbered if arguments.conn in (None, number)]
    if len(chosen) != 1:
        for number, one in numbered[:MOST_LISTED]:
            print(f"{number:>6}  {len(one.packets):>6} packets  {one.name}", file=sys.stderr)
        if len(numbered) > MOST_LISTED:
            print(f"        and {len(numbered) - MOST_LISTED} more", file=sys.stderr)
        what = "no such conversation" if not chosen else f"{len(chosen)} conversations"
        return _fail(f"{arguments.from_pcap}: {what}: choose one with --conn or --filter")
    given = Annotation(HOOK_NAMES.index(arguments.chain), arguments.indev, arguments.outdev, 0, VERIFIED)
    written = from_pcap.write_test(chosen[0], lambda: config.load(path), given)
    print(written.text, end="")
    for note in written.notes:
        print(f"ctfw: test: note: {note}", file=sys.stderr)
    return 0


def _fail(message: str) -> int:
    print(f"ctfw: test: {message}", file=sys.stderr)
    return 1
