"""UDP and UDP-Lite conversations (docs/state-machine.md, "UDP and UDP-Lite")."""

import pytest
from engine import packets
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, Gateway, Udp

QUESTION = CLIENT, SERVER, 40000, 53


def test_a_lookup_is_new_then_established_and_soon_forgotten() -> None:
    talk = Udp()
    talk.client().is_new()
    assert talk.entry == "30 [UNREPLIED]"
    talk.client().is_new()
    talk.server().is_established("REPLY")
    assert talk.entry == "30"
    talk.client().is_established("ORIGINAL")
    talk.wait(30)
    assert talk.entry == ""
    talk.server().is_new()


def test_a_dropped_first_datagram_leaves_nothing() -> None:
    talk = Udp()
    talk.client(refused=True).is_new()
    assert talk.entry == ""
    talk.server().is_new()


def test_an_answered_conversation_becomes_a_stream_after_two_seconds() -> None:
    talk = Udp()
    talk.client().is_new()
    talk.server().is_established()
    talk.wait(2)
    talk.client().is_established()
    assert talk.entry == "30"
    talk.wait(0.1)
    talk.client().is_established()
    assert talk.entry == "120 [ASSURED]"


def test_the_first_answer_makes_no_stream_however_late_it_comes() -> None:
    talk = Udp()
    talk.client().is_new()
    talk.wait(20)
    talk.server().is_established()
    assert talk.entry == "30"
    talk.server().is_established()
    assert talk.entry == "120 [ASSURED]"


def test_datagrams_that_nobody_answers_make_no_stream() -> None:
    talk = Udp()
    for _ in range(5):
        talk.client().is_new()
        talk.wait(20)
    assert talk.entry == "10 [UNREPLIED]"


def test_ipv6_is_tracked_alike() -> None:
    talk = Udp(client=CLIENT6, server=SERVER6)
    talk.client().is_new()
    talk.server().is_established("REPLY")


@pytest.mark.parametrize("length", [0, 7, 10, 65535])
def test_a_length_below_8_or_beyond_the_packet_is_invalid(length: int) -> None:
    gateway = Gateway()
    gateway.sees(packets.udp(*QUESTION, b"?", length=length)).is_invalid("udp-length")
    assert gateway.conns == []


def test_a_datagram_of_less_than_a_header_is_invalid() -> None:
    packet = packets.ip(CLIENT, SERVER, packets.UDP, b"\x9c\x40\0\x35\0\x07\0")
    Gateway().sees(packet).is_invalid("udp-length")


def test_a_wrong_checksum_is_invalid_and_refreshes_nothing() -> None:
    talk = Udp()
    talk.client().is_new()
    talk.wait(10)
    talk.gateway.sees(packets.spoiled(packets.udp(*QUESTION, b"?"))).is_invalid("checksum")
    assert talk.entry == "20 [UNREPLIED]"


def test_a_checksum_of_zero_was_not_sent() -> None:
    packet = packets.udp(*QUESTION, b"?")
    Gateway().sees(packet[:26] + b"\0\0" + packet[28:]).is_new()


def test_time_outs_are_settings() -> None:
    talk = Udp(Gateway(udp_timeout=5, udp_timeout_stream=60))
    talk.client().is_new()
    assert talk.entry == "5 [UNREPLIED]"
    talk.server().is_established()
    talk.wait(3)
    talk.client().is_established()
    assert talk.entry == "60 [ASSURED]"


# UDP-Lite


def lite(data: bytes = b"12345678", coverage: int = 0, turned: bool = False) -> bytes:
    ends = (SERVER, CLIENT, 53, 40000) if turned else QUESTION
    return packets.udplite(*ends, data, coverage=coverage)


def test_udplite_is_a_stream_with_the_first_datagram_after_the_answer() -> None:
    gateway = Gateway()
    gateway.sees(lite()).is_new()
    gateway.sees(lite(turned=True)).is_established("REPLY")
    assert gateway.entry_of(lite()) == "30"
    gateway.sees(lite()).is_established("ORIGINAL")
    assert gateway.entry_of(lite()) == "120 [ASSURED]"


@pytest.mark.parametrize("coverage", [0, 8, 12, 16])
def test_udplite_covers_its_header_at_least(coverage: int) -> None:
    Gateway().sees(lite(coverage=coverage)).is_new()


@pytest.mark.parametrize("coverage", [1, 7, 17, 65535])
def test_udplite_covering_less_than_its_header_or_more_than_there_is_is_invalid(coverage: int) -> None:
    Gateway().sees(lite(coverage=coverage)).is_invalid("udp-length")


def test_udplite_does_not_mind_an_error_beyond_its_coverage() -> None:
    Gateway().sees(packets.spoiled(lite(coverage=12))).is_new()
    Gateway().sees(packets.spoiled(lite(coverage=16))).is_invalid("checksum")


def test_udplite_without_a_checksum_is_invalid() -> None:
    packet = lite()
    Gateway().sees(packet[:26] + b"\0\0" + packet[28:]).is_invalid("checksum")


def test_udplite_without_a_checksum_is_invalid_whether_or_not_sums_are_verified() -> None:
    packet = lite()
    Gateway().sees(packet[:26] + b"\0\0" + packet[28:], check=False).is_invalid("checksum")
