"""The filter table of one family -> entries: rules in the terms of the rule file, and remarks.

A line becomes a rule, several rules (alternatives), or a remark that stands in its place. `_opening` says whether what
was left out may let packets pass: a line that stops packets does, one that accepts does not, a jump does when anything
behind it stops packets, RETURN when something after it accepts.

A goto is a jump after which the caller is left as well: the rule, and behind it the same rule with `return`. Where the
chain always decides the second is not needed; where the rule counts (limit, connlimit), asking twice would not be the
same, and it is not carried over.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ctfw.ruleset.ruleset import MOST_DEPTH
from ctfw.tools.iptables import targets
from ctfw.tools.iptables.matches import NARROWER, Caveat, Conditions, Loopback, Place, conditions
from ctfw.tools.iptables.options import Spec, read
from ctfw.tools.iptables.save import BUILTIN, Chain, Line
from ctfw.tools.iptables.sets import Sets
from ctfw.tools.iptables.targets import ACCEPTS, JUMPS, MARKS, PASSES, RETURNS, STOPS
from ctfw.tools.iptables.values import Cannot, Never

HOOK_OF: Final = {name: name.lower() for name in BUILTIN}

_COUNTING: Final = ("limit", "connlimit")


@dataclass(frozen=True)
class Finding:
    """Something about a line that the user must know. `opens`: packets may pass now that did not."""

    line: Line
    why: str
    opens: bool = False
    left_out: bool = True


@dataclass
class Entry:
    """One rule. `conditions` and `keys` are its own; `jump` is a chain in iptables' words."""

    line: Line
    conditions: Conditions
    keys: dict[str, object]
    jump: str = ""
    comment: str = ""
    suffix: str = ""  # of its name, where a line becomes several rules
    families: frozenset[int] = frozenset()
    findings: list[Finding] = field(default_factory=list)  # what is not exact about it

    def same(self) -> str | int:
        """Equal for two rules that may become one for both families. What counts keeps its own count."""
        if any(key in self.conditions for key in _COUNTING) or isinstance(self.keys.get("log"), dict):
            return id(self)
        asked = sorted((key, sorted(v) if isinstance(v, frozenset) else v) for key, v in self.conditions.items())
        return repr((asked, self.keys, self.jump, self.comment, self.suffix))


@dataclass
class Remark:
    """Stands in a list of rules for what is not one."""

    finding: Finding
    families: frozenset[int] = frozenset()

    def same(self) -> str | int:
        return repr((self.finding.line.words, self.finding.why))


Item = Entry | Remark


class Filter:
    """The chains of one family, translated into `items` by the chain's name."""

    def __init__(self, family: int, table: dict[str, Chain], sets: Sets) -> None:
        self.family = family
        self.sets = sets
        self.table = table
        self.names = frozenset(table) - frozenset(BUILTIN)
        self.specs: dict[str, list[tuple[Line, Spec]]] = {}
        for name, chain in table.items():
            numbered = enumerate(chain.lines, 1)
            self.specs[name] = [(_placed(line, place), read(line.words)) for place, line in numbered]
        self.hooks = self._reached()
        self.kinds: dict[str, set[str]] = {}
        self._gather_kinds()
        self.asks_marks = any(match.module == "mark" for _, spec in self._all() for match in spec.matches)
        tables = Counter(name for _, spec in self._all() for name in set(targets.counted_tables(spec)))
        self.shared = {name for name, count in tables.items() if count > 1}
        self.items: dict[str, list[Item]] = {}
        for name in self.hooks:
            self.items[name] = self._chain(name)
        self._cut()
        self._expand_gotos()

    def policy(self, builtin: str) -> str:
        """accept or drop. A table that was not saved accepts, as one that the kernel does not have."""
        chain = self.table.get(builtin)
        return "accept" if chain is None or chain.policy in ("ACCEPT", "-") else "drop"

    def _all(self) -> Iterable[tuple[Line, Spec]]:
        return (pair for name in self.hooks for pair in self.specs[name])

    def _reached(self) -> dict[str, frozenset[str]]:
        """From which hooks packets come into each chain; chains that nobody jumps to are not in it."""
        found: dict[str, set[str]] = {}
        for builtin in BUILTIN:
            waiting = [builtin] if builtin in self.table else []
            while waiting:
                name = waiting.pop()
                hooks = found.setdefault(name, set())
                if HOOK_OF[builtin] in hooks:
                    continue
                hooks.add(HOOK_OF[builtin])
                waiting.extend(spec.target for _, spec in self.specs[name] if spec.target in self.names)
        return {name: frozenset(found[name]) for name in self.table if name in found}

    def _gather_kinds(self) -> None:
        """What may happen to a packet in each chain, jumps followed."""
        callers: dict[str, list[str]] = {}
        for name in self.hooks:
            own = self.kinds[name] = set()
            for _, spec in self.specs[name]:
                kind = targets.kind(spec, self.names)
                if kind == JUMPS:
                    callers.setdefault(spec.target, []).append(name)
                elif kind != RETURNS:  # which ends at the chain's own border
                    own.add(kind)
        waiting = list(self.kinds)
        while waiting:
            name = waiting.pop()
            for caller in callers.get(name, []):
                if not self.kinds[name] <= self.kinds[caller]:
                    self.kinds[caller] |= self.kinds[name]
                    waiting.append(caller)

    def _chain(self, name: str) -> list[Item]:
        items: list[Item] = []
        accepts_below = False  # does anything after the line accept?
        for line, spec in reversed(self.specs[name]):
            if spec.family in (0, self.family):
                items[:0] = self._line(name, line, spec, accepts_below)
            kind = targets.kind(spec, self.names)
            accepts_below = accepts_below or kind == ACCEPTS or (kind == JUMPS and ACCEPTS in self._kinds(spec))
        return items

    def _line(self, name: str, line: Line, spec: Spec, accepts_below: bool) -> list[Item]:
        place = Place(self.family, self.hooks[name], HOOK_OF.get(name, ""), targets.only_logs(spec), self.sets)
        opens = self._opening(spec, accepts_below)
        try:
            effect = targets.effect(spec, place, self.names)
            for table in targets.counted_tables(spec):
                if table in self.shared:
                    place.caveats.append(
                        Caveat(f"other rules share its table '{table}'; here each counts alone", NARROWER)
                    )
            found = [targets.settle(one, effect) for one in conditions(spec, place)]
        except Loopback as why:
            return [Remark(Finding(line, str(why), left_out=False))]
        except Never as why:
            return [Remark(Finding(line, f"it never matches: {why}", left_out=False))]
        except Cannot as why:
            return [Remark(Finding(line, str(why), opens))]
        entries: list[Item] = []
        for number, one in enumerate(found):
            keys = {key: dict(value) if isinstance(value, dict) else value for key, value in effect.keys.items()}
            entry = Entry(
                line, one, keys, effect.jump, spec.comment(), f" {chr(97 + number)}" if len(found) > 1 else ""
            )
            if spec.goto and effect.jump:
                entry.keys["goto"] = True
                if any(key in one for key in _COUNTING):
                    return [Remark(Finding(line, "a goto behind a limit: write the rest of the chain into one", opens))]
            entries.append(entry)
        first = entries[0]
        assert isinstance(first, Entry)
        for caveat in dict.fromkeys(place.caveats):
            errs = bool(caveat.errs) and self._opening(spec, accepts_below, wider=caveat.errs != NARROWER)
            first.findings.append(Finding(line, caveat.text, errs, left_out=False))
        return entries

    def _opening(self, spec: Spec, accepts_below: bool, wider: bool = False) -> bool:
        """May packets pass that did not, when this line is left out, or (`wider`) matches more than it did?"""
        kind = targets.kind(spec, self.names)
        if kind == STOPS:
            return not wider
        if kind == ACCEPTS:
            return wider
        if kind == MARKS:
            return self.asks_marks
        if kind == RETURNS:
            return accepts_below or wider
        if kind == PASSES:
            return False
        kinds = self._kinds(spec)
        if MARKS in kinds and self.asks_marks:
            return True
        if wider:
            return ACCEPTS in kinds or spec.goto
        return STOPS in kinds or (spec.goto and accepts_below)

    def _kinds(self, spec: Spec) -> set[str]:
        return self.kinds.get(spec.target, set())

    def _cut(self) -> None:
        """Jumps that lead back to where they come from, or too deep, are left out."""
        targets_of = {
            name: {item.jump for item in items if isinstance(item, Entry) and item.jump}
            for name, items in self.items.items()
        }
        heights: dict[str, int] = {}
        waiting = list(self.items)
        while True:
            left = []
            for name in waiting:
                below = [heights.get(target, -1) for target in targets_of[name]]
                if -1 in below:
                    left.append(name)
                else:
                    heights[name] = max((height + 1 for height in below if height + 1 < MOST_DEPTH), default=0)
            if len(left) == len(waiting):
                break
            waiting = left
        for name, items in self.items.items():
            for at, item in enumerate(items):
                if not isinstance(item, Entry) or not item.jump:
                    continue
                if item.jump not in heights or name not in heights:
                    why = "chains that lead back to themselves"
                elif heights[item.jump] + (name not in BUILTIN) >= MOST_DEPTH:
                    why = f"chains jump at most {MOST_DEPTH} deep"
                else:
                    continue
                items[at] = Remark(Finding(item.line, why, True))

    def _expand_gotos(self) -> None:
        deciding: dict[str, bool] = {}
        for name in self._from_below():
            deciding[name] = _decides(self.items[name], deciding)
        for name, items in self.items.items():
            found: list[Item] = []
            for item in items:
                found.append(item)
                if not isinstance(item, Entry) or not item.keys.pop("goto", False):
                    continue
                last = item is items[-1] and not item.conditions.keys() - {"chain"}
                if deciding[item.jump] or last:
                    continue
                if "mark" in item.conditions and MARKS in self.kinds[item.jump]:
                    found[-1] = Remark(Finding(item.line, "a goto by a mark that the chain sets anew", True))
                    continue
                found.append(Entry(item.line, item.conditions, {"verdict": "return"}, "", "", f"{item.suffix} return"))
            self.items[name] = found

    def _from_below(self) -> list[str]:
        """The chains, each behind those that it jumps to."""
        order: list[str] = []
        done: set[str] = set()
        waiting = [(name, False) for name in self.items]
        while waiting:
            name, below = waiting.pop()
            if below:
                order.append(name)
            elif name not in done:
                done.add(name)
                waiting.append((name, True))
                waiting.extend((item.jump, False) for item in self.items[name] if isinstance(item, Entry) and item.jump)
        return order


def _decides(items: list[Item], deciding: dict[str, bool]) -> bool:
    """Does every packet that comes into this chain get its verdict there?"""
    for item in items:
        if not isinstance(item, Entry):
            continue
        always = not item.conditions.keys() - {"chain"}
        verdict = item.keys.get("verdict")
        if verdict == "return":
            return False
        if always and verdict in ("accept", "drop", "reject"):
            return True
        if item.jump and deciding.get(item.jump, False) and always:
            return True
        if item.keys.get("goto") and not deciding.get(item.jump, False):
            return False
    return False


def _placed(line: Line, place: int) -> Line:
    return Line(line.file, line.number, line.text, line.words, place)
