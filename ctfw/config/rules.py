"""One entry of `rules:` -> one compiled Rule, and what can only be said about a whole rule.

Keys are read by the walker and by Sets. Here they are held against each other: ports need a protocol that has ports, an
ICMP type implies its protocol, a chain that has no such interface. What can never match because of two keys that
exclude each other is an error when the keys themselves say so, and a warning when it comes from the addresses in them.
"""

from collections.abc import Set as AbstractSet
from typing import Any

from ctfw.config import values
from ctfw.config.document import Mapping as MappingNode
from ctfw.config.document import Node, Sequence
from ctfw.config.names import PROTOCOLS, WITH_PORTS
from ctfw.config.problems import Report, quote
from ctfw.config.schema import LOG, RULE, Key, Kind
from ctfw.config.sets import Match
from ctfw.config.values import SECOND_NS, Wrong
from ctfw.config.walk import Fields, Skip, Walker, mask
from ctfw.conntrack import state
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.ruleset.limit import Limit
from ctfw.ruleset.rule import Log, Rule
from ctfw.ruleset.sets import NumberSet

STATES = {name: bit for bit, name in state.STATE_NAMES.items()}
CHAINS = {HOOK_NAMES[hook]: 1 << hook for hook in (INPUT, FORWARD, OUTPUT)}
ALL_CHAINS = sum(CHAINS.values())

LOG_INTERVAL_NS = 6 * SECOND_NS  # 10/minute
LOG_BURST = 10

_ICMPS = {"icmp": PROTOCOLS["icmp"], "icmpv6": PROTOCOLS["icmpv6"]}


class Rules:
    """Reads the list of rules; `path` is what their origin begins with."""

    def __init__(self, walker: Walker, path: str) -> None:
        self.walker = walker
        self.report: Report = walker.report
        self.path = path
        walker.readers[Kind.STATES] = self._states
        walker.readers[Kind.CHAINS] = self._chains
        walker.readers[Kind.LOG] = self._log
        walker.readers[Kind.RULES] = lambda node, key: self.read(node)

    def read(self, node: Node) -> list[Rule]:
        """The rules that could be read; the report has an error for each of the others."""
        if not isinstance(node, Sequence):
            raise Wrong("'rules' is a list", "each rule starts with a dash: '- name: …'")
        rules: list[Rule] = []
        names: dict[str, Node] = {f"policy {chain}": node for chain in CHAINS}
        for number, item in enumerate(node.items, 1):
            if not isinstance(item, MappingNode):
                self.report.error(
                    item, "a rule is a mapping of keys to values", "as in '- {state: NEW, verdict: drop}'"
                )
                continue
            fields = self.walker.section(item, RULE)
            name = fields.get("name", f"rule {number}")
            place = fields.place("name")
            first = names.setdefault(name, place)
            if first is node:
                self.report.error(place, f"{quote(name)} is the name of a chain's policy", "choose another name")
            elif first is not place:
                self.report.error(place, f"rule name {quote(name)} is used twice", f"first at line {first.line}")
            self._check_chains(fields)
            self._check_protos(fields)
            self._check_families(fields)
            if fields.complete() and "verdict" in fields.values:
                rules.append(self._build(fields, name))
        return rules

    def _build(self, fields: Fields, name: str) -> Rule:
        return Rule(
            name=name,
            origin=f"{self.path}:{fields.node.line}",
            verdict=fields.get("verdict"),
            chains=fields.get("chain", ALL_CHAINS),
            states=fields.get("state", state.ANY),
            protos=_compiled(fields.get("proto")),
            src=_compiled(fields.get("src")),
            dst=_compiled(fields.get("dst")),
            sport=_compiled(fields.get("sport")),
            dport=_compiled(fields.get("dport")),
            icmp=_icmp_types(fields.get("icmp")),
            icmpv6=_icmp_types(fields.get("icmpv6")),
            indev=fields.get("in"),
            outdev=fields.get("out"),
            log=fields.get("log"),
        )

    def _states(self, node: Node, key: Key) -> int:
        return mask(self.walker.members(node, key.name), STATES, state.ANY, self.report)

    def _chains(self, node: Node, key: Key) -> int:
        return mask(self.walker.members(node, key.name), CHAINS, ALL_CHAINS, self.report)

    def _log(self, node: Node, key: Key) -> Log | None:
        if isinstance(node, MappingNode):
            fields = self.walker.section(node, LOG)
            if not fields.complete():
                raise Skip
            limit = Limit(fields.get("limit", LOG_INTERVAL_NS), fields.get("burst", LOG_BURST))
            return Log(limit, fields.get("prefix", ""))
        try:
            wanted = values.switch(getattr(node, "text", ""))
        except Wrong:
            raise Wrong("'log' is true, false or a mapping", "as in 'log: {limit: 5/minute}'") from None
        return Log(Limit(LOG_INTERVAL_NS, LOG_BURST), "") if wanted else None

    def _check_chains(self, fields: Fields) -> None:
        chains = fields.get("chain", ALL_CHAINS)
        for key, chain in (("in", "output"), ("out", "input")):
            if fields.get(key) is not None and chains == CHAINS[chain]:
                self.report.error(
                    fields.place(key),
                    f"chain {chain} has no {quote(key)} interface: this can never match",
                    f"the interface of chain {chain} is {quote('out' if key == 'in' else 'in')}",
                )

    def _check_protos(self, fields: Fields) -> None:
        """Ports need protocols that have ports; an ICMP type implies its own, and goes with no other."""
        given: Match | None = fields.get("proto")
        if given is None and "proto" in fields.keys:
            return
        numbers = given.numbers() if given is not None and given.compiled is not None else None
        icmps = {name: number for name, number in _ICMPS.items() if name in fields.values}
        ports = [key for key in ("sport", "dport") if key in fields.values]
        if ports:
            self._check_ports(fields, ports[0], numbers, bool(icmps))
            return
        if not icmps or numbers is None:
            return
        for name, number in icmps.items():
            if number not in numbers:
                message = f"{quote(name)} needs protocol {name}"
                self.report.error(fields.place(name), message, "leave 'proto' out: the type implies it")
                return
        others = numbers - set(icmps.values())
        if others:
            message = f"protocol {_proto_name(min(others))} beside an icmp type can never match"
            self.report.error(fields.place("proto"), message, "write a rule of its own for it")

    def _check_ports(self, fields: Fields, key: str, numbers: frozenset[int] | None, icmp: bool) -> None:
        place, known = fields.place(key), ", ".join(WITH_PORTS.values())
        if icmp:
            self.report.error(place, f"{quote(key)} beside an icmp type can never match", "write two rules")
        elif numbers is None:
            message = f"{quote(key)} needs a protocol that has ports"
            self.report.error(place, message, f"add 'proto: tcp', 'proto: [tcp, udp]' or another of {known}")
        elif not numbers <= WITH_PORTS.keys():
            message = f"{quote(key)} with protocol {_proto_name(min(numbers - WITH_PORTS.keys()))}, which has no ports"
            self.report.error(place, message, f"protocols with ports are {known}; write a rule of its own for others")

    def _check_families(self, fields: Fields) -> None:
        """Warn when source, destination and protocol leave no IP version in which the rule could match."""
        left, said = {4, 16}, ""
        for key in ("src", "dst"):
            match: Match | None = fields.get(key)
            if match is None or match.compiled is None or not match.intervals:
                continue
            families = match.families()
            if not left & families:
                message = f"'src' is {said} only, 'dst' is {_family_name(families)} only: this can never match"
                self.report.warning(
                    fields.place(key), message, "one rule takes both families: [192.168.0.0/16, fd00::/8]"
                )
                return
            left, said = left & families, _family_name(families)
        wanted = self._icmp_family(fields)
        if wanted and wanted not in left:
            name = "icmp" if wanted == 4 else "icmpv6"
            message = f"{name} is {_family_name({wanted})}, the addresses are {said} only: this can never match"
            self.report.warning(fields.place(name if name in fields.keys else "proto"), message)

    def _icmp_family(self, fields: Fields) -> int:
        """The one address length that the rule's ICMP leaves, or 0."""
        given: Match | None = fields.get("proto")
        numbers = given.numbers() if given is not None else frozenset[int]()
        if numbers == {_ICMPS["icmp"]} or ("icmp" in fields.values and "icmpv6" not in fields.values):
            return 4
        if numbers == {_ICMPS["icmpv6"]} or ("icmpv6" in fields.values and "icmp" not in fields.values):
            return 16
        return 0


def _compiled(match: Match | None) -> Any:
    return match.compiled if match is not None else None


def _icmp_types(match: Match | None) -> NumberSet | None:
    """`icmp: any` is every type, but of ICMP only: to a rule, None would be every packet."""
    if match is None:
        return None
    return match.compiled if isinstance(match.compiled, NumberSet) else NumberSet(match.intervals)


def _proto_name(number: int) -> str:
    return next((name for name, known in PROTOCOLS.items() if known == number), str(number))


def _family_name(lengths: AbstractSet[int]) -> str:
    return "IPv4" if 4 in lengths else "IPv6"
