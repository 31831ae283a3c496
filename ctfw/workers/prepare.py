"""A reload in two steps: all workers load the new rules, and only when each of them could does any put them in force.

The first step is a method of each worker's own control socket, ``prepare``; the second is the ordinary ``reload``,
which then finds the rules loaded. What was prepared holds for one reload; ``discard`` forgets it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from ctfw import config
from ctfw.service.aside import Abandoned, Aside
from ctfw.service.session import FAILED, Later, Refused, Session
from ctfw.tools import rule_tests


class Prepare:
    """For worker ``number`` of ``size``."""

    def __init__(self, number: int, size: int) -> None:
        self._ready: config.Config | None = None
        self._number = number
        self._size = size
        self._wanted: list[tuple[str, Later]] = []

    def load(self, path: str, stored: config.Stored | None = None) -> config.Config:
        """What is ready, once; else the file. Raises as config.load."""
        ready, self._ready = self._ready, None
        return self.fit(ready if ready is not None else rule_tests.load(path, stored, softly=True))

    def prepare(self, params: dict[str, Any], session: Session) -> Later:
        """Loads the file; the answer, when that is done, has the warnings, or is an error with all that is wrong."""
        later = Later()
        self._wanted.append((str(params.get("path", "")), later))
        return later

    def discard(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """Forgets what was prepared."""
        self._ready = None
        return {}

    def work(self, aside: Aside) -> None:
        """Loads what was asked for."""
        while self._wanted:
            path, later = self._wanted.pop(0)
            try:
                self._ready = aside.run(lambda path=path: rule_tests.load(path, softly=True))  # type: ignore[misc]
                later.done({"warnings": [config.render(problem) for problem in self._ready.warnings]})
            except Abandoned:
                return
            except config.ConfigError as error:
                texts = [config.render(problem) for problem in error.problems]
                later.done(Refused(FAILED, "the rules have errors; the old ones stay in force", texts))
            except OSError as error:
                later.done(Refused(FAILED, f"{path}: cannot be read: {error.strerror}"))
            except Exception as error:  # as in service/reloading.py: it must not end the firewall that there is
                later.done(Refused(FAILED, f"{path}: internal error: {type(error).__name__}: {error}"))

    def fit(self, loaded: config.Config) -> config.Config:
        """Takes out what only one daemon can do, and says so; a file that each writes is each one's own."""
        if loaded.eve is not None:
            loaded.eve = replace(loaded.eve, path=own_path(loaded.eve.path, self._number))
        if loaded.metrics is not None:
            loaded.metrics = None
            text = "metrics: no textfile with workers"
            loaded.warnings.append(config.Problem(loaded.path, 0, 0, "warning", text))
        if loaded.workers != self._size:
            text = f"workers {loaded.workers}: needs a restart, still {self._size}"
            loaded.warnings.append(config.Problem(loaded.path, 0, 0, "warning", text))
        return loaded


def own_path(path: str, number: int) -> str:
    """The log of one worker: eve.1.json. Behind the ending, the number would be that of a log that was rotated."""
    stem, ending = os.path.splitext(path)
    return f"{stem}.{number}{ending}"
