"""A mistake of ours in reading a rule file: no daemon ends with it, and none starts without rules because of it."""

from pathlib import Path

import pytest
from daemon.parts import RULES, Gateway

from ctfw import config
from ctfw.service.last_good import LastGood


def mistaken(*arguments: object, **more: object) -> config.Config:
    raise ZeroDivisionError("division by zero")


def test_a_reload_is_refused_and_the_old_rules_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(tmp_path)
    reloading = gateway.parts.reloading
    old = reloading.config
    monkeypatch.setattr(config, "load", mistaken)
    gateway.reload()
    assert reloading.config is old
    assert not reloading.successful
    monkeypatch.undo()
    gateway.reload()
    assert reloading.config is not old
    gateway.close()


def test_a_start_takes_the_last_good_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    good = LastGood(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        good.begin(str(path), mistaken)
    assert good.keep(str(path), config.load(str(path)).stored) == ""

    def only_stored(path: str, stored: config.Stored | None) -> config.Config:
        return config.load(path, stored=stored) if stored is not None else mistaken()

    begun = good.begin(str(path), only_stored)
    assert begun.why == "internal error: ZeroDivisionError: division by zero"
    assert len(begun.config.ruleset.rules) == len(config.load(str(path)).ruleset.rules)
