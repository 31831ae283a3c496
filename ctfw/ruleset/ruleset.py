"""The rules of one generation, and the question that they answer: which one decides about this packet?

The first rule that matches wins; when none does, the chain's policy decides, which is a rule like any other (so it is
counted and can be named). Chain and state, which every packet has, are decided when the rules are loaded: each pair has
its own list, so that a packet of a known connection does not walk past rules that speak of new ones.
"""

from collections.abc import Mapping
from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.state import ANY
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT, Packet
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
        # By hook * 32 + state bit. A packet from another hook gets that of FORWARD: it is going through.
        self._lists: list[list[Rule]] = []
        for hook in range(_HOOKS):
            chain = hook if hook in self.policies else FORWARD
            for state in range(_STATES):
                applying = [rule for rule in rules if rule.chains & (1 << chain) and rule.states & state]
                self._lists.append([*applying, self.policies[chain]])

    def evaluate(self, packet: Packet, hook: i64, indev: str, outdev: str) -> Rule:
        """The rule, or the policy, that decides about the packet. ``packet.state`` is one of the state bits."""
        for rule in self._lists[hook * _STATES + packet.state]:
            if rule.matches(packet, indev, outdev):
                return rule
        return self.policies[FORWARD]  # not reached: a policy asks for nothing, so it matches
