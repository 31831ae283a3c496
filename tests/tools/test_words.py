"""Packets in words: what can be said, what bytes it makes, and what is said about words that are no packet.

The bytes are held against those of engine/packets.py, which were written from the RFCs for themselves.
"""

import socket

import pytest
from engine import packets
from hypothesis import given
from hypothesis import strategies as st

from ctfw import reason
from ctfw.checksum import is_checksum_good
from ctfw.config.packet_vocabulary import CHUNKS, FLAGS, PLAIN, WORDS
from ctfw.config.packet_words import PacketError, Wording, parse
from ctfw.packet import decode
from ctfw.packet_text import PROTO_NAMES, describe
from ctfw.tools.build_packet import Talk

A, B = "192.168.1.7", "203.0.113.9"
A6, B6 = "2001:db8:1::7", "2001:db8:2::9"


def built(text: str) -> bytes:
    return Talk().build(parse(text))


def said(data: bytes) -> str:
    return describe(decode(data, len(data)))


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (f"tcp {A}:40000 > {B}:443 syn", packets.tcp(A, B, 40000, 443, "syn")),
        (f"TCP {A}:40000 > {B}:https SYN", packets.tcp(A, B, 40000, 443, "syn")),
        (
            f"tcp {A}:1 > {B}:2 ack psh seq=0xff ack=7 win=0 len=3",
            packets.tcp(A, B, 1, 2, "ack psh", seq=255, ack=7, win=0, data=bytes(3)),
        ),
        (f"tcp [{A6}]:1 > [{B6}]:2 null seq=5", packets.tcp(A6, B6, 1, 2, seq=5)),
        (
            f"tcp {A}:1 > {B}:2 syn mss=1460 sackok wscale=7",
            packets.tcp(A, B, 1, 2, "syn", options=b"\2\4\x05\xb4" + packets.SACK_PERMITTED + packets.scale(7)),
        ),
        (
            f"tcp {A}:1 > {B}:2 ack seq=1 ack=1 sack=10-20 sack=30-40",
            packets.tcp(A, B, 1, 2, "ack", seq=1, ack=1, options=packets.sack((10, 20), (30, 40))),
        ),
        (rf'udp {A}:1 > {B}:53 payload="a \"b\"\r\n\x00\\é"', packets.udp(A, B, 1, 53, 'a "b"\r\n\0\\é'.encode())),
        (f"udp [{A6}]:9 > [{B6}]:53 len=2", packets.udp(A6, B6, 9, 53, bytes(2))),
        (f"udplite {A}:1 > {B}:2 len=9 coverage=8", packets.udplite(A, B, 1, 2, bytes(9), coverage=8)),
        (f"icmp {A} > {B}", packets.icmp(A, B, 8, 0, 1, 1)),
        (f"icmp {A} > {B} echo-reply id=4 seq=9 payload=\"x\"", packets.icmp(A, B, 0, 0, 4, 9, b"x")),
        (f"icmpv6 {A6} > {B6} type=128 id=4 seq=9", packets.icmp(A6, B6, 128, 0, 4, 9)),
        (
            f"icmp {B} > {A} port-unreachable quotes (udp {A}:1 > {B}:53 len=4)",
            packets.icmp(B, A, 3, 3, data=packets.udp(A, B, 1, 53, bytes(4))),
        ),
        (
            f"icmp {B} > {A} type=fragmentation-needed mtu=1400 quotes (tcp {A}:1 > {B}:80)",
            packets.icmp(B, A, 3, 4, 0, 1400, packets.tcp(A, B, 1, 80, seq=1)),
        ),
        (f"sctp {A}:1 > {B}:2 cookie-ack vtag=0", packets.sctp(A, B, 1, 2, 0, packets.chunk(11))),
        (f"gre {A} > {B} len=2", packets.ip(A, B, 47, b"\0\0\x08\0\0\0")),
        (f"gre {A} > {B} call=9 len=2", packets.ip(A, B, 47, b"\x20\1\x88\x0b\0\2\0\x09\0\0")),
        (f"200 {A} > {B} len=5 ttl=1", packets.ip(A, B, 200, bytes(5), ttl=1)),
        (f"tcp {A}:1 > {B}:2 syn quux".replace(" quux", " badsum"), packets.spoiled(packets.tcp(A, B, 1, 2, "syn"))),
    ],
)  # fmt: skip
def test_the_bytes(text: str, data: bytes) -> None:
    found = built(text)
    if "badsum" in text:  # which wrong sum is nobody's business
        assert not is_checksum_good(decode(found, len(found)))
        found, data = found[:36] + found[38:], packets.tcp(A, B, 1, 2, "syn")
        data = data[:36] + data[38:]
    assert found == data


def test_fragments_of_one_datagram_belong_together() -> None:
    first = decode(built(f"udp {A}:1 > {B}:2 more len=1472"), 1500)
    second = decode(built(f"udp {A} > {B} fragment=1480 len=100"), 120)
    assert (first.reason, first.more, second.reason, second.fragment) == (0, True, reason.FRAGMENT, 1480)
    assert first.data[4:6] == second.data[4:6]
    six = decode(built(f"udp {A6} > {B6} fragment=1480 more len=96 ipid=70000"), 40 + 8 + 96)
    assert (six.reason, six.fragment, six.more, int.from_bytes(six.data[44:48], "big")) == (5, 1480, True, 70000)


def test_dscp_and_df() -> None:
    assert built(f"udp {A}:1 > {B}:2 dscp=46 df")[1] == 46 << 2
    assert built(f"udp {A}:1 > {B}:2 dscp=46 df")[6] == 0x40
    assert built(f"udp [{A6}]:1 > [{B6}]:2 dscp=46")[:2] == (6 << 12 | 46 << 6).to_bytes(2, "big")


def test_what_is_not_said_is_what_a_real_end_would_send() -> None:
    talk = Talk()
    client, server = f"tcp {A}:1 > {B}:2", f"tcp {B}:2 > {A}:1"
    lines = []
    for text, arrives in (
        (f"{client} syn", False),
        (f"{client} syn", True),
        (f"{client} syn", True),
        (f"{server} syn ack", True),
        (f"{client} ack", True),
        (f"{client} ack psh len=100", False),
        (f"{client} ack psh len=100", True),
        (f"{server} ack", True),
        (f"{client} fin ack", True),
        (f"{client} rst", True),
        (f"tcp {A}:9 > {B}:2 rst ack", True),
    ):
        data = talk.build(parse(text))
        lines.append(said(data).split(" ", 4)[4])
        if arrives:
            talk.arrived()
    assert lines == [
        "syn seq=0 win=64240 len=0",
        "syn seq=0 win=64240 len=0",
        "syn seq=0 win=64240 len=0",
        "syn ack seq=0 ack=1 win=64240 len=0",
        "ack seq=1 ack=1 win=64240 len=0",
        "ack psh seq=1 ack=1 win=64240 len=100",
        "ack psh seq=1 ack=1 win=64240 len=100",
        "ack seq=1 ack=101 win=64240 len=0",
        "ack fin seq=101 ack=1 win=64240 len=0",
        "rst seq=102 win=64240 len=0",
        "ack rst seq=0 ack=1 win=64240 len=0",
    ]


def test_an_sctp_packet_carries_the_tag_that_its_receiver_picked() -> None:
    talk = Talk()
    client, server = f"sctp {A}:1 > {B}:2", f"sctp {B}:2 > {A}:1"
    lines = []
    for text in (
        f"{client} init",
        f"{server} init-ack itag=99",
        f"{client} cookie-echo data len=4",
        f"{server} cookie-ack",
    ):
        lines.append(said(talk.build(parse(text))).split(" ", 4)[4])
        talk.arrived()
    assert lines == ["init vtag=0", "init-ack vtag=1", "cookie-echo data vtag=99", "cookie-ack vtag=1"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x20\0\x08\0" + b"\0\0\0\x07" + b"ab", "key=7 len=2"),
        (b"\xb0\0\x08\0" + b"\0\0\0\0" + b"\0\0\0\x07" + b"\0\0\0\x01" + b"ab", "key=7 len=2"),
        (b"\x20\1\x88\x0b" + b"\0\2\0\x09" + b"ab", "call=9 len=2"),
    ],
)
def test_the_headers_of_gre_are_not_its_payload(body: bytes, words: str) -> None:
    assert said(packets.ip(A, B, 47, body)) == f"gre {A} > {B} {words}"


# --- words that are no packet -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "a protocol is missing here"),
        ("tpc", 1, "'tpc' is not a protocol"),
        (f"tcp {A}:1", 18, "'>' and the destination is missing here"),
        (f"tcp {A}:1 -> {B}:2 syn", 19, "'->' stands where '>' must"),
        (f"tcp {A}:1>{B}:2 syn ack", 33, "'syn' stands where '>' must"),
        (f"tcp {A} > {B}:2 syn", 5, "'192.168.1.7' has no port"),
        (f"icmp {A}:1 > {B}", 6, "icmp has no ports"),
        (f"tcp {A}:70000 > {B}:2 syn", 17, "'70000' is not a port"),
        (f"tcp {A}:1 > {B}:htps syn", 33, "'htps' is not a port"),
        (f"tcp {A}:1 > $lan:2 syn", 21, "'$lan' is not an address"),
        (f"tcp {A}:1 > 10.0.0.0/8:2 syn", 21, "'10.0.0.0/8' is more than one address"),
        (f"tcp {A}:1 > [{B6}]:2 syn", 21, "source and destination are of different IP versions"),
        (f"tcp {A}:1 > {B}:2", 21, "the segment has no TCP flags"),
        (f"tcp {A}:1 > {B}:2 syn null", 35, "'null' is no flag at all"),
        (f"tcp {A}:1 > {B}:2 synn", 35, "unknown word 'synn'"),
        (f"tcp {A}:1 > {B}:2 syn sek=1", 39, "unknown word 'sek='"),
        (f"udp {A}:1 > {B}:2 syn", 35, "'syn' has no meaning in udp"),
        (f"udp {A}:1 > {B}:2 win=1", 35, "'win=' has no meaning in udp"),
        (f"tcp {A}:1 > {B}:2 syn win=65536", 43, "win=65536 is out of range"),
        (f"tcp {A}:1 > {B}:2 syn win=x", 43, "'x' is not a number"),
        (f"tcp {A}:1 > {B}:2 syn win=1 win=2", 45, "'win' is said twice"),
        (f"tcp {A}:1 > {B}:2 syn win", 39, "'win' needs a value"),
        (f"tcp {A}:1 > {B}:2 syn=1", 35, "'syn' takes no value"),
        (f'udp {A}:1 > {B}:2 payload="a', 43, "the quoted text that starts here is not closed"),
        (f"udp {A}:1 > {B}:2 payload=a", 43, "the payload stands in double quotes"),
        (rf'udp {A}:1 > {B}:2 payload="ab\q"', 46, r"unknown escape '\q'"),
        (f'udp {A}:1 > {B}:2 len=3 payload="a"', 35, "len=3 beside a payload of 1 bytes"),
        (f"tcp {A}:1 > {B}:2 ack sack=5", 44, "'5' is not a block"),
        (f"udp {A}:1 > {B}:2 fragment=1480", 5, "a later fragment shows no ports"),
        (f"udp {A} > {B} fragment=7", 31, "fragment=7 is not a multiple of 8"),
        (f"tcp {A} > {B} syn fragment=8", 31, "a later fragment does not show the transport header"),
        (f"icmp {A6} > {B6}", 1, "icmp between IPv6 addresses"),
        (f"icmp {A} > {B} ehco-request", 32, "unknown word 'ehco-request'"),
        (f"icmp {A} > {B} echo-request quotes (udp {A}:1 > {B}:2)", 32, "type 8 is no error and quotes nothing"),
        (f"icmp {B} > {A} port-unreachable quotes udp", 56, "'udp' stands where '(' must"),
        (f"icmp {B} > {A} port-unreachable quotes (udp {A}:1 > {B}:2", 56, "this '(' is not closed"),
        (f"icmp {B} > {A} port-unreachable quotes (udp {A}:1 > {B})", 77, "'203.0.113.9' has no port"),
        (f"udp {A}:1 > {B}:2 )", 35, "')' has no '(' before it"),
        (f"udp {A}:1 > {B}:2 quotes (udp {A}:1 > {B}:2)", 35, "only icmp and icmpv6 quote packets"),
        (f"sctp {A}:1 > {B}:2 data itag=4", 36, "'itag' without init or init-ack"),
        (f"tcp {A}:1 > {B}:2 syn mss=1 {'sack=1-2 ' * 4}wscale=1", 35, "more options than a TCP header can hold"),
        ("udp " + "x" * 9000, 1, "a packet of more than 8192 characters"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_at_its_place(text: str, column: int, message: str) -> None:
    with pytest.raises(PacketError) as caught:
        parse(text)
    assert (caught.value.column, caught.value.message) == (column, message)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("tpc", "did you mean 'tcp'"),
        (f"tcp {A} > {B}:2 syn", "tcp needs one, as in 192.168.1.7:80"),
        (f"tcp {A}:1 > {B}:htps syn", "did you mean 'https' or 'http'?"),
        (f"tcp {A}:1 > {B}:2 synn", "did you mean 'syn'?"),
        (f"icmp {A} > {B} ehco-request", "did you mean 'echo-request'?"),
        (f"tcp {A}:1 > {B6}:2 syn", "an address as 192.168.1.7 or 2001:db8::7"),
        (f"icmp {A6} > {B6}", "write icmpv6"),
    ],
)
def test_and_the_right_form_is_guessed(text: str, hint: str) -> None:
    with pytest.raises(PacketError) as caught:
        parse(text)
    assert hint in caught.value.hint or caught.value.message, caught.value.hint


@given(st.text(alphabet=st.sampled_from('tcpudicm 0123456789.:[]>()="\\-lenseqackfragmentquotes\n'), max_size=80))
def test_any_text_is_a_packet_or_a_packet_error(text: str) -> None:
    try:
        wording = parse(text)
    except PacketError as error:
        assert 1 <= error.column <= len(text) + 1
        return
    assert isinstance(wording, Wording)
    built(text)


# --- properties ---------------------------------------------------------------------------------

addresses = st.one_of(
    st.tuples(*[st.binary(min_size=4, max_size=4).map(socket.inet_ntoa)] * 2),
    st.tuples(*[st.binary(min_size=16, max_size=16).map(lambda a: socket.inet_ntop(socket.AF_INET6, a))] * 2),
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Everything that the tables know, in any mixture that goes together."""
    src, dst = draw(addresses)
    is_six = ":" in src
    proto = draw(st.sampled_from(["tcp", "udp", "udplite", "sctp", "gre", "200", "icmpv6" if is_six else "icmp"]))
    number = next((n for n, name in PROTO_NAMES.items() if name == proto), 200)
    later = draw(st.integers(0, 9)) == 0
    ends = [src, dst]
    if proto in ("tcp", "udp", "udplite", "sctp") and not later:
        ends = [
            f"[{one}]:{draw(st.integers(0, 65535))}" if is_six else f"{one}:{draw(st.integers(0, 65535))}"
            for one in ends
        ]
    words: list[str] = []
    if later:
        words.append(f"fragment={draw(st.integers(1, 8191)) * 8}")
    elif proto == "tcp":
        words += draw(st.lists(st.sampled_from(sorted(FLAGS)), min_size=1, unique=True))
    elif proto == "sctp":
        words += draw(st.lists(st.sampled_from(sorted(CHUNKS)), max_size=3))
    left_out = {"fragment", "itag", "call", "mtu", "len", "id", "seq", "type"}
    for word in draw(st.lists(st.sampled_from(WORDS), max_size=4, unique_by=lambda word: word.name)):
        if (not word.protos or (number in word.protos and not later)) and (word.name not in left_out or proto == "tcp"):
            high = 65535 if word.name == "ipid" and not is_six else 1400 if word.name == "len" else word.high
            if word.name != "fragment":
                words.append(f"{word.name}={draw(st.integers(word.low, high))}")
    for name in draw(st.lists(st.sampled_from(sorted(PLAIN)), max_size=2, unique=True)):
        if (
            name not in ("null", "badsum")
            and (not PLAIN[name][0] or (number in PLAIN[name][0] and not later))
            and not (name == "df" and is_six)
        ):
            words.append(name)
    return " ".join([proto, ends[0], ">", ends[1], *words])


@given(texts())
def test_every_packet_in_words_can_be_decoded_and_its_sum_is_right(text: str) -> None:
    data = built(text)
    packet = decode(data, len(data))
    assert packet.end == len(data)
    assert packet.reason == (reason.FRAGMENT if packet.fragment else 0)
    if "coverage" not in text and not packet.fragment:
        assert is_checksum_good(packet)


@given(texts())
def test_what_describe_says_makes_a_packet_of_which_it_says_the_same(text: str) -> None:
    line = said(built(text))
    assert said(built(line)) == line


@given(
    st.sampled_from([6, 17, 132, 136, 47, 1, 200, 50]),
    st.binary(min_size=20, max_size=80),
    st.integers(0, 8191),
    st.booleans(),
)
def test_so_it_does_of_packets_that_no_words_made(proto: int, body: bytes, offset: int, more: bool) -> None:
    data = packets.ip(A, B, proto, body, offset=offset * 8, more=more)
    line = said(data)
    assert said(built(line)) == line
