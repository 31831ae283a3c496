"""`ctfw reload`: the request to read the rules again, for good or on trial.

Owns the words, and the conversation with who sits at a terminal while rules are on trial. The trial itself is the
daemon's: whatever becomes of this program, it ends as it should.
"""

from __future__ import annotations

import argparse
import select
import sys
import time
from typing import Any, Final

from ctfw.cli import forecast
from ctfw.cli.own_session import warn_if_cut
from ctfw.cli.socket_option import add_socket
from ctfw.ruleset.ruleset import EXISTING_NAMES
from ctfw.service.client import Client, ClientError, NotPermitted, NotRunning, socket_path
from ctfw.service.reloading import LONGEST_TRIAL

SHORTEST: Final = 5  # seconds: nobody answers faster


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "reload",
        help="have the daemon read its rules again",
        description="Has the daemon read its rule file again and waits until that is done. When the file has errors, "
        "they are printed and the old rules stay in force. With --confirm the new rules are in force on trial: unless "
        "they are confirmed in time, at the terminal that asks or by `ctfw reload --confirmed`, the daemon puts the "
        "old ones back by itself. With --dry-run nothing is changed: prints which connections of the last minutes "
        "(section `recorder` of the rule file) the new rules would have judged otherwise, and which living ones they "
        "would cut. Exit status 0 when nothing would change, 1 when something would.",
    )
    parser.add_argument(
        "--existing",
        choices=EXISTING_NAMES,
        help="what becomes of open connections this time: keep them, judge each again at its next packet, or forget "
        "them (default: the rule file's `existing`, else keep)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--confirm",
        metavar="SECONDS",
        type=_seconds,
        help="the old rules come back after so many seconds, 5 to 3600, unless somebody confirms the new ones",
    )
    what.add_argument("--confirmed", action="store_true", help="confirm: the rules on trial stay")
    what.add_argument("--rollback", action="store_true", help="end the trial: the old rules come back at once")
    what.add_argument("--dry-run", action="store_true", help="only say what would change; exit 1 if anything would")
    parser.add_argument("--rules", metavar="FILE", help="of --dry-run: another rule file than the daemon's own")
    parser.add_argument(
        "-o", "--output", choices=("table", "jsonl"), default="table", help="of --dry-run: form of the output"
    )
    add_socket(parser)
    parser.set_defaults(handler=reload)


def reload(arguments: argparse.Namespace) -> int:
    """`ctfw reload`; returns the exit code."""
    if arguments.dry_run:
        return forecast.dry_run(arguments)
    if arguments.rules is not None:
        print("ctfw: reload: the daemon reads its own file again; --rules is for --dry-run", file=sys.stderr)
        return 2
    path = socket_path(arguments.socket)
    if arguments.confirmed:
        return 0 if _ask(path, "confirm") is not None else 1
    if arguments.rollback:
        return 0 if _ask(path, "rollback") is not None else 1
    warn_if_cut(path, arguments.existing)
    params: dict[str, object] = {"existing": arguments.existing} if arguments.existing else {}
    if arguments.confirm:
        params["confirm"] = arguments.confirm
    answer = _ask(path, "reload", **params)
    if answer is None:
        return 1
    return _on_trial(path, arguments.confirm, answer["generation"]) if arguments.confirm else 0


def _ask(path: str, method: str, **params: object) -> Any:
    """The answer, its warnings printed; None after an error that was told. A connection of its own each time: one that
    the new rules or a busy daemon have ended does not matter."""
    with Client(path) as client:
        try:
            answer = client.call(method, **params)
        except (NotRunning, NotPermitted):
            raise
        except ClientError as error:
            for text in error.data if isinstance(error.data, list) else []:
                print(text, file=sys.stderr)
            print(f"ctfw: reload: {error}", file=sys.stderr)
            return None
    for text in answer.get("warnings", ()):
        print(text, file=sys.stderr)
    return answer


def _on_trial(path: str, seconds: int, generation: int) -> int:
    """Asks who sits at a terminal; everybody else is told how to confirm."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        print(f"on trial for {seconds} s; to keep the rules: ctfw reload --confirmed", file=sys.stderr)
        return 0
    until = time.monotonic() + seconds
    print(f"The new rules are in force for {seconds} s. Keep them? [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        is_answered = bool(select.select([sys.stdin], [], [], max(until - time.monotonic(), 0))[0])
        said = sys.stdin.readline().strip().lower() if is_answered else ""
    except KeyboardInterrupt:
        is_answered, said = True, ""
    if said in ("y", "yes"):
        return 0 if _ask(path, "confirm", generation=generation) is not None else 1
    if not is_answered:
        print("\nctfw: reload: not confirmed in time: the old rules are back", file=sys.stderr)
    elif _ask(path, "rollback", generation=generation) is not None:
        print("ctfw: reload: the old rules are back", file=sys.stderr)
    return 1


def _seconds(text: str) -> int:
    if not text.isdecimal() or not SHORTEST <= int(text) <= LONGEST_TRIAL:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {SHORTEST} to {LONGEST_TRIAL}")
    return int(text)
