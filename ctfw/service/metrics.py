"""The daemon's figures in Prometheus' text format 0.0.4, which Prometheus and node_exporter read.

Which figures there are is metric_families.py's table. Ten thousand rules are twenty thousand lines and some ten
milliseconds, which no packet shall wait: ``lines`` is a generator, and whoever runs it takes breaks. So a family's
figures belong together, and those of different families may be some milliseconds apart, as with any program that counts
while it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator

from ctfw.service.metric_families import FAMILIES, Family
from ctfw.service.pages import page, paged
from ctfw.service.session import Method
from ctfw.service.status import Parts


def lines(parts: Parts) -> Iterator[str]:
    """The whole text, line by line, each with its end."""
    for family in FAMILIES:
        yield f"# HELP {family.name} {family.help}\n"
        yield f"# TYPE {family.name} {family.type}\n"
        for values, value in family.read(parts):
            yield _line(family, values, value)


def method(parts: Parts) -> Method:
    """The control socket's method: the lines, in pages."""
    return lambda params, session: page(params, session, lambda: paged(lines(parts)))


def _line(family: Family, values: tuple[str, ...], value: float) -> str:
    labels = ",".join(f'{name}="{_escape(text)}"' for name, text in zip(family.labels, values, strict=True))
    return f"{family.name}{{{labels}}} {value!r}\n" if labels else f"{family.name} {value!r}\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
