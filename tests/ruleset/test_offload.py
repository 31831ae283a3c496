"""Which packets leave with the mark that hands their connection to the kernel, and what is then not held against it."""

import pytest
from engine import packets
from ruleset.gateway import CLIENT, HEAD, SECOND, SERVER, Gateway, ack, answer, handshake, query, reply, syn

from ctfw import config
from ctfw.conntrack import tcp
from ctfw.conntrack.record import as_dict, conntrack_line, proc_line
from ctfw.conntrack.state import OFFLOAD
from ctfw.packet import FORWARD, OUTPUT
from ctfw.ruleset import offload
from ctfw.ruleset.marks import OFFLOAD_BIT
from ctfw.tools.explain import Situation, explain, lines

REPLIES = "  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}\n"
BULK = "rules:\n" + REPLIES + "  - {name: bulk, chain: forward, state: NEW, verdict: accept, offload: on}\n"


def gateway(rules: str = BULK) -> Gateway:
    made = Gateway(rules)
    made.engine.offload.on = True
    return made


def opened(rules: str = BULK) -> Gateway:
    made = gateway(rules)
    for packet in handshake():
        assert made.judge(packet).mark in (-1, OFFLOAD_BIT)
    return made


def test_tcp_is_marked_once_it_is_open_and_no_longer_when_it_ends() -> None:
    made = gateway()
    assert [made.judge(packet).mark for packet in handshake()] == [-1, -1, OFFLOAD_BIT]
    assert made.judge(answer()).mark == OFFLOAD_BIT
    conn = made.judge(ack()).conn
    assert conn is not None and made.engine.offload.fresh == [conn] and conn.status & OFFLOAD
    assert "[OFFLOAD] mark=" in conntrack_line(conn, made.now) and "[OFFLOAD] mark=" in proc_line(conn, made.now)
    assert as_dict(conn, made.now)["offload"] is True
    fin = packets.tcp(CLIENT, SERVER, 40000, 443, "fin ack", seq=2, ack=101)
    assert made.judge(fin).mark == -1
    assert not conn.status & OFFLOAD
    assert made.judge(answer(at=3)).mark == -1


def test_after_data_that_was_not_seen_the_end_is_followed_whatever_its_numbers() -> None:
    made = opened()
    far = 3_000_000_000  # more than half of the sequence space
    fin = packets.tcp(CLIENT, SERVER, 40000, 443, "fin ack", seq=far, ack=far)
    judgement = made.judge(fin)
    conn = judgement.conn
    assert judgement.word() == "accept" and conn is not None and conn.l4state == tcp.FIN_WAIT
    assert made.says(packets.tcp(SERVER, CLIENT, 443, 40000, "fin ack", seq=far, ack=far + 1)) == "accept: replies"
    assert conn.l4state == tcp.LAST_ACK
    assert made.says(ack(seq=far + 1, at=far + 1)) == "accept: replies"
    assert conn.l4state == tcp.TIME_WAIT


@pytest.mark.parametrize("far", [1000, 3_000_000_000])
def test_a_reset_after_data_that_was_not_seen_ends_the_record(far: int) -> None:
    made = opened()
    conn = made.judge(packets.tcp(SERVER, CLIENT, 443, 40000, "rst", seq=far)).conn
    assert conn is not None and conn.l4state == tcp.CLOSE


def test_udp_is_marked_when_it_is_a_stream() -> None:
    made = gateway()
    assert [made.judge(one).mark for one in (query(), reply(), query())] == [-1, -1, -1]
    made.wait(3)
    assert (made.judge(query()).mark, made.judge(reply()).mark) == (OFFLOAD_BIT, OFFLOAD_BIT)


def test_what_is_not_forwarded_has_a_helper_or_is_an_error_about_it_is_not_marked() -> None:
    made = gateway(BULK.replace("chain: forward, ", "") + "conntrack: {helpers: {ftp: 21}}\n")
    assert [made.judge(packet, hook=OUTPUT).mark for packet in handshake()] == [-1, -1, -1]
    assert [made.judge(packet).mark for packet in handshake(41000, 21)] == [-1, -1, -1]
    error = packets.icmp_message(SERVER, CLIENT, bytes([3, 3, 0, 0, 0, 0, 0, 0]) + ack()[:28])
    judgement = opened().judge(error)
    assert judgement.word() == "accept" and judgement.mark == -1


def test_a_rule_about_established_packets_may_ask_for_it_as_well() -> None:
    rule = "{name: big, state: ESTABLISHED, connpackets: 4-, verdict: accept, offload: on}"
    made = gateway(f"rules:\n  - {rule}\n{REPLIES}  - {{name: new, state: NEW, verdict: accept}}\n")
    assert [made.judge(packet).mark for packet in (*handshake(), answer())] == [-1, -1, -1, OFFLOAD_BIT]
    assert made.judge(ack()).mark == OFFLOAD_BIT


def test_nothing_is_marked_when_nobody_takes_care_or_too_much_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Gateway(BULK)
    assert [made.judge(packet).mark for packet in handshake()] == [-1, -1, -1]
    made.engine.offload.on = True
    made.engine.offload.fresh = [made.judge(ack()).conn] * offload.MOST_FRESH  # type: ignore[list-item]
    assert [made.judge(packet).mark for packet in handshake(40001)] == [-1, -1, -1]


def test_the_mark_is_cleared_on_arrival_only_where_it_is_ours() -> None:
    assert opened().judge(syn(40001), mark=OFFLOAD_BIT | 1).mark == 1
    plain = Gateway("rules:\n  - {name: all, verdict: accept}\n")
    assert plain.judge(syn(), mark=OFFLOAD_BIT | 1).mark == -1


@pytest.mark.parametrize(("word", "mark"), [("on", OFFLOAD_BIT), ("off", -1)])
def test_a_recheck_asks_for_the_wish_as_well(word: str, mark: int) -> None:
    made = opened()
    made.reload(BULK.replace("offload: on", f"offload: {word}") + "existing: recheck\n")
    assert made.judge(ack()).mark == mark


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rules: [{verdict: drop, offload: on}]", "'offload' is for 'verdict: accept'"),
        ("rules: [{verdict: accept, offload: on, shadow: on}]", "'offload' is for 'verdict: accept'"),
        ("rules: [{chain: input, verdict: accept, offload: on}]", "'offload' is for packets that are forwarded"),
        ("rules: [{proto: gre, verdict: accept, offload: on}]", "only tcp and udp can be offloaded"),
        ("rules: [{state: INVALID, verdict: accept, offload: on}]", "'offload' on packets that have no connection"),
        (
            "offload: {mark: 0x10000000}\nrules: [{verdict: accept, offload: on}]",
            "the bit 0x10000000 of the mark says already how a packet is rejected",
        ),
        (
            "reject: {mark: 0x04000000}\nrules: [{verdict: accept, offload: on}]",
            "the bit 0x4000000 of the mark says already how a packet is rejected",
        ),
        (
            "conntrack: {zones: {lan0: 1}}\nrules: [{verdict: accept, offload: on}]",
            "'offload' in a file with zones: the kernel does not know ctfw's zones",
        ),
        (
            "rules: [{verdict: accept, offload: on, set_mark: 0x04000001}]",
            "the bits 0x4000000 of the mark are ctfw's own, for offloaded connections",
        ),
        ("offload: {mark: 0x100}\nrules: [{verdict: accept, offload: on, set_mark: 0x04000001}]", None),
        ("rules: [{verdict: accept, offload: off, set_mark: 0x04000001}]", None),
    ],
)
def test_mistakes(text: str, says: str | None) -> None:
    try:
        config.load("rules.yaml", HEAD + text + "\n")
        found = []
    except config.ConfigError as error:
        found = [problem.message for problem in error.problems]
    assert found == ([says] if says else [])


def test_explain_says_that_the_rule_offloads() -> None:
    made = Gateway(BULK)
    told = list(explain(made.engine, Situation(syn(), 40, FORWARD, "lan0", "wan0"), SECOND))
    assert [line.strip() for line in lines(told) if "offload" in line] == [
        "offload: once the connection is open, its packets pass in the kernel"
    ]
