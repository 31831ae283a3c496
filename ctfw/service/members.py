"""Dynamic sets as people and files name them: `add banned 192.0.2.1 for an hour`, and the whole as plain data.

What the control socket offers and what is written to disk. Text goes in and comes out; the sets themselves hold bytes.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any, Final

from ctfw.ruleset.dynamic import DynamicSet
from ctfw.ruleset.prefix import network
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.schedule import SECOND

MOST_TTL: Final = 10 * 366 * 86400 * SECOND


class MemberError(ValueError):
    """The set is not there, is full, or the text is no address."""


def add(ruleset: Ruleset, name: str, member: str, ttl: int, now: int) -> None:
    """Adds an address or network (`192.0.2.0/24`) for ``ttl`` nanoseconds; 0: as the set says. Raises MemberError."""
    address, length = parse_member(member)
    if not _find(ruleset, name).add(address, length, min(ttl, MOST_TTL), now):
        raise MemberError(f"set {name} is full")


def remove(ruleset: Ruleset, name: str, member: str, now: int) -> bool:
    """Takes an address or network out; False when it was no member. Raises MemberError."""
    address, length = parse_member(member)
    return _find(ruleset, name).remove(address, length, now)


def texts(ruleset: Ruleset, now: int, unix: int) -> Iterator[str]:
    """Every dynamic set as the text of a JSON document, with the calendar's time of it; ``unix`` in nanoseconds.

    It comes in pieces of which none takes long to make, however many members; sets may change between two.
    """
    yield f'{{"version": 1, "time": {unix}, "sets": {{'
    for number, (name, one) in enumerate(list(ruleset.sets.items())):
        yield f"{', ' if number else ''}{json.dumps(name)}: ["
        comma = ""
        for piece in one.pieces(now):
            if piece:
                shown = [[show_member(member, length), left] for member, length, left in piece]
                yield comma + json.dumps(shown)[1:-1]
                comma = ", "
        yield "]"
    yield "}}"


def restore(ruleset: Ruleset, data: Any, now: int, unix: int) -> list[str]:
    """Adds what ``texts`` gave, without the time that has passed since; returns what could not be used, in words.

    Never raises: the data may come from a file that somebody else wrote.
    """
    complaints: list[str] = []
    try:
        passed = max(unix - int(data["time"]), 0)
        saved = dict(data["sets"])
    except (TypeError, KeyError, ValueError, OverflowError):
        return ["no saved sets in it"]
    for name, members in saved.items():
        target = ruleset.sets.get(name)
        if target is None:
            complaints.append(f"set {name}: is not a dynamic set now")
            continue
        for entry in members if isinstance(members, list) else []:
            try:
                text, left = entry
                _restore(target, str(text), int(left), passed, now)
            except (TypeError, ValueError, OverflowError) as wrong:
                complaints.append(f"set {name}: {wrong}")
    return complaints


def parse_member(text: str) -> tuple[bytes, int]:
    """`192.0.2.1`, `192.0.2.0/24`, `2001:db8::/64` -> network and prefix length. Raises MemberError."""
    base, slash, prefix = text.partition("/")
    try:
        address = socket.inet_pton(socket.AF_INET6 if ":" in base else socket.AF_INET, base)
    except (OSError, ValueError):
        raise MemberError(f"{text!r} is not an address or network") from None
    bits = len(address) * 8
    if not slash:
        return address, bits
    if not (prefix.isascii() and prefix.isdigit() and len(prefix) <= 3 and int(prefix) <= bits):
        raise MemberError(f"{text!r}: the prefix length is a number from 0 to {bits}")
    if network(address, int(prefix)) != address:
        raise MemberError(f"{text!r} has host bits set")
    return address, int(prefix)


def show_member(address: bytes, length: int) -> str:
    """The text of a member: an address alone, or a network with its prefix length."""
    text = socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
    return text if length == len(address) * 8 else f"{text}/{length}"


def _find(ruleset: Ruleset, name: str) -> DynamicSet:
    found = ruleset.sets.get(name)
    if found is None:
        known = ", ".join(ruleset.sets) or "none"
        raise MemberError(f"no dynamic set is named {name} (there are: {known})")
    return found


def _restore(target: DynamicSet, text: str, left: int, passed: int, now: int) -> None:
    address, length = parse_member(text)
    if left < 0:
        if not target.add_for_ever(address, length, now):
            raise MemberError(f"{text}: the set is full")
    elif left > passed:
        if not target.add(address, length, min(left - passed, MOST_TTL), now):
            raise MemberError(f"{text}: the set is full")
