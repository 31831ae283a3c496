"""Protocols without a tracker of their own, GRE, fragments and IPv6 extension headers, as conversations."""

import struct

import pytest
from engine import packets
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, STRANGER, Gateway

ESP, IPIP, IPV6_IN_IPV4, DCCP = 50, 4, 41, 33
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NO_NEXT, DESTINATION = 0, 43, 44, 51, 59, 60


def from_client(proto: int, payload: bytes = b"12345678") -> bytes:
    return packets.ip(CLIENT, SERVER, proto, payload)


def from_server(proto: int, payload: bytes = b"12345678") -> bytes:
    return packets.ip(SERVER, CLIENT, proto, payload)


@pytest.mark.parametrize("proto", [ESP, IPIP, IPV6_IN_IPV4, DCCP, 0, 255])
def test_a_pair_of_addresses_is_one_connection_of_a_protocol(proto: int) -> None:
    gateway = Gateway()
    gateway.sees(from_client(proto)).is_new()
    gateway.sees(from_client(proto, b"")).is_new()
    assert gateway.entry_of(from_client(proto)) == "600 [UNREPLIED]"
    gateway.sees(from_server(proto)).is_established("REPLY")
    gateway.wait(60)
    gateway.sees(from_client(proto)).is_established("ORIGINAL")
    assert gateway.entry_of(from_client(proto)) == "600"  # and never assured
    assert len(gateway.conns) == 1
    gateway.sees(packets.ip(STRANGER, SERVER, proto, b"")).is_new()


def test_ipv6_is_tracked_alike() -> None:
    gateway = Gateway()
    gateway.sees(packets.ip(CLIENT6, SERVER6, ESP, b"")).is_new()
    gateway.sees(packets.ip(SERVER6, CLIENT6, ESP, b"")).is_established("REPLY")


# GRE


def gre(version: int = 0, protocol: int = 0x0800, call: int = 0) -> bytes:
    return struct.pack(">HHHH", version, protocol, 0, call)


def test_gre_is_assured_with_the_packet_after_the_answer() -> None:
    gateway = Gateway()
    gateway.sees(from_client(packets.GRE, gre())).is_new()
    assert gateway.entry_of(from_client(packets.GRE, gre())) == "30 [UNREPLIED]"
    gateway.sees(from_server(packets.GRE, gre())).is_established("REPLY")
    assert gateway.entry_of(from_client(packets.GRE, gre())) == "30"
    gateway.sees(from_client(packets.GRE, gre())).is_established("ORIGINAL")
    assert gateway.entry_of(from_client(packets.GRE, gre())) == "180 [ASSURED]"


def test_enhanced_gre_is_told_apart_by_its_call_and_carries_ppp_alone() -> None:
    gateway = Gateway()
    gateway.sees(from_client(packets.GRE, gre(1, 0x880B, call=1))).is_new()
    gateway.sees(from_client(packets.GRE, gre(1, 0x880B, call=2))).is_new()
    assert len(gateway.conns) == 2
    gateway.sees(from_client(packets.GRE, gre(1, 0x0800))).is_invalid("gre-protocol")


# Fragments (test_fragments.py has what they may not do)


def test_the_fragments_of_a_datagram_belong_to_the_connection_of_the_first() -> None:
    gateway = Gateway()
    whole = packets.udp(CLIENT, SERVER, 40000, 53, bytes(3000))
    for fragment in packets.fragments(whole, 1480):
        gateway.sees(fragment).is_new()
    gateway.sees(packets.udp(SERVER, CLIENT, 53, 40000)).is_established("REPLY")
    for fragment in packets.fragments(whole, 1480):
        gateway.sees(fragment).is_established("ORIGINAL")
    assert len(gateway.conns) == 1


def test_a_fragment_whose_first_was_not_seen_belongs_to_nothing() -> None:
    gateway = Gateway()
    for later in packets.fragments(packets.udp(CLIENT, SERVER, 40000, 53, bytes(3000)), 1480)[1:]:
        gateway.sees(later).is_invalid("fragment")
    lone = (FRAGMENT, struct.pack(">BBHI", 0, 0, 1480, 99))
    gateway.sees(packets.udp(CLIENT6, SERVER6, 40000, 53, extensions=[lone])).is_invalid("fragment")


def test_a_datagram_whose_rest_got_lost_is_not_in_the_way_of_a_later_one() -> None:
    gateway = Gateway()
    first, rest = packets.fragments(packets.udp(CLIENT, SERVER, 40000, 53, bytes(2000)), 1480)
    gateway.sees(first).is_new()
    gateway.wait(3600)
    gateway.sees(first).is_new()
    gateway.sees(rest).is_new()


# IPv6 extension headers


@pytest.mark.parametrize(
    "extensions",
    [
        [(HOP_BY_HOP, bytes(8))],
        [(DESTINATION, b"\0\2" + bytes(22))],
        [(ROUTING, bytes(8))],
        [(AUTHENTICATION, b"\0\4" + bytes(22))],
        [(HOP_BY_HOP, bytes(8)), (ROUTING, bytes(8)), (FRAGMENT, bytes(8)), (DESTINATION, bytes(8))],
        [(DESTINATION, bytes(8))] * 100,
    ],
    ids=["hop-by-hop", "destination", "routing", "authentication", "several", "a-hundred"],
)
def test_extension_headers_do_not_hide_the_ports(extensions: list[tuple[int, bytes]]) -> None:
    gateway = Gateway()
    ends = CLIENT6, SERVER6, 40000, 53
    gateway.sees(packets.udp(*ends, b"?", extensions=extensions)).is_new()
    gateway.sees(packets.udp(*ends, b"?")).is_new()
    gateway.sees(packets.udp(SERVER6, CLIENT6, 53, 40000, b"!")).is_established("REPLY")
    assert len(gateway.conns) == 1


def test_a_chain_that_ends_nowhere_is_invalid() -> None:
    def chain(*extensions: tuple[int, bytes]) -> bytes:
        return packets.ip(CLIENT6, SERVER6, NO_NEXT, b"", extensions=extensions)

    Gateway().sees(chain()).is_invalid("ipv6-extensions")
    Gateway().sees(chain((DESTINATION, bytes(8)))).is_invalid("ipv6-extensions")
    beyond = packets.ip(CLIENT6, SERVER6, DESTINATION, bytes([packets.UDP, 200]) + bytes(22))
    Gateway().sees(beyond).is_invalid("l4-truncated")
    cut = packets.ip(CLIENT6, SERVER6, DESTINATION, bytes([packets.UDP, 0, 0, 0]))
    Gateway().sees(cut).is_invalid("l4-truncated")


# IP headers that lie


def test_headers_that_lie_about_their_length_are_invalid() -> None:
    good = packets.udp(CLIENT, SERVER, 40000, 53, b"?")
    Gateway().sees(b"\x44" + good[1:]).is_invalid("ip-header")
    Gateway().sees(b"\x4f" + good[1:]).is_invalid("ip-header")
    Gateway().sees(good[:2] + b"\xff\xff" + good[4:]).is_invalid("ip-length")
    Gateway().sees(good[:2] + b"\0\x13" + good[4:]).is_invalid("ip-length")
    Gateway().sees(b"\x55" + good[1:]).is_invalid("not-ip")
    Gateway().sees(b"").is_invalid("not-ip")
    six = packets.udp(CLIENT6, SERVER6, 40000, 53, b"?")
    Gateway().sees(six[:4] + b"\xff\xff" + six[6:]).is_invalid("ip-length")
    Gateway().sees(six[:39]).is_invalid("not-ip")


def test_ipv4_options_do_not_hide_the_ports() -> None:
    gateway = Gateway()
    datagram = packets.udp(CLIENT, SERVER, 40000, 53, b"?")
    gateway.sees(packets.ip(CLIENT, SERVER, packets.UDP, datagram[20:], options=b"\x94\4\0\0")).is_new()
    gateway.sees(packets.udp(SERVER, CLIENT, 53, 40000)).is_established("REPLY")


def test_bytes_behind_the_packet_do_not_count() -> None:
    gateway = Gateway()
    datagram = packets.udp(CLIENT, SERVER, 40000, 53, b"?")
    gateway.sees(datagram + b"padding of a short frame").is_new()


def test_a_segment_of_more_than_64_kilobytes_is_tracked() -> None:
    """Without a length in its header: the kernel joined what the card will take apart again (GSO)."""
    gateway = Gateway()
    gateway.sees(packets.tcp(CLIENT, SERVER, 40000, 80, "syn")).is_new()
    gateway.sees(packets.tcp(SERVER, CLIENT, 80, 40000, "syn ack", ack=1)).is_established("REPLY")
    short = packets.tcp(CLIENT, SERVER, 40000, 80, "ack", seq=1, ack=1)
    big = short[:2] + b"\0\0" + short[4:] + bytes(60_000)
    gateway.sees(big + bytes(10_000), check=False).is_established("ORIGINAL")
    assert gateway.entry_of(short).startswith("300 ")  # 70,000 bytes wait to be acknowledged
