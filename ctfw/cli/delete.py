"""`ctfw delete`, `ctfw kill`, `ctfw flush`: connections taken out of the table by hand.

`delete` forgets, `kill` cuts, both with the filters of `list` and never without one; what was taken out is printed as
`conntrack -D` does. A kill that would end the SSH session in which it was typed is refused unless --force says so; the
others only warn, for a session that is judged anew usually goes on.
"""

from __future__ import annotations

import argparse
import sys

from ctfw import __version__
from ctfw.cli.asker import ssh_session
from ctfw.cli.selecting import add_filters, selected
from ctfw.cli.socket_option import add_socket
from ctfw.service.client import Client, ClientError, socket_path


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to the parser."""
    parser = subparsers.add_parser(
        "delete",
        help="forget connections",
        description="Forgets the connections that the filters mean, and prints them. Their next packets are judged as "
        "the first ones of new connections.",
    )
    _add_common(parser)
    parser.set_defaults(handler=delete, parser=parser)

    parser = subparsers.add_parser(
        "kill",
        help="cut connections",
        description="Forgets the connections that the filters mean and those that belong to them, as the data "
        "connections of an FTP session; prints them, and drops their packets until both ends have stopped. A TCP end "
        "that opens a new connection with a SYN is judged by the rules.",
    )
    parser.add_argument("--reset", action="store_true", help="answer the next TCP segment of each end with a reset")
    parser.add_argument("--force", action="store_true", help="also when that ends the SSH session that asks")
    _add_common(parser)
    parser.set_defaults(handler=kill, parser=parser)

    parser = subparsers.add_parser(
        "flush",
        help="forget all connections",
        description="Forgets every connection, and what was killed before. Packets are then judged as first ones.",
    )
    add_socket(parser)
    parser.set_defaults(handler=flush)


def delete(arguments: argparse.Namespace) -> int:
    """`ctfw delete`; returns the exit code."""
    only = _filter(arguments)
    with Client(socket_path(arguments.socket)) as client:
        if not arguments.dry_run and _is_own_session(client, only):
            _warn("the SSH session that you are in is among them; its next packet is judged anew")
        return _take(client, "delete", "deleted", only, arguments.dry_run)


def kill(arguments: argparse.Namespace) -> int:
    """`ctfw kill`; returns the exit code."""
    only = _filter(arguments)
    with Client(socket_path(arguments.socket)) as client:
        if not arguments.force and _is_own_session(client, only, related=True):
            if not arguments.dry_run:
                raise ClientError("kill: this would cut the SSH session that you are in; nothing was done; see --force")
            _warn("the SSH session that you are in is among them")
        return _take(client, "kill", "killed", only, arguments.dry_run, reset=arguments.reset)


def flush(arguments: argparse.Namespace) -> int:
    """`ctfw flush`; returns the exit code."""
    with Client(socket_path(arguments.socket)) as client:
        if _is_own_session(client, {}):
            _warn("the SSH session that you are in is judged anew at its next packet")
        count = client.call("flush")["removed"]
    print(f"ctfw {__version__}: the table has been emptied: {count} flow entries.", file=sys.stderr)
    return 0


def _take(client: Client, method: str, done: str, only: dict[str, str], dry_run: bool, **more: object) -> int:
    count = 0
    for line in client.pages(method, only=only, dry_run=dry_run, **more):
        print(line)
        count += 1
    verb = "would have been" if dry_run else "have been"
    print(f"ctfw {__version__}: {count} flow entries {verb} {done}.", file=sys.stderr)
    return 0


def _filter(arguments: argparse.Namespace) -> dict[str, str]:
    only = selected(arguments)
    if not only:
        arguments.parser.error("this needs a filter, such as --src 192.0.2.1; `ctfw flush` takes all")
    return only


def _is_own_session(client: Client, only: dict[str, str], related: bool = False) -> bool:
    session = ssh_session()
    return session is not None and bool(client.call("meets", tuple=session, only=only, related=related)["meets"])


def _warn(text: str) -> None:
    print(f"ctfw: warning: {text}", file=sys.stderr)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only print what it would be")
    add_filters(parser)
    add_socket(parser)
