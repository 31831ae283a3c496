"""The entries of `rules:` and `chains:` -> compiled Rules.

Keys are read by the walker, by Sets and by Readers; what holds for a whole rule is checked by RuleChecks. Here a rule
is put together, names are kept apart (one namespace for every rule of every file), and the jumps from chain to chain
are followed: one to a chain that is not there, that leads back to itself or too deep is an error where it stands.
"""

from typing import Any

from ctfw.config.document import Mapping as MappingNode
from ctfw.config.document import Node, Scalar, Sequence
from ctfw.config.named import NAME, NAME_HINT, NamedSets
from ctfw.config.names import PROTOCOLS
from ctfw.config.problems import Report, did_you_mean, quote
from ctfw.config.readers import Readers
from ctfw.config.rule_checks import ALL_CHAINS, CHAINS, RuleChecks
from ctfw.config.schema import ACTIONS, RULE, Key, Kind
from ctfw.config.sets import Match
from ctfw.config.walk import Fields, Walker, mask
from ctfw.conntrack import state
from ctfw.ruleset.marks import reject_field
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import MOST_DEPTH
from ctfw.ruleset.sets import NumberSet
from ctfw.ruleset.verdict import CONTINUE, JUMP

STATES = {name: bit for bit, name in state.STATE_NAMES.items()}

_TCP = NumberSet([(PROTOCOLS["tcp"], PROTOCOLS["tcp"])])


class Rules:
    """Reads the lists of rules."""

    def __init__(self, walker: Walker, named: NamedSets) -> None:
        self.walker = walker
        self.report: Report = walker.report
        self.readers = Readers(walker, named)
        self.checks = RuleChecks(self.report)
        self.chains: dict[str, list[Rule]] = {}
        self.fields: dict[Rule, Fields] = {}  # where each rule stands
        self.places: dict[str, Scalar] = {}  # where each chain does
        self._names: dict[str, Node | None] = {f"policy {chain}": None for chain in CHAINS}
        self._jumps: dict[str, list[tuple[str, Node]]] = {"": []}  # from each chain, "" for the main list: where to
        walker.readers[Kind.STATES] = self._states
        walker.readers[Kind.CHAINS] = self._hooks

    def read(self, items: list[Node], chains: list[Node]) -> list[Rule]:
        """The main list; `self.chains` has the others. The report has an error for each rule that cannot be read."""
        lists = self._gather(chains)
        rules = self._list(items, "")
        for name, those in lists.items():
            self.chains[name] = self._list(those, name)
        self._check_jumps()
        return rules

    def check_marks(self, bit: int, offload_bit: int) -> None:
        """No rule sets or asks for the bits of the mark that say how a packet is rejected, or that it is offloaded."""
        taken = [(reject_field(bit), "rejected packets", "reject")]
        if any(fields.get("offload") for fields in self.fields.values()):
            taken.append((offload_bit, "offloaded connections", "offload"))
        for place, value in self.readers.marks:
            for bits, what, section in taken:
                if value & bits:
                    message = f"the bits {value & bits:#x} of the mark are ctfw's own, for {what}"
                    self.report.error(place, message, f"use others, or move ctfw's: '{section}: {{mark: 0x…}}'")

    def _gather(self, chains: list[Node]) -> dict[str, list[Node]]:
        """The entries of each chain, of all files."""
        lists: dict[str, list[Node]] = {}
        for node in chains:
            if not isinstance(node, MappingNode):
                self.report.error(node, "'chains' is a mapping of names to lists of rules", "as in 'guests: [...]'")
                continue
            for name, value in node.pairs:
                if NAME.fullmatch(name.text) is None:
                    self.report.error(name, f"{quote(name.text)} cannot name a chain", NAME_HINT)
                elif name.text in CHAINS:
                    message = f"{quote(name.text)} is where a packet is caught, not a chain to jump to"
                    self.report.error(name, message, f"write 'chain: {name.text}' in a rule of 'rules'")
                elif not isinstance(value, Sequence):
                    self.report.error(value, f"chain {quote(name.text)} is a list of rules", "an empty one is []")
                lists.setdefault(name.text, []).extend(value.items if isinstance(value, Sequence) else [])
                self.places.setdefault(name.text, name)
                self._jumps.setdefault(name.text, [])
        return lists

    def _list(self, items: list[Node], chain: str) -> list[Rule]:
        rules: list[Rule] = []
        for number, item in enumerate(items, 1):
            if not isinstance(item, MappingNode):
                self.report.error(
                    item, "a rule is a mapping of keys to values", "as in '- {state: NEW, verdict: drop}'"
                )
                continue
            fields = self.walker.section(item, RULE)
            name = fields.get("name", f"{chain} rule {number}".lstrip())
            self._check_name(name, fields.place("name"))
            self.checks.check(fields)
            if "jump" in fields.values:
                self._jumps[chain].append(fields.get("jump"))
            if chain and "track" in fields.keys:
                message = "'track' in a chain: this is decided before the packet is tracked"
                self.report.error(fields.place("track"), message, "put the rule into 'rules'")
            if fields.complete() and not fields.values.keys().isdisjoint(("verdict", "jump", "track")):
                rules.append(self.build(fields, name))
                self.fields[rules[-1]] = fields
        return rules

    def build(self, fields: Fields, name: str) -> Rule:
        """The rule of these fields, which could all be read."""
        status, not_status = fields.get("status", (0, 0))
        src: Match | None = fields.get("src")
        dst: Match | None = fields.get("dst")
        protos = _compiled(fields.get("proto"))
        return Rule(
            name=name,
            origin=f"{fields.node.source.path}:{fields.node.line}",
            verdict=JUMP if "jump" in fields.values else fields.get("verdict", CONTINUE),
            chains=fields.get("chain", ALL_CHAINS),
            states=fields.get("state", state.ANY),
            protos=protos if protos is not None or "tcp_flags" not in fields.values else _TCP,
            src=_compiled(src),
            dst=_compiled(dst),
            sport=_compiled(fields.get("sport")),
            dport=_compiled(fields.get("dport")),
            icmp=_icmp_types(fields.get("icmp")),
            icmpv6=_icmp_types(fields.get("icmpv6")),
            indev=fields.get("in"),
            outdev=fields.get("out"),
            log=fields.get("log"),
            src_tree=src.tree if src is not None else None,
            dst_tree=dst.tree if dst is not None else None,
            direction=fields.get("direction", -1),
            status=status,
            not_status=not_status,
            fragment=fields.get("fragment", -1),
            ttl=_compiled(fields.get("ttl")),
            dscp=_compiled(fields.get("dscp")),
            length=_compiled(fields.get("length")),
            mark=fields.get("mark"),
            tcp_flags=fields.get("tcp_flags"),
            mac=_compiled(fields.get("mac")),
            helpers=fields.get("helper", 0),
            schedule=fields.get("time"),
            connage=_compiled(fields.get("connage")),
            connpackets=_compiled(fields.get("connpackets")),
            connbytes=_compiled(fields.get("connbytes")),
            connlimit=fields.get("connlimit"),
            limit=fields.get("limit"),
            jump=fields.get("jump", ("", None))[0],
            reject_with=fields.get("reject_with", -1) + 1,
            track=fields.get("track", -1) + 1,
            shadow=bool(fields.get("shadow", 0)),
            set_mark=fields.get("set_mark"),
            add=fields.get("add"),
            offload=bool(fields.get("offload", 0)),
        )

    def _check_name(self, name: str, place: Node) -> None:
        first = self._names.setdefault(name, place)
        if first is None:
            self.report.error(place, f"{quote(name)} is the name of a chain's policy", "choose another name")
        elif first is not place:
            where = self.report.where(first, place)
            self.report.error(place, f"rule name {quote(name)} is used twice", f"first at {where}")

    def _states(self, node: Node, key: Key) -> int:
        return mask(self.walker.members(node, key.name), STATES, state.ANY, self.report)

    def _hooks(self, node: Node, key: Key) -> int:
        return mask(self.walker.members(node, key.name), CHAINS, ALL_CHAINS, self.report)

    def _check_jumps(self) -> None:
        used: set[str] = set()
        for jumps in self._jumps.values():
            for name, place in jumps:
                used.add(name)
                if name not in self.places:
                    self._unknown_chain(name, place)
        heights: dict[str, int] = {}
        for name in self._jumps:
            self._height(name, [], heights)
        for name, key in self.places.items():
            if name not in used and not self.report.failed:
                self.report.warning(key, f"no rule jumps to chain {quote(name)}")

    def _unknown_chain(self, name: str, place: Node) -> None:
        if name.lower() in ACTIONS:
            hint = f"a verdict is written 'verdict: {name.lower()}'"
        else:
            hint = did_you_mean(name, self.places) or "define it under 'chains:'"
        self.report.error(place, f"no chain is named {quote(name)}", hint)

    def _height(self, name: str, path: list[str], heights: dict[str, int]) -> int:
        """How many jumps deep one gets from this chain; loops and too deep ones are reported."""
        if name in heights:
            return heights[name]
        highest = 0
        path.append(name)
        for target, place in self._jumps[name]:
            if target not in self._jumps:
                continue
            if target in path:
                way = " -> ".join([*path[path.index(target) :], target])
                self.report.error(place, f"chain {quote(target)} jumps back to itself", way)
                continue
            if len(path) > MOST_DEPTH:
                self.report.error(place, f"chains jump more than {MOST_DEPTH} deep")
                continue
            below = self._height(target, path, heights) + 1
            if below > MOST_DEPTH and not self.report.failed:
                self.report.error(place, f"chains jump more than {MOST_DEPTH} deep")
            highest = max(highest, below)
        path.pop()
        heights[name] = highest
        return highest


def _compiled(match: Match | None) -> Any:
    return match.compiled if match is not None else None


def _icmp_types(match: Match | None) -> NumberSet | None:
    """`icmp: any` is every type, but of ICMP only: to a rule, None would be every packet."""
    if match is None:
        return None
    return match.compiled if isinstance(match.compiled, NumberSet) else NumberSet(match.intervals)
