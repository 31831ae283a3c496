"""The reload: the rule file as it is now takes the place of the rules in force, or nothing happens.

Owns which configuration is in force and since when, whether it is on trial, and what is said about a change of it: to
the log, to systemd, to the client who asked. How a file becomes a configuration (``load``) and what hangs on one in the
daemon (``put``) are functions that it is given; what outlives the daemon is last_good's.

Asked for by SIGHUP or by the control socket's method, and done when the loop comes to it (``work``). The file is read,
compiled and tested (its own tests) completely before anything is changed, aside from the packets, which go on; then the
two references, rules and settings, are swapped between two of them. A file with an error changes nothing. One is done
after the other, each with the file as it is then.

A trial (``confirm`` seconds)::

    none --reload with confirm--> on trial --confirm, in time--> none, the new rules are kept
                                      |----roll back-----------> none, the old rules are back
                                      '----the time is over----> none, the old rules are back

The daemon owns it, so nobody needs to stay: it ends as it should when the client dies, his connection drops or his
terminal hangs. It ends once, whatever comes at the same time: a confirmation that comes too late finds no trial. While
there is one every other reload is refused, SIGHUP too, for it would confirm by accident. The old rules come back with
all that has changed meanwhile (counters, members of sets). A connection that only the tried rules have accepted must
please the old ones at its next packet, or ends at once when ``existing`` was kill. One that the reload itself has
forgotten (kill) does not come back.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ctfw import config
from ctfw.config.remains import gather, let_go
from ctfw.conntrack.events import RELOADED as BY_RELOAD
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.ruleset.ruleset import EXISTING_NAMES, KILL
from ctfw.service.aside import Abandoned, Aside, breathe
from ctfw.service.journal import ERROR, NOTICE, WARNING, Journal
from ctfw.service.kinds import (
    LAST_GOOD,
    RELOAD_CONFIRMED,
    RELOAD_FAILED,
    RELOADED,
    ROLLED_BACK,
    RULES_PROBLEM,
    STATE_NOT_SAVED,
)
from ctfw.service.last_good import Begun, LastGood
from ctfw.service.notify import Notifier
from ctfw.service.panic import Panic
from ctfw.service.session import FAILED, INVALID_PARAMS, Later, Refused, Session

SECOND: Final = 1_000_000_000
MAX_PROBLEMS: Final = 100  # of a rule file, in one answer
LONGEST_TRIAL: Final = 3600  # seconds
MOURNING: Final = SECOND  # ten ticks
NEVER: Final = -1  # a generation before all others: whatever the floor is, the rules look again


@dataclass(frozen=True)
class _Request:
    """``existing`` says what becomes of open connections this time (KEEP, RECHECK, KILL); -1: what the file says.

    ``confirm``: seconds in which somebody must confirm; 0: nobody need.
    """

    existing: int = -1
    confirm: int = 0
    answer: Later | None = None  # of a client


@dataclass(frozen=True)
class _Trial:
    """What is in force beside what it would go back to. ``until``: nanoseconds of the loop's clock."""

    generation: int
    until: int
    former: config.Config
    floor: tuple[int, int]  # of the former rules: floor and what it means
    since: float  # when those were loaded


@dataclass(frozen=True)
class _Ending:
    """Somebody wants the old rules back."""

    why: str
    answer: Later


class Reloading:
    """The rules in force: ``config``, loaded from ``path``.

    ``load`` makes a configuration of a path, or of what was stored of it, and raises config.ConfigError or OSError;
    ``put`` puts one into force and returns what of it cannot be changed without a restart; ``facts`` is the daemon in
    one line.
    """

    def __init__(
        self,
        begun: Begun,
        path: str,
        engine: Engine,
        aside: Aside,
        last_good: LastGood,
        load: Callable[[str, config.Stored | None], config.Config],
        put: Callable[[config.Config], list[config.Problem]],
        facts: Callable[[], str],
        notifier: Notifier,
        journal: Journal,
    ) -> None:
        self.config = begun.config
        self.path = path
        self.since = time.time()
        self.tried = self.since  # when the file was last read, whatever came of it
        self.successful = True  # did it come into force?
        self.counts = {"done": 0, "failed": 0}
        self.trials = {"confirmed": 0, "rolled_back": 0}
        self.begun = begun
        self.trial: _Trial | None = None
        self._wanted: deque[_Request] = deque()  # one a client, and one for all signals that wait
        self._ending: _Ending | None = None
        self._to_keep: Later | None = None
        self._over: list[config.Config] = []  # have had their time
        self._gathered: deque[tuple[int, list[object]]] = deque()  # what is left of those, and since when
        self.panic = Panic(engine, journal)
        self._engine = engine
        self._aside = aside
        self._last_good = last_good
        self._load = load
        self._put = put
        self._facts = facts
        self._notifier = notifier
        self._journal = journal

    def start(self) -> None:
        """The daemon begins to judge: says so when it does not with the file, else keeps what was read."""
        if self.begun.why:
            told = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.begun.saved))
            text = f"LAST GOOD RULES of {told} in force, not the file: {self.begun.why}"
            self._journal.log(text, ERROR, kind=LAST_GOOD)
            _look_again(self._engine.tracker, self.begun.tried, False, time.monotonic_ns())
        else:
            self._to_keep = Later()

    def ask(self) -> None:
        """A signal wants a reload; those that come before it begins are one."""
        if not any(request.answer is None for request in self._wanted):
            self._wanted.append(_Request())

    def methods(self) -> dict[str, Callable[[dict[str, Any], Session], object]]:
        """The control socket's methods."""
        return {
            "reload": self._ask_for_client,
            "confirm": self._confirm,
            "rollback": self._roll_back_for_client,
            "panic": self.panic.method,
        }

    def work(self) -> None:
        """Does what was asked for, and what is due; to be called between two turns of the loop."""
        try:
            self._end_trial()
            self._keep()
            while self._wanted:
                request = self._wanted.popleft()
                answer = self._serve(request)
                if request.answer is not None:
                    request.answer.done(answer)
                self._keep()
            self._let_go()
        except Abandoned:
            self._wanted.clear()

    def figures(self) -> dict[str, Any]:
        """What `status` says about the rules."""
        ruleset = self.config.ruleset
        return {
            "count": len(ruleset.rules),
            "generation": ruleset.generation,
            "loaded": self.since,
            "tried": self.tried,
            "successful": self.successful,
            "reloads": dict(self.counts),
            "trials": dict(self.trials),
            "last_good": {"why": self.begun.why, "saved": self.begun.saved} if self.begun.why else None,
            "panic": {"seconds": self.panic.left()} if self.panic.left() is not None else None,
            "trial": {"generation": self.trial.generation, "seconds": self._left()} if self.trial is not None else None,
        }

    def note(self) -> str:
        """What is out of the ordinary about the rules in force, for a line of status; mostly nothing."""
        if self.panic.left() is not None:
            return f"PANIC, everything is dropped for {self.panic.left()} s; "
        if self.trial is not None:
            return f"RULES ON TRIAL for {self._left()} s; "
        return "LAST GOOD RULES, the file cannot be used; " if self.begun.why else ""

    # --- what clients ask -----------------------------------------------------------------------

    def _ask_for_client(self, params: dict[str, Any], session: Session) -> Later:
        """Reads the rule file again; ``existing`` for this time; ``confirm``: seconds until somebody must confirm."""
        word, confirm = params.get("existing"), params.get("confirm", 0)
        if word is not None and word not in EXISTING_NAMES:
            raise Refused(INVALID_PARAMS, f"existing is one of {', '.join(EXISTING_NAMES)}")
        if not isinstance(confirm, int) or isinstance(confirm, bool) or not 0 <= confirm <= LONGEST_TRIAL:
            raise Refused(INVALID_PARAMS, f"confirm is a number of seconds up to {LONGEST_TRIAL}")
        answer = Later()
        self._wanted.append(_Request(-1 if word is None else EXISTING_NAMES.index(word), confirm, answer))
        return answer

    def _confirm(self, params: dict[str, Any], session: Session) -> Later:
        """Keeps the rules on trial; answered when they are on the disk."""
        self._over.append(self._the_trial(params).former)
        self.trial = None
        self.trials["confirmed"] += 1
        self._journal.log(f"rules confirmed: uid={session.peer.uid} {self._facts()}", NOTICE, kind=RELOAD_CONFIRMED)
        self._notifier.status(self._facts())
        self._to_keep = Later()
        return self._to_keep

    def _roll_back_for_client(self, params: dict[str, Any], session: Session) -> Later:
        """Puts the old rules back at once."""
        self._the_trial(params)
        self._ending = _Ending(f"uid={session.peer.uid} asked for it", Later())
        return self._ending.answer

    def _the_trial(self, params: dict[str, Any]) -> _Trial:
        """Refuses when the trial that is meant is over; one whose time is up is, however late the loop is."""
        trial, meant = self.trial, params.get("generation")
        is_over = trial is None or self._ending is not None or time.monotonic_ns() >= trial.until
        if trial is None or is_over or meant not in (None, trial.generation):
            text = f"no such rules are on trial; in force is generation {self.config.ruleset.generation}"
            raise Refused(FAILED, text)
        return trial

    # --- the reload -----------------------------------------------------------------------------

    def _serve(self, request: _Request) -> object:
        if self.trial is not None:
            text = f"rules are on trial for another {self._left()} s: confirm them or roll back first"
            self.counts["failed"] += 1
            self._journal.log(f"reload refused: {text}", WARNING, kind=RELOAD_FAILED)
            self._notifier.reloading(time.monotonic_ns())
            self._notifier.ready(self.note() + self._facts())
            return Refused(FAILED, text)
        problems = self._reload(request)
        texts = [config.render(problem) for problem in problems[:MAX_PROBLEMS]]
        if any(problem.severity == "error" for problem in problems):
            return Refused(FAILED, "the rules have errors; the old ones stay in force", texts)
        return {"generation": self.config.ruleset.generation, "warnings": texts, "confirm": request.confirm}

    def _reload(self, request: _Request) -> list[config.Problem]:
        begun = time.monotonic_ns()
        self._notifier.reloading(begun)
        problems = self._swap(request)
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
            trial = f" on_trial={request.confirm}s" if request.confirm else ""
            text = f"reloaded: {self._facts()} ms={took} waited_ms={waited:.1f}{trial}"
            self._journal.log(text, NOTICE, kind=RELOADED)
        self._notifier.ready(("rules as before, the new file has errors; " if failed else self.note()) + self._facts())
        return problems

    def _swap(self, request: _Request) -> list[config.Problem]:
        try:
            new = self._aside.run(lambda: self._load(self.path, None))
        except config.ConfigError as error:
            return error.problems
        except OSError as error:
            return [config.Problem(self.path, 0, 0, "error", f"cannot be read: {error.strerror}")]
        except Exception as error:  # a mistake of ours in reading a file must not end the firewall that there is
            text = f"internal error: {type(error).__name__}: {error}"
            return [config.Problem(self.path, 0, 0, "error", text)]
        problems = list(new.warnings)
        if request.confirm:
            generation = int(self.config.ruleset.generation) + 1
            why = self._aside.run(lambda: self._last_good.try_out(new.stored, generation))
            if why or not self._last_good.directory:
                text = f"a restart during the trial would begin with these rules: {why or 'ctfw runs without --state'}"
                problems.append(config.Problem(self.path, 0, 0, "warning", text))
        else:
            self._aside.run(self._last_good.end_trial)  # or a restart would take these for what was tried in vain
        if request.existing >= 0:
            new.ruleset.existing = request.existing
        former = self.config
        floor = (former.ruleset.floor, former.ruleset.floor_means)
        since = self.since
        self._aside.run(lambda: new.ruleset.find_ancestors(former.ruleset, breathe))
        self._aside.run(new.stored.digest)  # the next tick wants it
        problems += self._put_in_force(new)
        if request.confirm:
            until = time.monotonic_ns() + request.confirm * SECOND
            self.trial = _Trial(new.ruleset.generation, until, former, floor, since)
        else:
            self._over.append(former)
            self._to_keep = Later()
        return problems

    def _put_in_force(self, new: config.Config) -> list[config.Problem]:
        new.ruleset.succeed(self.config.ruleset, time.monotonic_ns())
        unchanged = self._put(new)
        self.panic.stay()
        self.config = new
        self.since = time.time()
        return unchanged

    # --- the end of a trial ---------------------------------------------------------------------

    def _left(self) -> int:
        """Seconds of the trial."""
        left = self.trial.until - time.monotonic_ns() if self.trial is not None else 0
        return max(-(-left // SECOND), 0)

    def _end_trial(self) -> None:
        """Rolls back when somebody wants it or the time is up."""
        trial, ending = self.trial, self._ending
        if trial is not None and (ending is not None or time.monotonic_ns() >= trial.until):
            self.trial = self._ending = None
            self._roll_back(trial, ending.why if ending is not None else "nobody has confirmed the new ones in time")
            if ending is not None:
                ending.answer.done({"generation": self.config.ruleset.generation})

    def _roll_back(self, trial: _Trial, why: str) -> None:
        over = self.config
        tried, old = over.ruleset, trial.former.ruleset
        for members in old.sets.values():
            if members.name in tried.sets:
                members.clear()  # what it has now, the tried rules have had since
        self._aside.run(lambda: old.find_ancestors(tried, breathe))
        self._put_in_force(trial.former)
        old.floor, old.floor_means = trial.floor
        self.since = trial.since
        self.trials["rolled_back"] += 1
        self._over.append(over)
        kill = tried.existing == KILL
        self._journal.log(f"the old rules are back: {why}: {self._facts()}", WARNING, kind=ROLLED_BACK)
        self._notifier.status(self._facts())
        now = time.monotonic_ns()
        self._aside.run(lambda: _look_again(self._engine.tracker, trial.generation, kill, now))

    def _keep(self) -> None:
        """Writes down the rules in force as the last good ones, when there is cause to."""
        told = self._to_keep
        if told is None:
            return
        self._to_keep = None
        generation = self.config.ruleset.generation
        stored = self.config.stored
        why = self._aside.run(lambda: self._last_good.keep(self.path, stored))
        if why:
            self._journal.log(f"last good rules not kept: {why}", WARNING, kind=STATE_NOT_SAVED)
        self.begun = Begun(self.config)
        told.done({"generation": generation, "warnings": [f"not kept for a restart: {why}"] if why else []})

    def _let_go(self) -> None:
        """Frees what is over in pieces: ten thousand rules at once would keep the packets waiting.

        A moment later, for until the next tick others may look at them, and then it would be they who free them.
        """
        while self._over:
            over = self._over.pop()
            self._gathered.append((time.monotonic_ns(), self._aside.run(lambda over=over: gather([over]))))  # type: ignore[misc]
        while self._gathered and time.monotonic_ns() - self._gathered[0][0] > MOURNING:
            remains = self._gathered.popleft()[1]
            self._aside.run(lambda remains=remains: let_go(remains))  # type: ignore[misc]


def _look_again(tracker: ConnTrack, generation: int, kill: bool, now: int) -> None:
    """Has the rules look again at the connections that those of ``generation`` have accepted, or ends them."""
    for shard in range(tracker.table.shards):
        for conn in tracker.table.with_tuple_in(shard):
            if conn.generation == generation:
                conn.generation = NEVER
                if kill:
                    tracker.remove(conn, now, BY_RELOAD)
