"""Writes what completes `ctfw` in bash and zsh, from the command's own parser: python completion.py DIRECTORY

Two files are left there, ctfw.bash and ctfw.zsh. What an option takes is known by its metavar: files and directories
are completed as such, anything else is not.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab

from ctfw import cli

FILES = {"FILE": shtab.FILE, "CAPTURE": shtab.FILE, "PATH": shtab.FILE, "DIRECTORY": shtab.DIRECTORY}


def main(directory: Path) -> None:
    parser = cli.parser()
    for action in actions(parser):
        if action.metavar in FILES and isinstance(action.metavar, str):
            action.complete = FILES[action.metavar]  # type: ignore[attr-defined]  # where shtab looks
    for shell in ("bash", "zsh"):
        (directory / f"ctfw.{shell}").write_text(shtab.complete(parser, shell) + "\n", encoding="utf-8")


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument of the parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
