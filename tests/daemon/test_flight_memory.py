"""The recorder's memory by itself: what is worth keeping, what it may take, and what comes out again."""

from collections.abc import Iterator

import pytest
from daemon.fakekernel import BAD, GOOD, engine, udp
from engine import packets

from ctfw.config.recorder import RecorderSettings
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import ASSURED, CONFIRMED, OFFLOAD, SEEN_REPLY, TO_OFFLOAD, UPDATED
from ctfw.engine import Engine
from ctfw.packet import FORWARD, INPUT
from ctfw.service.flight import CHUNK, FIRST, FLOOD, MAX_AGE, Flight, Record, unpack

SECOND = 1_000_000_000
ON = RecorderSettings(minutes=1, memory=1 << 20, headers=64)


def recorder(settings: RecorderSettings = ON) -> tuple[Engine, Flight]:
    one = engine()
    flight = Flight(one)
    flight.configure(settings)
    return one, flight


def judge(one: Engine, flight: Flight, data: bytes, now: int = 0, hook: int = FORWARD, indev: str = "lan0") -> None:
    one.handle(data, len(data), hook, indev, "wan0", 7, False, now)
    flight.look(data, len(data), now, hook, indev, "wan0", 7, "verified")


def records(flight: Flight) -> list[Record]:
    return [record for chunk in flight.chunks() if chunk is not None for record in unpack(chunk)]


def only(one: Engine) -> Conn:
    """The one connection in the table."""
    table = one.tracker.table
    (conn,) = [conn for number in range(table.shards) for conn in table.shard(number)]
    return conn


def test_a_record_says_all_that_is_known() -> None:
    one, flight = recorder()
    judge(one, flight, udp(GOOD, 100), 5 * SECOND)
    judge(one, flight, udp(BAD), 6 * SECOND, INPUT, "odd name")
    first, second = records(flight)
    assert (first.now, first.created, first.packets, first.octets) == (5 * SECOND, 5 * SECOND, 1, 120)
    assert (first.data, first.length) == (udp(GOOD, 100)[:64], 120)
    assert (first.hook, first.indev, first.outdev, first.mark, first.checksum) == (
        FORWARD,
        "lan0",
        "wan0",
        7,
        "verified",
    )
    assert (first.verdict, first.state, first.direction, first.rule) == ("accept", 1, 0, "good")
    assert first.note() == "ctfw-flight verdict=accept state=NEW rule=good generation=0"
    assert (second.verdict, second.rule, second.hook, second.indev) == ("drop", "policy input", INPUT, "odd name")


def test_a_refused_tcp_connection_is_kept() -> None:
    one, flight = recorder()
    judge(one, flight, packets.tcp("10.0.0.1", "10.0.0.2", 40000, 25, "syn"))
    (record,) = records(flight)
    assert (record.verdict, record.state, record.status) == ("drop", 1, 0)


def test_what_only_ctfw_notes_on_a_connection_is_left_out() -> None:
    one, flight = recorder()
    judge(one, flight, udp(GOOD))
    conn = only(one)
    conn.status = CONFIRMED | SEEN_REPLY | ASSURED | OFFLOAD | TO_OFFLOAD | UPDATED
    judge(one, flight, udp(GOOD))
    assert records(flight)[1].status == CONFIRMED | SEEN_REPLY | ASSURED | OFFLOAD


def test_a_connection_that_outlived_a_reboot_is_kept() -> None:
    one, flight = recorder()
    judge(one, flight, udp(GOOD), 5 * SECOND)
    conn = only(one)
    conn.created = -3600 * SECOND
    judge(one, flight, udp(GOOD), 6 * SECOND)
    assert [record.created for record in records(flight)] == [5 * SECOND, -3600 * SECOND]


def test_the_middle_of_a_connection_is_left_out() -> None:
    one, flight = recorder()
    for _ in range(10):
        judge(one, flight, udp(GOOD))
    assert len(records(flight)) == flight.kept == FIRST
    judge(one, flight, udp(GOOD, source=2))
    assert flight.kept == FIRST + 1


def test_a_flood_of_dropped_packets_is_kept_in_part() -> None:
    one, flight = recorder(RecorderSettings(memory=16 << 20))
    for number in range(3 * FLOOD):
        judge(one, flight, udp(BAD, source=number + 1), SECOND)
    assert (flight.kept, flight.skipped) == (FLOOD, 2 * FLOOD)
    judge(one, flight, udp(GOOD), SECOND)  # a connection's beginning is none of it
    assert flight.kept == FLOOD + 1
    judge(one, flight, udp(BAD), 2 * SECOND)
    assert flight.kept == FLOOD + 2


def fill(flight: Flight, one: Engine, count: int, begin: int = 0) -> Iterator[int]:
    for number in range(count):
        judge(one, flight, udp(GOOD, 60, source=number % 65000 + 1), begin + number * 1000)
        yield flight._size + len(flight._open)


@pytest.mark.parametrize(("memory", "headers"), [(1 << 20, 64), (1 << 20, 80), (1_500_000, 70)])
def test_memory_never_exceeds_its_limit_and_is_used(memory: int, headers: int) -> None:
    one, flight = recorder(RecorderSettings(memory=memory, headers=headers))
    count = 15_000
    assert memory - 2 * CHUNK < max(fill(flight, one, count)) <= memory
    figures = flight.figures(SECOND)
    assert figures is not None
    assert memory - 2 * CHUNK < figures["used"] == flight._size + len(flight._open)
    kept = records(flight)
    assert [record.now for record in kept] == [n * 1000 for n in range(count - len(kept), count)]  # the newest


def test_what_is_older_than_the_minutes_goes() -> None:
    one, flight = recorder()
    judge(one, flight, udp(GOOD), 0)
    flight.tick(MAX_AGE - 1)
    assert flight._open
    flight.tick(MAX_AGE)
    assert not flight._open
    flight.tick(60 * SECOND)
    assert len(records(flight)) == 1
    flight.tick(61 * SECOND)
    assert records(flight) == []
    assert flight._size == 0


def test_a_slow_reader_misses_what_goes_meanwhile_and_keeps_nothing_alive() -> None:
    one, flight = recorder()
    list(fill(flight, one, 15_000))
    reading = flight.chunks()
    first = next(reading)
    assert first is not None
    list(fill(flight, one, 15_000, SECOND))
    rest = list(reading)
    assert rest.count(None) == len(rest) > 5
    assert records(flight)


def test_a_reload_ends_a_chunk_and_off_forgets() -> None:
    one, flight = recorder()
    judge(one, flight, udp(GOOD))
    other = engine().ruleset
    other.rules[0].name = "better"
    other.generation = 1
    one.ruleset = other
    flight.configure(ON)
    judge(one, flight, udp(GOOD, source=2))
    assert [(record.rule, record.generation) for record in records(flight)] == [("good", 0), ("better", 1)]
    flight.configure(None)
    assert records(flight) == []
    assert flight.figures(0) is None


def test_a_chunk_can_be_read_alone() -> None:
    one, flight = recorder(RecorderSettings(memory=4 << 20))
    list(fill(flight, one, 3000))
    chunks = [chunk for chunk in flight.chunks() if chunk is not None]
    assert len(chunks) > 3
    assert all(len(chunk) < CHUNK + 500 for chunk in chunks)
    assert [next(unpack(chunk)).rule for chunk in chunks] == ["good"] * len(chunks)


@pytest.mark.parametrize("data", [b"", b"\x45", b"\x60" * 20, b"\x45" + bytes(30), bytes(100)])
def test_whatever_comes_is_kept(data: bytes) -> None:
    one, flight = recorder()
    judge(one, flight, data)
    (record,) = records(flight)
    assert record.data == data[:64]
    assert record.note().startswith("ctfw-flight verdict=drop state=INVALID")
