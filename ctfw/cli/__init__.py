"""The command: one parser, one file per family of sub-commands, and what all of them share.

A family has ``add(subparsers)``, which gives each of its parsers a ``handler(arguments) -> exit code``. Only the family
that was asked for is imported: all of them together are the whole program, and take longer to import than most commands
take to run. Exit codes:
0 ok, 1 failed or bad rules, 2 usage, 3 the daemon is not running, 4 not permitted, 130 after Ctrl-C. What went wrong is
one line on standard error, ``ctfw: what: ...``; results are on standard output. A reader that has seen enough
(`ctfw list | head`) ends the command without a word.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from ctfw import __version__
from ctfw.service.client import ClientError, NotPermitted, NotRunning

FAILED: Final = 1
NOT_RUNNING: Final = 3
NOT_PERMITTED: Final = 4

# Each sub-command's family, in the order of the help.
FAMILIES: Final = {
    "run": "daemon", "reload": "reload", "panic": "panic", "check": "rules", "test": "test", "explain": "explain",
    "status": "status", "list": "inspect", "stats": "inspect", "events": "events", "top": "top", "metrics": "metrics",
    "delete": "delete", "kill": "delete", "flush": "delete", "rules": "rules_live", "set": "set", "replay": "replay",
    "flight": "flight", "hook": "hook", "doctor": "doctor", "schema": "schema", "import": "import_",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments; the exit code."""
    words = sys.argv[1:] if argv is None else argv
    arguments = parser(words[0] if words else "").parse_args(words)
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


def parser(command: str = "") -> argparse.ArgumentParser:
    """What understands this sub-command; without one, or with one that there is not, what understands all."""
    made = argparse.ArgumentParser(prog="ctfw", description="A stateful firewall in user space, on NFQUEUE.")
    made.add_argument("--version", action="version", version=version())
    subparsers = made.add_subparsers(metavar="COMMAND", required=True)
    for family in [FAMILIES[command]] if command in FAMILIES else dict.fromkeys(FAMILIES.values()):
        importlib.import_module(f"ctfw.cli.{family}").add(subparsers)
    return made


def version() -> str:
    """The version and which build runs: the engine is an extension module when it was compiled."""
    found = importlib.util.find_spec("ctfw.engine")
    is_compiled = found is not None and not str(found.origin).endswith(".py")
    return f"ctfw {__version__} ({'compiled' if is_compiled else 'interpreted'})"


def _say(error: Exception, code: int) -> int:
    print(f"ctfw: {error}", file=sys.stderr)
    return code
