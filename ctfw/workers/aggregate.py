"""One control socket for all workers: each question goes to each worker's own socket, and the answers are put together.

Listings come worker by worker, counters are summed, commands go to all. What one worker alone can say is asked of the
one that knows. A reload is done by all or by none (``prepare``). What cannot be put together is refused, with the place
where each worker answers it itself.

The process that asks judges no packets, so it may wait for an answer; a worker that does not answer within PATIENCE is
an error, and its watchdog's business. What may take long, a reload or a flush, is waited for between other requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from ctfw.service.client import Client, ClientError
from ctfw.service.pages import page, paged
from ctfw.service.session import FAILED, Method, Refused, Session
from ctfw.service.status import DEGRADED, FAILING, OK

PATIENCE: Final = 5.0
LONG: Final = 120.0  # a rule file may be long, a table large
APART: Final = ("directions", "events", "flight", "live", "metrics")

_HEALTH: Final = (OK, DEGRADED, FAILING)
# Of `status`: figures that are added up, and those of which the largest counts. The rest is the first worker's.
_ADDED: Final = (
    ("connections", ("entries", "early_drop", "insert_failed")),
    ("queue", (
        "received", "answered", "lost", "errors", "malformed", "uncheckable", "overruns", "refused", "retries",
    )),
    ("log", ("lost", "packets", "suppressed")),
    ("events", ("listeners", "lost")),
    ("eve", ("written", "lost", "suppressed")),
    ("record", ("written", "slow", "ended")),
)  # fmt: skip
_LARGEST: Final = ("progress", "delay")


class Aggregate:
    """``paths`` are the workers' control sockets, worker 0's first; ``rules`` the rule file's path."""

    def __init__(self, paths: list[str], rules: str) -> None:
        self.paths = paths
        self._rules = rules
        self._pool = ThreadPoolExecutor(len(paths), "ask")
        self._slow = ThreadPoolExecutor(len(paths), "ask-long")  # where no question has to wait for a thread
        self._is_reloading = False

    def table(self) -> dict[str, Method]:
        """Every method by name."""
        methods: dict[str, Method] = {name: _apart(name, self.paths) for name in APART}
        for name in ("list", "expect"):
            methods[name] = self._listing(name)
        for name in ("delete", "kill"):
            methods[name] = self._listing(name)
        for name in ("rules", "reset_rules"):
            methods[name] = self._rules_of(name)
        methods["explain"] = self._explain
        methods["members"] = lambda params, session: page(
            params, session, lambda: self._lists(self.paths[:1], "members")
        )
        methods["clock"] = lambda params, session: self._all("clock", {})[0]
        methods["stats"] = lambda params, session: _sum_stats(self._all("stats", {}))
        methods["siblings"] = lambda params, session: _sum(self._all("siblings", {}))
        methods["status"] = lambda params, session: _status(self._all("status", {}))
        methods["set_add"] = lambda params, session: self._all("set_add", params)[0]
        # Whoever takes it out first tells the others, who then find it gone.
        methods["set_del"] = lambda params, session: {
            "removed": any(answer["removed"] for answer in self._all("set_del", params))
        }
        methods["meets"] = lambda params, session: {
            "meets": any(answer["meets"] for answer in self._all("meets", params))
        }
        methods["panic"] = lambda params, session: self._all("panic", params)[0]
        methods["rollback"] = lambda params, session: self._all("rollback", params)[0]
        methods["confirm"] = lambda params, session: self._confirm(params)
        methods["flush"] = lambda params, session: self._flush()
        methods["reload"] = lambda params, session: self.reload(params)
        return methods

    def reload(self, params: dict[str, Any]) -> Generator[None, None, dict[str, Any]]:
        """Has all workers load the rules, and then put them in force; raises Refused when one of them could not.

        One after the other: what is prepared at the workers is for the reload that had it prepared.
        """
        while self._is_reloading:
            yield
        self._is_reloading = True
        try:
            return (yield from self._reload(params))
        finally:
            self._is_reloading = False

    def _reload(self, params: dict[str, Any]) -> Generator[None, None, dict[str, Any]]:
        try:
            yield from self._all_later("prepare", {"path": self._rules})
            answers = yield from self._all_later("reload", params)
        except Refused:
            self._all("discard", {})
            raise
        answer: dict[str, Any] = answers[0]
        return answer

    def _flush(self) -> Generator[None, None, dict[str, Any]]:
        return _sum((yield from self._all_later("flush", {})))

    def _confirm(self, params: dict[str, Any]) -> dict[str, Any]:
        """Keeps the rules on trial everywhere. Each worker has a clock of its own, so not in the last second."""
        left = [answer["rules"]["trial"] for answer in self._all("status", {})]
        if any(trial is None or trial["seconds"] <= 1 for trial in left):
            raise Refused(FAILED, "no such rules are on trial, or their time is up")
        answer: dict[str, Any] = self._all("confirm", params)[0]
        return answer

    def close(self) -> None:
        for pool in (self._pool, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask_all(
        self, pool: ThreadPoolExecutor, method: str, params: dict[str, Any], patience: float
    ) -> list[Future[Any]]:
        def ask(path: str) -> Any:
            with Client(path, patience) as client:
                return client.call(method, **params)

        return [pool.submit(ask, path) for path in self.paths]

    def _all(self, method: str, params: dict[str, Any]) -> list[Any]:
        """Each worker's answer. Raises Refused."""
        answers = self._ask_all(self._pool, method, params, PATIENCE)
        try:
            return [answer.result() for answer in answers]
        except ClientError as error:
            raise _refused(error) from error

    def _all_later(self, method: str, params: dict[str, Any]) -> Generator[None, None, list[Any]]:
        """The same of what may take long: others are served meanwhile."""
        asked = self._ask_all(self._slow, method, params, LONG)
        while not all(one.done() for one in asked):
            yield
        failures = [error for one in asked if (error := one.exception()) is not None]
        if failures:
            raise _refused(failures[0])
        return [one.result() for one in asked]

    def _lists(self, paths: list[str], method: str, /, **params: object) -> Iterator[list[Any]]:
        """Their pages as they are: what an entry is may be large."""
        try:
            for path in paths:
                with Client(path, PATIENCE) as client:
                    yield from client.lists(method, **params)
        except ClientError as error:
            raise _refused(error) from error

    def _entries(self, path: str, method: str, /, **params: object) -> Iterator[Any]:
        return (entry for entries in self._lists([path], method, **params) for entry in entries)

    def _listing(self, name: str) -> Method:
        def answer(params: dict[str, Any], session: Session) -> dict[str, Any]:
            return page(params, session, lambda: self._lists(self.paths, name, **_first(params)))

        return answer

    def _rules_of(self, name: str) -> Method:
        def every() -> Iterator[Any]:
            for same in zip(*[self._entries(path, name) for path in self.paths], strict=True):
                yield _rule(same)

        return lambda params, session: page(params, session, lambda: paged(every()))

    def _explain(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """By the worker that knows the packet's connection; by the first one when none does."""

        def told() -> Iterator[Any]:
            tellings = [list(self._entries(path, "explain", **_first(params))) for path in self.paths]
            for telling in tellings:
                if any(one["step"] == "connection" and one["line"] for one in telling):
                    return iter(telling)
            return iter(tellings[0])

        return page(params, session, lambda: paged(told()))


def _apart(name: str, paths: list[str]) -> Callable[[dict[str, Any], Session], object]:
    def refuse(params: dict[str, Any], session: Session) -> object:
        where = f"{os.path.dirname(paths[0])}/{{{','.join(os.path.basename(path) for path in paths)}}}"
        raise Refused(FAILED, f"{name}: each worker answers this for itself, with --socket one of {where}")

    return refuse


def _first(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a request without those of its going on."""
    return {name: value for name, value in params.items() if name != "next"}


def _refused(error: BaseException) -> Refused:
    return Refused(FAILED, str(error), getattr(error, "data", None))


def _sum(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The same mapping, each number the sum of theirs; a mapping that one has not (None) nobody has."""
    total: dict[str, Any] = {}
    for name in {name: None for answer in answers for name in answer}:
        values = [answer[name] for answer in answers if name in answer]
        if all(isinstance(value, dict) for value in values):
            total[name] = _sum(values)
        elif all(isinstance(value, int | float) for value in values):
            total[name] = sum(values)
        else:
            total[name] = None
    return total


def _sum_stats(answers: list[dict[str, Any]]) -> dict[str, Any]:
    total = _sum(answers)
    total["conntrack"]["max"] = answers[0]["conntrack"]["max"]  # is for all of them together
    return total


def _rule(same: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    told = dict(same[0])
    told["packets"] = sum(one["packets"] for one in same)
    told["bytes"] = sum(one["bytes"] for one in same)
    told["idle"] = min((one["idle"] for one in same if one["idle"] is not None), default=None)
    told["last"] = max((one["last"] for one in same if one["last"] is not None), default=None)
    told["heat"] = {name: _heat([one["heat"][name] for one in same]) for name in told["heat"]}
    return told


def _heat(same: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    known = [one for one in same if one is not None]
    if not known:
        return None
    return {
        "packets": sum(one["packets"] for one in known),
        "of": sum(one["of"] for one in known),
        "seconds": max(one["seconds"] for one in known),
    }


def _status(answers: list[dict[str, Any]]) -> dict[str, Any]:
    told = dict(answers[0])
    for section, names in _ADDED:
        known = [answer[section] for answer in answers if answer[section] is not None]
        told[section] = known[0] | {name: sum(one[name] for one in known) for name in names} if known else None
    for name in ("rates", "recent", "unjudged"):
        told[name] = _sum([answer[name] for answer in answers]) if isinstance(told[name], dict) else told[name]
    for name in _LARGEST:
        told[name] = max(answer[name] for answer in answers)
    kernel = [answer["queue"]["kernel"] for answer in answers]
    oldest = [answer["queue"]["oldest"] for answer in answers]
    told["queue"] |= {
        "kernel": None if None in kernel else _sum(kernel),
        "oldest": max((one for one in oldest if one is not None), default=None),
    }
    told["health"] = max((answer["health"] for answer in answers), key=_HEALTH.index)
    told["reasons"] = list(dict.fromkeys(reason for answer in answers for reason in answer["reasons"]))
    told["pid"] = os.getpid()
    told["workers"] = [
        {
            "pid": answer["pid"],
            "queue": answer["queue"]["number"],
            "received": answer["queue"]["received"],
            "connections": answer["connections"]["entries"],
            "health": answer["health"],
        }
        for answer in answers
    ]
    return told
