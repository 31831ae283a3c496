"""The raw table -> helpers by port, and rules with `track: none`.

`-j CT --helper` names a helper for packets that match; ctfw's helpers serve a port, whoever speaks on it. NOTRACK
becomes a rule of its own as long as nothing before it in its chain lets packets go around it, since rules ahead of
tracking have no such exception. Everything else in this table is not the filter's, and a remark.
"""

from typing import Final

from ctfw.config.rule_checks import STATELESS
from ctfw.conntrack.settings import HELPER_NAMES, HELPERS
from ctfw.tools.iptables import targets
from ctfw.tools.iptables.chains import Entry, Finding, Item, Remark
from ctfw.tools.iptables.matches import Loopback, Place, conditions
from ctfw.tools.iptables.options import Spec, read
from ctfw.tools.iptables.save import Chain, Line
from ctfw.tools.iptables.sets import Sets
from ctfw.tools.iptables.values import Cannot, Never, Values

_HOOKS: Final = {"PREROUTING": frozenset({"input", "forward"}), "OUTPUT": frozenset({"output"})}
_KEEP: Final = "not the filter's: this table can stay with iptables"
_NUMBERS: Final = {"tcp": 6, "udp": 17}


class Raw:
    """`helpers`: name -> ports. `items`: what stands first in the rules."""

    def __init__(self, family: int, table: dict[str, Chain], sets: Sets) -> None:
        self.family = family
        self.helpers: dict[str, list[int]] = {}
        self.items: list[Item] = []
        self.findings: list[Finding] = []
        self._sets = sets
        self._chains = frozenset(table)
        for name, chain in table.items():
            gone_around = False
            for place, line in enumerate(chain.lines, 1):
                numbered = Line(line.file, line.number, line.text, line.words, place)
                spec = read(line.words)
                if spec.family not in (0, family):
                    continue
                if spec.target == "NOTRACK" or (spec.target == "CT" and spec.options.has("notrack")):
                    self._notrack(name, numbered, spec, gone_around)
                elif spec.target == "CT" and spec.options.has("helper"):
                    self._helper(numbered, spec)
                else:
                    kind = targets.kind(spec, self._chains)
                    gone_around = gone_around or kind != targets.PASSES
                    if kind != targets.JUMPS:
                        stops = kind == targets.STOPS
                        self.findings.append(Finding(numbered, _KEEP if not stops else kept("raw"), stops))

    def _notrack(self, name: str, line: Line, spec: Spec, gone_around: bool) -> None:
        place = Place(self.family, _HOOKS.get(name, frozenset()), sets=self._sets)
        try:
            if name not in _HOOKS:
                raise Cannot("'track: none' in a chain that is jumped to: write the whole match into one rule")
            if gone_around:
                raise Cannot("lines before it let packets go around it: say in the rule which ones it is for")
            entries = []
            for one in conditions(spec, place):
                for key in one:
                    if key not in STATELESS:
                        raise Cannot(f"'{key}' cannot be asked before a packet is tracked")
                one.setdefault("chain", _HOOKS[name])
                entries.append(Entry(line, one, {"track": "none"}, "", spec.comment()))
            entries[0].findings += [Finding(line, caveat.text, True, False) for caveat in place.caveats]
            self.items += entries
        except Loopback as why:
            self.items.append(Remark(Finding(line, str(why), left_out=False)))
        except Never as why:
            self.items.append(Remark(Finding(line, f"it never matches: {why}", left_out=False)))
        except Cannot as why:
            self.items.append(Remark(Finding(line, str(why), True)))

    def _helper(self, line: Line, spec: Spec) -> None:
        option = spec.options.find("helper")
        name = option.value if option is not None else ""
        try:
            if name not in HELPER_NAMES or not name:
                raise Cannot(f"there is no helper '{name}'")
            found = conditions(spec, Place(self.family, _HOOKS["PREROUTING"], sets=self._sets))
        except Loopback as why:
            self.findings.append(Finding(line, str(why), left_out=False))
            return
        except (Cannot, Never) as why:
            self.findings.append(Finding(line, str(why)))
            return
        for one in found:
            ports, proto = one.get("dport"), one.get("proto")
            numbers = [number for word, number in _NUMBERS.items() if word in HELPERS[name][0].split()]
            if not isinstance(ports, Values) or proto not in [Values(((number, number),)) for number in numbers]:
                self.findings.append(Finding(line, "a helper serves ports, named one by one"))
                continue
            for member in ports.wanted or ():
                if isinstance(member, tuple) and member[0] == member[1] > 0:
                    if member[0] not in self.helpers.setdefault(name, []):
                        self.helpers[name].append(member[0])
                else:
                    self.findings.append(Finding(line, "a helper serves ports, named one by one"))
            if one.keys() - {"dport", "proto", "tcp_flags", "chain"}:
                wider = f"helper {name} serves this port whoever speaks on it, not only what matches here"
                self.findings.append(Finding(line, wider, True, left_out=False))


def kept(table: str) -> str:
    """Why a line that stops packets in another table is left out."""
    return f"it stops packets in table {table}, of which ctfw knows nothing: keep it in iptables, or write a rule"
