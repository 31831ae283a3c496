"""A pytest plugin: every conversation of tests/engine is held with a team of workers as well, packet by packet.

`pytest -p workers.mirror tests/engine/...`: engine.conversation's Gateway gets a team of MIRROR_WORKERS engines beside
its own, and each packet's state, direction, verdict and reason must be the same on both sides.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from engine import conversation
from engine.conversation import ACCEPT_ALL, DROP_ALL, Gateway, Said
from workers.team import Team, said

from ctfw.packet import FORWARD

WORKERS = int(os.environ.get("MIRROR_WORKERS", "3"))
_begin, _sees, _sweep = Gateway.__init__, Gateway.sees, Gateway.sweep


def begin(self: Any, helpers: Mapping[str, Sequence[int]] | None = None, **knobs: int) -> None:
    _begin(self, helpers, **knobs)
    self.team = Team(WORKERS, lambda: ACCEPT_ALL, helpers, **knobs)


def sees(
    self: Any, packet: bytes, *, refused: bool = False, check: bool = True, copied: int | None = None,
    hook: int = FORWARD,
) -> Said:  # fmt: skip
    alone = _sees(self, packet, refused=refused, check=check, copied=copied, hook=hook)
    data = packet[:copied]
    for engine, own in zip(self.team.engines, [self.tracker.settings] * WORKERS, strict=True):
        engine.ruleset = DROP_ALL if refused else ACCEPT_ALL
        if engine.tracker.settings is not own:
            engine.tracker.reconfigure(own)
    together = self.team.handle(data, len(packet), self.now, hook, check and len(data) == len(packet))
    assert said(together) == said(self.engine._judgement)
    return alone


def sweep(self: Any) -> None:
    _sweep(self)
    for _ in range(32):
        self.team.sweep(self.now)


conversation.Gateway.__init__ = begin  # type: ignore[method-assign]
conversation.Gateway.sees = sees  # type: ignore[method-assign]
conversation.Gateway.sweep = sweep  # type: ignore[method-assign]
