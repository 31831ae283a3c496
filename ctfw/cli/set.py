"""`ctfw set`: the dynamic sets of the running daemon: add an address to one for a while, take it out, list them.

A set is dynamic when the rule file says so (`dynamic: true`). What is added here outlives a reload, and a restart where
the daemon has a state directory.
"""

from __future__ import annotations

import argparse
import json

from ctfw.cli.socket_option import add_socket
from ctfw.config.values import Wrong, duration
from ctfw.service.client import Client, socket_path
from ctfw.service.members import MOST_TTL, show_member

SECOND = 1_000_000_000


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "set",
        help="add to a dynamic set, delete from it, list its members",
        description="Changes a dynamic set of the running daemon, or lists its members with the seconds left to each.",
    )
    parser.add_argument("action", choices=("add", "del", "list"))
    parser.add_argument("set", nargs="?", help="the set's name; all of them for list when left out")
    parser.add_argument("members", nargs="*", metavar="MEMBER", help="addresses or networks")
    parser.add_argument("--ttl", type=_ttl, default=0, help="how long, as 90s, 2h30m or 5d (default: the set's own)")
    parser.add_argument("-o", "--output", choices=("table", "jsonl"), default="table", help="form of the list")
    add_socket(parser)
    parser.set_defaults(handler=change, parser=parser)


def change(arguments: argparse.Namespace) -> int:
    """`ctfw set`; returns the exit code: 1 when something to be deleted was not there."""
    if arguments.action != "list" and not arguments.members:
        arguments.parser.error(f"{arguments.action} needs a set and at least one member")
    with Client(socket_path(arguments.socket)) as client:
        if arguments.action == "list":
            return _list(client, arguments.set, arguments.output)
        missing = 0
        for member in arguments.members:
            if arguments.action == "add":
                client.call("set_add", set=arguments.set, member=member, ttl=arguments.ttl)
            elif not client.call("set_del", set=arguments.set, member=member)["removed"]:
                missing = 1
        return missing


def _list(client: Client, name: str | None, output: str) -> int:
    for one, network, length, left in client.pages("members"):
        if name not in (None, one):
            continue
        member, seconds = show_member(bytes.fromhex(network), length), None if left < 0 else left // SECOND
        if output == "jsonl":
            print(json.dumps({"set": one, "member": member, "seconds": seconds}))
        else:
            print(f"{one} {member} {'-' if seconds is None else seconds}")
    return 0


def _ttl(text: str) -> int:
    try:
        return duration(text, 1, MOST_TTL // SECOND)
    except Wrong as wrong:
        raise argparse.ArgumentTypeError(wrong.message) from None
