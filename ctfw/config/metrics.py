"""The section `metrics`: whether the daemon writes its figures to a file that node_exporter reads, and how often."""

import os
from dataclasses import dataclass

from ctfw.config.problems import Report, quote
from ctfw.config.walk import Fields

SUFFIX = ".prom"


@dataclass(frozen=True)
class MetricsSettings:
    """``textfile`` is an absolute path, ``every`` is in seconds."""

    textfile: str
    every: int = 15


def read_metrics(fields: Fields, report: Report) -> MetricsSettings | None:
    """The section's fields -> MetricsSettings; what is wrong with it is reported."""
    path = fields.get("textfile")
    if path is None:
        return None
    if not os.path.isabs(path) or "\0" in path:
        report.error(fields.place("textfile"), f"{quote(path)} is not an absolute path", "it begins with '/'")
    elif not os.path.basename(path).removesuffix(SUFFIX) or not path.endswith(SUFFIX):
        hint = "node_exporter reads no others, as in /run/ctfw/ctfw.prom"
        report.error(fields.place("textfile"), f"{quote(path)} does not end in {SUFFIX!r}", hint)
    return MetricsSettings(path, fields.get("every", MetricsSettings.every))
