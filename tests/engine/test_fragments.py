"""Fragments that nobody joined: the later ones get what the first one got, and none passes unjudged."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctfw import fragments, reason
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ANY, INVALID, NEW, RELATED
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine, Judgement
from ctfw.fragments import Datagram
from ctfw.packet import FORWARD, INPUT
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import KEEP, KILL, Ruleset
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


def test_what_comes_by_another_interface_or_in_another_chain_is_not_of_the_datagram() -> None:
    gateway = Gateway()
    gateway.sees(ipv4(udp(DNS, 1472), 0, True))
    later = ipv4(bytes(100), 1480, False)
    for hook, indev in ((FORWARD, "evil0"), (INPUT, "lan0")):
        judgement = gateway.engine.handle(later, len(later), hook, indev, "wan0", 0, True, gateway.now)
        assert (judgement.verdict, judgement.reason) == (DROP, reason.FRAGMENT)
    assert gateway.sees(later).verdict == ACCEPT, "and it has not broken the honest one"


def test_a_reload_that_forgets_connections_forgets_their_fragments() -> None:
    for existing, verdict in ((KEEP, ACCEPT), (KILL, DROP)):
        gateway = Gateway()
        gateway.sees(ipv4(udp(DNS, 1472), 0, True))
        new = Ruleset([], {}, existing=existing)
        new.succeed(gateway.engine.ruleset, gateway.now)
        gateway.engine.ruleset = new
        assert gateway.sees(ipv4(bytes(100), 1480, False)).verdict == verdict


class Stream:
    """An established TCP connection from the client to port 80; ``end`` is how far its client has sent."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.sees(self.client(0x02, 999, 0))
        self.sees(self.server(0x12, 4999, 1000))
        self.sees(self.client(0x10, 1000, 5000))

    def client(self, flags: int, seq: int, ack: int, size: int = 0) -> bytes:
        return struct.pack("!HHIIBBHHH", 40000, 80, seq, ack, 0x50, flags, 64240, 0, 0) + bytes(size)

    def server(self, flags: int, seq: int, ack: int) -> bytes:
        segment = struct.pack("!HHIIBBHHH", 80, 40000, seq, ack, 0x50, flags, 64240, 0, 0)
        return struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + SERVER + CLIENT + segment

    def sees(self, segment: bytes, offset: int = 0, more: bool = False) -> Judgement:
        packet = segment if len(segment) > 20 and segment[0] == 0x45 else ipv4(segment, offset, more, proto=6)
        return self.gateway.engine.handle(packet, len(packet), FORWARD, "lan0", "wan0", 0, False, self.gateway.now)

    @property
    def end(self) -> int:
        table = self.gateway.engine.tracker.table
        (conn,) = (conn for number in range(table.shards) for conn in table.shard(number))
        assert conn.tcp is not None
        return conn.tcp.original.end


def test_fragments_of_a_segment_that_was_only_let_through_move_no_window() -> None:
    stream = Stream()
    whole = stream.client(0x02, 77777, 0, 1460)  # a SYN inside the connection: ignored
    assert stream.sees(whole, 0, True).verdict == ACCEPT
    assert stream.sees(bytes(1480), 1480, True).verdict == ACCEPT
    assert stream.end == 1000


def test_fragments_move_a_window_no_further_than_it_is_open() -> None:
    stream = Stream()
    stream.sees(stream.client(0x18, 1000, 5000, 1460), 0, True)
    assert stream.end == 2460
    for number in range(1, 44):
        stream.sees(bytes(1480), 1480 * number, True)
    assert stream.end <= 1000 + 64240


def test_fragments_of_an_icmp_error_leave_no_trace_on_the_connection_that_it_quotes() -> None:
    stream = Stream()
    quoted = ipv4(stream.client(0x10, 1000, 5000), 0, False, proto=6)
    message = struct.pack("!BBHI", 3, 1, 0, 0) + quoted
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message) // 8 * 8, 9, 0x2000, 64, 1, 0) + SERVER + CLIENT
    first = head + message[: len(message) // 8 * 8]
    judgement = stream.gateway.engine.handle(first, len(first), FORWARD, "wan0", "lan0", 0, False, stream.gateway.now)
    assert judgement.state == RELATED
    rest = (
        struct.pack("!BBHHHBBH", 0x45, 0, 1500, 9, 0x2000 | len(message) // 8, 64, 1, 0) + SERVER + CLIENT + bytes(1480)
    )
    stream.gateway.engine.handle(rest, len(rest), FORWARD, "wan0", "lan0", 0, False, stream.gateway.now)
    table = stream.gateway.engine.tracker.table
    (conn,) = (conn for number in range(table.shards) for conn in table.shard(number))
    assert conn.tcp is not None
    assert (conn.tcp.original.end, conn.tcp.reply.end, conn.reply_packets) == (1000, 5000, 1)


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
