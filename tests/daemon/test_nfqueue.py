"""The queue's messages: read whatever comes, answer every packet once, and count what got lost."""

import errno
import os
import socket
import struct
from typing import Any

import pytest
from daemon.fakekernel import (
    ACCEPT,
    BAD,
    BUFFER,
    DROP,
    GOOD,
    FakeKernel,
    broken_engine,
    engine,
    netlink,
    packet_message,
    udp,
)
from hypothesis import given
from hypothesis import strategies as st

from ctfw.engine import Judgement
from ctfw.nfqueue import BATCH, Message, Queue
from ctfw.packet import FORWARD, INPUT, OUTPUT
from ctfw.receive import HEAD

LO = socket.if_nametoindex("lo")
NOT_VERIFIED, NOT_READY, GSO = 4, 1, 2


def recorded(queue: Queue) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []
    queue.record = lambda *what: seen.append(what)
    return seen


def test_each_packet_gets_its_verdict() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.give(GOOD, GOOD, BAD, GOOD, BAD, BAD)
    assert queue.process(100) == 6
    assert kernel.obey() == {1: ACCEPT, 2: ACCEPT, 3: DROP, 4: ACCEPT, 5: DROP, 6: DROP}
    assert (queue.received, queue.answered, queue.pending, queue.lost) == (6, 6, 0, 0)
    assert queue.idle


def test_equal_verdicts_are_one_message_and_all_messages_one_send() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.give(GOOD, GOOD, BAD, GOOD)
    queue.process(100)
    kernel.obey()
    assert kernel.sends == [3]


def test_verdicts_leave_when_a_batch_is_full() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.give(*[GOOD] * (BATCH + 1))
    queue.process(BATCH + 1)
    kernel.obey()
    assert kernel.sends == [1, 1]
    assert not kernel.waiting


def test_verdicts_leave_when_the_budget_is_used_up() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.give(GOOD, GOOD, GOOD)
    assert queue.process(2) == 2
    assert not queue.idle
    assert kernel.obey() == {1: ACCEPT, 2: ACCEPT}


def test_a_gap_in_the_numbers_is_counted_as_lost() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.lose(2)
    kernel.give(GOOD)
    kernel.lose(3)
    kernel.give(GOOD)
    queue.process(100)
    assert queue.lost == 5


def test_numbers_wrap() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    queue._last_id = 0xFFFFFFFE
    kernel.waiting = [0xFFFFFFFF, 0, 1]
    for number, port in ((0xFFFFFFFF, GOOD), (0, GOOD), (1, BAD)):
        kernel.give_raw(packet_message(number, udp(port)))
    queue.process(100)
    assert kernel.obey() == {0xFFFFFFFF: ACCEPT, 0: ACCEPT, 1: DROP}
    assert queue.lost == 0


@pytest.mark.parametrize("verdict", [DROP, ACCEPT])
def test_a_raising_engine_answers_with_the_failure_policy(verdict: int) -> None:
    kernel = FakeKernel()
    queue = kernel.queue(broken_engine(), verdict)
    kernel.give(GOOD, BAD, GOOD)
    queue.process(100)
    assert kernel.obey() == {1: verdict, 2: verdict, 3: verdict}
    assert queue.errors == 3
    assert isinstance(queue.last_error, IndexError)


def test_one_exception_does_not_touch_the_packets_around_it() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    good, bad = queue.engine, broken_engine()
    kernel.give(GOOD, GOOD)
    queue.process(1)
    queue.engine = bad
    queue.process(1)
    queue.engine = good
    kernel.give(GOOD)
    queue.process(1)
    assert kernel.obey() == {1: ACCEPT, 2: DROP, 3: ACCEPT}


def test_a_raising_observer_does_not_change_the_verdict() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()

    def record(*what: object) -> None:
        raise ValueError("disk")

    queue.record = record
    kernel.give(GOOD)
    queue.process(100)
    assert kernel.obey() == {1: ACCEPT}
    assert queue.errors == 1


def test_idle_is_an_empty_socket_and_not_a_budget_used_up() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.give(GOOD, GOOD, GOOD)
    assert (queue.process(1), queue.idle) == (1, False)
    assert (queue.process(2), queue.idle) == (2, False)
    assert (queue.process(2), queue.idle) == (0, True)
    kernel.give(GOOD)
    assert (queue.process(2), queue.idle) == (1, True)


@pytest.mark.parametrize("size", [HEAD - 4, HEAD, HEAD + 4, BUFFER - 4, BUFFER])
def test_messages_of_any_length_are_read_whole(size: int) -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    seen = recorded(queue)
    sent = [bytes([number]) * (size - len(packet_message(1, b""))) for number in range(3)]
    for payload in sent:
        kernel.give_raw(packet_message(kernel.next_id(), payload))
    queue.process(100)
    assert [data for data, *_ in seen] == sent


@pytest.mark.parametrize("size", [HEAD - 4, HEAD + 4, BUFFER])
def test_one_is_read_and_answered_whole_and_the_others_stay(size: int) -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    seen = recorded(queue)
    assert (queue.process_one(False), queue.idle) == (0, True)
    payload = b"1" * (size - len(packet_message(1, b"")))
    kernel.give_raw(packet_message(kernel.next_id(), payload))
    kernel.give(GOOD)
    assert (queue.process_one(False), queue.idle) == (1, False)
    assert kernel.obey() == {1: DROP}
    assert seen[0][0] == payload
    assert (queue.process_one(False), queue.process_one(False), queue.idle) == (1, 0, True)
    assert kernel.obey() == {1: DROP, 2: ACCEPT}


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM])
def test_a_send_that_fails_is_repeated_before_anything_is_read(code: int) -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    failures = [code, code, code]

    def stubborn(file: int, data: bytes) -> int:
        if failures:
            raise OSError(failures.pop(0), "no")
        return os.write(file, data)

    queue._write_file = stubborn
    kernel.give(GOOD, BAD)
    queue.process(100)
    assert (queue.blocked, queue.pending, queue.answered) == (True, 2, 0)
    kernel.give(BAD)
    assert queue.process_one(False) == 0  # still no: nothing more is taken
    assert queue.process(100) == 0
    assert queue.process(100) == 1
    assert kernel.obey() == {1: ACCEPT, 2: DROP, 3: DROP}
    assert (queue.blocked, queue.pending, queue.answered, queue.retries) == (False, 0, 3, 3)


def test_a_full_socket_loses_no_verdict() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for _ in range(200):  # the verdicts are not read, so sending really blocks
        if queue.blocked:
            break
        kernel.give(*[GOOD, BAD] * 16)
        queue.process(32)
    assert queue.blocked
    while kernel.waiting:
        kernel.obey()
        queue.process(100)
    assert set(kernel.verdicts.items()) == {(n, ACCEPT if n % 2 else DROP) for n in range(1, kernel.ids + 1)}


def test_a_dead_socket_is_an_error() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.theirs.close()
    with pytest.raises(OSError, match="descriptor"):
        queue.process(100)


def test_everything_the_message_says_reaches_the_engine() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    seen = recorded(queue)
    payload = udp(GOOD, 100)
    kernel.give_raw(
        packet_message(kernel.next_id(), payload[:60], hook=INPUT, mark=0xDEADBEEF, indev=LO, info=GSO, captured=120)
    )
    queue.process(100)
    ((data, length, now, hook, indev, outdev, mark, checksum),) = seen
    assert (data, length, hook, indev, outdev, mark) == (payload[:60], 120, INPUT, "lo", "", 0xDEADBEEF)
    assert checksum == "partial"
    assert now > 0


def test_an_interface_has_the_name_that_the_kernel_gives_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its index is small or large; one that is not known is asked for, once."""
    asked: list[dict[int, str]] = []
    names = {2: "lan0", 3000: "ppp0"}

    def if_nameindex() -> list[tuple[int, str]]:
        asked.append(dict(names))
        return list(names.items())

    monkeypatch.setattr(socket, "if_nameindex", if_nameindex)
    kernel = FakeKernel()
    queue = kernel.queue()
    seen = recorded(queue)

    def between(indev: int, outdev: int) -> tuple[str, str]:
        kernel.give_raw(packet_message(kernel.next_id(), udp(GOOD), indev=indev, outdev=outdev))
        queue.process(100)
        return seen[-1][4], seen[-1][5]

    assert between(2, 3000) == ("lan0", "ppp0")
    assert between(3000, 0) == ("ppp0", "")
    assert len(asked) == 1
    assert (between(7, 2), between(7, 4000), between(7, 4000)) == (("", "lan0"), ("", ""), ("", ""))
    assert len(asked) == 3
    names |= {2: "lan1", 7: "wan0", 4000: "ppp1"}
    queue.refresh_names()
    assert (between(2, 3000), between(7, 4000)) == (("lan1", "ppp0"), ("wan0", "ppp1"))


def wrong_sum(port: int) -> bytes:
    packet = bytearray(udp(port, 20))
    packet[26:28] = b"\x12\x34"
    return bytes(packet)


@pytest.mark.parametrize(
    ("what", "verdict", "word"),
    [
        ({"info": NOT_VERIFIED}, DROP, "unverified"),
        ({"info": None}, ACCEPT, "verified"),
        ({"info": NOT_READY}, ACCEPT, "partial"),
        ({"info": NOT_VERIFIED | GSO}, ACCEPT, "partial"),
        ({"info": NOT_VERIFIED, "captured": 2000}, ACCEPT, "unverified"),
        ({"info": NOT_VERIFIED, "hook": OUTPUT}, ACCEPT, "verified"),
    ],
)
def test_a_checksum_is_verified_only_if_nobody_else_did_and_it_can_be(
    what: dict[str, int], verdict: int, word: str
) -> None:
    judge = engine()
    judge.ruleset.rules[0].states = 1  # an INVALID packet is not accepted
    judge.ruleset = type(judge.ruleset)(judge.ruleset.rules, {FORWARD: DROP, OUTPUT: DROP})
    kernel = FakeKernel()
    queue = kernel.queue(judge)
    seen = recorded(queue)
    payload = wrong_sum(GOOD)
    if "captured" in what:
        payload = payload[:2] + struct.pack(">H", 2000) + payload[4:24] + struct.pack(">H", 1980) + payload[26:]
    kernel.give_raw(packet_message(kernel.next_id(), payload, **what))
    queue.process(100)
    assert kernel.obey() == {1: verdict}
    assert seen[0][-1] == word
    assert queue.uncheckable == ("captured" in what)


def test_the_log_is_asked_only_when_the_rule_wants_it() -> None:
    judge = engine()
    kernel = FakeKernel()
    queue = kernel.queue(judge)
    lines: list[int] = []

    def log(judgement: Judgement, indev: str, outdev: str, mark: int, now: int) -> None:
        lines.append(judgement.packet.dport)

    queue.log = log
    kernel.give(GOOD)
    queue.process(100)
    assert lines == []


def test_an_interface_that_is_gone_has_no_name() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    seen = recorded(queue)
    for outdev in (0x7FFFFFF0, 0x7FFFFFF0, LO):
        kernel.give_raw(packet_message(kernel.next_id(), udp(GOOD), outdev=outdev))
    queue.process(100)
    assert [one[5] for one in seen] == ["", "", "lo"]


WHOLE = packet_message(1, udp(GOOD), mark=1, indev=LO, outdev=LO, info=4, captured=4000)


@pytest.mark.parametrize("size", range(len(WHOLE)))
def test_a_message_that_ends_early_is_counted_and_its_packet_not_accepted(size: int) -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    if size:
        kernel.give_raw(WHOLE[:size])
    kernel.next_id()
    kernel.give(GOOD)
    queue.process(100)
    assert kernel.obey() == ({1: DROP, 2: ACCEPT} if size else {1: ACCEPT, 2: ACCEPT})
    assert queue.malformed == (1 if size else 0)


@pytest.mark.parametrize("size", range(len(WHOLE)))
def test_nothing_is_read_beyond_the_end_that_a_message_claims(size: int) -> None:
    message = Message()
    readable = message.read(WHOLE, 0, size)
    assert message.payload_end <= size
    assert not readable or size >= 31  # the packet's number is complete


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.give_raw(data or b"\0")
    kernel.give_raw(netlink(3 << 8, data))
    queue.process(100)
    assert queue.received == queue.answered
    kernel.theirs.close()
    kernel.ours.close()


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_leaves_no_packet_unanswered(at: int, value: int) -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.give_raw(WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :])
    queue.process(100)
    assert queue.received == queue.answered
    kernel.theirs.close()
    kernel.ours.close()


def test_an_unknown_hook_is_malformed() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.give_raw(packet_message(kernel.next_id(), udp(GOOD), hook=5))
    queue.process(100)
    assert kernel.obey() == {1: DROP}
    assert (queue.malformed, queue.errors) == (1, 0)


def test_several_messages_in_one_datagram() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    kernel.give_raw(packet_message(kernel.next_id(), udp(GOOD)) + packet_message(kernel.next_id(), udp(BAD)))
    queue.process(100)
    assert kernel.obey() == {1: ACCEPT, 2: DROP}


def test_refusals_of_the_kernel_are_counted_and_acknowledgements_are_not() -> None:
    kernel = FakeKernel()
    queue = kernel.queue()
    for code in (-errno.ENOENT, 0):
        kernel.give_raw(netlink(2, struct.pack("=i", code) + bytes(16)))
    queue.process(100)
    assert (queue.refused, queue.refused_errno, queue.malformed) == (1, errno.ENOENT, 0)
