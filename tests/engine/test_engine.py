"""The packet's whole way: the order of its stations, what is counted, and what is said about it."""

from engine import packets
from engine.conversation import CLIENT, SERVER, Gateway, Tcp, Udp

from ctfw import reason
from ctfw.conntrack.settings import SECOND, Settings
from ctfw.conntrack.state import ANY, ESTABLISHED, INVALID, NEW
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine, Judgement
from ctfw.packet import FORWARD, INPUT, OUTPUT, POSTROUTING, PREROUTING
from ctfw.ruleset.limit import Limit
from ctfw.ruleset.rule import Log, Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.verdict import ACCEPT, DROP

EVERYWHERE = 1 << INPUT | 1 << FORWARD | 1 << OUTPUT
QUESTION = packets.udp(CLIENT, SERVER, 40000, 53)
ANSWER = packets.udp(SERVER, CLIENT, 53, 40000)


def engine_with(*rules: Rule, policy: int = DROP, **knobs: int) -> Engine:
    return Engine(ConnTrack(Settings(knobs)), Ruleset(list(rules), {FORWARD: policy}))


def judge(engine: Engine, packet: bytes, now: int = 1000 * SECOND, hook: int = FORWARD) -> Judgement:
    return engine.handle(packet, len(packet), hook, "lan0", "wan0", 0, True, now)


# Order


def test_the_state_steps_before_the_rules_are_asked_and_an_entry_is_made_after_them() -> None:
    replies = Rule("replies", "", ACCEPT, EVERYWHERE, ESTABLISHED)
    engine = engine_with(replies)
    assert judge(engine, QUESTION).state == NEW
    assert judge(engine, ANSWER).state == NEW  # nothing was left of the question
    engine.ruleset = Ruleset([replies, Rule("lookups", "", ACCEPT, EVERYWHERE, NEW)], {})
    assert judge(engine, QUESTION).verdict == ACCEPT
    engine.ruleset = Ruleset([replies], {})
    judgement = judge(engine, ANSWER)
    assert (judgement.verdict, judgement.rule) == (ACCEPT, replies)
    assert judge(engine, QUESTION).state == ESTABLISHED


def test_invalid_is_a_state_for_the_rules_and_not_a_verdict() -> None:
    reset = packets.tcp(CLIENT, SERVER, 40000, 80, "rst")
    assert judge(engine_with(policy=ACCEPT), reset).verdict == ACCEPT
    garbage = Rule("garbage", "", DROP, EVERYWHERE, INVALID)
    judgement = judge(engine_with(garbage, policy=ACCEPT), reset)
    assert (judgement.verdict, judgement.rule, judgement.reason) == (DROP, garbage, reason.TCP_NEW)


def test_bytes_that_are_no_packet_are_invalid_to_the_rules() -> None:
    for junk in (b"", b"\0", bytes(100), b"\xff" * 2000):
        judgement = judge(engine_with(), junk)
        assert (judgement.state, judgement.reason, judgement.verdict) == (INVALID, reason.NOT_IP, DROP)


def test_the_judgement_names_connection_and_direction() -> None:
    engine = engine_with(policy=ACCEPT)
    conn = judge(engine, QUESTION).conn
    judgement = judge(engine, ANSWER)
    assert conn is not None and judgement.conn is conn and judgement.direction == 1
    assert judge(engine, packets.tcp(CLIENT, SERVER, 1, 2, "rst")).conn is None


def test_a_hook_that_has_no_chain_of_its_own_is_on_its_way_through() -> None:
    engine = engine_with(policy=ACCEPT)
    for hook in (PREROUTING, FORWARD, POSTROUTING):
        rule = judge(engine, QUESTION, hook=hook).rule
        assert rule is not None and rule.name == "policy forward"
    for hook, name in ((INPUT, "policy input"), (OUTPUT, "policy output")):
        judgement = judge(engine, QUESTION, hook=hook)
        assert judgement.rule is not None and (judgement.rule.name, judgement.verdict) == (name, DROP)


# What the kernel copied


def test_the_head_of_a_packet_is_enough() -> None:
    talk = Tcp().opened()
    packet = talk.packet(0, "ack", bytes(1400))
    talk.gateway.sees(packet, copied=60).is_established("ORIGINAL")
    assert talk.entry.startswith("300 ")  # the whole segment counts
    Gateway().sees(packets.udp(CLIENT, SERVER, 1, 2, bytes(1400)), copied=60).is_new()


def test_less_than_the_headers_is_not() -> None:
    talk = Tcp().opened()
    talk.gateway.sees(talk.packet(0, "ack", bytes(1400)), copied=39).is_invalid("tcp-header")
    options = talk.packet(0, "ack", options=packets.sack((1, 2)))
    talk.gateway.sees(options, copied=48).is_invalid("tcp-header")


# Counters


def test_every_packet_is_counted_by_verdict_state_and_reason() -> None:
    lookups = Rule("lookups", "", ACCEPT, EVERYWHERE, NEW | ESTABLISHED)
    engine = engine_with(lookups)
    for number, packet in enumerate((QUESTION, QUESTION, ANSWER, b"junk")):
        judge(engine, packet, 1000 * SECOND + number)
    counters = engine.counters
    assert counters.packets[FORWARD] == [1, 3]
    assert counters.bytes[FORWARD] == [4, 3 * len(QUESTION)]
    assert counters.by_state() == {"": 0, "NEW": 2, "ESTABLISHED": 1, "RELATED": 0, "INVALID": 1, "UNTRACKED": 0}
    assert counters.reasons[reason.NOT_IP] == 1 and sum(counters.reasons) == 1
    assert (lookups.packets, lookups.bytes, lookups.last) == (3, 3 * len(QUESTION), 1000 * SECOND + 2)
    policy = engine.ruleset.policies[FORWARD]
    assert (policy.packets, policy.bytes) == (1, 4)


def test_what_conntrack_drops_no_rule_is_charged_for() -> None:
    gateway = Gateway(max=1)
    Tcp(gateway).opened()
    Udp(gateway).client().is_dropped_unasked("table-full")
    counters = gateway.engine.counters
    assert (counters.by_state()[""], counters.reasons[reason.TABLE_FULL]) == (1, 1)
    assert counters.packets[FORWARD] == [1, 3]


# Log


def test_a_rule_that_logs_says_so_as_often_as_its_limit_allows() -> None:
    every = Rule("every", "", ACCEPT, EVERYWHERE, ANY, log=Log(None))
    assert [judge(engine_with(every), QUESTION).log for _ in range(3)] == [True] * 3
    engine = engine_with(Rule("some", "", ACCEPT, EVERYWHERE, ANY, log=Log(Limit(10 * SECOND, 2))))
    assert [judge(engine, QUESTION).log for _ in range(3)] == [True, True, False]
    assert judge(engine, QUESTION, 1010 * SECOND).log
    assert not judge(engine_with(policy=ACCEPT), QUESTION).log


# A reload


def test_connections_outlive_a_change_of_settings_and_are_refreshed_by_the_new_ones() -> None:
    talk = Udp()
    talk.client().is_new()
    talk.gateway.tracker.reconfigure(Settings({"udp_timeout": 5}))
    assert talk.entry == "30 [UNREPLIED]"
    talk.server().is_established("REPLY")
    assert talk.entry == "5"
