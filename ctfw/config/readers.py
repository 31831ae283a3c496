"""The values that only rules have -> what the ruleset asks and does: limits, time windows, masks, logs, members added.

Each reader takes a node and gives the compiled object, raises Wrong (placed at the value by the walker), or has
reported at better places what it found and raises Skip.
"""

from collections.abc import Callable
from typing import Any

from ctfw.config import matches, values
from ctfw.config.document import Mapping, Node, Scalar
from ctfw.config.named import NamedSets
from ctfw.config.problems import Report, quote
from ctfw.config.schema import ADD, CONNLIMIT, LIMIT, LOG, TIME, Key, Kind
from ctfw.config.values import SECOND_NS, Wrong
from ctfw.config.walk import Fields, Skip, Walker, mask, negation, text_of
from ctfw.conntrack import state
from ctfw.conntrack.settings import HELPER_NAMES
from ctfw.ruleset.connlimit import ConnLimit
from ctfw.ruleset.effects import AddTo, Log, SetMark
from ctfw.ruleset.limit import Limit, RateLimit
from ctfw.ruleset.prefix import PREFIX4, PREFIX6, Per
from ctfw.ruleset.schedule import ALL_DAYS, Schedule
from ctfw.ruleset.sets import MaskedSet

LOG_INTERVAL_NS = 6 * SECOND_NS  # 10/minute
LOG_BURST = 10
LIMIT_BURST = 5
MAX_BUCKET_NS = 1 << 60  # the time that a bucket takes to fill: 36 years

STATUS = {"expected": state.EXPECTED, "seen_reply": state.SEEN_REPLY, "assured": state.ASSURED}
STATUS["confirmed"] = state.CONFIRMED
HELPERS = {name or "none": 1 << number for number, name in enumerate(HELPER_NAMES)}


class Readers:
    """Reads the values of rules; `marks` gathers every use of the packet's mark, for a check when the file is read."""

    def __init__(self, walker: Walker, named: NamedSets) -> None:
        self.walker = walker
        self.report: Report = walker.report
        self.named = named
        self.marks: list[tuple[Node, int]] = []
        readers: dict[Kind, Callable[[Node, Key], Any]] = {
            Kind.STATUS: self._status,
            Kind.HELPERS: lambda node, key: mask(
                walker.members(node, key.name), HELPERS, sum(HELPERS.values()), self.report
            ),
            Kind.TCP_FLAGS: lambda node, key: self._masked(node, key, matches.tcp_flags),
            Kind.MARKS: lambda node, key: self._masked(node, key, matches.mark),
            Kind.MARK: self._set_mark,
            Kind.MARK_BIT: lambda node, key: matches.mark_bit(text_of(node, key)),
            Kind.DAYS: lambda node, key: self._each(node, key, matches.days),
            Kind.HOURS: lambda node, key: self._each(node, key, matches.hours),
            Kind.ZONE: lambda node, key: (text_of(node, key), matches.timezone(text_of(node, key))),
            Kind.WORD: lambda node, key: (text_of(node, key), node),
            Kind.TIME: self._time,
            Kind.LIMIT: self._limit,
            Kind.CONNLIMIT: self._connlimit,
            Kind.ADD: self._add,
            Kind.LOG: self._log,
        }
        walker.readers.update(readers)

    def _status(self, node: Node, key: Key) -> tuple[int, int]:
        """(one of these, none of those)."""
        wanted, unwanted, bad = 0, 0, False
        for member in self.walker.members(node, key.name):
            for part in member.text.split(",")[:16]:
                negated, word = negation(part.strip())
                try:
                    bit = values.choice(word, STATUS)
                except Wrong as wrong:
                    self.report.error(member, wrong.message, wrong.hint)
                    bad = True
                    continue
                if negated:
                    unwanted |= bit
                else:
                    wanted |= bit
        if bad:
            raise Skip
        if wanted and not wanted & ~unwanted:
            raise Wrong("nothing is left: this can never match")
        return wanted & ~unwanted, unwanted

    def _masked(self, node: Node, key: Key, read: Callable[[str], tuple[int, int]]) -> MaskedSet:
        wanted: list[tuple[int, int]] = []
        unwanted: list[tuple[int, int]] = []
        bad = False
        for member in self.walker.members(node, key.name):
            negated, text = negation(member.text)
            try:
                pattern = read(text)
                (unwanted if negated else wanted).append(pattern)
                if key.kind is Kind.MARKS:
                    self.marks.append((member, pattern[0]))
            except Wrong as wrong:
                self.report.error(member, wrong.message, wrong.hint)
                bad = True
        if bad:
            raise Skip
        return MaskedSet(wanted, unwanted)

    def _set_mark(self, node: Node, key: Key) -> SetMark:
        value, bits = matches.mark(text_of(node, key))
        self.marks.append((node, value))
        return SetMark(value, bits)

    def _each(self, node: Node, key: Key, read: Callable[[str], Any]) -> list[Any]:
        found: list[Any] = []
        bad = False
        for member in self.walker.members(node, key.name):
            try:
                found.append(read(member.text))
            except Wrong as wrong:
                self.report.error(member, wrong.message, wrong.hint)
                bad = True
        if bad:
            raise Skip
        return found

    def _time(self, node: Node, key: Key) -> Schedule:
        fields = self._section(node, key, "as in 'time: {days: mon-fri, hours: 08:00-18:00}'")
        if not fields.values:
            raise Wrong("'time' says no days and no hours", "as in 'time: {days: mon-fri, hours: 08:00-18:00}'")
        days = 0
        for some in fields.get("days", [ALL_DAYS]):
            days |= some
        name, zone = fields.get("timezone", ("local", None))
        return Schedule(days, fields.get("hours", []), zone, name)

    def _limit(self, node: Node, key: Key) -> RateLimit:
        if isinstance(node, Scalar):
            return RateLimit(values.rate(node.text), LIMIT_BURST)
        fields = self._section(node, key, "as in 'limit: 10/second'")
        if "rate" not in fields.values:
            raise Skip
        per = _per(fields) if "per" in fields.values else None
        if per is None:
            self._needs_per(fields)
        interval, burst = fields.get("rate"), fields.get("burst", LIMIT_BURST)
        self._check_bucket(fields, interval, burst)
        return RateLimit(interval, burst, per, bool(fields.get("over", 0)))

    def _connlimit(self, node: Node, key: Key) -> ConnLimit:
        example = "as in 'connlimit: {upto: 20}' or 'connlimit: {above: 20}'"
        fields = self._section(node, key, example)
        if ("upto" in fields.values) == ("above" in fields.values):
            raise Wrong("'connlimit' takes one of 'upto' and 'above'", example)
        above = "above" in fields.values
        return ConnLimit(fields.get("above" if above else "upto"), above, _per(fields))

    def _add(self, node: Node, key: Key) -> AddTo:
        fields = self._section(node, key, "as in 'add: {set: banned, ttl: 1h}'")
        if "set" not in fields.values:
            raise Skip
        name, place = fields.get("set")
        try:
            target = self.named.dynamic(place, name)
        except Wrong as wrong:
            self.report.error(place, wrong.message, wrong.hint)
            raise Skip from None
        return AddTo(target, _per(fields, "address"), fields.get("ttl", 0) * SECOND_NS)

    def _log(self, node: Node, key: Key) -> Log | None:
        if isinstance(node, Mapping):
            fields = self.walker.section(node, LOG)
            if not fields.complete():
                raise Skip
            interval, burst = fields.get("limit", LOG_INTERVAL_NS), fields.get("burst", LOG_BURST)
            self._check_bucket(fields, interval, burst)
            return Log(Limit(interval, burst), fields.get("prefix", ""))
        try:
            wanted = values.switch(getattr(node, "text", ""))
        except Wrong:
            raise Wrong("'log' is true, false or a mapping", "as in 'log: {limit: 5/minute}'") from None
        return Log(Limit(LOG_INTERVAL_NS, LOG_BURST), "") if wanted else None

    def _section(self, node: Node, key: Key, example: str) -> Fields:
        """The fields of a value that is a mapping, all of them readable."""
        if not isinstance(node, Mapping):
            raise Wrong(f"{quote(key.name)} is a mapping", example)
        section = {Kind.TIME: TIME, Kind.LIMIT: LIMIT, Kind.CONNLIMIT: CONNLIMIT, Kind.ADD: ADD}[key.kind]
        fields = self.walker.section(node, section)
        if not fields.complete():
            raise Skip
        return fields

    def _needs_per(self, fields: Fields) -> None:
        for key in ("prefix4", "prefix6"):
            if key in fields.values:
                self.report.error(fields.place(key), f"{quote(key)} needs 'per'", "add 'per: src' or 'per: dst'")

    def _check_bucket(self, fields: Fields, interval: int, burst: int) -> None:
        if interval * burst > MAX_BUCKET_NS:
            message = "so many at once, at this rate, take more than a lifetime to come back"
            self.report.error(fields.place("burst"), message, "lower 'burst', or raise the rate")


def _per(fields: Fields, end: str = "per") -> Per:
    return Per(fields.get(end, 0), fields.get("prefix4", PREFIX4), fields.get("prefix6", PREFIX6))
