"""Whoever ends a trial first ends it, and nobody a second time: in one turn of the loop, in every order."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from daemon.parts import RULES, Gateway

from ctfw.service.peers import Peer
from ctfw.service.session import Later, Refused, Session


class Trial:
    """Rules on trial for a minute."""

    def __init__(self, gateway: Gateway) -> None:
        self.reloading = gateway.parts.reloading
        self.session = Session(Peer(1, 0, frozenset({0})))
        self.old = self.reloading.config
        gateway.path.write_text(RULES.replace("dport: 53", "dport: 54"))
        self.begin()

    def begin(self) -> None:
        self.ask("reload", confirm=60)
        self.reloading.work()
        assert self.reloading.trial is not None

    def ask(self, method: str, **params: object) -> Later:
        """What a client asks in this turn; it is answered after that."""
        answer = self.reloading.methods()[method](params, self.session)
        assert isinstance(answer, Later)
        return answer

    def is_refused(self, method: str, **params: object) -> bool:
        try:
            self.ask(method, **params)
        except Refused as refused:
            return "no such rules are on trial" in str(refused)
        return False

    def run_out(self) -> None:
        """The time is up, and the loop has not looked yet."""
        assert self.reloading.trial is not None
        self.reloading.trial = replace(self.reloading.trial, until=time.monotonic_ns())

    def ended(self) -> dict[str, Any]:
        """How it ended, when the turn is over, and whether that is what is in force."""
        for _ in range(3):
            self.reloading.work()
        assert self.reloading.trial is None
        counts = self.reloading.trials
        assert (self.reloading.config is self.old) == (counts["rolled_back"] > 0)
        return counts


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    gateway = Gateway(tmp_path)
    yield Trial(gateway)
    gateway.close()


CONFIRMED = {"confirmed": 1, "rolled_back": 0}
ROLLED_BACK = {"confirmed": 0, "rolled_back": 1}


def test_a_word_that_comes_when_the_time_is_up_is_too_late(trial: Trial) -> None:
    trial.run_out()
    assert trial.is_refused("confirm") and trial.is_refused("rollback")
    assert trial.ended() == ROLLED_BACK


def test_a_word_in_time_holds_though_the_time_is_up_before_the_turn_is_over(trial: Trial) -> None:
    answer = trial.ask("confirm")
    assert trial.reloading.trial is None  # nothing is left whose time could be up
    assert trial.ended() == CONFIRMED
    assert answer.answer == {"generation": 1, "warnings": []}


@pytest.mark.parametrize("second", ["confirm", "rollback"])
def test_a_trial_that_somebody_ends_cannot_be_kept_or_ended_by_another(trial: Trial, second: str) -> None:
    answer = trial.ask("rollback")
    assert trial.is_refused(second)
    trial.run_out()
    assert trial.ended() == ROLLED_BACK
    assert answer.answer == {"generation": 2}


@pytest.mark.parametrize("second", ["confirm", "rollback"])
def test_rules_that_were_confirmed_stay_whoever_comes_then(trial: Trial, second: str) -> None:
    trial.ask("confirm")
    assert trial.is_refused(second)
    assert trial.ended() == CONFIRMED


def test_a_word_for_another_trial_does_not_count(trial: Trial) -> None:
    assert trial.is_refused("confirm", generation=0) and trial.is_refused("rollback", generation=2)
    trial.ask("confirm", generation=1)
    assert trial.ended() == CONFIRMED


def test_the_end_of_one_trial_is_not_that_of_the_next(trial: Trial) -> None:
    trial.ask("rollback")
    assert trial.ended() == ROLLED_BACK
    trial.begin()
    trial.reloading.work()
    assert trial.reloading.trial is not None and trial.reloading.trial.generation == 3
    trial.ask("confirm", generation=3)
    trial.reloading.work()
    assert trial.reloading.trials == {"confirmed": 1, "rolled_back": 1}
