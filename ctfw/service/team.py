"""What a daemon must know of being one of several workers: when to let the team have its turn.

The seam alone; the team itself is ctfw/workers. A daemon without one is alone on its queue.
"""

from __future__ import annotations

import socket
from typing import Protocol

from ctfw import config
from ctfw.engine import Engine
from ctfw.ruleset.ruleset import Ruleset
from ctfw.service.aside import Aside
from ctfw.service.hook.handed import Handed
from ctfw.service.session import Method


class Team(Protocol):
    """One worker's view of the others."""

    def load(self, path: str, stored: config.Stored | None = None) -> config.Config:
        """The configuration of this file: what was prepared, once, else the file as it is. Raises as config.load."""
        ...

    def join(self, engine: Engine) -> None:
        """The engine is one of the team's from now on."""
        ...

    def adopt(self, ruleset: Ruleset) -> None:
        """The engine got other rules."""
        ...

    def sockets(self) -> list[socket.socket]:
        """What to listen to, for ``serve``."""
        ...

    def serve(self, mask: int = 0) -> None:
        """Somebody has said something."""
        ...

    def tick(self) -> None:
        """Time has passed."""
        ...

    def work(self, aside: Aside) -> None:
        """Does longer work that was asked for, from outside a turn of the loop."""
        ...

    def methods(self) -> dict[str, Method]:
        """What the one who speaks for all may ask of this worker beside the rest."""
        ...

    def handed_over(self, queue: int) -> list[Handed]:
        """What the hook's rules handed to this queue alone: nobody counts that."""
        ...
