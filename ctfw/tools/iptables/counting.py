"""Matches that count: limit, hashlimit, connlimit -> `limit` and `connlimit` of a rule.

hashlimit's tables are shared by rules that name the same; a rule of ctfw counts for itself, so ``chains`` reports a
table that is asked by more than one.
"""

import re
from collections.abc import Callable
from typing import Final

from ctfw.config.readers import MAX_BUCKET_NS
from ctfw.config.values import SECOND_NS
from ctfw.tools.iptables.options import Match, Option
from ctfw.tools.iptables.values import Cannot

BURST: Final = 5  # the default of both

_RATE: Final = re.compile(r"([0-9]{1,7})/([a-z]+)")
_UNITS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_BITS: Final = {4: 32, 6: 128}
_PREFIX: Final = {4: ("prefix4", 32), 6: ("prefix6", 64)}  # the key of a rule, and what it is unless given


def _limit(match: Match, family: int) -> dict[str, dict[str, object]]:
    rate, burst = match.find("limit"), match.find("limit-burst")
    text = rate.value if rate is not None else "3/hour"
    if rate is not None and rate.negated:
        raise Cannot("'! --limit' is nothing that iptables knows")
    return {"limit": _bucket(text, burst)}


def _hashlimit(match: Match, family: int) -> dict[str, dict[str, object]]:
    rate = match.find("hashlimit-upto", "hashlimit", "hashlimit-above")
    if rate is None:
        raise Cannot("hashlimit without a rate")
    if match.has("hashlimit-rate-match") or match.has("hashlimit-rate-interval"):
        raise Cannot("rules do not measure a rate in this way")
    found = _bucket(rate.value, match.find("hashlimit-burst"))
    mode = match.find("hashlimit-mode")
    if mode is not None:
        ends = {"srcip": "src", "dstip": "dst"}
        if mode.value not in ends:
            raise Cannot(f"rules limit by source or destination, not by '{mode.value}'")
        found["per"] = ends[mode.value]
        _prefix(found, match.find("hashlimit-srcmask" if mode.value == "srcip" else "hashlimit-dstmask"), family)
    if (rate.name == "hashlimit-above") != rate.negated:
        found["over"] = "on"
    return {"limit": found}


def _connlimit(match: Match, family: int) -> dict[str, dict[str, object]]:
    number = match.find("connlimit-upto", "connlimit-above")
    if number is None or re.fullmatch("[0-9]{1,10}", number.value) is None:
        raise Cannot("connlimit without a number")
    above = (number.name == "connlimit-above") != number.negated
    if int(number.value) > 65535:
        raise Cannot("more than 65535 connections are not counted")
    found: dict[str, object] = {"above" if above else "upto": number.value}
    if match.has("connlimit-daddr"):
        found["per"] = "dst"
    _prefix(found, match.find("connlimit-mask"), family)
    return {"connlimit": found}


def _bucket(text: str, burst: Option | None) -> dict[str, object]:
    parts = _RATE.fullmatch(text.lower())
    unit = next((name for name in _UNITS if parts is not None and name.startswith(parts[2])), None)
    if parts is None or unit is None or int(parts[1]) == 0:
        raise Cannot(f"'{text}' is no rate of packets")
    many = burst.value if burst is not None else str(BURST)
    if re.fullmatch("[0-9]{1,7}", many) is None or not 1 <= int(many) <= 1_000_000:
        raise Cannot(f"a burst of '{many}'")
    if _UNITS[unit] * SECOND_NS // int(parts[1]) * int(many) > MAX_BUCKET_NS:
        raise Cannot("at this rate the burst would take more than a lifetime to come back")
    return {"rate": f"{int(parts[1])}/{unit}", "burst": str(int(many))}


def _prefix(found: dict[str, object], option: Option | None, family: int) -> None:
    length = str(_BITS[family]) if option is None else option.value
    if re.fullmatch("[0-9]{1,3}", length) is None or int(length) > _BITS[family]:
        raise Cannot(f"'{length}' is no prefix length")
    key, otherwise = _PREFIX[family]
    if int(length) != otherwise:
        found[key] = str(int(length))


def tables(match: Match) -> str:
    """The name of the table that a hashlimit asks; "" for other matches."""
    option = match.find("hashlimit-name")
    return option.value if option is not None and match.module == "hashlimit" else ""


READERS: Final[dict[str, Callable[[Match, int], dict[str, dict[str, object]]]]] = {
    "limit": _limit,
    "hashlimit": _hashlimit,
    "connlimit": _connlimit,
}
