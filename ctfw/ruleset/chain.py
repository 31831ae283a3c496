"""A list of rules and the index over it: the main list, or a chain of the user's that rules jump to.

Chain ("hook" would be the better word for input, forward and output, but iptables' word is known) and state, which
every packet has, are decided when the rules are loaded: each pair has its own set of rules. Where the first of them
asks for nothing else ("replies" in most rule files) and does nothing but decide, it is the answer (``certain``), so a
packet of a known connection pays nothing for the rules that speak of new ones.

Rules before tracking (``track``) have a row of their own, that of state 0, which no packet has when it is asked about.
"""

from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

from ctfw.packet import FORWARD, INPUT, OUTPUT, Packet
from ctfw.ruleset.breath import hold_breath
from ctfw.ruleset.index import Index, bits
from ctfw.ruleset.rule import Rule

HOOKS: Final = 5
STATES: Final = 32


class Chain:
    """``rules`` in their order. ``places``: of the user's chains by name, for the jumps. ``breathe``: see breath."""

    def __init__(
        self, name: str, rules: list[Rule], places: dict[str, int], breathe: Callable[[], None] = hold_breath
    ) -> None:
        self.name = name
        self.rules = rules
        self._index = Index(rules, breathe)
        for at, rule in enumerate(rules):
            rule.settle(at in self._index.late_srcs, at in self._index.late_dsts, places.get(rule.jump, -1))
        # By hook * 32 + state bit. A packet from another hook gets what FORWARD says: it is going through.
        self.among: list[int] = []
        self.certain: list[Rule | None] = []
        rows: dict[tuple[int, int], list[int]] = {}
        for hook in range(HOOKS):
            chain = hook if hook in (INPUT, FORWARD, OUTPUT) else FORWARD
            for state in range(STATES):
                if (chain, state) not in rows:
                    breathe()
                    # Of the 32 rows only those of a single state are ever asked for.
                    rows[chain, state] = _places(rules, chain, state) if state & (state - 1) == 0 else []
                places_here = rows[chain, state]
                first = rules[places_here[0]] if places_here else None
                self.among.append(bits(places_here))
                self.certain.append(first if first is not None and first.is_plain and first.asks_nothing() else None)

    def candidates(self, row: i64, packet: Packet, indev: str, outdev: str) -> int:
        """The rules, as bits, whose indexed fields agree with the packet. ``row``: hook * 32 + state."""
        among = self.among[row]
        return self._index.candidates(among, packet, indev, outdev) if among != 0 else 0


def _places(rules: list[Rule], chain: int, state: int) -> list[int]:
    if state == 0:
        return [at for at, rule in enumerate(rules) if rule.track != 0 and rule.chains & (1 << chain)]
    return [
        at for at, rule in enumerate(rules) if rule.track == 0 and rule.chains & (1 << chain) and rule.states & state
    ]
