"""The rules of one generation, and the question that they answer: which one decides about this packet?

The first rule that matches wins; when none does, the chain's policy decides, which is a rule like any other (so it is
counted and can be named). Chain and state, which every packet has, are decided when the rules are loaded: each pair has
its own set of rules. Where the first of them asks for nothing else ("replies" in most rule files) it is the answer, so
a packet of a known connection pays nothing for the rules that speak of new ones. For the others see ``index``.
"""

from collections.abc import Mapping
from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.state import ANY
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT, Packet
from ctfw.ruleset.index import Index, bits
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.verdict import DROP

_HOOKS: Final = 5
_STATES: Final = 32


class Ruleset:
    """``policy`` gives the verdict of a chain whose rules do not match; a chain that it does not name drops."""

    def __init__(self, rules: list[Rule], policy: Mapping[int, int], generation: int = 0) -> None:
        self.rules = rules
        self.generation: i64 = generation
        self.policies: dict[int, Rule] = {}
        for hook in (INPUT, FORWARD, OUTPUT):
            name = "policy " + HOOK_NAMES[hook]
            self.policies[hook] = Rule(name, "", policy.get(hook, DROP), 1 << hook, ANY)
        self._index = Index(rules)
        # By hook * 32 + state bit. A packet from another hook gets what FORWARD says: it is going through.
        self._among: list[int] = []
        self._certain: list[Rule | None] = []
        for hook in range(_HOOKS):
            chain = hook if hook in self.policies else FORWARD
            for state in range(_STATES):
                places = [at for at, rule in enumerate(rules) if rule.chains & (1 << chain) and rule.states & state]
                first = rules[places[0]] if places else self.policies[chain]
                self._among.append(bits(places))
                self._certain.append(first if first.asks_nothing() else None)

    def evaluate(self, packet: Packet, hook: i64, indev: str, outdev: str) -> Rule:
        """The rule, or the policy, that decides about the packet. ``packet.state`` is one of the state bits."""
        row = hook * _STATES + packet.state
        certain = self._certain[row]
        if certain is not None:
            return certain
        candidates = self._index.candidates(self._among[row], packet, indev, outdev)
        while candidates != 0:
            lowest = candidates & -candidates
            rule = self.rules[lowest.bit_length() - 1]
            if rule.matches_rest(packet):
                return rule
            candidates ^= lowest
        return self.policies[hook if hook in self.policies else FORWARD]
