"""What a rule file means and probably should not: warnings of `ctfw check` about rules that are fine one by one.

* a rule that no packet can reach: earlier ones take all of its packets, one of them or several together;
* a rule that nothing can match, and a chain that nothing leads to;
* a rule that accepts everything, or whoever chooses a certain source port;
* rules that nobody can work with: no way in over SSH, no answers, no neighbour discovery (``missing``).

What rules take from each other is decided exactly, by the boxes of ``space``; where a rule asks for what nobody knows
beforehand, it counts as taking nothing. So a warning is never wrong about the packets; that they are meant to go this
way is possible, and why these are warnings. Nothing here changes what a file means, and a reload leaves it out.

Each warning names both places, and says what to do.
"""

from collections.abc import Mapping
from typing import Final

from ctfw.config.conditions import conditions_of, why_never
from ctfw.config.document import Node
from ctfw.config.hook import Hook
from ctfw.config.missing import Questions, report_missing
from ctfw.config.problems import Report, quote
from ctfw.config.rules import Rules
from ctfw.config.space import Space, Undecided
from ctfw.config.walk import Fields
from ctfw.conntrack.state import ANY, ESTABLISHED, NEW
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.verdict import ACCEPT, JUMP, NAMES, RETURN

BUDGET: Final = 150_000  # pieces looked at for one file
MOST_NAMED: Final = 4


def lint(ruleset: Ruleset, rules: Rules, report: Report, file: Fields, hook: Hook) -> None:
    """Reports warnings. `file` are the fields of the rule file, and of nothing that it includes."""
    _Lint(ruleset, rules, report, file, hook).run()


class _Lint:
    def __init__(self, ruleset: Ruleset, rules: Rules, report: Report, file: Fields, hook: Hook) -> None:
        self.ruleset = ruleset
        self.report = report
        self.fields: Mapping[Rule, Fields] = rules.fields
        self.chains = rules.places
        self.file = file
        self.questions = Questions(hook)
        self.space = Space(ruleset, self.questions.every, budget=BUDGET)
        self.main = set(ruleset.rules)
        self.undecided = 0
        self.dead: set[Rule] = set()

    def run(self) -> None:
        tracking = [rule for rule in self.ruleset.rules if rule.track]
        self._list([rule for rule in self.ruleset.rules if not rule.track], self.space)
        for chain in self.ruleset.chains:
            if self._is_entered(chain.name, chain.rules):
                self._list(chain.rules, self.space)
        if tracking:
            self._list(tracking, Space(self.ruleset, tracking=True, budget=BUDGET))
        if self.undecided or not self.space.is_whole:
            message = "the rules are too entangled to tell for each whether it is ever reached"
            hint = f"{self.undecided} of {len(self.fields)} rules were left out"
            if not self.space.is_whole:
                hint = "long chains are jumped to from many places; jump from fewer, by sets"
            self.report.warning(None, message, hint)
        for rule in self.ruleset.every:
            self._check_broad(rule)
        report_missing(self.ruleset, self.space, self.questions, self.dead, self.report, self.file, self.fields)

    # --- rules that nothing reaches ---------------------------------------------------------------

    def _list(self, rules: list[Rule], space: Space) -> None:
        """Every rule of one list: can it match, and is anything left for it? One warning for all behind a rule that
        takes everything."""
        behind: dict[
            Rule, tuple[Rule, list[Rule]]
        ] = {}  # a rule that takes everything: the first behind it, the others
        for rule in rules:
            places = space.places.get(rule, [])
            if not places and space.is_whole:
                self.dead.add(rule)
                self._warn_hidden(rule, [one for one in rules[: rules.index(rule)] if one.verdict == RETURN])
            if not places or self._is_impossible(rule, space, places):
                continue
            used: set[int] = set()
            try:
                if not all(space.is_hidden(at, used) for at in places):
                    continue
            except Undecided:
                self.undecided += 1
                continue
            self.dead.add(rule)
            takers = list(dict.fromkeys(space.entries[at].rule for at in sorted(used)))
            whole = [taker for taker in takers if _asks_nothing(taker)]
            if len(takers) == 1 and whole and takers[0] in rules:
                behind.setdefault(takers[0], (rule, []))[1].append(rule)
            else:
                self._warn_hidden(rule, self._single(space, places, used) or takers, self._first_jump(space, used))
        for taker, (first, those) in behind.items():
            self._warn_behind(taker, first, len(those) - 1)

    def _single(self, space: Space, places: list[int], used: set[int]) -> list[Rule]:
        """The one rule that is enough, if there is one."""
        for one in sorted(used):
            if all(one < at and space.holds(one, at) for at in places):
                return [space.entries[one].rule]
        return []

    def _first_jump(self, space: Space, used: set[int]) -> Rule | None:
        """By which rule of the main list packets come to what takes them in a chain."""
        jumps = [space.entries[at].jumps[0] for at in sorted(used) if space.entries[at].jumps]
        return jumps[0] if jumps else None

    def _warn_hidden(self, rule: Rule, takers: list[Rule], jump: Rule | None = None) -> None:
        names = [self._named(taker, rule) for taker in takers[:MOST_NAMED]]
        if len(takers) > MOST_NAMED:
            names[-1:] = [f"{len(takers) - MOST_NAMED + 1} more"]
        if len(names) == 1:
            message = f"{names[0]} takes every packet of this rule first"
        else:
            message = f"{', '.join(names[:-1])} and {names[-1]} together take every packet of this rule first"
        same = all(_does(taker) == _does(rule) for taker in takers)
        if jump is not None and rule in self.main:
            message += f", by way of {self._named(jump, rule)}"
        first = quote(jump.name if jump is not None and rule in self.main else takers[0].name)
        hint = f"put it above {first}, or make that one narrower"
        if same:
            hint = (
                f"delete it: {quote(takers[0].name)} does the same"
                if len(takers) == 1
                else "delete it: they do the same"
            )
        self.report.warning(self._place(rule), f"this rule is never reached: {message}", hint)

    def _warn_behind(self, taker: Rule, rule: Rule, more: int) -> None:
        those = "this rule is" if not more else f"this rule and {more} more below it are"
        chain = (
            ""
            if taker.chains & rule.chains == rule.chains and len(_hooks(taker)) == 3
            else f" of {_chain_words(taker)}"
        )
        message = f"{those} never reached: {self._named(taker, rule)} takes every packet{chain}"
        self.report.warning(
            self._place(rule), message, f"put {quote(taker.name)} at the end, or delete what stands below"
        )

    def _is_impossible(self, rule: Rule, space: Space, places: list[int]) -> bool:
        """Warns about a rule that no packet can match, or none that comes there."""
        why = why_never(rule)
        if not why and any(space.boxes(space.entries[at].parts) for at in places):
            return False
        if why:
            self.report.warning(self._place(rule), f"this rule can never match: {why}", "leave one of them out")
        elif not space.boxes_of(rule):
            if not self._said_so(rule):
                self.report.warning(
                    self._place(rule), "this rule can never match: its keys exclude each other", self._excluding(rule)
                )
        else:
            jumps = dict.fromkeys(space.entries[at].jumps[-1] for at in places if space.entries[at].jumps)
            names = [self._named(jump, rule) for jump in jumps]
            message = (
                f"this rule can never match: {' and '.join(names[:MOST_NAMED])} jump{'s' * (len(names) == 1)} here"
            )
            self.report.warning(self._place(rule), f"{message} with other packets", "compare its keys with theirs")
        self.dead.add(rule)
        return True

    def _said_so(self, rule: Rule) -> bool:
        """Has the reader of the rule warned about the same already: an empty set, or families that do not meet?"""
        addresses = (rule.src, rule.dst)
        families = [{len(first) for first, _ in one.intervals()} for one in addresses if one is not None]
        if any(not one for one in families) or (len(families) == 2 and not families[0] & families[1]):
            return True
        wanted = 4 if rule.icmp is not None else 16 if rule.icmpv6 is not None else 0
        if rule.protos is not None and rule.protos.intervals() in ([(1, 1)], [(58, 58)]):
            wanted = 4 if rule.protos.contains(1) else 16
        return bool(wanted) and any(wanted not in one for one in families)

    def _excluding(self, rule: Rule) -> str:
        if rule.indev is not None and rule.outdev is not None and not rule.chains >> FORWARD & 1:
            return "only chain forward has both interfaces"
        if rule.states == NEW and (rule.icmp is not None or rule.icmpv6 is not None):
            return "only queries, as echo-request, are NEW; errors are RELATED, neighbour discovery is UNTRACKED"
        return ""

    def _is_entered(self, name: str, rules: list[Rule]) -> bool:
        """Does anything lead to this chain? Warns, unless no rule names it, which was said before."""
        if any(rule in self.space.places for rule in rules) or not rules or not self.space.is_whole:
            return True
        jumps = [rule for rule in self.ruleset.every if rule.verdict == JUMP and rule.jump == name]
        if jumps:
            place = self.chains[name]
            names = " and ".join(self._named_from(jump, place) for jump in jumps[:MOST_NAMED])
            message = f"nothing leads to chain {quote(name)}: {names}, in a chain that is never entered itself"
            self.report.warning(place, message, "jump there from 'rules', or delete it")
        return False

    # --- rules that accept too much ---------------------------------------------------------------

    def _check_broad(self, rule: Rule) -> None:
        if rule.verdict != ACCEPT or rule.shadow or rule.track or not rule.states & NEW or rule in self.dead:
            return
        hooks = [hook for hook in _hooks(rule) if hook != OUTPUT]
        if not hooks or conditions_of(rule):
            return
        if rule not in self.main:
            return  # what comes to a chain was chosen by the jump
        if _asks_nothing_of_new(rule):
            words = " and ".join(HOOK_NAMES[hook] for hook in hooks)
            message = f"this rule accepts every new connection in chain {words}"
            hint = "name an interface, a source or a service: 'in', 'src', 'dport'"
            if rule.states & ESTABLISHED:
                hint = "for answers alone write 'state: [ESTABLISHED, RELATED]'; else name 'in', 'src' or 'dport'"
            self.report.warning(self._place(rule), message, hint)
        elif rule.sport is not None and rule.dport is None and rule.src is None and rule.dst is None:
            place = self.fields[rule].place("sport")
            message = "this rule accepts new connections by their source port, which whoever sends them chooses"
            self.report.warning(place, message, "answers are ESTABLISHED; for new connections ask for 'dport' or 'src'")

    # --- places and names -------------------------------------------------------------------------

    def _place(self, rule: Rule) -> Node:
        return self.fields[rule].node

    def _named(self, rule: Rule, seen_from: Rule) -> str:
        return self._named_from(rule, self._place(seen_from))

    def _named_from(self, rule: Rule, place: Node) -> str:
        fields = self.fields.get(rule)
        return f"{quote(rule.name)} at {self.report.where(fields.node, place)}" if fields else quote(rule.name)


def _asks_nothing(rule: Rule) -> bool:
    return rule.states == ANY and _asks_nothing_of_new(rule)


def _asks_nothing_of_new(rule: Rule) -> bool:
    """Chain and state are all that it asks for."""
    fields = (
        rule.protos, rule.src, rule.dst, rule.sport, rule.dport, rule.icmp, rule.icmpv6, rule.indev, rule.outdev
    )  # fmt: skip
    return all(field is None for field in fields) and not conditions_of(rule)


def _hooks(rule: Rule) -> list[int]:
    return [hook for hook in (INPUT, FORWARD, OUTPUT) if rule.chains >> hook & 1]


def _chain_words(rule: Rule) -> str:
    return "chain " + " and ".join(HOOK_NAMES[hook] for hook in _hooks(rule))


def _does(rule: Rule) -> tuple[object, ...]:
    """What two rules must have in common for one to be as good as the other."""
    effects = (rule.set_mark, rule.add, rule.shadow, rule.track, rule.jump, rule.offload)
    return NAMES[rule.verdict], rule.reject_with, *effects
