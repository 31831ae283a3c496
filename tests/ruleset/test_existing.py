"""What becomes of connections that older rules accepted: keep, recheck, kill."""

import pytest
from engine import packets
from ruleset.gateway import CLIENT, SERVER, Gateway, ack, answer, handshake, query, reply, syn

from ctfw.packet import FORWARD, INPUT, OUTPUT

REPLIES = "  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}\n"
WEB = "  - {name: web, in: lan0, proto: tcp, dport: 443, tcp_flags: syn, state: NEW, verdict: accept}\n"
DNS = "  - {name: dns, in: lan0, proto: udp, dport: 53, limit: 1/day, state: NEW, verdict: accept}\n"
OLD = "rules:\n" + REPLIES + WEB + DNS
WITHOUT_WEB = "rules:\n" + REPLIES + DNS


def opened(rules: str = OLD) -> Gateway:
    gateway = Gateway(rules)
    for packet in [*handshake(), query(), reply()]:
        assert gateway.says(packet).startswith("accept")
    assert gateway.connections == 2
    return gateway


def test_keep_leaves_connections_alone() -> None:
    gateway = opened()
    gateway.reload("existing: keep\n" + WITHOUT_WEB)
    assert gateway.says(ack()) == gateway.says(answer()) == "accept: replies"
    assert gateway.says(syn(40001)) == "drop: policy forward"


@pytest.mark.parametrize("packet", [ack(), answer()], ids=["original", "reply"])
def test_recheck_ends_what_the_new_rules_do_not_open_whoever_speaks_first(packet: bytes) -> None:
    gateway = opened()
    gateway.reload("existing: recheck\n" + WITHOUT_WEB)
    assert gateway.says(packet) == "drop: policy forward"
    assert gateway.connections == 1
    assert gateway.says(query()) == gateway.says(reply()) == "accept: replies"


@pytest.mark.parametrize("packet", [ack(), answer()], ids=["original", "reply"])
def test_recheck_keeps_what_the_new_rules_open_and_asks_once(packet: bytes) -> None:
    gateway = opened()
    gateway.reload("existing: recheck\n" + OLD)
    conn = gateway.judge(packet).conn
    assert conn is not None and conn.generation == gateway.engine.ruleset.generation == 1
    assert gateway.says(packet) == "accept: replies"
    web = next(rule for rule in gateway.engine.ruleset.rules if rule.name == "web")
    assert web.packets == 1  # the opening before the reload; asking again counts nothing


def test_recheck_takes_no_token_and_is_within_every_rate() -> None:
    gateway = opened()
    gateway.reload("existing: recheck\n" + OLD.replace("1/day", "{rate: 1/day, burst: 1}"))
    assert gateway.says(query()) == "accept: replies"
    assert gateway.says(query(40009)) == "accept: dns"
    assert gateway.says(query(40010)) == "drop: policy forward"


def test_recheck_of_a_connection_to_the_gateway_asks_about_the_input_chain() -> None:
    rules = "rules:\n" + REPLIES + "  - {name: ssh, chain: input, in: lan0, proto: tcp, dport: 22, verdict: accept}\n"
    gateway = Gateway(rules)
    first, second, third = handshake(dport=22)
    assert gateway.says(first, hook=INPUT) == "accept: ssh"
    assert gateway.says(second, hook=OUTPUT) == gateway.says(third, hook=INPUT) == "accept: replies"
    gateway.reload("existing: recheck\n" + rules)
    assert gateway.says(answer(dport=22), hook=OUTPUT) == "accept: replies"
    gateway.reload("existing: recheck\n" + rules.replace("lan0", "wan0"))
    assert gateway.says(answer(dport=22), hook=OUTPUT) == "drop: policy input"


def test_an_icmp_error_does_not_stand_for_its_connection() -> None:
    gateway = opened()
    gateway.reload("existing: recheck\n" + WITHOUT_WEB)
    error = packets.icmp(SERVER, CLIENT, 3, 1, data=ack()[:28])
    assert gateway.says(error) == "accept: replies"
    assert gateway.connections == 2


def test_kill_forgets_and_tracks_anew() -> None:
    gateway = opened()
    gateway.reload("existing: kill\n" + OLD)
    assert gateway.says(answer()) == "drop: policy forward"  # as if it opened: nobody may from there
    assert gateway.connections == 1
    gateway = opened()
    gateway.reload("existing: kill\nrules:\n" + REPLIES + "  - {name: all, in: lan0, verdict: accept}\n")
    assert gateway.says(ack()) == "accept: all"  # picked up in its middle, tcp_loose
    assert gateway.connections == 2


def test_one_that_slept_through_a_recheck_is_checked_under_the_next_keep() -> None:
    gateway = opened()
    gateway.reload("existing: recheck\n" + WITHOUT_WEB)
    gateway.reload("existing: keep\n" + WITHOUT_WEB)
    assert gateway.says(ack()) == "drop: policy forward"
    assert gateway.says(query()) == "accept: replies"


def test_counters_and_buckets_outlive_a_reload_by_name() -> None:
    rules = OLD.replace("1/day", "{rate: 1/day, burst: 1}")
    gateway = opened(rules)
    gateway.reload(rules)
    counts = {rule.name: rule.packets for rule in gateway.engine.ruleset.rules}
    assert counts == {"replies": 3, "web": 1, "dns": 1}
    assert gateway.says(query(40010)) == "drop: policy forward"


def test_ping_is_rechecked_as_ping() -> None:
    rules = "rules:\n" + REPLIES + "  - {name: ping, in: lan0, icmp: echo-request, verdict: accept}\n"
    gateway = Gateway(rules)
    assert gateway.says(packets.icmp(CLIENT, SERVER, 8, ident=7)) == "accept: ping"
    assert gateway.says(packets.icmp(SERVER, CLIENT, 0, ident=7), hook=FORWARD) == "accept: replies"
    gateway.reload("existing: recheck\n" + rules)
    assert gateway.says(packets.icmp(SERVER, CLIENT, 0, ident=7)) == "accept: replies"
    gateway.reload("existing: recheck\n" + rules.replace("echo-request", "timestamp-request"))
    assert gateway.says(packets.icmp(SERVER, CLIENT, 0, ident=7)) == "drop: policy forward"
