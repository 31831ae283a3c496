"""-m time -> `time` of a rule.

Without --kerneltz the kernel's clock is UTC. Its end is the last second in which the match holds, a rule's the first in
which it does not, so 17:59:59 is 18:00; and 18:00:00 is 18:00 as well, with that one second lost, which is said. A time
over midnight belongs to the day on which it began with --contiguous, as in rules; without, each of its two parts
belongs to its own day.
"""

import re
from typing import Final

from ctfw.tools.iptables.options import Match
from ctfw.tools.iptables.values import Cannot, Never

_CLOCK: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = 86400
_FIRST: Final = re.compile("1970-01-01(?:T00:00:00)?")
_LAST: Final = re.compile("2038-01-19(?:T03:14:07)?|2106-.*")


def read(match: Match) -> tuple[dict[str, object], str]:
    """The mapping, empty when every packet matches, and what is not exact about it."""
    if match.has("monthdays"):
        raise Cannot("rules do not ask for the day of the month")
    for name, ends in (("datestart", _FIRST), ("datestop", _LAST)):
        option = match.find(name)
        if option is not None and ends.fullmatch(option.value) is None:
            raise Cannot("rules do not ask for the date")
    found: dict[str, object] = {}
    days = _days(match)
    if days is not None:
        found["days"] = days
    hours, caveat = _hours(match, days is not None)
    if hours:
        found["hours"] = hours
    if found:
        local = match.has("kerneltz") or match.has("localtz")
        found["timezone"] = "local" if local else "UTC"
        if local:
            caveat = "; ".join(filter(None, (caveat, "in the time zone of the machine, not of its kernel")))
    return found, caveat


def _days(match: Match) -> list[str] | None:
    option = match.find("weekdays")
    if option is None:
        return None
    wanted: set[str] = set()
    for word in option.value.lower().split(","):
        if re.fullmatch("[1-7]", word) is not None:
            wanted.add(_DAYS[int(word) - 1])
        elif len(word) >= 2 and any(day.startswith(word[:3]) for day in _DAYS):
            wanted.add(next(day for day in _DAYS if day.startswith(word[:3])))
        else:
            raise Cannot(f"'{word}' is no day")
    chosen = [day for day in _DAYS if (day in wanted) != option.negated]
    if not chosen:
        raise Never("no day is left")
    return chosen if len(chosen) < 7 else None


def _hours(match: Match, by_day: bool) -> tuple[list[str], str]:
    start, stop = match.find("timestart"), match.find("timestop")
    begin = _seconds(start.value) if start is not None else 0
    last = _seconds(stop.value) if stop is not None else _DAY - 1
    caveat = ""
    if last % 60 == 59:
        end = last + 1
    elif last % 60 == 0:
        end = last
        caveat = "the second in which it ends is not in it"
    else:
        raise Cannot("hours end with a minute, not within one")
    if begin % 60:
        raise Cannot("hours begin with a minute, not within one")
    if begin == 0 and end == _DAY:
        return [], ""
    if begin < end:
        return [f"{_clock(begin)}-{_clock(end)}"], caveat
    if begin == end:
        raise Cannot("hours that are one second long")
    if match.has("contiguous") or not by_day:
        return [f"{_clock(begin)}-{_clock(end)}"] if end else [f"{_clock(begin)}-24:00"], caveat
    return [f"{_clock(begin)}-24:00", *([f"00:00-{_clock(end)}"] if end else [])], caveat


def _seconds(text: str) -> int:
    parts = _CLOCK.fullmatch(text)
    if parts is None:
        raise Cannot(f"'{text}' is no time of day")
    found = int(parts[1]) * 3600 + int(parts[2]) * 60 + int(parts[3] or 0)
    if found >= _DAY or int(parts[2]) > 59 or int(parts[3] or 0) > 59:
        raise Cannot(f"'{text}' is no time of day")
    return found


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds % 3600 // 60:02}"
