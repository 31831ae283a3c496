"""SIP announces media and where calls come in (docs/state-machine.md, "Helpers and expectations")."""

import pytest
from engine import packets
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, STRANGER, Gateway, Tcp, Udp
from hypothesis import given
from hypothesis import strategies as st

from ctfw.conntrack.settings import SIP

HELPERS = {"sip": [5060]}
HOUR = 3600


def sdp(address: str = CLIENT, *media: str) -> str:
    family = "IP6" if ":" in address else "IP4"
    lines = ["v=0", f"o=- 1 1 IN {family} {address}", "s=-", f"c=IN {family} {address}", "t=0 0"]
    lines += [f"m={one} RTP/AVP 0" for one in media or ("audio 4000",)]
    return "".join(line + "\r\n" for line in lines)


def request(method: str, body: str = "", cseq: int = 1, extra: str = "", length: int | None = None) -> bytes:
    head = f"{method} sip:bob@example.net SIP/2.0\r\nVia: SIP/2.0/UDP x\r\nCSeq: {cseq} {method}\r\n{extra}"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n{body}".encode()


def answer(code: str, method: str, body: str = "", cseq: int = 1, extra: str = "") -> bytes:
    head = f"SIP/2.0 {code}\r\nVia: SIP/2.0/UDP x\r\nCSeq: {cseq} {method}\r\n{extra}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def register(contact: str = f"<sip:alice@{CLIENT}:5070>", cseq: int = 1, expires: str = "3600") -> bytes:
    return request("REGISTER", "", cseq, f"Contact: {contact}\r\n" + (f"Expires: {expires}\r\n" if expires else ""))


def registered(
    contact: str = f"<sip:alice@{CLIENT}:5070>", cseq: int = 1, code: str = "200 OK", expires: str = "600"
) -> bytes:
    return answer(code, "REGISTER", "", cseq, f"Contact: {contact}\r\nExpires: {expires}\r\n")


def phone(client: str = CLIENT, server: str = SERVER, gateway: Gateway | None = None, sport: int = 5060) -> Udp:
    return Udp(gateway or Gateway(HELPERS), client, server, sport, 5060)


def short(talk: Udp | Tcp) -> list[str]:
    """The expectations without what is the same in all: ``dst:dport class``, sorted."""
    found = []
    for line in talk.gateway.expected:
        words = line.split()
        fields = dict(word.split("=", 1) for word in words if "=" in word and len(word) > 1)
        found.append(
            f"{fields['dst']}:{fields['dport']} {' '.join(words[words.index('dport=' + fields['dport']) + 1 :])}"
        )
    return sorted(found)


def rtp(talk: Udp, to: str = CLIENT, port: int = 4000, src: str = SERVER) -> Udp:
    return Udp(talk.gateway, src, to, 9000, port)


# Media


def test_an_invite_announces_two_media_connections_and_the_other_end_may_come() -> None:
    talk = phone()
    talk.client(request("INVITE", sdp())).is_new()
    assert talk.gateway.expected == [
        f"180 l3proto = 2 proto=17 src={SERVER} dst={CLIENT} sport=0 dport=4000 sip/audio",
        f"180 l3proto = 2 proto=17 src={SERVER} dst={CLIENT} sport=0 dport=4001 sip/audio",
    ]
    rtp(talk).client().is_related("ORIGINAL")
    rtp(talk, port=4001).client().is_related("ORIGINAL")
    assert short(talk) == []


def test_both_ends_announce_their_own() -> None:
    talk = phone()
    talk.client(request("INVITE", sdp())).is_new()
    talk.server(answer("200 OK", "INVITE", sdp(SERVER, "audio 6000"))).is_established()
    assert short(talk) == [f"{CLIENT}:4000 sip/audio", f"{CLIENT}:4001 sip/audio",
                           f"{SERVER}:6000 sip/audio", f"{SERVER}:6001 sip/audio"]  # fmt: skip


def test_over_ipv6() -> None:
    talk = phone(CLIENT6, SERVER6)
    talk.client(request("INVITE", sdp(CLIENT6))).is_new()
    rtp(talk, CLIENT6, 4000, SERVER6).client().is_related("ORIGINAL")


def test_an_odd_port_is_rtcps() -> None:
    talk = phone()
    talk.client(request("INVITE", sdp(CLIENT, "audio 4001"))).is_new()
    assert short(talk) == [f"{CLIENT}:4000 sip/audio", f"{CLIENT}:4001 sip/audio"]


def test_each_class_has_its_limit_and_the_oldest_gives_way() -> None:
    talk = phone()
    for number in range(3):
        body = sdp(CLIENT, f"audio {4000 + 10 * number}", f"image {7000 + 10 * number}")
        talk.client(request("UPDATE", body)).is_new()
    assert short(talk) == [f"{CLIENT}:{port} sip/audio" for port in (4010, 4011, 4020, 4021)] + [
        f"{CLIENT}:{port} sip/image" for port in (7020, 7021)
    ]


def test_three_streams_are_read_and_no_more() -> None:
    talk = phone()
    media = ("audio 4000", "application 4500", "video 5000", "image 6000", "audio 7000")
    talk.client(request("INVITE", sdp(CLIENT, *media))).is_new()
    assert {line.split()[0].rpartition(":")[2] for line in short(talk)} == {
        "4000",
        "4001",
        "5000",
        "5001",
        "6000",
        "6001",
    }


@pytest.mark.parametrize("media", ["audio 0", "Audio 4000", "text 4000", "audio"])
def test_streams_that_are_none(media: str) -> None:
    talk = phone()
    talk.client(request("INVITE", sdp(CLIENT, media))).is_new()
    assert short(talk) == []


def test_media_of_somebody_else_are_not_expected() -> None:
    talk = phone()
    talk.client(request("INVITE", sdp(STRANGER))).is_new()
    assert short(talk) == []


def test_a_stream_may_have_an_address_of_its_own() -> None:
    talk = phone()
    body = sdp(STRANGER, "audio 4000") + f"c=IN IP4 {CLIENT}\r\n"
    talk.client(request("INVITE", body)).is_new()
    assert short(talk) == [f"{CLIENT}:4000 sip/audio", f"{CLIENT}:4001 sip/audio"]


def test_bye_takes_the_media_back() -> None:
    talk = phone()
    talk.client(request("INVITE", sdp())).is_new()
    talk.client(request("BYE", cseq=2)).is_new()
    assert short(talk) == []


def test_the_failure_of_the_last_invite_takes_the_media_back() -> None:
    talk = phone()
    talk.client(request("INVITE", sdp(), cseq=7)).is_new()
    talk.server(answer("486 Busy", "INVITE", cseq=6)).is_established()
    assert short(talk) != []
    talk.server(answer("486 Busy", "INVITE", cseq=7)).is_established()
    assert short(talk) == []


def test_a_new_invite_replaces_the_media() -> None:
    talk = phone()
    talk.client(request("INVITE", sdp())).is_new()
    talk.client(request("INVITE", sdp(CLIENT, "audio 4010"), cseq=2)).is_new()
    assert short(talk) == [f"{CLIENT}:4010 sip/audio", f"{CLIENT}:4011 sip/audio"]


def test_the_same_description_by_a_second_connection_is_known() -> None:
    first = phone()
    second = phone(gateway=first.gateway, sport=5061)
    first.client(request("INVITE", sdp())).is_new()
    second.client(request("INVITE", sdp())).is_new()
    assert len(short(first)) == 2
    first.client(request("BYE", cseq=2)).is_new()
    assert short(first) == []


def test_what_another_transport_or_class_expects_is_known() -> None:
    first = phone()
    first.client(request("INVITE", sdp())).is_new()
    stream = Tcp(first.gateway, CLIENT, SERVER, 40000, 5060).opened()
    stream.client("ack", request("INVITE", sdp())).is_established()
    second = phone(gateway=first.gateway, sport=5061)
    second.client(request("INVITE", sdp(CLIENT, "video 4000"))).is_new()
    assert short(first) == [f"{CLIENT}:4000 sip/audio", f"{CLIENT}:4001 sip/audio"]


def test_another_class_with_the_same_port_is_known() -> None:
    talk = phone()
    talk.client(request("INVITE", sdp(CLIENT, "audio 4000", "image 4000"))).is_new()
    assert short(talk) == [f"{CLIENT}:4000 sip/audio", f"{CLIENT}:4001 sip/audio"]


# Registration


def test_a_registered_phone_may_be_called_again_and_again() -> None:
    talk = phone(sport=40000)
    talk.client(register()).is_new()
    assert short(talk) == [f"{CLIENT}:5070 PERMANENT,INACTIVE sip/signalling"]
    calls = Udp(talk.gateway, SERVER, CLIENT, 5060, 5070)
    calls.client(b"").is_new()
    talk.server(registered()).is_established()
    assert talk.gateway.expected == [
        f"600 l3proto = 2 proto=17 src={SERVER} dst={CLIENT} sport=0 dport=5070 PERMANENT sip/signalling"
    ]
    for sport in (7000, 7001):
        call = Udp(talk.gateway, SERVER, CLIENT, sport, 5070)
        call.client(request("INVITE", sdp(SERVER, f"audio {sport}"))).is_related("ORIGINAL")
        conn = talk.gateway.conn_of(packets.udp(*call.question))
        assert conn is not None and conn.helper == SIP
    assert f"{SERVER}:7000 sip/audio" in short(talk)


def test_who_is_called_cannot_register() -> None:
    talk = phone(sport=40000)
    talk.client(register()).is_new()
    talk.server(registered()).is_established()
    call = Udp(talk.gateway, SERVER, CLIENT, 5060, 5070)
    call.client(register(f"<sip:{SERVER}:5080>")).is_related("ORIGINAL")
    assert short(talk) == [f"{CLIENT}:5070 PERMANENT sip/signalling"]


@pytest.mark.parametrize(
    "said",
    [
        registered(code="401 Unauthorized"),
        registered(expires="0"),
        registered(f"<sip:alice@{CLIENT}:5070>;expires=0"),
        registered(f"<sip:alice@{STRANGER}:5070>"),
    ],
)
def test_a_registration_that_is_refused_or_over_is_taken_back(said: bytes) -> None:
    talk = phone(sport=40000)
    talk.client(register()).is_new()
    talk.server(said).is_established()
    assert short(talk) == []


def test_the_answer_to_another_registration_changes_nothing() -> None:
    talk = phone(sport=40000)
    talk.client(register(cseq=5)).is_new()
    talk.server(registered(cseq=4)).is_established()
    talk.server(registered(cseq=5, code="100 Trying")).is_established()
    assert short(talk) == [f"{CLIENT}:5070 PERMANENT,INACTIVE sip/signalling"]


@pytest.mark.parametrize(
    "contact",
    [
        f"<sip:alice@{STRANGER}:5070>",
        f"<sip:alice@{CLIENT}:80>",
        f"<sip:alice@{CLIENT}:5070;transport=tcp>",
        f"<sip:alice@{CLIENT}:5070>;expires=0",
        "*",
    ],
)
def test_contacts_that_are_not_expected(contact: str) -> None:
    talk = phone(sport=40000)
    talk.client(register(contact)).is_new()
    assert short(talk) == []


def test_of_several_contacts_the_right_one_is_granted() -> None:
    talk = phone(sport=40000)
    talk.client(register()).is_new()
    talk.server(registered(f"<sip:bob@{STRANGER}>, <sip:alice@{CLIENT}:5070>;expires=77")).is_established()
    assert [line.split()[0] for line in talk.gateway.expected] == ["77"]


# What is let through, and for how long


@pytest.mark.parametrize(
    "said",
    [
        b"INVITE sip:x SIP/2.0\r\nVia: x\r\n\r\n",
        b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n",
        b"SIP/2.0 0 x\r\nCSeq: 1 INVITE\r\n\r\n",
        request("INVITE", sdp(CLIENT, "audio 80")),
        request("INVITE", sdp().replace("c=IN", "x=IN")),
        register(f"<sip:alice@{CLIENT}:5070>;expires=soon"),
    ],
)
def test_sip_that_cannot_be_followed_is_dropped(said: bytes) -> None:
    phone().client(said).is_eaten("helper-partial")


@pytest.mark.parametrize(
    "said", [b"hello", b"", b"OPTIONS sip:x SIP/2.0\r\n\r\n", b"\r\n\r\n", b"INVITEsip:x nothing to see"]
)
def test_what_is_no_sip_passes(said: bytes) -> None:
    phone().client(said).is_new()


def test_a_payload_lets_the_connection_live_for_an_hour() -> None:
    talk = phone()
    talk.client(b"\r\n\r\n").is_new()
    assert talk.entry == f"{HOUR} [UNREPLIED]"
    talk.client(b"").is_new()
    assert talk.entry == "30 [UNREPLIED]"


def test_header_names_have_short_forms_and_no_case_and_lines_may_be_folded() -> None:
    talk = phone(sport=40000)
    text = f"REGISTER sip:x SIP/2.0\r\ncSEQ\t:\r\n 3 REGISTER\nM : \r\n <sip:alice@{CLIENT}>\r\nEXPIRES:60\r\n\r\n"
    talk.client(text.encode()).is_new()
    assert short(talk) == [f"{CLIENT}:5060 PERMANENT,INACTIVE sip/signalling"]


@pytest.mark.parametrize(
    ("contact", "is_found"),
    [
        (f'"Alice"\r\n <sip:alice@{CLIENT}>', True),
        (f'"Alice"\n\t<sip:alice@{CLIENT}>', True),
        (f"Alice\r\n sip:alice@{CLIENT}\r\n", False),  # the first letter of a continued line is not looked at
        (f"Alice\r\n\r\n <sip:alice@{CLIENT}>", False),
    ],
)
def test_a_contact_that_is_continued_on_the_next_line(contact: str, is_found: bool) -> None:
    talk = phone(sport=40000)
    talk.client(register(contact)).is_new()
    assert (short(talk) != []) is is_found


# TCP


def connected() -> Tcp:
    return Tcp(Gateway(HELPERS), CLIENT, SERVER, 40000, 5060).opened()


def test_several_messages_in_one_segment() -> None:
    talk = connected()
    both = request("OPTIONS") + request("INVITE", sdp())
    talk.client("ack", both).is_established()
    assert short(talk) == [f"{CLIENT}:4000 sip/audio", f"{CLIENT}:4001 sip/audio"]
    assert talk.entry.startswith(f"{HOUR} ESTABLISHED")


def test_a_message_that_is_not_whole_is_not_read() -> None:
    talk = connected()
    talk.client("ack", request("INVITE", sdp(), length=len(sdp()) + 1)).is_established()
    assert short(talk) == []


def test_nothing_is_read_behind_a_broken_message() -> None:
    talk = connected()
    talk.client("ack", b"INVITE sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n" + request("INVITE", sdp())).is_eaten(
        "helper-partial"
    )
    assert short(talk) == []


def test_a_phone_registers_for_calls_by_tcp() -> None:
    talk = connected()
    talk.client("ack", register()).is_established()
    talk.server("ack", registered()).is_established()
    Tcp(talk.gateway, SERVER, CLIENT, 7000, 5070).client("syn").is_related("ORIGINAL")


# Whatever is said


PIECES = st.sampled_from(
    [
        b"INVITE ", b"REGISTER ", b"SIP/2.0 ", b"200 OK", b"sip:", b"\r\n", b"\r", b"\n", b" ", b"\t", b"\r\n ",
        b"CSeq: 1 ", b"Contact: ", b"m: ", b"l:", b"Content-Length: ", b"10.1.0.2", b"[2001:db8:1::2]", b":5060", b"@",
        b",", b";", b"<", b"transport=", b"expires=", b"v=0", b"c=IN IP4 ", b"c=IN IP6 ", b"m=audio ", b"m=", b"4000",
        b"0", b"99999999999", b"::", b"\xe9", b"\0",
    ]
)  # fmt: skip


@given(st.lists(PIECES | st.binary(max_size=3), max_size=40).map(b"".join), st.booleans())
def test_no_payload_raises(payload: bytes, ipv6: bool) -> None:
    ends = (CLIENT6, SERVER6) if ipv6 else (CLIENT, SERVER)
    talk = phone(*ends)
    talk.client(payload)
    talk.server(payload)
    by_tcp = Tcp(Gateway(HELPERS), *ends, 40000, 5060).opened()
    by_tcp.client("ack", payload)
    by_tcp.server("ack", payload)
    assert len(talk.gateway.expected) <= 11 and len(by_tcp.gateway.expected) <= 11
