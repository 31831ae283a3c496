"""What a key of a rule is to match, while it is put together: (wanted, or everything) without what is unwanted.

The same form as a list in the rule file, `[a, b, "!c"]`, so that writing it down loses nothing, and so that two matches
of one line on the same thing become one value: `meet`. Numbers are inclusive intervals; addresses carry their family;
what has no order (names of sets and interfaces, patterns of bits) is text.
"""

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ctfw.ruleset.sets import subtract_numbers

Interval = tuple[int, int]
Member = Interval | tuple[int, int, int] | str  # numbers; family, first, last; words

EVERY: Final[dict[str, Interval]] = {
    "proto": (0, 255), "sport": (0, 65535), "dport": (0, 65535), "icmp": (0, 65535), "icmpv6": (0, 65535),
    "ttl": (0, 255), "length": (0, (1 << 31) - 1), "dscp": (0, 63), "connpackets": (0, (1 << 62) - 1),
    "connbytes": (0, (1 << 62) - 1),
}  # fmt: skip
_BITS: Final = {4: 32, 6: 128}


class Cannot(Exception):
    """The rule file has no way to say this; the text says why, and what to do instead."""


class Never(Exception):
    """No packet that reaches the rule matches it; the text says why."""


@dataclass(frozen=True)
class Values:
    wanted: tuple[Member, ...] | None = None  # None: everything
    unwanted: tuple[Member, ...] = ()


def values(members: Iterable[Member], negated: bool = False) -> Values:
    return Values(None, tuple(members)) if negated else Values(tuple(members))


def whole(family: int) -> Member:
    """Every address of a family."""
    return (family, 0, (1 << _BITS[family]) - 1)


def meet(key: str, first: Values, second: Values) -> Values:
    """What both match. Raises Cannot, or Never when that is nothing."""
    unwanted = first.unwanted + tuple(member for member in second.unwanted if member not in first.unwanted)
    if first.wanted is None or second.wanted is None or first.wanted == second.wanted:
        found = Values(first.wanted if first.wanted is not None else second.wanted, unwanted)
    elif _is_set(second.wanted):
        found = Values(first.wanted, (*unwanted, _without(second.wanted[0])))
    elif _is_set(first.wanted):
        found = Values(second.wanted, (*unwanted, _without(first.wanted[0])))
    elif all(isinstance(member, tuple) for member in (*first.wanted, *second.wanted)):
        found = Values(tuple(_common(first.wanted, second.wanted)), unwanted)
    else:
        raise Cannot(f"it asks twice for '{key}'")
    check(key, found)
    return found


def check(key: str, found: Values) -> None:
    """Raises Never when nothing is left."""
    wanted = found.wanted
    if wanted is not None and not wanted:
        raise Never(f"what it asks of '{key}' excludes each other")
    if key in EVERY:
        numbers = [member for member in wanted or (EVERY[key],) if isinstance(member, tuple) and len(member) == 2]
        away = [member for member in found.unwanted if isinstance(member, tuple) and len(member) == 2]
        if not subtract_numbers(numbers, away):
            raise Never(f"what it asks of '{key}' excludes each other")
    elif wanted is not None and all(isinstance(member, tuple) for member in wanted):
        for family in (4, 6):
            if subtract_numbers(_of_family(wanted, family), _of_family(found.unwanted, family)):
                return
        raise Never(f"what it asks of '{key}' excludes each other")


def words(key: str, found: Values) -> list[str]:
    """The members as the rule file writes them."""
    shown = [_word(key, member) for member in found.wanted or ()]
    return shown + ["!" + _word(key, member) for member in found.unwanted]


def show_address(family: int, first: int, last: int) -> str:
    bits = _BITS[family]
    size = last - first + 1
    low = socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, first.to_bytes(bits // 8, "big"))
    if size == 1:
        return low
    if size & (size - 1) == 0 and first & (size - 1) == 0:
        return f"{low}/{bits - size.bit_length() + 1}"
    high = socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, last.to_bytes(bits // 8, "big"))
    return f"{low}-{high}"


def _word(key: str, member: Member) -> str:
    if isinstance(member, str):
        return member
    if len(member) == 3:
        return show_address(*member)
    first, last = member
    if key in ("icmp", "icmpv6"):
        return str(first >> 8) if last - first == 255 else f"{first >> 8}/{first & 255}"
    if key in ("connpackets", "connbytes"):
        return f"{first}-" if last == EVERY[key][1] else f"{first}-{last}"
    return str(first) if first == last else f"{first}-{last}"


def _is_set(wanted: tuple[Member, ...]) -> bool:
    return len(wanted) == 1 and isinstance(wanted[0], str) and wanted[0].startswith("$")


def _without(member: Member) -> Member:
    """The set that holds everything else; to take it away leaves what the set holds. `document` defines it."""
    return f"$not_{str(member)[1:]}"


def _common(first: tuple[Member, ...], second: tuple[Member, ...]) -> list[Member]:
    found: list[Member] = []
    for one in first:
        for other in second:
            if not isinstance(one, tuple) or not isinstance(other, tuple) or one[:-2] != other[:-2]:
                continue
            low, high = max(one[-2], other[-2]), min(one[-1], other[-1])
            if low <= high:
                found.append((low, high) if len(one) == 2 else (one[0], low, high))
    return found


def _of_family(members: tuple[Member, ...], family: int) -> list[Interval]:
    return [(m[1], m[2]) for m in members if isinstance(m, tuple) and len(m) == 3 and m[0] == family]
