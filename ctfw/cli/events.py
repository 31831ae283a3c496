"""`ctfw events`: what happens to connections, as `conntrack -E` prints it, until Ctrl-C.

What was lost on the way, because the daemon or this terminal was too slow, is said where it is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ctfw import __version__
from ctfw.cli.selecting import add_filters, selected
from ctfw.cli.socket_option import add_socket
from ctfw.service.client import Client, NotRunning, socket_path

_KINDS: Final = ("NEW", "UPDATE", "DESTROY")
_FORMS: Final = ("conntrack", "jsonl", "timestamp")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "events",
        help="watch connections come, change and go",
        description="Prints what happens to connections as `conntrack -E` does, until Ctrl-C.",
    )
    parser.add_argument(
        "-e", "--event", type=_kinds, default=list(_KINDS), metavar="KINDS", help="NEW, UPDATE, DESTROY; several as A,B"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=_forms,
        default=[],
        metavar="FORM",
        help="conntrack (the default) or jsonl; timestamp puts the time ahead of the line",
    )
    parser.add_argument(
        "-n", "--count", type=int, default=0, metavar="N", help="end after so many events (default: never)"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="as it always does: events of before are not kept")
    add_filters(parser, without=("-f",))
    add_socket(parser)
    parser.set_defaults(handler=watch)


def watch(arguments: argparse.Namespace) -> int:
    """`ctfw events`; returns the exit code."""
    as_json = "jsonl" in arguments.output
    stamped = "timestamp" in arguments.output
    shown = 0
    with Client(socket_path(arguments.socket)) as client:
        form = "dict" if as_json else "conntrack"
        client.call("events", kinds=arguments.event, form=form, only=selected(arguments))
        try:
            for event in client.events():
                _print(event, as_json, stamped)
                shown += event["event"] != "dropped"
                if arguments.count and shown == arguments.count:
                    return 0
        finally:
            if not as_json:
                print(f"ctfw {__version__}: {shown} flow events have been shown.", file=sys.stderr)
        raise NotRunning(f"{client.path}: the daemon went away")


def _print(event: Mapping[str, Any], as_json: bool, stamped: bool) -> None:
    if as_json:
        shown = {**event}
        if "time" in shown:
            shown["time"] = datetime.fromtimestamp(shown["time"], UTC).isoformat().replace("+00:00", "Z")
        print(json.dumps(shown), flush=True)
    elif event["event"] == "dropped":
        sys.stdout.flush()
        print(f"ctfw: {event['count']} events lost", file=sys.stderr, flush=True)
    else:
        print(f"[{event['time']:.6f}]\t{event['line']}" if stamped else event["line"], flush=True)


def _kinds(text: str) -> list[str]:
    return _words(text.upper(), _KINDS)


def _forms(text: str) -> list[str]:
    return _words(text, _FORMS)


def _words(text: str, known: tuple[str, ...]) -> list[str]:
    words = text.split(",")
    if not set(words) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r} is not of {', '.join(known)}")
    return words
