"""After a crash: what was on record is picked up, however old it is, and right packets are not called INVALID."""

import os
import time

import pytest
from engine.conversation import Gateway, Tcp, Udp
from engine.test_helpers_ftp import logged_in
from handover.lives import BOOT, OTHER_BOOT, RULES, UNIX, exact_log, reborn, saving
from hypothesis import given
from hypothesis import strategies as st

from ctfw.config import Stored
from ctfw.conntrack.image import FORMAT, conn_of_bytes, conn_to_bytes
from ctfw.conntrack.settings import FTP, PPTP, SIP, TFTP
from ctfw.conntrack.state import ASSURED
from ctfw.packet import FORWARD
from ctfw.ruleset.ruleset import KILL, RECHECK, Ruleset
from ctfw.ruleset.verdict import ACCEPT
from ctfw.service.restoring import restore
from ctfw.service.saving import PIECE, SLICE, Saving
from ctfw.service.snapshot import CONNECTIONS, MAGIC, SHARD, RulesNote, SnapshotError, frame_bytes, read_log


def test_a_connection_goes_on_whatever_it_did_since() -> None:
    talk = Tcp().opened()
    log = exact_log(talk.gateway)
    for _ in range(300):
        talk.client("psh ack", b"x" * 1400)
        talk.server("ack", b"y" * 1400)
    reborn(talk.gateway, log)
    talk.server("ack", b"y" * 1400).is_established("REPLY")
    talk.client("ack").is_established("ORIGINAL")
    talk.closed()
    assert talk.entry.startswith("120 TIME_WAIT")


def test_what_is_sent_once_more_and_acknowledged_far_ahead_is_right_too() -> None:
    talk = Tcp().opened()
    reborn(talk.gateway, exact_log(talk.gateway))
    talk.client("psh ack", b"old" * 100, seq=1).is_established("ORIGINAL")
    talk.server("ack", seq=1, ack=200_000).is_established("REPLY")  # it had got that before
    talk.server("psh ack", b"y" * 100, seq=1, ack=200_000).is_established("REPLY")
    talk.client("ack", seq=200_000, ack=90_000).is_established("ORIGINAL")


@pytest.mark.parametrize("known", ["syn", "syn ack"])
def test_one_that_was_being_opened_may_be_open_by_now(known: str) -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    if known == "syn ack":
        talk.server("syn ack")
    log = exact_log(talk.gateway)
    if known == "syn":
        talk.server("syn ack")
    talk.client("ack")
    reborn(talk.gateway, log)
    talk.server("ack", b"220 ready\r\n").is_established("REPLY")
    talk.client("ack", b"USER x\r\n").is_established("ORIGINAL")


def test_one_that_was_being_opened_and_still_is_may_go_on_opening() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    reborn(talk.gateway, exact_log(talk.gateway))
    talk.server("syn ack").is_established("REPLY")
    talk.client("ack").is_established("ORIGINAL")
    assert "ESTABLISHED" in talk.entry


def test_it_is_assured_again_once_it_has_shown_that_it_lives() -> None:
    talk = Tcp().opened()
    talk.client("ack")
    assert talk.conn.status & ASSURED
    reborn(talk.gateway, exact_log(talk.gateway))
    assert not talk.conn.status & ASSURED
    talk.client("ack")
    assert talk.conn.status & ASSURED


def test_a_control_connection_of_ftp_keeps_its_helper() -> None:
    talk = logged_in()
    reborn(talk.gateway, exact_log(talk.gateway))
    talk.client("ack", b"NOOP\r\n").is_established("ORIGINAL")
    talk.client("ack", b"PORT 10,1,0,2,100,2\r\n").is_established("ORIGINAL")
    assert len(talk.gateway.expected) == 1


def test_the_second_log_tells_what_the_first_one_does_not_yet() -> None:
    gateway = Gateway()
    first, second = Udp(gateway, sport=1), Udp(gateway, sport=2)
    first.client()
    with saving(gateway) as (saver, record):
        saver.begin(gateway.now)
        saver.step(gateway.now)
        second.client()
        saver.begin(gateway.now)  # and the process dies
        new, old = record.logs()
        assert (new.is_complete(), old.is_complete()) == (False, True)
        reborn(gateway, new, old)
    assert [first.entry, second.entry] == ["30 [UNREPLIED]", ""]


def test_the_newest_word_counts() -> None:
    gateway = Gateway()
    talk = Tcp(gateway)
    with saving(gateway) as (saver, record):
        for step in (talk.opened, talk.closed):
            step()
            saver.begin(gateway.now)
            saver.step(gateway.now)
        new, old = record.logs()
        gateway.wait(121)
        done = reborn(gateway, new, old)  # over, though the older log knows it as open for days
    assert done.connections == 0


def test_the_newest_word_counts_within_a_log() -> None:
    gateway = Gateway()
    talk = Udp(gateway)
    talk.client()
    old = conn_to_bytes(gateway.conns[0], gateway.now)
    talk.server()
    new = conn_to_bytes(gateway.conns[0], gateway.now)
    data = exact_log(Gateway()).header.to_bytes()
    for body in (old, new):
        data += frame_bytes(CONNECTIONS, 0, body, gateway.now, UNIX)
    reborn(gateway, read_log(data))
    assert talk.entry == "30"  # answered


def test_a_helper_finds_the_numbers_that_it_needs_or_the_connection_is_refused() -> None:
    conn = logged_in().conn
    for helper, numbers in ((FTP, [1]), (PPTP, [0, 0, -1, 0]), (SIP, []), (TFTP, [1])):
        conn.helper, conn.helper_data = helper, numbers
        with pytest.raises(ValueError, match=r"helper's numbers|call"):
            conn_of_bytes(conn_to_bytes(conn, 0), 0, 0)


def test_one_that_is_gone_does_not_come_back_with_a_shard_that_is_whole() -> None:
    gateway = Gateway()
    talk = Tcp(gateway).opened()
    with saving(gateway) as (saver, record):
        saver.begin(gateway.now)
        saver.step(gateway.now)
        gateway.tracker.remove(talk.conn, gateway.now)
        saver.begin(gateway.now)
        saver.step(gateway.now)
        data = record.data(1)
        cut = read_log(data[: len(data) - 1])
        assert cut.cut and not cut.is_complete()
        assert reborn(gateway, cut, read_log(record.data(0))).connections == 0


def test_what_was_killed_stays_cut_even_if_it_was_alive_on_record() -> None:
    gateway = Gateway()
    talk = Tcp(gateway).opened()
    with saving(gateway) as (saver, record):
        saver.begin(gateway.now)
        saver.step(gateway.now)
        gateway.tracker.kill(talk.conn, False, gateway.now)
        saver.begin(gateway.now)
        saver.step(gateway.now)
        data = record.data(1)
        first = next(frame for frame in read_log(data).frames if frame.kind == SHARD)
        done = reborn(gateway, read_log(data[: first.body.stop]), read_log(record.data(0)))
    assert done.connections == 0
    talk.client("psh ack", b"still there?").is_dropped_unasked("killed")
    reborn(gateway, exact_log(gateway), exact=True)
    talk.client("psh ack", b"still there?").is_dropped_unasked("killed")


def test_young_connections_are_on_record_before_their_turn() -> None:
    gateway = Gateway()
    for port in range(3000):
        Udp(gateway, sport=10000 + port).client()
    clock = [gateway.now]

    def ticking() -> int:
        clock[0] += 100_000
        return clock[0]

    with saving(gateway) as (_, record):
        saver = Saving(gateway.engine, record.descriptors, 0, BOOT, Stored, ticking)
        saver.begin(gateway.now)
        steps = 0
        while record.logs()[0].last(CONNECTIONS) is None or steps < 12:  # more than a second of ticks
            saver.step(clock[0])
            clock[0] += 100_000_000
            steps += 1
        assert not record.logs()[0].is_complete()  # a slice writes a part of the table
        gateway.now = clock[0]
        young = [Udp(gateway, sport=port) for port in range(1, 20)]
        for talk in young:
            talk.client()
        for _ in range(10):  # a second
            saver.step(clock[0])
            clock[0] += 100_000_000
        assert not record.logs()[0].is_complete()
        gateway.now = clock[0]
        reborn(gateway, *record.logs())
    assert all(talk.entry for talk in young)


def test_it_takes_its_time_from_the_loop_in_slices() -> None:
    gateway = Gateway()
    for port in range(20000):
        Udp(gateway, sport=10000 + port).client()
    with saving(gateway) as (_, record):
        saver = Saving(gateway.engine, record.descriptors, 0, BOOT, Stored)
        longest = []
        saver.begin(time.monotonic_ns())
        while saver.complete < 0:
            begun = time.thread_time_ns()
            saver.step(time.monotonic_ns())
            longest.append(time.thread_time_ns() - begun)
        assert len(longest) > 3
        assert sorted(longest)[len(longest) // 2] < 6_000_000


def test_the_memory_of_a_log_that_is_out_of_date_is_given_back_in_slices() -> None:
    gateway = Gateway()
    clock = [gateway.now]

    def ticking() -> int:
        clock[0] += SLICE // 2
        return clock[0]

    with saving(gateway) as (_, record):
        saver = Saving(gateway.engine, record.descriptors, 0, BOOT, Stored, ticking)
        saver.begin(gateway.now)
        while saver.complete < 0:
            saver.step(clock[0])
        old = saver.log_of(1)
        os.ftruncate(old, 9 * PIECE)
        sizes: list[int] = []
        while not sizes or sizes[-1] >= PIECE:
            clock[0] += 1_000_000_000
            saver.step(clock[0])
            sizes.append(os.fstat(old).st_size)
        assert sizes[:-1] == [7 * PIECE, 5 * PIECE, 3 * PIECE]
        while saver.complete < 1:
            saver.step(clock[0])
        assert [log.header.cycle for log in record.logs()] == [1, 0]


def test_after_a_reboot_the_wall_clock_says_how_long_it_was() -> None:
    gateway = Gateway()
    talk = Udp(gateway)
    talk.client()
    log = exact_log(gateway)
    gateway.now = 5_000_000_000  # the steady clock began anew
    unix = log.frames[-1].unix
    for passed, left in ((10, 1), (40, 0), (-10_000, 1)):
        gateway.tracker.flush()
        gateway.engine.ruleset = Ruleset([], {FORWARD: ACCEPT})
        done = restore([log], gateway.engine, gateway.now, unix + passed * 1_000_000_000, OTHER_BOOT, False, RULES)
        assert done.connections == left


def test_the_rules_go_on_with_their_numbers() -> None:
    gateway = Gateway()
    gateway.engine.ruleset = Ruleset([], {FORWARD: ACCEPT})
    log = exact_log(gateway)
    note = log.rules()
    assert note is not None
    for existing, digest, numbers in (
        (0, note.digest, (0, 0)),
        (KILL, note.digest, (0, 0)),
        (0, RULES, (1, 0)),
        (RECHECK, RULES, (1, 1)),
    ):
        rules = Ruleset([], {FORWARD: ACCEPT}, existing=existing)
        gateway.engine.ruleset = rules
        restore([log], gateway.engine, gateway.now, UNIX, BOOT, True, digest)
        assert (rules.generation, rules.floor) == numbers


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: b"", "not written by ctfw"),
        (lambda data: b"GIF89a" + data, "not written by ctfw"),
        (lambda data: data[:20], "cut off in its header"),
        (lambda data: data[:15] + b"\xff" + data[16:], "header is damaged"),
        (
            lambda data: data[: len(MAGIC)] + (FORMAT + 1).to_bytes(2, "little") + b"9.9\0" + data[len(MAGIC) + 6 :],
            f"of format {FORMAT + 1}, written by ctfw 9.9",
        ),
    ],
)
def test_what_is_no_log_of_ours_is_refused_in_words(spoil: object, words: str) -> None:
    gateway = Gateway()
    with saving(gateway) as (saver, record):
        saver.finish(gateway.now)
        data = record.data(0)
    assert callable(spoil)
    with pytest.raises(SnapshotError, match=words):
        read_log(spoil(data))


@given(st.binary(max_size=300))
def test_no_bytes_are_read_as_anything_else(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        read_log(data)


@given(st.integers(0, 100_000), st.binary(min_size=1, max_size=8))
def test_a_damaged_log_counts_up_to_the_damage(at: int, junk: bytes) -> None:
    gateway = Gateway()
    Tcp(gateway).opened()
    Udp(gateway).client()
    with saving(gateway) as (saver, record):
        saver.finish(gateway.now)
        data = record.data(0)
    at %= len(data)
    spoiled = data[:at] + junk + data[at + len(junk) :]
    try:
        log = read_log(spoiled)
    except SnapshotError:
        return
    assert spoiled == data or log.cut
    reborn(gateway, log)


@given(st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4))
def test_whatever_a_connection_is_said_to_be_the_engine_can_work_with_it(changes: list[tuple[int, bytes]]) -> None:
    """The bodies themselves are wrong, and their checksums right: a newer ctfw's mistake, say."""
    talk = logged_in()
    talk.client("ack", b"PORT 10,1,0,2,100,2\r\n")
    gateway = talk.gateway
    log = exact_log(gateway)
    data = bytearray(log.header.to_bytes())
    for frame in log.frames:
        body = bytearray(log.data[frame.body])
        for at, junk in changes:
            if body:
                at %= len(body)
                body[at : at + len(junk)] = junk[: len(body) - at]
        data += frame_bytes(frame.kind, frame.shard, bytes(body), frame.monotonic, frame.unix)
    try:
        reborn(gateway, read_log(bytes(data)), exact=True)
    except SnapshotError:
        assert not gateway.conns or gateway.tracker.table  # the first life's table stays what it was
    talk.client("ack", b"PORT 10,1,0,2,100,3\r\n")
    talk.server("ack", b"200 ok\r\n")
    talk.client("rst ack")
    Tcp(gateway, "10.2.0.2", "10.1.0.2", 20, 25602).client("syn")
    gateway.wait(100)
    gateway.sweep()


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(-2, 4))
def test_the_note_about_the_rules_makes_sense_or_is_refused(generation: int, floor: int, means: int) -> None:
    gateway = Gateway()
    log = exact_log(gateway)
    note = RulesNote(generation, floor, means, RULES)
    data = log.header.to_bytes() + frame_bytes(1, 0, note.to_bytes(), gateway.now, UNIX)
    rules = Ruleset([], {FORWARD: ACCEPT})
    if 0 <= floor <= generation and 0 <= means <= 2:
        reborn(gateway, read_log(data), rules=rules)
        assert (rules.generation, rules.floor, rules.floor_means) == (generation, floor, means)
    else:
        with pytest.raises(SnapshotError):
            reborn(gateway, read_log(data), rules=rules)
