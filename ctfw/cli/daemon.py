"""`ctfw run`: the daemon in the foreground.

Owns the options and the way an error at the start is told; the daemon itself is ctfw/daemon.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Final

from ctfw import config
from ctfw.cli.problems import print_problems
from ctfw.cli.socket_option import add_socket
from ctfw.daemon import Options
from ctfw.service.client import socket_path
from ctfw.service.journal import SINKS
from ctfw.service.kernel_queue import MAX_RANGE, QueueError
from ctfw.service.peers import access_of
from ctfw.service.socket_file import ControlError
from ctfw.workers.supervisor import begin

DEFAULT_RULES: Final = "/etc/ctfw/rules.yaml"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to the parser."""
    parser = subparsers.add_parser(
        "run",
        help="run the firewall in the foreground",
        description="Takes the packets of an NFQUEUE, tracks their connections and answers by the rules. SIGHUP reads "
        "the rules again, SIGTERM ends it.",
    )
    parser.add_argument("--rules", metavar="FILE", default=DEFAULT_RULES, help="the rule file (default: %(default)s)")
    parser.add_argument(
        "--queue", metavar="N", type=_number(65535), help="the queue (default: the rule file's, else 0)"
    )
    parser.add_argument(
        "--record",
        metavar="FILE",
        default="",
        help="write every packet judged to this pcapng file; none waits for it, and what it misses is counted and said",
    )
    parser.add_argument("--log", choices=SINKS, default="auto", help="where to log (default: %(default)s)")
    parser.add_argument(
        "--copy-range",
        metavar="BYTES",
        type=_number(MAX_RANGE),
        default=0,
        help="how much of each packet to look at (default: the largest MTU, at least 1600)",
    )
    parser.add_argument(
        "--state",
        metavar="DIRECTORY",
        default=os.environ.get("STATE_DIRECTORY", ""),
        help="where connections, members of dynamic sets and the last good rules outlive a stop "
        "(default: STATE_DIRECTORY, else nowhere)",
    )
    parser.add_argument(
        "--readers",
        metavar="GROUP",
        action="append",
        default=[],
        help="members of this group may ask at the control socket, and change nothing (may be given again)",
    )
    parser.add_argument(
        "--writers",
        metavar="GROUP",
        action="append",
        default=[],
        help="members of this group may change things, too (default: the group that ctfw runs as)",
    )
    parser.add_argument("--no-gso", action="store_true", help="have the kernel cut big packets before they come")
    add_socket(parser)
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """`ctfw run`; returns the exit code."""
    try:
        access = access_of(arguments.readers, arguments.writers)
    except LookupError as error:
        print(f"ctfw: run: {error}", file=sys.stderr)
        return 2
    options = Options(
        rules=arguments.rules,
        socket=socket_path(arguments.socket),
        queue=arguments.queue,
        record=arguments.record,
        log=arguments.log,
        copy_range=arguments.copy_range,
        gso=not arguments.no_gso,
        state=arguments.state,
        access=access,
    )
    try:
        daemon = begin(options)
    except config.ConfigError as error:
        print_problems(error.problems)
        return 1
    except QueueError as error:
        print(f"ctfw: {error}", file=sys.stderr)
        return 4 if error.denied else 1
    except ControlError as error:
        print(f"ctfw: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ctfw: {error.filename or 'run'}: {error.strerror or error}", file=sys.stderr)
        return 4 if isinstance(error, PermissionError) else 1
    try:
        return daemon.run()
    except ControlError as error:  # with workers it is made when all of them are ready
        print(f"ctfw: {error}", file=sys.stderr)
        return 1


def _number(largest: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from 0 to ``largest``."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) > largest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {largest}")
        return int(text)

    return number
