"""The reload: the rule file as it is now takes the place of the rules in force, or nothing happens.

Owns which configuration is in force and since when, and what is said about a change of it: to the log, to systemd, to
the client who asked. How a file becomes a configuration (``load``) and what hangs on one in the daemon (``put``) are
functions that it is given.

Asked for by SIGHUP or by the control socket's method, and done when the loop comes to it (``work``). The file is read,
compiled and tested (its own tests) completely before anything is changed, aside from the packets, which go on; then the
two references, rules and settings, are swapped between two of them. A file with an error changes nothing. One is done
after the other, each with the file as it is then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ctfw import config
from ctfw.engine import Engine
from ctfw.ruleset.ruleset import EXISTING_NAMES
from ctfw.service.aside import Abandoned, Aside
from ctfw.service.journal import ERROR, NOTICE, WARNING, Journal
from ctfw.service.kinds import RELOAD_FAILED, RELOADED, RULES_PROBLEM
from ctfw.service.notify import Notifier
from ctfw.service.session import FAILED, INVALID_PARAMS, Later, Refused

MAX_PROBLEMS: Final = 100  # of a rule file, in one answer


@dataclass(frozen=True)
class _Request:
    """``existing`` says what becomes of open connections this time (KEEP, RECHECK, KILL); -1: what the file says."""

    existing: int = -1
    answer: Later | None = None  # of a client


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
        aside: Aside,
        load: Callable[[str], config.Config],
        put: Callable[[config.Config], list[config.Problem]],
        facts: Callable[[], str],
        notifier: Notifier,
        journal: Journal,
    ) -> None:
        self.config = loaded
        self.path = path
        self.since = time.time()
        self.tried = self.since  # when the file was last read, whatever came of it
        self.successful = True  # did it come into force?
        self.counts = {"done": 0, "failed": 0}
        self._wanted: deque[_Request] = deque()  # one a client, and one for all signals that wait
        self._engine = engine
        self._aside = aside
        self._load = load
        self._put = put
        self._facts = facts
        self._notifier = notifier
        self._journal = journal

    def ask(self) -> None:
        """A signal wants a reload; those that come before it begins are one."""
        if not any(request.answer is None for request in self._wanted):
            self._wanted.append(_Request())

    def ask_for_client(self, params: dict[str, Any]) -> Later:
        """The control socket's method; its answer comes when the reload is done."""
        word = params.get("existing")
        if word is not None and word not in EXISTING_NAMES:
            raise Refused(INVALID_PARAMS, f"existing is one of {', '.join(EXISTING_NAMES)}")
        request = _Request(-1 if word is None else EXISTING_NAMES.index(word), Later())
        self._wanted.append(request)
        assert request.answer is not None
        return request.answer

    def work(self) -> None:
        """Does what was asked for; to be called between two turns of the loop."""
        while self._wanted:
            request = self._wanted.popleft()
            try:
                problems = self._reload(request.existing)
            except Abandoned:
                self._wanted.clear()
                return
            if request.answer is not None:
                request.answer.done(self._answer(problems))

    def _answer(self, problems: list[config.Problem]) -> object:
        texts = [config.render(problem) for problem in problems[:MAX_PROBLEMS]]
        if any(problem.severity == "error" for problem in problems):
            return Refused(FAILED, "the rules have errors; the old ones stay in force", texts)
        return {"generation": self._engine.ruleset.generation, "warnings": texts}

    def _reload(self, existing: int) -> list[config.Problem]:
        begun = time.monotonic_ns()
        self._notifier.reloading(begun)
        problems = self._swap(existing)
        failed = any(problem.severity == "error" for problem in problems)
        self.counts["failed" if failed else "done"] += 1
        self.tried, self.successful = time.time(), not failed
        for problem in problems[:MAX_PROBLEMS]:
            level = ERROR if problem.severity == "error" else WARNING
            self._journal.log(f"{problem.where()}: {problem.severity}: {problem.message}", level, kind=RULES_PROBLEM)
        took = (time.monotonic_ns() - begun) // 1_000_000
        if failed:
            self._journal.log(f"reload failed, the old rules stay: problems={len(problems)}", ERROR, kind=RELOAD_FAILED)
        else:
            waited = self._aside.longest / 1_000_000
            self._journal.log(f"reloaded: {self._facts()} ms={took} waited_ms={waited:.1f}", NOTICE, kind=RELOADED)
        self._notifier.ready(("rules as before, the new file has errors; " if failed else "") + self._facts())
        return problems

    def figures(self) -> dict[str, Any]:
        """What `status` says about the rules."""
        ruleset = self._engine.ruleset
        return {
            "count": len(ruleset.rules),
            "generation": ruleset.generation,
            "loaded": self.since,
            "tried": self.tried,
            "successful": self.successful,
            "reloads": dict(self.counts),
        }

    def _swap(self, existing: int) -> list[config.Problem]:
        try:
            new = self._aside.run(lambda: self._load(self.path))
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
