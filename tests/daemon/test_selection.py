"""The filters of `ctfw list`: each word by itself, all together, and what is refused."""

import struct
from collections.abc import Mapping

import pytest

from ctfw.conntrack.settings import Settings
from ctfw.conntrack.tracker import ConnTrack
from ctfw.packet import TCP, UDP, decode
from ctfw.service.selection import WORDS, Selection

NOW = 1_000_000_000_000
HOME, WORLD = bytes([192, 168, 1, 2]), bytes([203, 0, 113, 2])
V6_HOME, V6_WORLD = bytes.fromhex("fd00000100000000") + bytes(7) + b"\2", bytes.fromhex("20010db8") + bytes(11) + b"\2"


def ip(proto: int, src: bytes, dst: bytes, payload: bytes) -> bytes:
    if len(src) == 16:
        return struct.pack("!IHBB", 6 << 28, len(payload), proto, 64) + src + dst + payload
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, proto, 0) + src + dst + payload


def syn(src: bytes, dst: bytes, dport: int) -> bytes:
    return ip(TCP, src, dst, struct.pack("!HHIIBBHHH", 40000, dport, 1, 0, 0x50, 2, 64240, 0, 0))


def udp(src: bytes, dst: bytes, sport: int, dport: int) -> bytes:
    return ip(UDP, src, dst, struct.pack("!HHHH", sport, dport, 8, 0))


@pytest.fixture(scope="module")
def table() -> ConnTrack:
    """web: TCP, unanswered; dns: UDP with an answer and mark 0x15; v6: TCP over IPv6; ping."""
    tracker = ConnTrack(Settings())
    for raw in (
        syn(HOME, WORLD, 443),
        udp(HOME, WORLD, 5000, 53),
        udp(WORLD, HOME, 53, 5000),
        syn(V6_HOME, V6_WORLD, 443),
        ip(1, HOME, WORLD, struct.pack("!BBHHH", 8, 0, 0, 7, 1)),
    ):
        packet = decode(raw, len(raw))
        conn = tracker.track(packet, False, NOW)
        assert conn is not None
        tracker.confirm(packet, conn, NOW)
        if packet.proto == UDP:
            conn.mark = 0x15
    return tracker


def meant(tracker: ConnTrack, words: Mapping[str, object]) -> set[str]:
    names = {(6, 13): "web", (17, 13): "dns", (6, 37): "v6", (1, 13): "ping"}
    selection = Selection(words)
    every = [conn for number in range(tracker.table.shards) for conn in tracker.table.shard(number)]
    return {names[conn.key[0], len(conn.key)] for conn in every if selection.has(conn)}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ({}, {"web", "dns", "v6", "ping"}),
        ({"family": "ipv4"}, {"web", "dns", "ping"}),
        ({"family": "ipv6"}, {"v6"}),
        ({"proto": "tcp"}, {"web", "v6"}),
        ({"proto": "17"}, {"dns"}),
        ({"src": "192.168.1.2"}, {"web", "dns", "ping"}),
        ({"src": "192.168.0.0/16"}, {"web", "dns", "ping"}),
        ({"src": "203.0.113.2"}, set()),
        ({"src": "fd00:1::/64"}, {"v6"}),
        ({"dst": "2001:db8::2"}, {"v6"}),
        ({"reply_src": "203.0.113.0/24"}, {"web", "dns", "ping"}),
        ({"reply_dst": "fd00:1::2"}, {"v6"}),
        ({"sport": 40000}, {"web", "v6"}),
        ({"dport": "53"}, {"dns"}),
        ({"dport": "0"}, set()),
        ({"state": "syn_sent"}, {"web", "v6"}),
        ({"state": "ESTABLISHED"}, set()),
        ({"status": "UNREPLIED"}, {"web", "v6", "ping"}),
        ({"status": "seen_reply"}, {"dns"}),
        ({"status": "ASSURED"}, set()),
        ({"mark": "21"}, {"dns"}),
        ({"mark": "0x10/0x10"}, {"dns"}),
        ({"mark": "0/0xff"}, {"web", "v6", "ping"}),
        ({"proto": "tcp", "family": "ipv4", "dport": 443, "src": "192.168.1.0/24"}, {"web"}),
    ],
)
def test_a_connection_is_meant_when_all_words_agree(
    table: ConnTrack, words: Mapping[str, object], wanted: set[str]
) -> None:
    assert meant(table, words) == wanted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", "ipx"),
        ("proto", "256"),
        ("proto", "tpc"),
        ("src", "192.168.1"),
        ("dst", "::1/200"),
        ("sport", "70000"),
        ("dport", "-1"),
        ("state", "OPEN"),
        ("status", "DYING"),
        ("mark", "1/x"),
        ("color", "red"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name}"):
        Selection({name: value})


def test_every_word_is_tested_here() -> None:
    assert set(WORDS) == {
        "family", "proto", "src", "dst", "reply_src", "reply_dst", "sport", "dport", "state", "status", "mark",
    }  # fmt: skip
