"""What `make bench` says: a table of figures with their targets, the machine they are of, and the same as JSON.

A part of the benchmark is a program of its own in this directory that prints rows (``emit``); ``run`` puts the parts
together. A row whose target is a ratio carries the two figures that it was made of in ``notes``.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import ctfw.engine

_UNMET: Final = "NOT MET"


@dataclass
class Row:
    """One figure. ``target`` is None where there is only something to know; else ``value`` is to be at most that, or at
    least that when ``least`` is set.
    """

    what: str
    value: float
    unit: str = ""
    target: float | None = None
    least: bool = False
    notes: dict[str, float] = field(default_factory=dict)

    def verdict(self) -> str:
        """met, NOT MET, or nothing where there is no target."""
        if self.target is None:
            return ""
        met = self.value >= self.target if self.least else self.value <= self.target
        return "met" if met else _UNMET


def build() -> str:
    """Which build of ctfw runs here."""
    return "interpreted" if (ctfw.engine.__file__ or "").endswith(".py") else "compiled"


def machine() -> dict[str, Any]:
    """Where and when the figures were taken. ``load`` is of the last minute before: others at work spoil figures."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def emit(rows: Sequence[Row], title: str) -> None:
    """Prints the rows of one part: as a table, or as JSON when the caller was asked for ``--json``."""
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(table(rows, title))


def table(rows: Sequence[Row], title: str) -> str:
    """The rows for people."""
    lines = [title]
    for row in rows:
        target = "" if row.target is None else f"{'>=' if row.least else '<='} {_figure(row.target)}"
        notes = "  ".join(f"{name} {_figure(value)}" for name, value in row.notes.items())
        value = f"{_figure(row.value)} {row.unit}"
        lines.append(f"  {row.what:<58}{value:>12} {target:>10}  {row.verdict():<8}{notes}".rstrip())
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model", "cpu model")):
            return line.partition(":")[2].strip()
    return platform.machine()
