"""The control socket of all, asking others that answer when the test says so."""

import json
import selectors
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctfw.service.control import MAX_OUTPUT, Control
from ctfw.service.pages import page
from ctfw.service.peers import Peer
from ctfw.service.session import FAILED, Later, Refused, Session
from ctfw.workers.aggregate import Aggregate


class Asked:
    """Two who are asked, on sockets of their own, by a thread; what they were asked, and how they answer."""

    def __init__(self, directory: Path) -> None:
        self.paths = [str(directory / f"control.sock.{number}") for number in range(2)]
        self.said: list[str] = []
        self.is_ready = threading.Event()  # what takes longer is done from now on
        self.refusal = ""
        self._pending: list[Later] = []
        self._selector = selectors.DefaultSelector()
        methods: dict[str, Any] = {name: self._answer(name) for name in ("reload", "discard", "siblings")}
        methods |= {name: self._answer_later(name) for name in ("prepare", "flush")}
        methods["list"] = lambda params, session: page(params, session, lambda: iter([["x" * 300_000]] * 10))
        self._controls = [Control(path, self._selector, methods, lambda what, error: None) for path in self.paths]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _answer(self, name: str) -> Any:
        def answer(params: dict[str, Any], session: Session) -> dict[str, Any]:
            self.said.append(name)
            if name == "reload" and self.refusal:
                raise Refused(FAILED, self.refusal)
            return {}

        return answer

    def _answer_later(self, name: str) -> Any:
        def answer(params: dict[str, Any], session: Session) -> Later:
            self.said.append(name)
            self._pending.append(Later())
            return self._pending[-1]

        return answer

    def _serve(self) -> None:
        while not self._is_over.is_set():
            for key, mask in self._selector.select(0.01):
                key.data(mask)
            for control in self._controls:
                control.step()
            while self.is_ready.is_set() and self._pending:
                self._pending.pop().done({"removed": 3})
        for control in self._controls:
            control.close()


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    made = Asked(tmp_path)
    yield made
    made.close()


def finish(asked: Asked, reload: Generator[None, None, dict[str, Any]], *others: Iterator[None]) -> None:
    """To the end of a reload, everybody preparing what he is asked to; others go on meanwhile."""
    asked.is_ready.set()
    while True:
        for other in others:
            next(other)
        try:
            next(reload)
        except StopIteration:
            return


def test_a_flush_that_takes_long_holds_nobody_up(asked: Asked) -> None:
    aggregate = Aggregate(asked.paths, "rules.yaml")
    begun = time.monotonic()
    flush = aggregate.table()["flush"]({}, Session(Peer(1, 0, frozenset({0}))))
    assert isinstance(flush, Generator)
    next(flush)
    unlock = threading.Timer(3, asked.is_ready.set)
    unlock.start()
    assert aggregate.table()["siblings"]({}, Session(Peer(1, 0, frozenset({0})))) == {}
    next(flush)
    assert time.monotonic() - begun < 1
    unlock.cancel()
    asked.is_ready.set()
    with pytest.raises(StopIteration) as ended:
        while True:
            next(flush)
    assert ended.value.value == {"removed": 6}
    aggregate.close()


def test_a_page_is_no_longer_than_that_of_who_was_asked(asked: Asked) -> None:
    """`list` gets packed connections, hundreds in one text: eight of these are more than a client may leave unread."""
    aggregate = Aggregate(asked.paths, "rules.yaml")
    session = Session(Peer(1, 0, frozenset({0})))
    named = dict.fromkeys(("form", "self", "path", "paths", "method"), "packed")
    answer: Any = aggregate.table()["list"](named, session)
    pages = [answer["entries"]]
    while answer["more"]:
        answer = aggregate.table()["list"]({"next": True}, session)
        pages.append(answer["entries"])
    assert [len(json.dumps(entries)) < MAX_OUTPUT for entries in pages] == [True] * len(pages)
    assert sum(map(len, pages)) == 20
    aggregate.close()


def test_one_reload_is_done_after_the_other(asked: Asked) -> None:
    """Else what the one has prepared would be the other's, and its own put in force by each for himself."""
    aggregate = Aggregate(asked.paths, "rules.yaml")
    first, second = aggregate.reload({}), aggregate.reload({})
    next(first)
    finish(asked, first, second)
    finish(asked, second)
    assert asked.said == ["prepare", "prepare", "reload", "reload"] * 2
    aggregate.close()


def test_a_reload_whose_asker_went_away_keeps_nobody_from_the_next_one(asked: Asked) -> None:
    aggregate = Aggregate(asked.paths, "rules.yaml")
    first = aggregate.reload({})
    next(first)
    first.close()
    finish(asked, aggregate.reload({}))
    assert asked.said[-2:] == ["reload", "reload"]
    aggregate.close()


def test_what_was_prepared_and_not_put_in_force_is_forgotten(asked: Asked) -> None:
    aggregate = Aggregate(asked.paths, "rules.yaml")
    asked.refusal = "rules are on trial"
    with pytest.raises(Refused, match="on trial"):
        finish(asked, aggregate.reload({}))
    assert asked.said == ["prepare", "prepare", "reload", "reload", "discard", "discard"]
    aggregate.close()
