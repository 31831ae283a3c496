"""Explain: it says what the engine then does, tells each step of the way, and leaves no trace.

Conversations are written as packets in words. ``Gateway.ask`` explains a packet and then sends it, so every test here
holds ``explain`` against ``Engine.handle``.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.gateway import Gateway, established, picture, rules
from tools.spoken import CLIENT, SERVER, A, B, others, segments

from ctfw import reason
from ctfw.config.packet_words import parse
from ctfw.conntrack.settings import SECOND
from ctfw.packet import FORWARD, INPUT, OUTPUT
from ctfw.ruleset.ruleset import KILL, RECHECK, Ruleset
from ctfw.tools.build_packet import Talk
from ctfw.tools.rehearsal import clone

ERROR = f"icmp {B} > {A} port-unreachable"


# --- what is told -------------------------------------------------------------------------------


def test_a_packet_that_opens_a_connection() -> None:
    told = Gateway().ask(f"{CLIENT} syn")
    assert told["text"].splitlines() == [
        "packet       tcp 192.168.1.7:40000 > 203.0.113.9:443 syn seq=0 win=64240 len=0",
        "where        chain=forward in=lan0 out=wan0 mark=0x0 length=40",
        "connection   none is known",
        "tracking     'untracked' differs in proto: the packet has tcp",
        "tracking     'liberal' differs in dport: the packet has 443",
        "tracking     'loose' differs in dport: the packet has 443",
        "state        NEW ORIGINAL",
        "rule         'replies' differs in state: the packet has NEW",
        "rule         'garbage' differs in state: the packet has NEW",
        "rule         'ssh' differs in dport: the packet has 443",
        "rule         'no mail' differs in dport: the packet has 443",
        "rule         'lan' matches: accept",
        "verdict      accept by 'lan' (f:7)",
        "after        tcp      6 120 SYN_SENT src=192.168.1.7 dst=203.0.113.9 sport=40000 dport=443 packets=1 bytes=40 "
        "[UNREPLIED] src=203.0.113.9 dst=192.168.1.7 sport=443 dport=40000 packets=0 bytes=0 mark=0 use=1",
    ]


def test_the_arithmetic_of_a_segment_beyond_the_window() -> None:
    gateway = established()
    told = gateway.ask(f"{CLIENT} ack seq=140001 len=100")
    assert told["state"]["reason"] == "tcp-seq-over"
    assert told["state"]["arithmetic"]["facts"]["the sender"] == {
        "end": 1,
        "maxend": 64241,
        "maxwin": 64240,
        "scale": 0,
    }
    assert told["state"]["arithmetic"]["facts"]["the receiver"]["end"] == 1
    first = told["state"]["arithmetic"]["checks"][0]
    assert first == {"what": "seq <= the sender's maxend", "numbers": "140001 <= 64241", "holds": False}
    assert "             FAILS  seq <= the sender's maxend: 140001 <= 64241" in told["text"].splitlines()


@pytest.mark.parametrize(
    ("text", "why", "words"),
    [
        (f"{CLIENT} ack ack=5000", "tcp-ack-over", "FAILS  ack <= the receiver's end: 5000 <= 1"),
        (f"{SERVER} rst seq=0", "tcp-rst-seq", "FAILS  seq >= the receiver's maxack: 0 >= 1"),
        (f"{SERVER} syn", "tcp-state", "the connection: state=ESTABLISHED takes=synack,fin,ack,rst"),
        (f"{CLIENT} syn fin", "tcp-flags", "the segment: flags=fin,syn"),
        (f"tcp {A}:1 > {B}:2 syn ack", "tcp-new", "opens a connection: always=syn with tcp_loose=ack tcp_loose=1"),
        (f"{ERROR} quotes (udp {A}:1 > {B}:2)", "icmp-error-unknown", "it quotes: packet=udp 192.168.1.7:1 > 203"),
        (f"icmp {B} > 1.1.1.1 host-unreachable quotes ({CLIENT})", "icmp-error-address", "the error: goes to=1.1.1.1"),
        (f"sctp {A}:1 > {B}:2 cookie-ack", "sctp-new", "the packet: vtag=1 chunks=cookie-ack"),
    ],
)  # fmt: skip
def test_an_invalid_packet_is_told_in_numbers(text: str, why: str, words: str) -> None:
    told = established().ask(text)
    assert told["state"]["reason"] == why
    assert words in told["text"], told["text"]
    assert reason.TEXTS[reason.NAMES.index(why)] in told["text"]


@pytest.mark.parametrize(
    "text", [f"{CLIENT} syn", f"udp {A}:1 > {B}:53 len=5", f"icmp {A} > {B}", f"sctp {A}:1 > {B}:2 init"]
)
def test_a_wrong_checksum_is_told_beside_the_right_one(text: str) -> None:
    told = Gateway().ask(f"{text} badsum")
    figures = told["state"]["arithmetic"]["facts"]["the checksum"]
    right = Talk().build(parse(text))
    at = {"tcp": 36, "udp": 26, "icmp": 22, "sctp": 28}[text.split()[0]]
    wanted = (
        int.from_bytes(right[at : at + 2], "big")
        if "sctp" not in text
        else int.from_bytes(right[at : at + 4], "little")
    )
    assert (told["state"]["reason"], int(figures["right"], 16)) == ("checksum", wanted)
    assert figures["carried"] != figures["right"]


def test_headers_that_lie() -> None:
    data = bytearray(Talk().build(parse(f"udp {A}:1 > {B}:53 len=5")))
    data[3] += 9
    assert "the IP header says: header=20 length=42" in Gateway().ask_bytes(bytes(data))["text"]
    data[3] -= 9
    data[25] += 1
    assert "its own header says: length=14" in Gateway().ask_bytes(bytes(data))["text"]
    data[0] = 0x95
    assert Gateway().ask_bytes(bytes(data))["state"]["reason"] == "not-ip"


def test_a_full_table() -> None:
    gateway = Gateway(None, max=1)
    gateway.ask(f"udp {A}:1 > {B}:53")
    gateway.ask(f"udp {A}:2 > {B}:53")  # the oldest makes room
    assert len(gateway.engine.tracker.table) == 1
    gateway = established(max=1)
    told = gateway.ask(f"udp {A}:2 > {B}:53")
    assert told["state"]["reason"] == "table-full" and "the table: connections=1 max=1" in told["text"]
    gateway = Gateway(None, per_source=1)
    gateway.ask(f"udp {A}:1 > {B}:53")
    assert "the source: connections=1 per_source=1" in gateway.ask(f"udp {A}:2 > {B}:53")["text"]


def test_what_a_helper_announces() -> None:
    gateway = Gateway()
    control, answers = f"tcp {A}:40000 > {B}:21", f"tcp {B}:21 > {A}:40000"
    for text in (f"{control} syn", f"{answers} syn ack", f"{control} ack", rf'{control} ack psh payload="USER x\r\n"'):
        gateway.ask(text)
    told = gateway.ask(rf'{control} ack psh payload="PORT 192,168,1,7,10,0\r\n"')
    assert told["after"]["expects"] == 1 and "expects 1 connection" in told["text"]
    told = gateway.ask(f"tcp {B}:20 > {A}:2560 syn", indev="wan0", outdev="lan0")
    assert told["state"]["state"] == "RELATED" and "expected by: tcp" in told["text"]
    told = gateway.ask(rf'{control} ack psh payload="PORT 192,168,1,7,10,"', indev="wan0")
    assert told["verdict"]["reason"] == "helper-partial", told["text"]


def test_a_tunnel_of_pptp_is_found_by_its_call() -> None:
    gateway = Gateway()
    control, answers = f"tcp {A}:40000 > {B}:1723", f"tcp {B}:1723 > {A}:40000"
    request = r"\x00\x9c\x00\x01\x1a\x2b\x3c\x4d\x00\x07\x00\x00\x00\x05" + r"\x00" * 154
    answer = r"\x00\x20\x00\x01\x1a\x2b\x3c\x4d\x00\x08\x00\x00\x00\x06\x00\x05\x01\x00" + r"\x00" * 14
    start = r"\x00\x9c\x00\x01\x1a\x2b\x3c\x4d\x00\x01\x00\x00" + r"\x00" * 144
    started = r"\x00\x9c\x00\x01\x1a\x2b\x3c\x4d\x00\x02\x00\x00\x01\x00\x01" + r"\x00" * 141
    for text in (
        f"{control} syn", f"{answers} syn ack", f"{control} ack",
        f'{control} ack psh payload="{start}"', f'{answers} ack psh payload="{started}"',
        f'{control} ack psh payload="{request}"', f'{answers} ack psh payload="{answer}"',
    ):  # fmt: skip
        gateway.ask(text)
    assert gateway.engine.tracker._calls.count == 2
    assert gateway.ask(f"gre {A} > {B} call=6 len=4")["state"]["state"] == "RELATED"
    assert gateway.ask(f"gre {B} > {A} call=5 len=4", indev="wan0")["state"]["state"] == "ESTABLISHED"


def test_later_fragments_get_what_their_first_one_got() -> None:
    gateway = Gateway()
    gateway.ask(f"udp {A}:1 > {B}:53 more len=1472")
    told = gateway.ask(f"udp {A} > {B} fragment=1480 len=100")
    assert told["verdict"]["rule"] == "lan" and told["rules"] == []
    assert gateway.ask(f"udp {A} > {B} fragment=1480 len=100")["state"]["reason"] == "fragment"


def test_rules_before_tracking_come_first() -> None:
    gateway = Gateway()
    assert gateway.ask(f"udp {A}:1 > {B}:9")["state"]["state"] == "UNTRACKED"
    assert gateway.ask(f"tcp {A}:1 > {B}:9 syn")["tracking"][-1]["verdict"] == "track liberal"


def test_and_say_how_it_is_tracked() -> None:
    gateway = Gateway(None, tcp_loose=0)
    assert gateway.ask(f"tcp {A}:1 > {B}:10 ack")["state"]["state"] == "NEW"
    assert gateway.ask(f"tcp {A}:1 > {B}:443 ack")["state"]["reason"] == "tcp-new"


def test_the_first_segment_of_a_side_begins_its_window() -> None:
    gateway = Gateway()
    gateway.ask(f"{CLIENT} syn")
    told = gateway.ask(f"{SERVER} syn ack seq=5000 ack=99")
    assert told["state"]["reason"] == "tcp-ack-over"
    assert told["state"]["arithmetic"]["facts"]["the sender"]["end"] == 5001
    assert [check["holds"] for check in told["state"]["arithmetic"]["checks"]][:2] == [True, False]


def test_a_limit_is_asked_and_not_taken() -> None:
    gateway = Gateway()
    for port in (1, 2):
        assert gateway.ask(f"tcp {A}:{port} > {B}:22 syn", indev="x")["verdict"]["rule"] == "ssh"
    told = gateway.ask(f"tcp {A}:3 > {B}:22 syn", indev="x")
    assert ("'ssh' differs in limit" in told["text"], told["verdict"]["rule"]) == (True, "policy forward")


def test_a_rejected_packet_says_how() -> None:
    assert Gateway().ask(f"tcp {A}:1 > {B}:25 syn")["verdict"]["with"] == "tcp-reset"
    assert "reject with port-unreachable by 'no mail'" in Gateway().ask(f"udp {A}:1 > {B}:25")["text"]


@pytest.mark.parametrize("existing", [RECHECK, KILL])
@pytest.mark.parametrize("keeps", [True, False])
def test_an_old_connection_under_new_rules(existing: int, keeps: bool) -> None:
    gateway = established()
    new = Ruleset(rules() if keeps else rules()[:-1], {}, existing=existing)
    new.succeed(gateway.engine.ruleset, gateway.now)
    gateway.engine.ruleset = new
    told = gateway.ask(f"{SERVER} ack len=10", indev="wan0", outdev="lan0")
    assert told["again"]
    assert (told["verdict"]["verdict"] == "accept") == (keeps and existing == RECHECK)


# --- properties ---------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.booleans(),
    st.lists(st.tuples(st.one_of(segments(), segments(), others), st.sampled_from([0, 0, 0, 1, 31, 400])), max_size=14),
)
def test_whatever_comes_explain_says_what_the_engine_does(opened: bool, steps: list[tuple[str, int]]) -> None:
    gateway = established(max=4) if opened else Gateway(None, max=4)
    for text, seconds in steps:
        gateway.now += seconds * SECOND
        told = gateway.ask(text, indev="lan0" if f" {A}" in text.split(">")[0] else "wan0")
        checks = told["state"]["arithmetic"]["checks"]
        fails = [number for number, check in enumerate(checks) if not check["holds"]]
        if "windows" not in told["state"]["arithmetic"]["facts"]:
            if told["state"]["reason"] == "tcp-seq-over":
                assert fails and fails[0] == 0, told["text"]
            elif told["state"]["reason"] == "tcp-ack-over":
                assert fails and fails[0] == 1, told["text"]
            elif told["state"]["reason"] == "tcp-rst-seq":
                assert fails == [0], told["text"]
            else:
                assert 1 not in fails, told["text"]
                assert 0 not in fails or "beyond the window" in told["text"]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([INPUT, FORWARD, OUTPUT]))
def test_and_of_any_bytes(data: bytes, hook: int) -> None:
    Gateway().ask_bytes(data, hook)
    Gateway().ask_bytes(b"\x45\0" + len(data).to_bytes(2, "big") + data[4:], hook)


def test_a_copy_holds_all_that_the_original_does() -> None:
    gateway = established()
    conn = next(conn for number in range(256) for conn in gateway.engine.tracker.table.shard(number))
    copy = clone(conn, {})
    conn.previous = conn.next = None
    assert picture(copy, {}) == picture(conn, {})
    assert copy.tcp is not conn.tcp and copy.tcp is not None and copy.tcp.original is not None
