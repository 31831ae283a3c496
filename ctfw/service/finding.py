"""What a look at the machine found: one line, how bad it is, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do next ("" when there is nothing to do)."""

    level: str
    what: str
    text: str
    advice: str = ""
