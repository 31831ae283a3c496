"""The command: one parser, one file per family of sub-commands, and what all of them share.

A family has ``add(subparsers)``, which gives each of its parsers a ``handler(arguments) -> exit code``. Exit codes:
0 ok, 1 failed or bad rules, 2 usage, 3 the daemon is not running, 4 not permitted, 130 after Ctrl-C. What went wrong is
one line on standard error, ``ctfw: what: ...``; results are on standard output. A reader that has seen enough
(`ctfw list | head`) ends the command without a word.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from ctfw import __version__, engine
from ctfw.cli import (
    daemon,
    delete,
    doctor,
    events,
    explain,
    flight,
    hook,
    import_,
    inspect,
    metrics,
    panic,
    reload,
    replay,
    rules,
    rules_live,
    schema,
    set,
    status,
    test,
    top,
)
from ctfw.service.client import ClientError, NotPermitted, NotRunning

FAILED: Final = 1
NOT_RUNNING: Final = 3
NOT_PERMITTED: Final = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments; the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.handler(arguments))
        sys.stdout.flush()
        return code
    except NotRunning as error:
        return _say(error, NOT_RUNNING)
    except NotPermitted as error:
        return _say(error, NOT_PERMITTED)
    except ClientError as error:
        return _say(error, FAILED)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # What is still buffered would be complained about when Python ends; it goes nowhere instead.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ctfw", description="A stateful firewall in user space, on NFQUEUE.")
    parser.add_argument("--version", action="version", version=version())
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for family in (
        daemon, reload, panic, rules, test, explain, status, inspect, events, top, metrics, delete, rules_live,
        set, replay, flight, hook, doctor, schema, import_,
    ):  # fmt: skip
        family.add(subparsers)
    return parser


def version() -> str:
    """The version and which build runs: the engine is an extension module when it was compiled."""
    return f"ctfw {__version__} ({'interpreted' if str(engine.__file__).endswith('.py') else 'compiled'})"


def _say(error: Exception, code: int) -> int:
    print(f"ctfw: {error}", file=sys.stderr)
    return code
