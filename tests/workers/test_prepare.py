"""The first step of a reload of all workers: what goes wrong in it is told, and ends nobody."""

from pathlib import Path

import pytest

from ctfw import config
from ctfw.service.aside import Aside
from ctfw.service.peers import Peer
from ctfw.service.session import Later, Refused, Session
from ctfw.workers.prepare import Prepare


def prepared(prepare: Prepare, path: Path) -> object:
    """The answer to who asks for it."""
    later = prepare.prepare({"path": str(path)}, Session(Peer(1, 0, frozenset({0}))))
    prepare.work(Aside(lambda: None))
    assert isinstance(later, Later) and later.is_known
    return later.answer


def mistaken(*arguments: object, **more: object) -> config.Config:
    raise ZeroDivisionError("division by zero")


def test_a_mistake_of_ours_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1\npolicy: {input: drop, forward: drop, output: drop}\n")
    prepare = Prepare(0, 1)
    monkeypatch.setattr(config, "load", mistaken)
    answer = prepared(prepare, path)
    assert isinstance(answer, Refused)
    assert str(answer) == f"{path}: internal error: ZeroDivisionError: division by zero"
    monkeypatch.undo()
    assert prepared(prepare, path) == {"warnings": []}
