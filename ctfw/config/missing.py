"""What a rule file leaves out and nobody can do without: a way in over SSH, the answers, the neighbours of IPv6.

Each is a question to ``space``: may any packet of a certain kind be accepted? A rule that accepts some of them under
some condition is enough for yes. So a warning here means that no packet of the kind ever gets through, and there is
none about what was left out on purpose: the way in may be kept beside the rules (`hook: {keep_ssh: …}`), answers are
missed only where connections open, neighbours only where IPv6 is let in.
"""

from collections.abc import Mapping
from typing import Final

from ctfw.config.document import Node
from ctfw.config.hook import Hook
from ctfw.config.problems import Report, quote
from ctfw.config.space import Space, Undecided
from ctfw.config.walk import Fields
from ctfw.conntrack.state import ESTABLISHED, NEW, UNTRACKED
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT, TCP
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import AddressSet, NumberSet
from ctfw.ruleset.verdict import ACCEPT

_SOLICITATION, _ADVERTISEMENT = 135 << 8, 136 << 8  # neighbour discovery, RFC 4861
_HOOKS: Final = (INPUT, FORWARD, OUTPUT)
_REPLIES: Final = "{name: replies, state: [ESTABLISHED, RELATED], verdict: accept}"
_NEIGHBOURS: Final = (
    "{name: neighbours, state: UNTRACKED, icmpv6: [neighbour-solicitation, neighbour-advertisement, "
    "router-solicitation, router-advertisement], verdict: accept}"
)


class Questions:
    """The packets that are asked for, as patterns; of the chains that ctfw sees."""

    def __init__(self, hook: Hook) -> None:
        self.hooks = [one for one in _HOOKS if one in hook.chains]
        every6 = AddressSet([(bytes(16), b"\xff" * 16)])
        kinds = NumberSet([(_SOLICITATION, _SOLICITATION), (_ADVERTISEMENT, _ADVERTISEMENT)])
        ports = NumberSet((port, port) for port in hook.ssh_ports)
        self.port = hook.ssh_ports[0]
        self.ssh: Rule | None = None
        if INPUT in self.hooks and not hook.ssh_from:
            self.ssh = _pattern(INPUT, NEW, protos=NumberSet([(TCP, TCP)]), dport=ports)
        self.opening = {one: _pattern(one, NEW) for one in self.hooks}
        self.answers = {one: _pattern(one, ESTABLISHED) for one in self.hooks}
        self.ipv6 = [_pattern(one, NEW, src=every6) for one in self.hooks]
        ends = [one for one in (INPUT, OUTPUT) if one in self.hooks]
        self.neighbours = {one: _pattern(one, UNTRACKED, icmpv6=kinds) for one in ends}

    @property
    def every(self) -> list[Rule]:
        of_chains = (*self.opening.values(), *self.answers.values(), *self.ipv6, *self.neighbours.values())
        return [*([self.ssh] if self.ssh is not None else []), *of_chains]


def report_missing(
    ruleset: Ruleset,
    space: Space,
    questions: Questions,
    dead: set[Rule],
    report: Report,
    file: Fields,
    fields: Mapping[Rule, Fields],
) -> None:
    """Reports warnings. ``space`` was made with the questions; ``dead`` are the rules that nothing reaches."""

    def accepts(pattern: Rule) -> bool:
        try:
            return next(space.accepted(space.boxes_of(pattern)), None) is not None
        except Undecided:
            return True

    if questions.ssh is not None and not accepts(questions.ssh):
        buried = next((rule for rule in ruleset.every if rule in dead and _lets_in(rule, questions.port)), None)
        if buried is not None:
            message = f"no way in over SSH: {quote(buried.name)} would let it in and is never reached"
            report.warning(fields[buried].node, message, "put it above what takes its packets")
        else:
            message = f"no rule lets new SSH connections in: chain input accepts nothing on tcp port {questions.port}"
            hint = "{chain: input, proto: tcp, dport: ssh, src: …, state: NEW, verdict: accept}"
            report.warning(_policy(file, INPUT), message, f"add {hint}, or 'hook: {{keep_ssh: {{from: …}}}}'")

    for chains in ((FORWARD,), (INPUT, OUTPUT)):
        there = [hook for hook in chains if hook in questions.hooks]
        if any(accepts(questions.opening[hook]) for hook in there):
            for hook in there:
                if not accepts(questions.answers[hook]):
                    message = f"connections open, but chain {HOOK_NAMES[hook]} accepts no ESTABLISHED packet"
                    report.warning(_policy(file, hook), message, f"begin the rules with {_REPLIES}")

    if any(accepts(pattern) for pattern in questions.ipv6):
        for hook, pattern in questions.neighbours.items():
            if not accepts(pattern):
                message = f"IPv6 cannot work: chain {HOOK_NAMES[hook]} drops neighbour discovery, which is UNTRACKED"
                report.warning(_policy(file, hook), message, f"add {_NEIGHBOURS}")
                break


def _lets_in(rule: Rule, port: int) -> bool:
    """Does the rule say that it is for SSH to the gateway?"""
    if rule.verdict != ACCEPT or rule.shadow or not rule.chains >> INPUT & 1 or not rule.states & NEW:
        return False
    is_tcp = rule.protos is None or rule.protos.contains(TCP)
    return is_tcp and rule.dport is not None and rule.dport.contains(port)


def _policy(file: Fields, hook: int) -> Node | None:
    """Where the chain's policy stands, or as near as there is; None is the file as a whole."""
    policy = file.get("policy")
    if not isinstance(policy, Fields):
        return None
    return policy.place(HOOK_NAMES[hook]) if HOOK_NAMES[hook] in policy.keys else file.place("policy")


def _pattern(
    hook: int,
    states: int,
    protos: NumberSet | None = None,
    src: AddressSet | None = None,
    dport: NumberSet | None = None,
    icmpv6: NumberSet | None = None,
) -> Rule:
    return Rule("", "", ACCEPT, 1 << hook, states, protos=protos, src=src, dport=dport, icmpv6=icmpv6)
