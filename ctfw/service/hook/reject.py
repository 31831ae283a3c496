"""The answers to packets that ctfw rejects: chains of nft behind the queue, in both back ends.

A verdict on a queued packet is accept or drop. So ctfw accepts what it rejects, with its bit in the packet's mark and
the manner of the answer in the three bits below (ctfw.ruleset.marks); the chain behind the queue answers and drops it.
A packet that comes to the queue with these bits loses them first, so nobody else can order an answer in our name.

The answer itself leaves through OUTPUT, and there it must not be judged: it belongs to a connection that ctfw has just
refused to know, so it would be INVALID. The kernel's own REJECT has the same question and solves it by attaching the
connection. Here the chain notes for a second whom it answers, just before it does: addresses and ports for a TCP reset,
the address for an ICMP error. What leaves the gateway and was noted passes the queue by. With the iptables back end,
whose rules cannot look into nft's sets, a chain ahead of the queue turns the note into a value of our mark bits that no
rejected packet has, and a chain behind it takes that away again.

Should the table of notes be full, the answer is judged as any packet, and most rules drop it: the peer then waits, as
it would after a drop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ctfw.packet import HOOK_NAMES, OUTPUT
from ctfw.ruleset.marks import rejecting
from ctfw.ruleset.verdict import REJECT_NAMES, TCP_RESET
from ctfw.service.hook.plan import Plan

NOTES: Final = 65535  # answers in one second that are recognised, of each kind and family
_FAMILIES: Final = (("4", "ip", "ipv4_addr", "icmp"), ("6", "ip6", "ipv6_addr", "icmpv6"))


def answering_chain(bit: int) -> str:
    """The chain that answers; its name carries the bit, so whoever knows the one can look for the other."""
    return f"reject_{bit:08x}"


def answer_mark(plan: Plan) -> int:
    """What our bits of the mark say on an answer, for rules that cannot look it up: no packet, but all of a manner."""
    return plan.field & ~plan.reject_bit


def sets(plan: Plan) -> list[str]:
    """The notes of whom we answer; none where OUTPUT is not queued."""
    if OUTPUT not in plan.chains:
        return []
    lines = []
    for number, _, address, _ in _FAMILIES:
        for name, kind in (("reset", f"{address} . inet_service . {address} . inet_service"), ("unreachable", address)):
            lines += [
                f"set {name}{number} {{",
                f"\ttype {kind}",
                f"\tsize {NOTES}",
                "\tflags dynamic,timeout",
                "\ttimeout 1s",
                "}",
            ]
    return lines


def is_answer(action: str) -> list[str]:
    """Rules for OUTPUT that do ``action`` with the answers."""
    lines = []
    for number, ip, _, icmp in _FAMILIES:
        noted = f"{ip} saddr . tcp sport . {ip} daddr . tcp dport @reset{number}"
        lines += [
            f"tcp flags & rst == rst {noted} {action}",
            f"{icmp} type destination-unreachable {ip} daddr @unreachable{number} {action}",
        ]
    return lines


def chains(plan: Plan, priority: Callable[[int], int], exempt: Callable[[int], list[str]]) -> list[str]:
    """The chains behind the queue: one for each queued one, at its priority, and the one that answers."""
    answering = answering_chain(plan.reject_bit)
    lines = []
    for chain in plan.chains:
        name = HOOK_NAMES[chain]
        lines += [
            f"chain reject_{name} {{",
            f"\ttype filter hook {name} priority {priority(chain)}; policy accept;",
            *(f"\t{rule}" for rule in exempt(chain)),
            f"\tmeta mark & {plan.reject_bit:#x} != 0 goto {answering}",
            "}",
        ]
    return [*lines, f"chain {answering} {{", *(f"\t{rule}" for rule in _answers(plan)), "}"]


def _answers(plan: Plan) -> list[str]:
    rules = ["counter"]
    if OUTPUT in plan.chains:
        for number, ip, _, _ in _FAMILIES:
            rules.append(f"update @reset{number} {{ {ip} daddr . tcp dport . {ip} saddr . tcp sport }}")
            rules.append(f"update @unreachable{number} {{ {ip} saddr }}")
    for kind, name in enumerate(REJECT_NAMES[1:], 1):
        mark = f"meta mark & {plan.field:#x} == {rejecting(0, plan.reject_bit, kind):#x}"
        if kind == TCP_RESET:
            rules.append(f"{mark} meta l4proto tcp reject with tcp reset")
        else:
            rules.append(f"{mark} reject with icmpx {name}")
    return [*rules, "drop"]
