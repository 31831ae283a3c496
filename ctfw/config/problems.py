"""What is wrong with a rule file, and how people read it.

A Problem is one finding at one place. A Report collects the problems of a rule file, and of the files that it draws in,
while the loader goes on, so that all of them are shown at once; nothing that was built beside an error is ever handed
out. ConfigError carries the list.
`render` prints a problem in the form that editors and compilers share: `file:line:column: error: message`, the
offending line, a caret, a hint.

Text from the file is hostile until shown otherwise: it may hold escape sequences for the terminal, marks that turn the
writing direction, or megabytes on one line. `clean` and `render` cut and clean whatever they repeat, and a Report
stops at MAX_PROBLEMS, because a file of a million mistakes must not cost a minute of the gateway's time.

This file knows nothing of YAML or of rules.
"""

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

MAX_PROBLEMS = 1000
MAX_QUOTED = 60  # characters of the file repeated inside a message
MAX_SHOWN = 100  # columns of the offending line that are printed

Severity = Literal["error", "warning"]

_RED, _MAGENTA, _CYAN, _BOLD, _PLAIN = "\x1b[1;31m", "\x1b[1;35m", "\x1b[36m", "\x1b[1m", "\x1b[0m"
_SEVERITY_COLOUR = {"error": _RED, "warning": _MAGENTA}


class Source:
    """A file that was read. ``lines`` are its lines, shown under each problem."""

    __slots__ = ("lines", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: list[str] = []


class Place(Protocol):
    """Anything that stands at a line and a column (both from 1) of a file."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def source(self) -> Source: ...


@dataclass(frozen=True)
class Problem:
    """One finding. `line` and `column` count from 1; both are 0 when the finding is about the file as a whole."""

    file: str
    line: int
    column: int
    severity: Severity
    message: str
    hint: str = ""
    source: str = ""  # the whole offending line, without its line end

    def where(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class ConfigError(Exception):
    """The file cannot be used. `.problems` holds everything found, warnings too, sorted by place."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(f"{p.where()}: {p.severity}: {p.message}" for p in self.problems)


class GiveUp(Exception):
    """To go on would cost too much, and the report says why: too many errors, or lists that expand too far."""


class Report:
    """The problems of a rule file and of those it draws in. `source` is the one being read."""

    def __init__(self, path: str) -> None:
        self.source = Source(path)
        self.main = self.source
        self._order: dict[str, int] = {path: 0}
        self._found: dict[tuple[str, int, int, str], Problem] = {}
        self._counts = {"error": 0, "warning": 0}

    def begin(self, source: Source) -> None:
        """What is reported from now on without a place is about this file; problems of files first begun come first."""
        self.source = source
        self._order.setdefault(source.path, len(self._order))

    def where(self, place: Place, seen_from: Place) -> str:
        """`line 5`, or `rules.d/a.yaml:5` from another file."""
        if place.source is seen_from.source:
            return f"line {place.line}"
        return f"{clean(place.source.path)}:{place.line}"

    def error(self, place: Place | None, message: str, hint: str = "") -> None:
        """Raises GiveUp after MAX_PROBLEMS of them."""
        self._add(place, "error", message, hint)
        if self._counts["error"] >= MAX_PROBLEMS:
            raise GiveUp

    def warning(self, place: Place | None, message: str, hint: str = "") -> None:
        """Warnings after MAX_PROBLEMS of them are left out."""
        if self._counts["warning"] < MAX_PROBLEMS:
            self._add(place, "warning", message, hint)

    @property
    def failed(self) -> bool:
        return self._counts["error"] > 0

    def problems(self) -> list[Problem]:
        """Everything found, sorted by place; problems of the file as a whole come first."""
        result = sorted(self._found.values(), key=lambda p: (self._order[p.file], p.line, p.column, p.severity))
        for severity, count in self._counts.items():
            if count >= MAX_PROBLEMS:
                message = f"more than {count} {severity}s; the rest is not shown"
                result.append(Problem(self.main.path, 0, 0, "warning", message))
        return result

    def _add(self, place: Place | None, severity: Severity, message: str, hint: str) -> None:
        line, column = (place.line, place.column) if place is not None else (0, 0)
        source = place.source if place is not None else self.source
        # A value reached through two aliases is wrong once; but a million aliases count, they cost time.
        self._counts[severity] += 1
        text = source.lines[line - 1] if 0 < line <= len(source.lines) else ""
        self._order.setdefault(source.path, len(self._order))
        problem = Problem(source.path, line, column, severity, message, hint, text)
        self._found.setdefault((source.path, line, column, message), problem)


def clean(text: str) -> str:
    """`text`, short and harmless: for use inside a message."""
    if len(text) > MAX_QUOTED:
        text = text[: MAX_QUOTED - 1] + "…"
    return "".join(map(_visible, text))


def quote(text: str) -> str:
    return f"'{clean(text)}'"


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """A hint that names the nearest known words, `prefix` before each; "" when none is near."""
    if len(word) > MAX_QUOTED:
        return ""
    table = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), table, n=2, cutoff=0.6)
    return "did you mean " + " or ".join(quote(prefix + table[name]) for name in near) + "?" if near else ""


def listing(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *rest, last = words
    return f"{', '.join(rest)} or {last}" if rest else last


def render(problem: Problem, color: bool = False) -> str:
    """The problem as people read it: one to four lines, no line end after the last."""
    paint = _paint if color else _no_paint
    severity = paint(problem.severity + ":", _SEVERITY_COLOUR[problem.severity])
    path = "".join(map(_visible, problem.file))
    where = f"{path}:{problem.line}:{problem.column}" if problem.line else path
    out = [f"{paint(where + ':', _BOLD)} {severity} {problem.message}"]
    if problem.source.strip():
        line, caret = _excerpt(problem.source, problem.column - 1)
        out += ["    " + line, "    " + paint(caret, _SEVERITY_COLOUR[problem.severity])]
    if problem.hint:
        out.append(f"    {paint('hint:', _CYAN)} {problem.hint}")
    return "\n".join(out)


def _excerpt(source: str, index: int) -> tuple[str, str]:
    """The part of the line around `index`, and the line with a caret under it.

    The caret line repeats tabs as tabs and takes two columns for a wide character, so that it meets its mark on any
    terminal whatever its tab stops are.
    """
    start = max(0, index - MAX_SHOWN * 2 // 3) if len(source) > MAX_SHOWN else 0
    end = start + MAX_SHOWN
    left, right = ("…" if start else ""), ("…" if end < len(source) else "")
    shown = left + "".join(_visible(c, tab="\t") for c in source[start:end]) + right
    pad = " " * len(left) + "".join("\t" if c == "\t" else " " * _width(c) for c in source[start:index])
    return shown.rstrip(), pad + "^"


def _visible(char: str, tab: str = "�") -> str:
    """One character that cannot steer a terminal: controls, format marks and surrogates become U+FFFD."""
    if char == "\t":
        return tab
    return "�" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") else char


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _paint(text: str, colour: str) -> str:
    return f"{colour}{text}{_PLAIN}"


def _no_paint(text: str, colour: str) -> str:
    return text
