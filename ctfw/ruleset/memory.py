"""Which rule decided about a connection's packets, where it cannot be another one for the next.

A rule file is asked about every packet, but most of its answers cannot change while the connection lives: when nothing
but chain, state, protocol, ports, addresses and interfaces was compared (``Ruleset.lasting``), the next ESTABLISHED
packet of the same direction gets the same one. So it is written on the connection, one number for each direction:

    epoch (one for each set of rules that this memory has met) | place (hook and interfaces) | number of the rule

and a packet whose epoch and place agree needs no index. A reload begins another epoch, so nothing has to be forgotten
one by one; a packet that takes another way than the last one of its direction is looked up, and written anew.

What the rule does besides (counting, logging) is done by whoever asked, remembered or not.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.packet import ORIGINAL
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset

_RULE_BITS: Final = 16
_PLACE_BITS: Final = 16
MOST: Final = 0xFFFF  # rules that have a number, and places


class Place:
    """A hook with a pair of interfaces. The names are kept as the objects that came last: most often they are equal."""

    __slots__ = ("hook", "indev", "number", "outdev")

    def __init__(self, number: i64, hook: i64, indev: str, outdev: str) -> None:
        self.number: i64 = number
        self.hook: i64 = hook
        self.indev = indev
        self.outdev = outdev


class Memory:
    """The rules by number, and the places met so far. One for each engine."""

    def __init__(self) -> None:
        self._ruleset: Ruleset | None = None
        self._rules: list[Rule] = []
        self._epoch: i64 = 0
        self._places: dict[str, Place] = {}
        # The place that the last packet of each direction came by.
        self._original = Place(0, -1, "", "")
        self._reply = Place(0, -1, "", "")

    def find(self, ruleset: Ruleset, conn: Conn, direction: i64, hook: i64, indev: str, outdev: str) -> Rule | None:
        """The rule that decides about an ESTABLISHED packet of ``conn``, if it is known."""
        if ruleset is not self._ruleset:
            self._begin(ruleset)
            return None
        place = self._place(direction, hook, indev, outdev)  # first: a place too many begins another epoch
        known = conn.judged_original if direction == ORIGINAL else conn.judged_reply
        if known >> _RULE_BITS != (self._epoch << _PLACE_BITS | place):
            return None
        return self._rules[known & MOST]

    def keep(self, rule: Rule, conn: Conn, direction: i64, hook: i64, indev: str, outdev: str) -> None:
        """Writes down what ``find`` did not find, for the same arguments."""
        if rule.number == 0:
            return
        place = self._place(direction, hook, indev, outdev)
        known = (self._epoch << _PLACE_BITS | place) << _RULE_BITS | rule.number
        if direction == ORIGINAL:
            conn.judged_original = known
        else:
            conn.judged_reply = known

    def _begin(self, ruleset: Ruleset) -> None:
        self._epoch += 1
        self._ruleset = ruleset
        self._places = {}
        self._original = self._reply = Place(0, -1, "", "")
        self._rules = ruleset.number_rules(MOST)

    def _place(self, direction: i64, hook: i64, indev: str, outdev: str) -> i64:
        last = self._original if direction == ORIGINAL else self._reply
        if last.hook == hook and last.indev is indev and last.outdev is outdev:
            return last.number
        name = f"{hook} {indev} {outdev}"
        place = self._places.get(name)
        if place is None:
            ruleset = self._ruleset
            if len(self._places) >= MOST and ruleset is not None:
                self._begin(ruleset)
            place = Place(len(self._places), hook, indev, outdev)
            self._places[name] = place
        place.indev = indev
        place.outdev = outdev
        if direction == ORIGINAL:
            self._original = place
        else:
            self._reply = place
        return place.number
