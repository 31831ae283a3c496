"""Fragments that nobody joined: the later ones get what the first one got, and none passes unjudged."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctfw import fragments, reason
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ANY, INVALID, NEW
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine, Judgement
from ctfw.fragments import Datagram
from ctfw.packet import FORWARD
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import NumberSet
from ctfw.ruleset.verdict import ACCEPT, DROP

SECOND = 1_000_000_000
CLIENT, SERVER = bytes([192, 168, 1, 2]), bytes([203, 0, 113, 2])
DNS, OTHER = 53, 54


class Gateway:
    """UDP to port 53 may open a connection; what is INVALID is dropped by a rule of that name."""

    def __init__(self) -> None:
        chain = 1 << FORWARD
        invalid = Rule("invalid", "", DROP, chain, INVALID)
        dns = Rule("dns", "", ACCEPT, chain, ANY, protos=NumberSet([(17, 17)]), dport=NumberSet([(DNS, DNS)]))
        tcp = Rule("tcp", "", ACCEPT, chain, ANY, protos=NumberSet([(6, 6)]))
        self.engine = Engine(ConnTrack(Settings()), Ruleset([invalid, dns, tcp], {}))
        self.now = 1000 * SECOND

    def sees(self, packet: bytes) -> Judgement:
        return self.engine.handle(packet, len(packet), FORWARD, "lan0", "wan0", 0, True, self.now)


def udp(port: int, size: int) -> bytes:
    return struct.pack("!HHHH", 40000, port, 8 + size, 0x1234) + bytes(size)


def ipv4(payload: bytes, offset: int, more: bool, identity: int = 7, proto: int = 17) -> bytes:
    place = offset >> 3 | (0x2000 if more else 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), identity, place, 64, proto, 0)
    return head + CLIENT + SERVER + payload


def ipv6(payload: bytes, offset: int, more: bool, identity: int = 7) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, 8 + len(payload), 44, 64) + CLIENT * 4 + SERVER * 4
    return header + struct.pack("!BBHI", 17, 0, offset | (1 if more else 0), identity) + payload


@pytest.mark.parametrize("ip", [ipv4, ipv6])
def test_later_fragments_get_what_the_first_one_got(ip) -> None:  # type: ignore[no-untyped-def]
    for port, verdict in ((DNS, ACCEPT), (OTHER, DROP)):
        gateway, whole = Gateway(), udp(port, 3000)
        first = gateway.sees(ip(whole[:1480], 0, True))
        assert (first.verdict, first.state) == (verdict, NEW)
        for start, stop in ((1480, 2960), (2960, 3008)):
            later = gateway.sees(ip(whole[start:stop], start, stop < 3008))
            assert (later.verdict, later.state, later.reason) == (verdict, NEW, 0)
            assert later.rule is not None and later.rule.name == ("dns" if verdict else "policy forward")


def test_a_later_fragment_without_its_first_is_invalid() -> None:
    for packet in (ipv4(bytes(100), 1480, False), ipv6(bytes(100), 1480, False)):
        judgement = Gateway().sees(packet)
        assert (judgement.verdict, judgement.state) == (DROP, INVALID)
        assert judgement.reason == reason.FRAGMENT


def test_another_datagram_is_not_followed() -> None:
    gateway = Gateway()
    gateway.sees(ipv4(udp(DNS, 1472), 0, True))
    assert gateway.sees(ipv4(bytes(100), 1480, False, identity=8)).state == INVALID
    assert gateway.sees(ipv4(bytes(100), 1480, False, proto=6)).state == INVALID
    assert gateway.sees(ipv4(bytes(100), 1480, False)).state == NEW


def test_a_datagram_is_over_with_its_last_byte_and_after_its_time() -> None:
    gateway = Gateway()
    gateway.sees(ipv4(udp(DNS, 1472), 0, True))
    assert gateway.sees(ipv4(bytes(100), 1480, False)).verdict == ACCEPT
    assert gateway.sees(ipv4(bytes(100), 1480, False)).reason == reason.FRAGMENT

    gateway.sees(ipv4(udp(DNS, 1472), 0, True))
    gateway.now += 30 * SECOND
    assert gateway.sees(ipv4(bytes(100), 1480, False)).reason == reason.FRAGMENT


@pytest.mark.parametrize(
    ("name", "offset", "size", "more"),
    [
        ("overlaps the first one", 1472, 100, True),
        ("overlaps a later one", 2000, 1000, True),
        ("covers a later one", 1800, 2000, True),
        ("is the same again", 2480, 800, True),
        ("ends before what was seen", 1480, 800, False),
        ("lies beyond what a datagram can hold", 65528, 100, True),
    ],
)
def test_a_fragment_that_lies_breaks_its_datagram(name: str, offset: int, size: int, more: bool) -> None:
    gateway = Gateway()
    gateway.sees(ipv4(udp(DNS, 1472), 0, True))
    assert gateway.sees(ipv4(bytes(800), 2480, True)).verdict == ACCEPT
    assert gateway.sees(ipv4(bytes(size), offset, more)).reason == reason.FRAGMENT_OVERLAP, name
    honest = gateway.sees(ipv4(bytes(1000), 1480, True))
    assert (honest.verdict, honest.reason) == (DROP, reason.FRAGMENT_OVERLAP)


def test_nothing_comes_behind_the_last_fragment() -> None:
    gateway = Gateway()
    gateway.sees(ipv4(udp(DNS, 1472), 0, True))
    assert gateway.sees(ipv4(bytes(100), 2480, False)).verdict == ACCEPT
    assert gateway.sees(ipv4(bytes(100), 2584, True)).reason == reason.FRAGMENT_OVERLAP


def test_a_second_first_fragment_breaks_the_datagram() -> None:
    gateway = Gateway()
    gateway.sees(ipv4(udp(DNS, 1472), 0, True))
    gateway.sees(ipv4(udp(DNS, 1472), 0, True))
    assert gateway.sees(ipv4(bytes(100), 1480, False)).verdict == DROP


def test_a_flood_of_first_fragments_stays_within_its_limit() -> None:
    gateway = Gateway()
    for identity in range(3 * fragments.MOST):
        gateway.sees(ipv4(udp(DNS, 1472), 0, True, identity=identity))
    assert len(gateway.engine._fragments) == fragments.MOST
    assert gateway.sees(ipv4(bytes(100), 1480, False, identity=0)).state == INVALID
    assert gateway.sees(ipv4(bytes(100), 1480, False, identity=3 * fragments.MOST - 1)).verdict == ACCEPT


def test_a_fragmented_tcp_segment_counts_whole_in_the_window() -> None:
    gateway = Gateway()

    def tcp(to_server: bool, flags: int, seq: int, ack: int, size: int = 0) -> bytes:
        ports = (40000, 80) if to_server else (80, 40000)
        return struct.pack("!HHIIBBHHH", *ports, seq, ack, 0x50, flags, 64240, 0, 0) + bytes(size)

    def answer(segment: bytes) -> bytes:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0)
        return head + SERVER + CLIENT + segment

    def unchecked(packet: bytes) -> Judgement:
        return gateway.engine.handle(packet, len(packet), FORWARD, "lan0", "wan0", 0, False, gateway.now)

    unchecked(ipv4(tcp(True, 0x02, 999, 0), 0, False, proto=6))
    unchecked(answer(tcp(False, 0x12, 4999, 1000)))
    unchecked(ipv4(tcp(True, 0x10, 1000, 5000), 0, False, proto=6))
    segment = tcp(True, 0x18, 1000, 5000, 2980)
    unchecked(ipv4(segment[:1480], 0, True, proto=6))
    unchecked(ipv4(segment[1480:], 1480, False, proto=6))
    assert unchecked(answer(tcp(False, 0x10, 5000, 3980))).verdict == ACCEPT
    assert unchecked(answer(tcp(False, 0x10, 5000, 3981))).reason == reason.TCP_ACK_OVER


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=30))
def test_cover_agrees_with_a_set_of_bytes(pieces: list[tuple[int, int]]) -> None:
    datagram, seen = Datagram(1, 1, 0, None, None, 0), set[int]()
    for first, size in pieces:
        piece = set(range(first, first + size))
        if datagram.cover(first, first + size):
            assert not piece & seen
            seen |= piece
        else:
            assert piece & seen
        assert sum(last - first for first, last in zip(datagram.firsts, datagram.lasts, strict=True)) == len(seen)
