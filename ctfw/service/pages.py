"""Answers in pages: what could be long is told a slice at a time, and packets have their turn in between.

An answer is ``{"entries": [...], "more": true}``; the client asks again with ``{"next": true}`` on the same connection
until there is no more. What is left is a generator in his Session, thrown away with him.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ctfw.service.session import INVALID_PARAMS, Refused, Session

SLICE: Final = 2_000_000  # nanoseconds of the loop's time for one page
PAGE: Final = 200  # entries of one page, far below what a client may leave unread
LOOK: Final = 8  # entries between two looks at the clock


def page(params: dict[str, Any], session: Session, begin: Callable[[], Iterator[list[Any]]]) -> dict[str, Any]:
    """The next page of what the session is in the middle of, or the first one of what ``begin`` begins."""
    if not params.get("next"):
        session.pages = begin()
    if session.pages is None:
        raise Refused(INVALID_PARAMS, "there is no listing to go on with")
    entries = next(session.pages, None)
    if entries is None:
        session.pages = None
    return {"entries": entries or [], "more": entries is not None}


def paged(entries: Iterable[Any]) -> Iterator[list[Any]]:
    """The entries in lists, each of which took no longer than SLICE to make; a None is not listed."""
    some: list[Any] = []
    until = time.monotonic_ns() + SLICE
    for looked, entry in enumerate(entries, 1):
        if entry is not None:
            some.append(entry)
        if len(some) == PAGE or (looked % LOOK == 0 and time.monotonic_ns() > until):
            yield some
            some = []
            until = time.monotonic_ns() + SLICE
    if some:
        yield some
