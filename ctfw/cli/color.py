"""Whether to write in colours: on a terminal, unless NO_COLOR (no-color.org) or --color says otherwise."""

from __future__ import annotations

import argparse
import os
from typing import Final, TextIO

GOOD: Final = "32"
DOUBTFUL: Final = "33"
BAD: Final = "31"

CHOICES: Final = ("auto", "always", "never")


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds --color."""
    text = "colours (default: auto, on a terminal and without NO_COLOR)"
    parser.add_argument("--color", choices=CHOICES, default="auto", help=text)


def is_wanted(choice: str, stream: TextIO) -> bool:
    """``choice`` is what --color said."""
    if choice != "auto":
        return choice == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, color: str, wanted: bool) -> str:
    return f"\033[{color}m{text}\033[0m" if wanted else text
