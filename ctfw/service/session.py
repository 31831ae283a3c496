"""A client's conversation as the methods of the control socket see it.

Owns what is kept between two requests of one client: who he is, the pages that are still to come, and the lines that
he is sent without having asked (a stream, as `events` has).

A stream is bounded here and nowhere else. ``push`` never waits and never fails: what does not fit into MAX_BACKLOG is
not sent, is counted, and the client is told how many lines he missed (``{"event": "dropped", "count": 12}``) at the
place where they are missing. A client whose session ``is_subscribed`` is not dropped for being slow, and not shown the
door for being idle. Whoever pushes looks at ``is_open`` now and then, and forgets a session that is not.

A method whose answer takes longer returns a Later and gives the answer to it when it is known; the client is asked
nothing and read from no further until then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from ctfw.service.peers import Peer

MAX_BACKLOG: Final = 256 << 10

# JSON-RPC 2.0's numbers, and ours from -32000 on.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
NO_METHOD: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
FAILED: Final = -32000
NOT_PERMITTED: Final = -32001
TOO_MANY_CLIENTS: Final = -32002
LINE_TOO_LONG: Final = -32003


class Refused(Exception):
    """The answer to a request is an error; ``data`` says more to a program."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class Later:
    """An answer that is not known yet; ``done`` or ``refused``, once. Nobody minds when the client has gone."""

    def __init__(self) -> None:
        self.tell: Callable[[object], None] | None = None  # whoever serves the client
        self.answer: object = None
        self.is_known = False

    def done(self, result: object) -> None:
        """This is the result; a Refused is an error."""
        self.answer = result
        self.is_known = True
        if self.tell is not None:
            self.tell(result)


class Session:
    """One client's conversation. ``missed`` counts the lines that he was too slow for."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.pages: Iterator[list[Any]] | None = None
        self.is_open = True
        self.is_subscribed = False
        self.missed = 0
        self._untold = 0
        self._backlog = bytearray()

    def push(self, line: bytes) -> bool:
        """Sends one line, an object with an ``event`` and no ``id``, JSON without its newline; False: it is lost."""
        if self.is_open and len(self._backlog) + len(line) < MAX_BACKLOG:
            self._tell_missed()
            self._backlog += line
            self._backlog += b"\n"
            return True
        self.missed += 1
        self._untold += 1
        return False

    def take(self) -> bytes:
        """What is to be sent now: the backlog, which is empty then."""
        self._tell_missed()
        lines = bytes(self._backlog)
        self._backlog.clear()
        return lines

    def _tell_missed(self) -> None:
        if self._untold:
            self._backlog += json.dumps({"event": "dropped", "count": self._untold}).encode() + b"\n"
            self._untold = 0


Method = Callable[[dict[str, Any], Session], object]
