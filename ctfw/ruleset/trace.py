"""The walk along the rules, told: which rules were asked about a packet, and what each of them missed.

For people, so it looks at one rule after the other and each field by itself, in the order of FIELDS, without the index
and the short cuts that ``Ruleset.evaluate`` takes. That both come to the same end is tested, and makes of this file the
readable form of the other. Asking leaves no trace: nothing is counted, taken or added. The steps come one by one: who
asks a running engine about ten thousand rules lets packets pass between them.
"""

from collections.abc import Generator, Iterator

from ctfw.conntrack.conn import Conn
from ctfw.packet import Packet, has_ports
from ctfw.ruleset.question import AGAIN, DRY, Question
from ctfw.ruleset.rule import FIELDS, Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import AddressSet, NumberSet
from ctfw.ruleset.verdict import CONTINUE, JUMP, RETURN

Step = tuple[Rule, str | None]


def trace(
    ruleset: Ruleset,
    packet: Packet,
    hook: int,
    indev: str,
    outdev: str,
    conn: Conn | None = None,
    mark: int = 0,
    mac: bytes = b"",
    now: int = 0,
    again: bool = False,
) -> Iterator[Step]:
    """Each rule asked, with the key of the first field that did not match or None; the last one decided.

    ``packet.state`` says where the walk begins: 0 asks the rules before tracking, of which the first that matches is
    the last step (or none matches); else the last step is a rule with a verdict, or the chain's policy. Rules of a
    chain stand behind the rule that jumped there. ``again``: as for a connection after a reload, see ``opening``.
    """
    question = Question()
    question.packet = packet
    question.hook = hook
    question.indev = indev
    question.outdev = outdev
    question.conn = conn
    question.mark = mark
    question.mac = mac
    question.now = now
    question.mode = AGAIN if again else DRY
    if packet.state == 0:
        yield from _walk_tracking(ruleset, question)
        return
    decided = yield from _walk(ruleset, ruleset.main.rules, question)
    if not decided:
        yield (ruleset.policy_of(hook), None)


def first_miss(rule: Rule, question: Question) -> str | None:
    """The key of the first field of the rule that does not agree with the packet; None when all do."""
    for name, agrees in zip(FIELDS[1:10], _indexed(rule, question), strict=True):
        if not agrees:
            return name
    missed = FIELDS[rule.first_miss(question)]
    if missed == "icmp" and rule.icmp is None:
        return "icmpv6"
    return missed or None


def _indexed(rule: Rule, question: Question) -> list[bool]:
    packet = question.packet
    hook = 1 << question.hook if question.hook in (1, 2, 3) else 1 << 2
    return [
        rule.chains & hook != 0,
        rule.track != 0 or rule.states & packet.state != 0,
        rule.indev is None or rule.indev.contains(question.indev),
        rule.outdev is None or rule.outdev.contains(question.outdev),
        rule.protos is None or rule.protos.contains(packet.proto),
        _has_address(rule.src, packet.src),
        _has_address(rule.dst, packet.dst),
        _has_port(rule.sport, packet, packet.sport),
        _has_port(rule.dport, packet, packet.dport),
    ]


def _has_address(addresses: AddressSet | None, address: bytes) -> bool:
    return addresses is None or addresses.contains(address)


def _has_port(ports: NumberSet | None, packet: Packet, port: int) -> bool:
    return ports is None or (has_ports(packet) and ports.contains(port))


def _walk_tracking(ruleset: Ruleset, question: Question) -> Iterator[Step]:
    for rule in ruleset.main.rules:
        if rule.track:
            missed = first_miss(rule, question)
            yield (rule, missed)
            if missed is None:
                return


def _walk(ruleset: Ruleset, rules: list[Rule], question: Question) -> Generator[Step, None, bool]:
    """True when a rule decided."""
    for rule in rules:
        if rule.track:
            continue
        missed = first_miss(rule, question)
        yield (rule, missed)
        if missed is not None or rule.shadow:
            continue
        if rule.set_mark is not None:
            question.mark = (question.mark & ~rule.set_mark.mask) | rule.set_mark.value
        if rule.verdict == RETURN:
            return False
        if rule.verdict == JUMP:
            decided = yield from _walk(ruleset, ruleset.chains[rule.target].rules, question)
            if decided:
                return True
        elif rule.verdict != CONTINUE:
            return True
    return False
