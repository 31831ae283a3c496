"""The tests of a rule file: each played on a firewall of its own, with a clock of its own.

Owns the way from what a test says to what the engine makes of it. A test starts with an empty table, full buckets and
the members that the sets had when they were loaded, so none depends on another. Its clock moves only when it waits.

Playing counts packets and fills sets: rules that were tested are not handed to anybody (``load`` reads the file again,
and once more when it was changed meanwhile). The daemon runs this before it takes new rules, so nothing here imports
scapy, and a file's tests cost what their packets cost.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any, Final

from ctfw import config, reason
from ctfw.config import Config, ConfigError, Problem, Stored
from ctfw.config.packet_words import Wording
from ctfw.config.problems import did_you_mean, quote
from ctfw.config.remains import gather, let_go
from ctfw.config.tests_section import RuleTest, Spot, Step
from ctfw.conntrack.state import state_name
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine, Judgement
from ctfw.packet import HOOK_NAMES, INPUT, OUTPUT
from ctfw.ruleset.connlimit import ConnLimit
from ctfw.ruleset.dynamic import DynamicSet
from ctfw.ruleset.limit import RateLimit
from ctfw.ruleset.ruleset import Ruleset
from ctfw.tools.build_packet import Talk

SECOND: Final = 1_000_000_000
START: Final = 1_000_000 * SECOND  # of the clock: any number will do
_TICK: Final = SECOND // 10
_MOST_TICKS: Final = 64  # two rounds of sweeping the table
_SETTLED: Final = SECOND // 50  # nanoseconds; the kernel's clock for files is behind by up to a tick
_TRIES: Final = 5
_NOBODY: Final = "connection tracking"


@dataclass
class Outcome:
    """A step that was played: what came of it, in the words of `expect`, and which of them were wanted otherwise."""

    step: Step
    hook: int
    indev: str
    outdev: str
    said: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Played:
    """A test that was played, step by step."""

    test: RuleTest
    outcomes: list[Outcome]

    @property
    def failed(self) -> bool:
        return any(outcome.wrong for outcome in self.outcomes)


def load(path: str, stored: Stored | None = None, softly: bool = False) -> Config:
    """The configuration, when its tests pass; from what was ``stored`` of it, if that is given. ``softly``: see load.

    Raises ConfigError as ``config.load``, or with what the tests found.
    """
    for _ in range(_TRIES):
        begun = time.time_ns()
        tried = config.load(path, stored=stored, softly=softly)
        if not tried.tests:
            return tried
        found, warnings, files = problems(tried, run(tried)), tried.warnings, tried.files
        gathered = gather([tried]) if softly else []
        del tried
        let_go(gathered)
        if found:
            raise ConfigError([*warnings, *found])
        loaded = config.load(path, stored=stored, softly=softly)
        settled = all(_changed(name) < begun - _SETTLED for name in loaded.files)
        if stored is not None or (loaded.files == files and settled):
            return loaded
        time.sleep(_SETTLED / SECOND)
    raise ConfigError([Problem(path, 0, 0, "error", "changes while it is read", "try again")])


def run(loaded: Config) -> list[Played]:
    """Plays every test of the file. The rules of ``loaded`` count what is played."""
    members = [_copy(one) for one in loaded.ruleset.sets.values()]
    return [_play(test, loaded, members) for test in loaded.tests]


def problems(loaded: Config, played: list[Played]) -> list[Problem]:
    """What differs from what the file expects, each at its place."""
    names = {rule.name for rule in (*loaded.ruleset.every, *loaded.ruleset.policies.values())}
    found = []
    for one in played:
        for outcome in one.outcomes:
            for name in outcome.wrong:
                wanted = outcome.step.expected[name]
                text, hint = f"{name} is {quote(outcome.said[name])}, not {quote(wanted)}", _hint(outcome)
                if name == "rule" and wanted not in names:
                    text, hint = f"no rule is called {quote(wanted)}", did_you_mean(wanted, names) or hint
                found.append(_problem(outcome.step.places[name], f"test {quote(one.test.name)}: {text}", hint))
    return found


def judged(judgement: Judgement) -> dict[str, str]:
    """A judgement in the words of `expect`."""
    return {
        "verdict": judgement.word(),
        "state": state_name(judgement.state) or "none",
        "rule": judgement.rule.name if judgement.rule is not None else _NOBODY,
        "reason": reason.NAMES[judgement.reason] or "none",
    }


def situation(packet: Wording, first: Wording, hook: int, indev: str, outdev: str) -> tuple[int, str, str]:
    """Chain and interfaces of a packet of a conversation, of which those of the ``first`` one are given.

    What goes to where the first one came from takes the same way backwards.
    """
    if packet is not first and packet.dst == first.src:
        hook, indev, outdev = {INPUT: OUTPUT, OUTPUT: INPUT}.get(hook, hook), outdev, indev
    return hook, "" if hook == OUTPUT else indev, "" if hook == INPUT else outdev


def _play(test: RuleTest, loaded: Config, members: list[DynamicSet]) -> Played:
    ruleset = loaded.ruleset
    _refresh(ruleset, members)
    tracker = ConnTrack(loaded.settings)
    engine = Engine(tracker, ruleset)
    talk = Talk()
    now = START
    ruleset.tick(now, test.at * SECOND)
    first = next((step.packet for step in test.steps if step.packet is not None), None)
    outcomes = []
    for step in test.steps:
        if step.packet is None or first is None:
            now = _wait(engine, now, step.wait, test.at)
            outcomes.append(Outcome(step, test.hook, "", ""))
            continue
        hook, indev, outdev = situation(step.packet, first, test.hook, test.indev, test.outdev)
        hook = hook if step.hook is None else step.hook
        outcome = Outcome(
            step,
            hook,
            indev if step.indev is None else step.indev,
            outdev if step.outdev is None else step.outdev,
        )
        data = talk.build(step.packet)
        judgement = engine.handle(
            data, len(data), hook, outcome.indev, outcome.outdev, step.packet.mark, True, now
        )  # fmt: skip
        outcome.said = judged(judgement)
        outcome.wrong = [name for name, wanted in step.expected.items() if outcome.said[name] != wanted]
        if outcome.said["verdict"] == "accept":
            talk.arrived()
        outcomes.append(outcome)
    tracker.flush()
    return Played(test, outcomes)


def _wait(engine: Engine, now: int, seconds: int, at: int) -> int:
    """Time passes, and with it what the daemon does at its ticks."""
    later = now + seconds * SECOND
    for _ in range(min(seconds * SECOND // _TICK, _MOST_TICKS)):
        while engine.tracker.sweep(later):
            pass
    engine.ruleset.tick(later, at * SECOND + later - START)
    return later


def _refresh(ruleset: Ruleset, members: list[DynamicSet]) -> None:
    """Full buckets, nobody counted, and the sets as they were loaded."""
    for rule in ruleset.every:
        limit, connlimit = rule.limit, rule.connlimit
        if limit is not None:
            rule.limit = RateLimit(limit.limit.interval, limit.limit.burst, limit.per, limit.over, limit.most)
        if connlimit is not None:
            rule.connlimit = ConnLimit(connlimit.limit, connlimit.above, connlimit.per)
    for one in members:
        ruleset.sets[one.name].clear()
        ruleset.sets[one.name].inherit(one, START)


def _copy(one: DynamicSet) -> DynamicSet:
    copy = DynamicSet(one.name, one.ttl, one.most)
    copy.inherit(one, 0)
    return copy


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_ctime_ns
    except OSError:
        return time.time_ns()


def _problem(spot: Spot, message: str, hint: str) -> Problem:
    lines = spot.source.lines
    text = lines[spot.line - 1] if 0 < spot.line <= len(lines) else ""
    return Problem(spot.source.path, spot.line, spot.column, "error", message, hint, text)


def _hint(outcome: Outcome) -> str:
    said = outcome.said
    text = f"the packet gets {said['verdict']}, {said['state']}, by {quote(said['rule'])}"
    if said["reason"] != "none":
        text += f"; {said['reason']}: {reason.TEXTS[reason.NAMES.index(said['reason'])]}"
    return text + "; 'ctfw explain' tells why"


# --- for people and programs --------------------------------------------------------------------


def lines(played: Played) -> list[str]:
    """A test step by step; what differs is shown as a difference: - what the file wants, + what comes of it."""
    spot = played.test.spot
    head = f"{'FAIL' if played.failed else 'ok  '} {played.test.name} ({spot.source.path}:{spot.line})"
    if not played.failed:
        return [head]
    found = [head]
    number = 0
    for outcome in played.outcomes:
        if outcome.step.packet is None:
            found.append(f"        wait {outcome.step.wait}s")
            continue
        number += 1
        where = f"{HOOK_NAMES[outcome.hook]} {outcome.indev or '-'} > {outcome.outdev or '-'}"
        said = outcome.said
        why = f" {said['reason']}" if said["reason"] != "none" else ""
        found.append(f"    {number:>2}  {outcome.step.packet.text}  [{where}]")
        found.append(f"        {said['verdict']} {said['state']} by {said['rule']!r}{why}")
        for name in outcome.wrong:
            found += [f"      - {name}: {outcome.step.expected[name]}", f"      + {name}: {said[name]}"]
    return found


def as_dict(played: Played) -> dict[str, Any]:
    """The same as plain data."""
    spot = played.test.spot
    return {
        "name": played.test.name,
        "file": spot.source.path,
        "line": spot.line,
        "passed": not played.failed,
        "steps": [
            {"wait": one.step.wait}
            if one.step.packet is None
            else {
                "send": one.step.packet.text,
                "chain": HOOK_NAMES[one.hook],
                "in": one.indev,
                "out": one.outdev,
                "expected": one.step.expected,
                "got": one.said,
                "wrong": one.wrong,
            }
            for one in played.outcomes
        ],
    }
