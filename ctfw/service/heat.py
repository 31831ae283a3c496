"""Heat: which share of the packets each rule has had in the last seconds and in the last minute.

Rules only count. Now and then the counters of all of them are written down, PART rules a tick so that ten thousand
cost no packet its time, and the heat is the difference between now and then. After a reload the history begins anew,
with all of them at once, which is ten milliseconds for ten thousand: the daemon does that aside, or who asks before
does. Until then no counters are written down. The counters themselves live on (``Ruleset.succeed``). Beside it: since
which generation there is a rule of that name.

The rules are those of the file, whatever a panic (panic.py) has put in their place for a while.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Any, Final

from ctfw.engine import Engine
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset

SECOND: Final = 1_000_000_000
INTERVAL: Final = 5 * SECOND  # between two samples
SHORT: Final = 10 * SECOND
LONG: Final = 60 * SECOND
PART: Final = 2000  # rules a tick: a tenth of a millisecond


class Sample:
    """How far the counters were at ``time``: ``total`` packets judged, and ``packets`` of each rule in its order."""

    def __init__(self, time: int, total: int) -> None:
        self.time = time
        self.total = total
        self.packets = array("Q")


class Heat:
    """The history of one engine's rules. ``rules`` are those of ``ruleset`` that it follows, policies last."""

    def __init__(self, engine: Engine, now: int) -> None:
        self._engine = engine
        self.ruleset = engine.ruleset
        self._since: dict[str, int] = {}
        self._changed = -1  # when other rules came that are not followed yet
        self.renew(now)

    def change(self, ruleset: Ruleset, now: int) -> None:
        """Other rules are in force; they are followed as soon as somebody says ``follow``."""
        self.ruleset = ruleset
        self._changed = now

    def is_behind(self) -> bool:
        """True while the rules in force are not those that it follows."""
        return self._changed >= 0

    def follow(self) -> None:
        """From now on ``rules`` are those in force. May be interrupted by others who want the same."""
        if self._changed >= 0:
            self.renew(self._changed)

    def renew(self, now: int) -> None:
        """Follows the rules in force anew: they are others, or their counters were set back."""
        ruleset = self.ruleset
        rules: list[Rule] = [*ruleset.every, *ruleset.policies.values()]
        places = {rule: place for place, rule in enumerate(rules)}
        since = {rule.name: self._since.get(rule.name, ruleset.generation) for rule in rules}
        first = Sample(now, self._total())
        first.packets.extend([rule.packets for rule in rules])
        self.rules, self._places, self._since = rules, places, since
        self._samples: deque[Sample] = deque([first], maxlen=LONG // INTERVAL + 2)
        self._growing: Sample | None = None
        self._changed = -1

    def tick(self, now: int) -> None:
        """Writes down the next counters, when it is time."""
        if self.is_behind():
            return
        growing = self._growing
        if growing is None:
            if now - self._samples[-1].time < INTERVAL:
                return
            growing = self._growing = Sample(now, self._total())
        done = len(growing.packets)
        growing.packets.extend([rule.packets for rule in self.rules[done : done + PART]])
        if len(growing.packets) == len(self.rules):
            self._samples.append(growing)
            self._growing = None

    def since(self, rule: Rule) -> int:
        """The generation in which a rule of this name came."""
        return self._since.get(rule.name, 0)

    def of(self, rule: Rule, now: int) -> dict[str, Any]:
        """``10s`` and ``60s``: packets of the rule, of all, and the seconds that this is about (fewer at first)."""
        place = self._places.get(rule)
        return {name: self._over(rule, place, now - span, now) for name, span in (("10s", SHORT), ("60s", LONG))}

    def _over(self, rule: Rule, place: int | None, begin: int, now: int) -> dict[str, Any] | None:
        """Since the last sample before ``begin``, or the first there is."""
        if place is None:  # a rule of before the reload
            return None
        sample = self._samples[0]
        for one in self._samples:
            if one.time <= begin:
                sample = one
        return {
            "packets": max(rule.packets - sample.packets[place], 0),
            "of": max(self._total() - sample.total, 0),
            "seconds": round((now - sample.time) / SECOND, 1),
        }

    def _total(self) -> int:
        return sum(sum(verdicts) for verdicts in self._engine.counters.packets)
