"""Time windows: on these days, between these hours, in this time zone.

The packet's way reads ``active`` and no clock. Who owns the clock (the daemon's tick, or a replay with the time of the
capture) has it worked out anew through ``Ruleset.tick``; one second is as fine as it gets.

A window that ends before it begins goes over midnight and belongs to the day on which it began: fri 22:00-06:00 ends on
Saturday morning. Where a clock change leaves an hour out or brings it twice, the wall clock's word counts.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Final

SECOND: Final = 1_000_000_000
DAY: Final = 86400
ALL_DAYS: Final = 127


class Schedule:
    """``days``: a mask, bit 0 is Monday. ``windows``: seconds of the day, the end not included; none means all day.

    ``zone`` None is the machine's own time.
    """

    def __init__(
        self, days: int = ALL_DAYS, windows: Sequence[tuple[int, int]] = (), zone: tzinfo | None = None, text: str = ""
    ) -> None:
        self.days = days
        self.windows: list[tuple[int, int]] = list(windows)
        self.zone = zone
        self.text = text
        self.active: bool = False

    def update(self, unix: int) -> None:
        """Sets ``active`` for the second ``unix``."""
        if self.zone is None:
            local = time.localtime(unix)
            day, second = local.tm_wday, local.tm_hour * 3600 + local.tm_min * 60 + min(local.tm_sec, 59)
        else:
            there = datetime.fromtimestamp(unix, UTC).astimezone(self.zone)
            day, second = there.weekday(), there.hour * 3600 + there.minute * 60 + there.second
        self.active = self._holds(day, second)

    def _holds(self, day: int, second: int) -> bool:
        today = self.days >> day & 1 != 0
        if not self.windows:
            return today
        yesterday = self.days >> ((day - 1) % 7) & 1 != 0
        for begin, end in self.windows:
            if begin < end:
                if today and begin <= second < end:
                    return True
            elif (today and second >= begin) or (yesterday and second < end):
                return True
        return False
