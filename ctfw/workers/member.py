"""One worker as its daemon sees the team: the seam of ctfw.service.team, filled in."""

from __future__ import annotations

import socket
from typing import Any

from ctfw import config
from ctfw.engine import Engine
from ctfw.ruleset.ruleset import Ruleset
from ctfw.service.aside import Aside
from ctfw.service.hook.handed import Handed
from ctfw.service.session import Method, Session
from ctfw.workers.channel import Channel
from ctfw.workers.prepare import Prepare
from ctfw.workers.sibling import Sibling


class Member:
    """Worker ``number`` of ``size``; ``loaded`` are the rules that all begin with."""

    def __init__(self, number: int, size: int, channel: Channel, loaded: config.Config) -> None:
        self._number = number
        self._channel = channel
        self._prepare = Prepare(number, size)
        self._prepare.fit(loaded)
        self._sibling: Sibling | None = None

    def load(self, path: str, stored: config.Stored | None = None) -> config.Config:
        return self._prepare.load(path, stored)

    def join(self, engine: Engine) -> None:
        self._sibling = Sibling(self._number, engine.tracker, self._channel)
        self._sibling.adopt(engine.ruleset)
        channel = self._channel
        self._sibling.page, self._sibling.places, self._sibling.read = channel.page, channel.places, channel.read

    def adopt(self, ruleset: Ruleset) -> None:
        if self._sibling is not None:
            self._sibling.adopt(ruleset)

    def sockets(self) -> list[socket.socket]:
        return self._channel.sockets()

    def serve(self, mask: int = 0) -> None:
        if self._sibling is not None:
            self._sibling.serve()

    def tick(self) -> None:
        if self._sibling is not None:
            self._sibling.tick()

    def work(self, aside: Aside) -> None:
        self._prepare.work(aside)

    def methods(self) -> dict[str, Method]:
        return {"prepare": self._prepare.prepare, "discard": self._prepare.discard, "siblings": self._figures}

    def handed_over(self, queue: int) -> list[Handed]:
        return []

    def _figures(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """What passed between this worker and the others."""
        sibling = self._sibling
        if sibling is None:
            return {}
        return {
            "asked": sibling.asked, "unasked": sibling.unasked, "unanswered": sibling.unanswered, "lost": sibling.lost,
        }  # fmt: skip
