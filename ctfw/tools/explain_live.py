"""The method `explain` of the control socket: a question about a packet, answered by the engine that runs.

Read-only: what ``explain`` does with the engine leaves no trace. The steps go out in pages, as every list does; the
packets that wait meanwhile are judged between two of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from ctfw.engine import Engine
from ctfw.packet import HOOK_NAMES
from ctfw.service.pages import page, paged
from ctfw.service.session import INVALID_PARAMS, Refused, Session
from ctfw.tools.explain import Situation, explain

MAX_PACKET: Final = 65535


def method(engine: Engine) -> Callable[[dict[str, Any], Session], dict[str, Any]]:
    """The method for this engine. ``packet`` is in hexadecimal, the rest as in ``Situation``."""

    def begin(params: dict[str, Any]) -> Iterator[list[Any]]:
        return paged(explain(engine, _situation(params), time.monotonic_ns()))

    return lambda params, session: page(params, session, lambda: begin(params))


def _situation(params: dict[str, Any]) -> Situation:
    try:
        data = bytes.fromhex(params["packet"])
        mac = bytes.fromhex(params.get("mac", ""))
        mark = params.get("mark", 0)
        hook = HOOK_NAMES.index(params.get("chain", "forward"))
        indev, outdev = params.get("in", ""), params.get("out", "")
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(INVALID_PARAMS, f"not a packet and its chain: {error}") from error
    if (
        not isinstance(indev, str)
        or not isinstance(outdev, str)
        or not isinstance(mark, int)
        or not 0 <= mark < 1 << 32
    ):
        raise Refused(INVALID_PARAMS, "in and out are names, mark is a number")
    if len(data) > MAX_PACKET or len(mac) not in (0, 6):
        raise Refused(INVALID_PARAMS, f"a packet has at most {MAX_PACKET} bytes, a MAC address 6")
    return Situation(data, len(data), hook, indev, outdev, mark, True, mac)
