"""Changes of tools/difference.py printed: `replay --against` and `reload --dry-run` use the same words.

A group begins with what its connections got and get, and the two rules responsible; below it a line a connection.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ctfw.tools.difference import MOST, Change, Changes, Group, Side


def table_lines(changes: Changes) -> Iterator[str]:
    """The groups, each followed by an empty line."""
    for group in changes.groups():
        yield _head(group)
        yield f"  was: {side_text(group.old)}"
        yield f"  now: {side_text(group.new)}"
        for change in group.changes:
            sums = f"{counted(change.packets, 'packet')}, {counted(change.bytes, 'byte')}"
            yield f"{change.number:>8}  {rfc3339(change.time)}  {change.packet}  ({sums})"
        yield ""


def json_lines(changes: Changes, **more: str) -> Iterator[str]:
    """An object a connection, in the order of the groups; `more` members ahead of its own."""
    for group in changes.groups():
        for change in group.changes:
            yield json.dumps(more | _object(change))


def side_text(side: Side) -> str:
    """The rule, or what decided instead of one."""
    if side.rule:
        return side.rule + (f" ({side.origin})" if side.origin else "")
    return "no rule: connection tracking itself" + (f", {side.why}" if side.why else "")


def side_object(side: Side) -> dict[str, Any]:
    """The same for programs."""
    return {
        "verdict": side.verdict,
        "rule": side.rule or None,
        "origin": side.origin or None,
        "reason": side.why or None,
    }


def counted(count: int, what: str) -> str:
    """`1 packet`, `2 packets`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def beyond_line(changes: Changes) -> list[str]:
    """What is over the limit, if anything is."""
    if not changes.beyond:
        return []
    sums = f"{counted(changes.beyond, 'packet')}, {counted(changes.beyond_bytes, 'byte')}"
    return [f"             beyond the {MOST} that are remembered: {sums}"]


def rfc3339(nanoseconds: int) -> str:
    """A time since 1970 as RFC 3339 writes it, to the nanosecond."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{fraction:09}Z"


def _head(group: Group) -> str:
    sums = ", ".join(
        counted(count, what)
        for count, what in ((len(group.changes), "connection"), (group.packets, "packet"), (group.bytes, "byte"))
    )
    return f"{group.old.verdict} -> {group.new.verdict}: {sums}"


def _object(change: Change) -> dict[str, Any]:
    return {
        "n": change.number,
        "time": rfc3339(change.time),
        "packet": change.packet,
        "old": side_object(change.old),
        "new": side_object(change.new),
        "packets": change.packets,
        "bytes": change.bytes,
    }


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
