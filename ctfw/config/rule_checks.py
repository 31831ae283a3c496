"""What can only be said about a whole rule: keys that need, imply or exclude each other.

The walker has read each key; here they are held against one another. Ports need a protocol that has ports, an ICMP type
implies its protocol, an output has no interface that packets came by, a rule ahead of tracking cannot ask about the
connection. What can never match because of two keys that exclude each other is an error when the keys themselves say
so, and a warning when it comes from the addresses in them.
"""

from collections.abc import Set as AbstractSet

from ctfw.config.names import PROTOCOLS, WITH_PORTS
from ctfw.config.problems import Report, listing, quote
from ctfw.config.schema import ACTIONS
from ctfw.config.sets import Match
from ctfw.config.walk import Fields
from ctfw.conntrack.state import ANY, ESTABLISHED, NEW, RELATED
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.ruleset.verdict import ACCEPT, REJECT, TCP_RESET

CHAINS = {HOOK_NAMES[hook]: 1 << hook for hook in (INPUT, FORWARD, OUTPUT)}
ALL_CHAINS = sum(CHAINS.values())

OFFLOADED = {PROTOCOLS["tcp"], PROTOCOLS["udp"]}
_ICMPS = {"icmp": PROTOCOLS["icmp"], "icmpv6": PROTOCOLS["icmpv6"]}

# What a rule ahead of tracking may hold: the packet's own fields, which nobody had to track for.
STATELESS = (
    "name", "comment", "chain", "in", "out", "proto", "src", "dst", "sport", "dport", "icmp", "icmpv6", "tcp_flags",
    "fragment", "ttl", "length", "dscp", "mark", "mac", "time", "track",
)  # fmt: skip


class RuleChecks:
    def __init__(self, report: Report) -> None:
        self.report = report

    def check(self, fields: Fields) -> None:
        """Reports what is wrong with the rule as a whole."""
        self._check_decision(fields)
        self._check_track(fields)
        self._check_offload(fields)
        self._check_chains(fields)
        self._check_protos(fields)
        self._check_families(fields)

    def check_pattern(self, fields: Fields) -> None:
        """The same for what is no rule, and says like one which packets it is about."""
        self._check_chains(fields)
        self._check_protos(fields)

    def _check_decision(self, fields: Fields) -> None:
        """One of `verdict`, `jump` and `track`; and what goes with it."""
        given: list[str] = [key for key in ("verdict", "jump", "track") if key in fields.keys]
        if not given:
            known = f"{listing(ACTIONS)}; or 'jump: …' to another chain"
            self.report.error(fields.node, "rule has no 'verdict'", f"add 'verdict: …': {known}")
        for key in given[1:]:
            message = f"{quote(key)} beside {quote(given[0])}: a rule does one of them"
            self.report.error(fields.place(key), message, "leave one of them out")
        if "reject_with" in fields.values and "verdict" in fields.values and fields.get("verdict") != REJECT:
            self.report.error(fields.place("reject_with"), "'reject_with' is for 'verdict: reject'")
        if fields.get("reject_with", -1) + 1 == TCP_RESET and fields.get("verdict") == REJECT:
            proto: Match | None = fields.get("proto")
            only_tcp = proto is not None and proto.compiled is not None and proto.numbers() == {PROTOCOLS["tcp"]}
            if not only_tcp and "tcp_flags" not in fields.keys:
                hint = "add 'proto: tcp', or leave 'reject_with' out: then each protocol gets what fits"
                self.report.error(fields.place("reject_with"), "only tcp can be reset", hint)
        if fields.get("shadow"):
            for key in ("jump", "set_mark", "add"):
                if key in fields.keys:
                    message = f"a shadow rule only counts and logs: {quote(key)} has no effect"
                    self.report.error(fields.place(key), message, "delete it, or 'shadow'")

    def _check_track(self, fields: Fields) -> None:
        if "track" not in fields.keys:
            return
        for key in fields.keys:
            if key not in STATELESS and key not in ("verdict", "jump"):
                message = f"{quote(key)} beside 'track': this is decided before the packet is tracked"
                self.report.error(fields.place(key), message, "such a rule asks for the packet's own fields only")

    def _check_offload(self, fields: Fields) -> None:
        if not fields.get("offload"):
            return
        place = fields.place("offload")
        if fields.get("verdict") != ACCEPT or fields.get("shadow"):
            self.report.error(place, "'offload' is for 'verdict: accept'", "what is not accepted goes nowhere")
        if not fields.get("chain", ALL_CHAINS) & CHAINS["forward"]:
            self.report.error(place, "'offload' is for packets that are forwarded", "leave it out, or 'chain: forward'")
        given: Match | None = fields.get("proto")
        numbers = given.numbers() if given is not None and given.compiled is not None else frozenset[int]()
        if numbers and not numbers & OFFLOADED:
            self.report.error(place, "only tcp and udp can be offloaded", "leave 'offload' out, or 'proto: [tcp, udp]'")
        if not fields.get("state", ANY) & (NEW | RELATED | ESTABLISHED):
            self.report.error(place, "'offload' on packets that have no connection", "such as 'state: NEW'")

    def _check_chains(self, fields: Fields) -> None:
        chains = fields.get("chain", ALL_CHAINS)
        for key, chain in (("in", "output"), ("out", "input")):
            if fields.get(key) is not None and chains == CHAINS[chain]:
                self.report.error(
                    fields.place(key),
                    f"chain {chain} has no {quote(key)} interface: this can never match",
                    f"the interface of chain {chain} is {quote('out' if key == 'in' else 'in')}",
                )

        if fields.get("mac") is not None and chains == CHAINS["output"]:
            message = "chain output has no source MAC address: this can never match"
            self.report.error(fields.place("mac"), message, "packets from the gateway come from no other machine")

    def _check_protos(self, fields: Fields) -> None:
        """Ports need protocols that have ports; an ICMP type or TCP flags imply their own, and go with no other."""
        given: Match | None = fields.get("proto")
        if given is None and "proto" in fields.keys:
            return
        numbers = given.numbers() if given is not None and given.compiled is not None else None
        if "tcp_flags" in fields.values:
            if not self._check_flags(fields, numbers):
                return
            numbers = frozenset({PROTOCOLS["tcp"]})
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

    def _check_flags(self, fields: Fields, numbers: frozenset[int] | None) -> bool:
        for key in _ICMPS:
            if key in fields.keys:
                self.report.error(fields.place("tcp_flags"), f"'tcp_flags' beside {quote(key)} can never match")
                return False
        if numbers is not None and numbers != {PROTOCOLS["tcp"]}:
            place = fields.place("tcp_flags")
            self.report.error(place, "'tcp_flags' needs protocol tcp", "leave 'proto' out: the flags imply it")
            return False
        return True

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


def _proto_name(number: int) -> str:
    return next((name for name, known in PROTOCOLS.items() if known == number), str(number))


def _family_name(lengths: AbstractSet[int]) -> str:
    return "IPv4" if 4 in lengths else "IPv6"
