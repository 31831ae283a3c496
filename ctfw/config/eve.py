"""The section `eve`: whether ended connections and dropped packets are written to a file in Suricata's EVE form."""

from dataclasses import dataclass

from ctfw.config.problems import Report
from ctfw.config.walk import Fields

DEFAULT_PATH = "/var/log/ctfw/eve.json"


@dataclass(frozen=True)
class EveSettings:
    """``interval`` nanoseconds are between two records when the limit is reached."""

    path: str = DEFAULT_PATH
    flow: bool = True
    drop: bool = True
    interval: int = 1_000_000


def read_eve(fields: Fields, report: Report) -> EveSettings:
    """The section's fields -> EveSettings; what is wrong with it is reported."""
    path = fields.get("path", DEFAULT_PATH)
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        report.error(fields.place("path"), "the path of a file, from / on", f"as in 'path: {DEFAULT_PATH}'")
    return EveSettings(
        path, bool(fields.get("flow", True)), bool(fields.get("drop", True)), fields.get("limit", EveSettings.interval)
    )
