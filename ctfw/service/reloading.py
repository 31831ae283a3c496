"""The reload: the rule file as it is now takes the place of the rules in force, or nothing happens.

Owns which configuration is in force and since when, and what is said about a change of it: to the log, to systemd, to
the client who asked. How a file becomes a configuration (``load``) and what hangs on one in the daemon (``put``) are
functions that it is given.

Asked for by SIGHUP or by the control socket's method. The file is read, compiled and tested (its own tests) completely
before anything is changed; then the two references, rules and settings, are swapped between two packets. A file with an
error changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from ctfw import config
from ctfw.engine import Engine
from ctfw.ruleset.ruleset import EXISTING_NAMES
from ctfw.service.journal import ERROR, NOTICE, WARNING, Journal
from ctfw.service.kinds import RELOAD_FAILED, RELOADED, RULES_PROBLEM
from ctfw.service.notify import Notifier
from ctfw.service.session import FAILED, INVALID_PARAMS, Refused

MAX_PROBLEMS: Final = 100  # of a rule file, in one answer


class Reloading:
    """The rules in force: ``config``, loaded from ``path``.

    ``load`` makes a configuration of a path and raises config.ConfigError or OSError; ``put`` puts one into force and
    returns what of it cannot be changed without a restart; ``facts`` is the daemon in one line.
    """

    def __init__(
        self,
        loaded: config.Config,
        path: str,
        engine: Engine,
        load: Callable[[str], config.Config],
        put: Callable[[config.Config], list[config.Problem]],
        facts: Callable[[], str],
        notifier: Notifier,
        journal: Journal,
    ) -> None:
        self.config = loaded
        self.path = path
        self.since = time.time()
        self.counts = {"done": 0, "failed": 0}
        self._engine = engine
        self._load = load
        self._put = put
        self._facts = facts
        self._notifier = notifier
        self._journal = journal

    def reload(self, existing: int = -1) -> list[config.Problem]:
        """Swap in the rules as the file has them now; the problems. With an error among them nothing has changed.

        ``existing`` says what becomes of open connections this time (KEEP, RECHECK, KILL); -1: what the file says.
        """
        begun = time.monotonic_ns()
        self._notifier.reloading(begun)
        problems = self._swap(existing)
        failed = any(problem.severity == "error" for problem in problems)
        self.counts["failed" if failed else "done"] += 1
        for problem in problems[:MAX_PROBLEMS]:
            level = ERROR if problem.severity == "error" else WARNING
            self._journal.log(f"{problem.where()}: {problem.severity}: {problem.message}", level, kind=RULES_PROBLEM)
        took = (time.monotonic_ns() - begun) // 1_000_000
        if failed:
            self._journal.log(f"reload failed, the old rules stay: problems={len(problems)}", ERROR, kind=RELOAD_FAILED)
        else:
            self._journal.log(f"reloaded: {self._facts()} ms={took}", NOTICE, kind=RELOADED)
        self._notifier.ready(("rules as before, the new file has errors; " if failed else "") + self._facts())
        return problems

    def reload_for_client(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control socket's method."""
        word = params.get("existing")
        if word is not None and word not in EXISTING_NAMES:
            raise Refused(INVALID_PARAMS, f"existing is one of {', '.join(EXISTING_NAMES)}")
        problems = self.reload(-1 if word is None else EXISTING_NAMES.index(word))
        texts = [config.render(problem) for problem in problems[:MAX_PROBLEMS]]
        if any(problem.severity == "error" for problem in problems):
            raise Refused(FAILED, "the rules have errors; the old ones stay in force", texts)
        return {"generation": self._engine.ruleset.generation, "warnings": texts}

    def figures(self) -> dict[str, Any]:
        """What `status` says about the rules."""
        ruleset = self._engine.ruleset
        return {
            "count": len(ruleset.rules),
            "generation": ruleset.generation,
            "loaded": self.since,
            "reloads": dict(self.counts),
        }

    def _swap(self, existing: int) -> list[config.Problem]:
        try:
            new = self._load(self.path)
        except config.ConfigError as error:
            return error.problems
        except OSError as error:
            return [config.Problem(self.path, 0, 0, "error", f"cannot be read: {error.strerror}")]
        if existing >= 0:
            new.ruleset.existing = existing
        new.ruleset.succeed(self._engine.ruleset, time.monotonic_ns())
        unchanged = self._put(new)
        self.config = new
        self.since = time.time()
        return [*new.warnings, *unchanged]
