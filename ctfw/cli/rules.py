"""`ctfw check`: is a rule file good, and does it pass its own tests?

Silent and 0 when it is, like `nginx -t` and `sshd -t`. Problems go to standard error in the form that editors jump to;
with `--format json` they are a list on standard output instead. Errors give 1; warnings too, with `--strict`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ctfw import config
from ctfw.cli.problems import print_problems
from ctfw.config import ConfigError, Problem
from ctfw.tools import rule_tests

DEFAULT_PATH = "/etc/ctfw/rules.yaml"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "check",
        help="check rule files",
        description="Checks rule files. Prints nothing and exits 0 when they are good; otherwise prints every "
        "problem with its place, and exits 1 when one of them is an error.",
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help=f"rule files (default: {DEFAULT_PATH})")
    parser.add_argument("--strict", action="store_true", help="exit 1 on warnings too")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="text on standard error, or a JSON list on standard output (default: %(default)s)",
    )
    parser.set_defaults(handler=check)


def check(arguments: argparse.Namespace) -> int:
    """0 when all files are good, 1 otherwise."""
    problems: list[Problem] = []
    for path in arguments.files or [DEFAULT_PATH]:
        try:
            loaded = config.load(path, advise=True)
            problems += loaded.warnings + rule_tests.problems(loaded, rule_tests.run(loaded))
        except ConfigError as wrong:
            problems += wrong.problems
    if arguments.format == "json":
        print(json.dumps([asdict(problem) for problem in problems], indent=2))
    else:
        print_problems(problems)
    return int(any(arguments.strict or problem.severity == "error" for problem in problems))
