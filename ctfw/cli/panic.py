"""`ctfw panic on|off`: drop everything for a while.

Owns the words, and which connection stays: the SSH session that the command is typed in.
"""

from __future__ import annotations

import argparse

from ctfw.cli.asker import ssh_session
from ctfw.cli.socket_option import add_socket
from ctfw.service.client import Client, socket_path
from ctfw.service.panic import LONGEST

USUAL = 600  # seconds


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "panic",
        help="drop everything for a while",
        description="Drops every packet that comes to ctfw, whatever the rules say, for a bounded time; then the rules "
        "hold again by themselves. What stays: loopback and whatever else is never queued, and the SSH session in "
        "which the command is typed. Connections that a rule has offloaded are taken back from the kernel in moments.",
    )
    parser.add_argument("switch", choices=("on", "off"))
    parser.add_argument(
        "--for",
        dest="seconds",
        metavar="SECONDS",
        type=_seconds,
        default=USUAL,
        help="how long it lasts (default: %(default)s)",
    )
    parser.add_argument("--no-session", action="store_true", help="not even the SSH session that asks may stay")
    add_socket(parser)
    parser.set_defaults(handler=panic)


def panic(arguments: argparse.Namespace) -> int:
    """`ctfw panic`; returns the exit code."""
    ends = None if arguments.no_session else ssh_session()
    session = dict(zip(("src", "sport", "dst", "dport"), ends, strict=True)) if ends is not None else None
    with Client(socket_path(arguments.socket)) as client:
        if arguments.switch == "off":
            client.call("panic", on=False)
            return 0
        client.call("panic", on=True, seconds=arguments.seconds, session=session)
    stays = f"; the session from {ends[0]} port {ends[1]} stays" if ends is not None else ""
    print(f"everything is dropped for {arguments.seconds} s{stays}; to end it: ctfw panic off")
    return 0


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to {LONGEST}")
    return int(text)
