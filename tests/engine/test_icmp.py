"""Queries, errors about others, and what is not tracked (docs/state-machine.md, "ICMP and ICMPv6")."""

import struct

import pytest
from engine import packets
from engine.conversation import (
    CLIENT,
    CLIENT6,
    ROUTER,
    ROUTER6,
    SERVER,
    SERVER6,
    STRANGER,
    Gateway,
    Ping,
    Said,
    Tcp,
    Udp,
)

from ctfw.packet import OUTPUT

QUESTION = CLIENT, SERVER, 40000, 53
ANSWER = SERVER, CLIENT, 53, 40000
QUESTION6 = CLIENT6, SERVER6, 40000, 53
UNREACHABLE, TOO_BIG6, REDIRECT6 = 3, 2, 137


# Queries


@pytest.mark.parametrize("kinds", [(8, 0), (13, 14), (15, 16), (17, 18)])
def test_a_query_is_new_and_its_answer_established(kinds: tuple[int, int]) -> None:
    talk = Ping(kinds=kinds)
    talk.client().is_new()
    talk.client().is_new()
    assert talk.entry == "30 [UNREPLIED]"
    talk.server().is_established("REPLY")
    talk.client().is_established("ORIGINAL")
    talk.wait(29)
    assert talk.entry == "1"
    talk.wait(1)
    talk.server().is_invalid("icmp-new")


@pytest.mark.parametrize("kinds", [(128, 129), (139, 140)])
def test_icmpv6_is_tracked_alike(kinds: tuple[int, int]) -> None:
    talk = Ping(client=CLIENT6, server=SERVER6, kinds=kinds)
    talk.client().is_new()
    talk.server().is_established("REPLY")
    talk.wait(3)
    talk.client().is_established("ORIGINAL")
    assert talk.entry == "30"


def test_a_ping_is_never_assured() -> None:
    talk = Ping()
    for _ in range(10):
        talk.client()
        talk.server().is_established("REPLY")
        talk.wait(5)
    assert talk.entry == "25"


@pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT6, SERVER6)])
def test_an_answer_with_another_code_or_identifier_is_none(ends: tuple[str, str]) -> None:
    talk = Ping(None, *ends)
    talk.client().is_new()
    talk.server(code=1).is_invalid("icmp-new")
    talk.server(ident=8).is_invalid("icmp-new")
    assert talk.entry == "30 [UNREPLIED]"
    talk.server().is_established("REPLY")


def test_a_dropped_query_leaves_nothing() -> None:
    talk = Ping()
    talk.client(refused=True).is_new()
    talk.server().is_invalid("icmp-new")


def test_an_answer_that_nobody_asked_for_is_invalid() -> None:
    for kind in (0, 14, 16, 18):
        Gateway().sees(packets.icmp(SERVER, CLIENT, kind)).is_invalid("icmp-new")
    for kind in (129, 140):
        Gateway().sees(packets.icmp(SERVER6, CLIENT6, kind)).is_invalid("icmp-new")


def test_a_type_that_has_no_answer_makes_no_connection() -> None:
    for kind in (1, 2, 6, 7, 9, 10):
        Gateway().sees(packets.icmp(CLIENT, SERVER, kind)).is_invalid("icmp-no-inverse")
    Gateway().sees(packets.icmp(CLIENT6, SERVER6, 200)).is_invalid("icmp-no-inverse")


def test_a_type_that_is_not_assigned_is_invalid() -> None:
    for kind in (19, 100, 255):
        Gateway().sees(packets.icmp(CLIENT, SERVER, kind)).is_invalid("icmp-type")


def test_one_familys_icmp_inside_the_other_is_invalid() -> None:
    echo = struct.pack(">BBHHH", 8, 0, 0, 7, 0)
    Gateway().sees(packets.ip(CLIENT6, SERVER6, packets.ICMP, echo), check=False).is_invalid("icmp-new")
    Gateway().sees(packets.ip(CLIENT, SERVER, packets.ICMPV6, b"\x80" + echo[1:]), check=False).is_invalid("icmp-new")


def test_a_wrong_checksum_is_invalid() -> None:
    for packet in (packets.icmp(CLIENT, SERVER, 8), packets.icmp(CLIENT6, SERVER6, 128)):
        Gateway().sees(packets.spoiled(packet)).is_invalid("checksum")


def test_an_answer_of_zeroes_has_a_wrong_checksum() -> None:
    talk = Ping(ident=0)
    talk.client().is_new()
    talk.gateway.sees(packets.ip(SERVER, CLIENT, packets.ICMP, bytes(8))).is_invalid("checksum")


# Errors about others


def error(gateway: Gateway, quoted: bytes, src: str = ROUTER, dst: str = CLIENT, kind: int = UNREACHABLE) -> Said:
    """``src`` tells ``dst`` what became of the packet, of which it quotes the head."""
    return gateway.sees(packets.icmp(src, dst, kind, data=quoted[:28] if dst == CLIENT else quoted))


def test_an_error_of_the_gateway_itself_is_related_to_a_packet_that_was_refused_before_the_queue() -> None:
    """A traceroute's first hop: the probe's time to live is over before FORWARD, and the gateway says so."""
    gateway = Gateway()
    quoted = packets.udp(*QUESTION)
    gateway.sees(packets.icmp(ROUTER, CLIENT, 11, data=quoted[:28]), hook=OUTPUT).is_related("REPLY")
    gateway.sees(packets.icmp(ROUTER, CLIENT, 11, data=quoted[:8]), hook=OUTPUT).is_invalid("icmp-error-quote")
    error(gateway, quoted, kind=11).is_invalid("icmp-error-unknown")
    assert gateway.conns == []


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_an_error_is_related_to_the_connection_that_it_quotes(kind: int) -> None:
    talk = Udp()
    talk.client().is_new()
    error(talk.gateway, packets.udp(*QUESTION), kind=kind).is_related("REPLY")


def test_an_error_about_an_answer_goes_to_the_server() -> None:
    talk = Udp()
    talk.client().is_new()
    talk.server().is_established("REPLY")
    error(talk.gateway, packets.udp(*ANSWER), ROUTER, SERVER).is_related("ORIGINAL")


def test_an_error_leaves_no_trace_on_the_connection() -> None:
    talk = Udp()
    talk.client().is_new()
    for _ in range(5):
        talk.wait(2)
        error(talk.gateway, packets.udp(*QUESTION)).is_related("REPLY")
    assert talk.entry == "20 [UNREPLIED]"
    talk.client().is_new()


def test_errors_speak_of_tcp_and_of_pings_as_well() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    error(talk.gateway, talk.packet(0, "syn")).is_related("REPLY")
    Ping(talk.gateway).client().is_new()
    error(talk.gateway, packets.icmp(CLIENT, SERVER, 8, ident=7)).is_related("REPLY")
    assert talk.entry == "120 SYN_SENT [UNREPLIED]"


def test_an_error_about_a_connection_that_does_not_exist_is_invalid() -> None:
    error(Gateway(), packets.udp(*QUESTION)).is_invalid("icmp-error-unknown")
    talk = Udp()
    talk.client(refused=True).is_new()
    error(talk.gateway, packets.udp(*QUESTION)).is_invalid("icmp-error-unknown")
    talk.client().is_new()
    talk.wait(30)
    error(talk.gateway, packets.udp(*QUESTION)).is_invalid("icmp-error-unknown")


def test_an_error_to_somebody_who_did_not_send_what_it_quotes_is_invalid() -> None:
    talk = Udp()
    talk.client().is_new()
    error(talk.gateway, packets.udp(*QUESTION), ROUTER, STRANGER).is_invalid("icmp-error-address")
    error(talk.gateway, packets.udp(*QUESTION), ROUTER, SERVER).is_invalid("icmp-error-address")


@pytest.mark.parametrize("size", [0, 19, 20, 23])
def test_an_error_whose_quoted_packet_cannot_be_read_is_invalid(size: int) -> None:
    talk = Udp()
    talk.client().is_new()
    packet = packets.icmp(ROUTER, CLIENT, UNREACHABLE, data=packets.udp(*QUESTION)[:size])
    talk.gateway.sees(packet).is_invalid("icmp-error-quote")


def test_an_error_about_a_later_fragment_or_about_an_error_is_invalid() -> None:
    talk = Udp()
    talk.client().is_new()
    later = packets.fragments(packets.udp(*QUESTION, bytes(100)), 40)[1]
    error(talk.gateway, later).is_invalid("icmp-error-quote")
    of_error = packets.icmp(CLIENT, SERVER, UNREACHABLE, data=packets.udp(*QUESTION))
    error(talk.gateway, of_error).is_invalid("icmp-error-quote")


def test_an_errors_own_checksum_counts_and_the_quoted_one_does_not() -> None:
    talk = Udp()
    talk.client().is_new()
    good = packets.icmp(ROUTER, CLIENT, UNREACHABLE, data=packets.spoiled(packets.udp(*QUESTION, b"?")))
    talk.gateway.sees(good).is_related("REPLY")
    talk.gateway.sees(packets.spoiled(good)).is_invalid("checksum")


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 127])
def test_an_icmpv6_error_is_related_too(kind: int) -> None:
    talk = Udp(client=CLIENT6, server=SERVER6)
    talk.client().is_new()
    error(talk.gateway, packets.udp(*QUESTION6), ROUTER6, CLIENT6, kind).is_related("REPLY")
    error(talk.gateway, packets.udp(*QUESTION6), ROUTER6, SERVER6, kind).is_invalid("icmp-error-address")


def test_packet_too_big_finds_a_quoted_packet_with_extension_headers() -> None:
    talk = Udp(client=CLIENT6, server=SERVER6)
    talk.client().is_new()
    quoted = packets.udp(*QUESTION6, extensions=[(60, bytes(8))])
    error(talk.gateway, quoted, ROUTER6, CLIENT6, TOO_BIG6).is_related("REPLY")


def test_a_redirect_is_related_to_what_its_option_holds() -> None:
    talk = Udp(client=CLIENT6, server=SERVER6)
    talk.client().is_new()
    quoted = packets.udp(*QUESTION6, b"1234")
    option = bytes([4, 1 + (len(quoted) + 7) // 8]) + bytes(6) + quoted + bytes(-len(quoted) % 8)
    link_address = bytes([2, 1]) + bytes(6)

    def redirect(src: str, ttl: int, code: int = 0, options: bytes = option) -> Said:
        told = struct.pack(">BBHI", REDIRECT6, code, 0, 0) + bytes(32) + options
        return talk.gateway.sees(packets.icmp_message(src, CLIENT6, told, ttl=ttl))

    redirect("fe80::1", 255).is_related("REPLY")
    redirect("fe80::1", 64).is_invalid("icmp-error-quote")
    redirect(ROUTER6, 255).is_invalid("icmp-error-quote")
    redirect("fe80::1", 255, code=1).is_invalid("icmp-no-inverse")
    redirect("fe80::1", 255, options=option + link_address).is_related("REPLY")
    redirect("fe80::1", 255, options=link_address + option).is_invalid("icmp-error-quote")  # the kernel reads only one


# Not tracked


@pytest.mark.parametrize("kind", [130, 131, 132, 133, 134, 135, 136, 143, 151, 152])
def test_neighbour_discovery_and_multicast_listeners_are_not_tracked(kind: int) -> None:
    gateway = Gateway()
    gateway.sees(packets.icmp(CLIENT6, SERVER6, kind)).is_untracked()
    assert gateway.conns == []


def test_a_multicast_report_is_not_tracked_behind_its_router_alert() -> None:
    alert = (0, bytes([0, 0, 5, 2, 0, 0, 1, 0]))
    message = bytes([143, 0]) + bytes(6)
    gateway = Gateway()
    gateway.sees(packets.icmp_message("fe80::1", "ff02::16", message, extensions=[alert])).is_untracked()
