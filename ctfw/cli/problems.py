"""What is wrong with a rule file, told on standard error: each problem with its line, coloured where that is wanted."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ctfw import config
from ctfw.cli import color


def print_problems(problems: Iterable[config.Problem]) -> None:
    """One after the other."""
    colored = color.is_wanted("auto", sys.stderr)
    for problem in problems:
        print(config.render(problem, colored), file=sys.stderr)
