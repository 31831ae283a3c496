"""The share of the table that one source may have (``per_source``)."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from ctfw import reason
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import NEW
from ctfw.conntrack.tracker import ConnTrack
from ctfw.packet import decode

SECOND = 1_000_000_000
SERVER = bytes([203, 0, 113, 2])


def udp4(host: int, port: int) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 1, 0, 64, 17, 0, bytes([192, 168, 1, host]), SERVER)
    return head + struct.pack("!HHHHB", port, 53, 9, 0, 0)


def udp6(host: int, port: int) -> bytes:
    prefix = bytes.fromhex("20010db800000001")
    head = struct.pack("!IHBB", 6 << 28, 9, 17, 64) + prefix + struct.pack("!Q", host) + bytes(15) + b"\1"
    return head + struct.pack("!HHHHB", port, 53, 9, 0, 0)


class Gateway:
    def __init__(self, per_source: int) -> None:
        self.tracker = ConnTrack(Settings({"per_source": per_source}))
        self.now = 1000 * SECOND

    def opens(self, raw: bytes) -> tuple[int, int]:
        """State and reason of a packet that is accepted if it may be."""
        packet = decode(raw, len(raw))
        conn = self.tracker.track(packet, False, self.now)
        if conn is not None:
            self.tracker.confirm(packet, conn, self.now)
        return packet.state, packet.reason


def test_a_source_gets_its_share_and_others_theirs() -> None:
    gateway = Gateway(2)
    assert gateway.opens(udp4(5, 1000)) == (NEW, 0)
    assert gateway.opens(udp4(5, 1001)) == (NEW, 0)
    assert gateway.opens(udp4(5, 1002)) == (0, reason.SOURCE_FULL)
    assert gateway.opens(udp4(5, 1000)) == (NEW, 0), "a connection that it has goes on"
    assert gateway.opens(udp4(6, 1000)) == (NEW, 0)


def test_in_ipv6_a_whole_64_is_one_source() -> None:
    gateway = Gateway(2)
    assert [gateway.opens(udp6(host, 1000))[1] for host in (1, 2, 3)] == [0, 0, reason.SOURCE_FULL]


def test_what_expires_makes_room() -> None:
    gateway = Gateway(1)
    gateway.opens(udp4(5, 1000))
    gateway.now += 31 * SECOND
    for _ in range(64):
        gateway.tracker.sweep(gateway.now)
    assert gateway.opens(udp4(5, 1001)) == (NEW, 0)


def test_switched_on_later_it_counts_what_is_there() -> None:
    gateway = Gateway(0)
    for port in (1000, 1001, 1002):
        assert gateway.opens(udp4(5, port)) == (NEW, 0)
    gateway.tracker.reconfigure(Settings({"per_source": 3}))
    assert gateway.opens(udp4(5, 1003)) == (0, reason.SOURCE_FULL)
    gateway.tracker.reconfigure(Settings())
    assert gateway.opens(udp4(5, 1003)) == (NEW, 0)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(0, 20)), max_size=60))
def test_counts_are_those_of_the_table(steps: list[tuple[int, int, int]]) -> None:
    gateway = Gateway(4)
    for host, port, seconds in steps:
        gateway.now += seconds * SECOND
        gateway.opens(udp4(host, port))
        gateway.tracker.sweep(gateway.now)
        table = gateway.tracker.table
        held = [conn.key[4] for number in range(table.shards) for conn in table.shard(number)]
        for one in range(1, 5):
            raw = udp4(one, 1)
            assert table.count_of_source(decode(raw, len(raw)).key) == held.count(one) <= 4
