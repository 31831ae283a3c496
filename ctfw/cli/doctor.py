"""`ctfw doctor`: what keeps ctfw from working on this machine, and what to do about it. Exit code 1 for any failure."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Final

from ctfw.cli import color
from ctfw.cli.daemon import DEFAULT_RULES
from ctfw.cli.socket_option import add_socket
from ctfw.service.client import socket_path
from ctfw.service.doctor import examine
from ctfw.service.finding import FAIL, OK, WARN

_COLORS: Final = {OK: color.GOOD, WARN: color.DOUBTFUL, FAIL: color.BAD}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="look for what keeps ctfw from working here",
        description="Looks at the kernel, the rights, the hook and who stands beside it, the queue and who holds it, "
        "the daemon, the machine's settings and systemd. Each finding is ok, warn or fail, with what to do next. "
        "Changes nothing. Exits 1 when there is a failure.",
    )
    parser.add_argument("--rules", metavar="FILE", default=DEFAULT_RULES, help="the rule file (default: %(default)s)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the output")
    color.add_option(parser)
    add_socket(parser)
    parser.set_defaults(handler=doctor)


def doctor(arguments: argparse.Namespace) -> int:
    """`ctfw doctor`; returns the exit code."""
    findings = list(examine(arguments.rules, socket_path(arguments.socket)))
    if arguments.output == "json":
        json.dump([asdict(finding) for finding in findings], sys.stdout, indent=2)
        print()
    else:
        colored = color.is_wanted(arguments.color, sys.stdout)
        for finding in findings:
            level = color.paint(f"{finding.level:4}", _COLORS[finding.level], colored)
            print(f"{level}  {finding.what:<10}  {finding.text}")
            if finding.advice:
                print(f"{'':18}→ {finding.advice}")
    return int(any(finding.level == FAIL for finding in findings))
