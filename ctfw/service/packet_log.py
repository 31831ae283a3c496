"""Lines about packets: what they say, and what is said of those that a rule's limit held back.

The text is in the words of iptables' LOG, so that people and programs read it as such; the journal's fields say the
same once more, in pieces. How often a rule's packets are logged is the limit of its ``log``, which the engine asks
before anybody makes a line of the packet; what it holds back is counted there (``Log.held``) and told here: with the
rule's next line, or as soon as its limit would let one pass again.

Only rules that have been logged can hold something back, so these are remembered, until their limit is at rest.
"""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Final

from ctfw.conntrack.state import state_name
from ctfw.engine import Engine, Judgement
from ctfw.packet import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, Packet, has_ports
from ctfw.reason import NAMES
from ctfw.ruleset.rule import Rule
from ctfw.service.journal import INFO, NOTICE, Journal
from ctfw.service.kinds import PACKET, SUPPRESSED

PART: Final = 200  # rules looked at in one tick

# The names of iptables' LOG.
_PROTOCOLS: Final = {
    ICMP: "ICMP",
    TCP: "TCP",
    UDP: "UDP",
    ICMPV6: "ICMPv6",
    SCTP: "SCTP",
    UDPLITE: "UDPLITE",
    47: "GRE",
}


class PacketLog:
    """The lines of one engine's packets. ``lines`` were handed to the journal, ``suppressed`` held back and told."""

    def __init__(self, engine: Engine, journal: Journal) -> None:
        self.lines = 0
        self.suppressed = 0
        self._engine = engine
        self._journal = journal
        self._rules: dict[Rule, None] = {}  # a set in the order in which they are looked at

    def write(self, judgement: Judgement, indev: str, outdev: str, mark: int, now: int) -> None:
        """A line for each rule that wants one about this packet."""
        rules = [*judgement.logs, judgement.rule] if judgement.log else judgement.logs
        generation = str(self._engine.ruleset.generation)
        for rule in rules:
            if rule is not None:
                self._tell_held(rule)
                self._rules[rule] = None
            fields = packet_fields(judgement, indev, outdev, mark, rule)
            fields["CTFW_GENERATION"] = generation
            self._journal.log(packet_text(judgement, indev, outdev, mark, rule), INFO, fields, PACKET)
            self.lines += 1

    def tick(self, now: int) -> None:
        """Tell what was held back and is not followed by another line; a few rules at a time."""
        for _ in range(min(PART, len(self._rules))):
            rule = next(iter(self._rules))
            del self._rules[rule]
            limit = rule.log.limit if rule.log is not None else None
            if limit is None:
                continue
            if limit.has(now):
                self._tell_held(rule)
            else:
                self._rules[rule] = None

    def _tell_held(self, rule: Rule) -> None:
        log = rule.log
        if log is None or not log.held:
            return
        count = int(log.held)
        log.held = 0
        self.suppressed += count
        text = f"{count} lines suppressed: rule={json.dumps(rule.name, ensure_ascii=False)}"
        fields = {"CTFW_SUPPRESSED": str(count), "CTFW_ABOUT": PACKET.name, "CTFW_RULE": rule.name}
        self._journal.log(text, NOTICE, fields, SUPPRESSED)


def packet_text(judgement: Judgement, indev: str, outdev: str, mark: int, rule: Rule | None = None) -> str:
    """The line of a judged packet: what was decided and why, then the packet as iptables' LOG writes it.

    ``rule`` is the one that wants the line, when that is not the one that decided.
    """
    packet = judgement.packet
    words = []
    rule = rule or judgement.rule
    if rule is not None:
        if rule.log is not None and rule.log.prefix:
            words.append(_printable(rule.log.prefix))
        words.append(f"rule={json.dumps(rule.name, ensure_ascii=False)}")
    words.append(f"state={state_name(judgement.state) if judgement.state else '-'}")
    if judgement.reason:
        words.append(f"reason={NAMES[judgement.reason]}")
    words.append(f"verdict={judgement.word()}")
    words.append(f"IN={indev} OUT={outdev}")
    if packet.src:
        words.append(f"SRC={ip_address(packet.src)} DST={ip_address(packet.dst)}")
        words.append(f"PROTO={_PROTOCOLS.get(packet.proto, str(packet.proto))}")
    if has_ports(packet):
        words.append(f"SPT={packet.sport} DPT={packet.dport}")
    elif packet.proto in (ICMP, ICMPV6) and packet.l4 and len(packet.data) >= packet.l4 + 2:
        words.append(f"TYPE={packet.data[packet.l4]} CODE={packet.data[packet.l4 + 1]}")
    words.append(f"LEN={packet.length}")
    if mark:
        words.append(f"MARK={mark:#x}")
    return " ".join(words)


def packet_fields(judgement: Judgement, indev: str, outdev: str, mark: int, rule: Rule | None = None) -> dict[str, str]:
    """The same for programs: fields of the journal's entry. What the packet does not have is left out."""
    packet: Packet = judgement.packet
    fields = {"CTFW_VERDICT": judgement.word(), "CTFW_LEN": str(packet.length)}
    rule = rule or judgement.rule
    if rule is not None:
        fields["CTFW_RULE"] = rule.name
        if rule.origin:
            fields["CTFW_ORIGIN"] = rule.origin
    if judgement.state:
        fields["CTFW_STATE"] = state_name(judgement.state)
    if judgement.reason:
        fields["CTFW_REASON"] = NAMES[judgement.reason]
    if indev:
        fields["CTFW_IN"] = indev
    if outdev:
        fields["CTFW_OUT"] = outdev
    if mark:
        fields["CTFW_MARK"] = f"{mark:#x}"
    if packet.src:
        fields["CTFW_SRC"] = str(ip_address(packet.src))
        fields["CTFW_DST"] = str(ip_address(packet.dst))
        fields["CTFW_PROTO"] = _PROTOCOLS.get(packet.proto, str(packet.proto))
    if has_ports(packet):
        fields["CTFW_SPT"] = str(packet.sport)
        fields["CTFW_DPT"] = str(packet.dport)
    elif packet.proto in (ICMP, ICMPV6) and packet.l4 and len(packet.data) >= packet.l4 + 2:
        fields["CTFW_TYPE"] = str(packet.data[packet.l4])
        fields["CTFW_CODE"] = str(packet.data[packet.l4 + 1])
    return fields


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text).strip()
