"""The innermost loop: what it judges, when it comes back, and how it reads."""

import gc
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from daemon.fakekernel import ACCEPT, BAD, DROP, GOOD, FakeKernel, broken_engine
from daemon.running import wait_until

from ctfw.loop import PacketLoop

LONG = 60_000_000_000


class House:
    """A loop with its queue, and a pipe for all the others."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.queue = self.kernel.queue()
        self.others, self.bell = os.pipe()
        self.loop = PacketLoop(self.queue, self.kernel.theirs.fileno(), self.others, True)

    def serve(self, wait: int = LONG, once: bool = False) -> bool:
        return self.loop.serve(time.monotonic_ns() + wait, once)

    def ring(self) -> None:
        os.write(self.bell, b"!")

    def close(self) -> None:
        self.loop.close()
        os.close(self.others)
        os.close(self.bell)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


def test_it_waits_no_longer_than_told(house: House) -> None:
    before = time.monotonic_ns()
    assert not house.serve(20_000_000)
    assert time.monotonic_ns() - before >= 20_000_000
    assert not house.loop.serve(0, False)


def test_it_judges_and_goes_on_until_others_want_a_turn(house: House) -> None:
    house.kernel.give(GOOD, BAD)
    house.ring()
    assert house.serve()
    assert house.kernel.obey() == {1: ACCEPT, 2: DROP}
    assert house.serve()  # they still do


def test_once_is_once(house: House) -> None:
    house.kernel.give(GOOD)
    assert not house.serve(once=True)
    assert house.kernel.obey() == {1: ACCEPT}


def test_with_no_time_left_it_still_looks(house: House) -> None:
    house.kernel.give(GOOD)
    assert not house.loop.serve(0, False)
    assert house.kernel.obey() == {1: ACCEPT}


def test_it_comes_back_with_an_error_of_ours(house: House) -> None:
    house.queue.engine = broken_engine()
    house.kernel.give(GOOD)
    assert not house.serve()
    assert house.queue.last_error is not None


def test_it_comes_back_when_verdicts_cannot_leave(house: House) -> None:
    def full(file: int, data: bytes) -> int:
        raise BlockingIOError(11, "no")

    house.queue._write_file = full
    house.kernel.give(GOOD)
    assert not house.serve()
    assert house.queue.blocked


def test_it_comes_back_when_a_young_collection_is_due(house: House) -> None:
    was_on = gc.isenabled()
    gc.disable()
    try:
        kept = [[] for _ in range(10_000)]  # type: ignore[var-annotated]
        house.kernel.give(GOOD)
        assert not house.serve()
        assert len(kept) == 10_000
    finally:
        if was_on:
            gc.enable()


def test_what_comes_alone_is_read_alone_and_a_burst_together(house: House) -> None:
    """Whoever reads one does not learn whether the socket is empty then, and ``idle`` says so."""

    def alone() -> bool:
        threading.Timer(0.002, house.kernel.give, [GOOD]).start()
        assert not house.serve(once=True)
        return not house.queue.idle

    def burst() -> int:
        """In how many turns ten packets are read that come at once."""
        before, turns = house.queue.received, 0
        house.kernel.give(*[GOOD] * 10)
        while house.queue.received < before + 10:
            assert not house.serve(once=True)
            turns += 1
        return turns

    wait_until(alone)
    wait_until(lambda: burst() < 5)
    assert not alone()


def test_others_have_their_turn_while_packets_come_one_by_one(house: House) -> None:
    """With a socket whose reads wait, as those of the kernel's queue do."""
    house.kernel.theirs.setblocking(True)
    house.kernel.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 5_000))
    stop = threading.Event()

    def chatter() -> None:
        while not stop.wait(0.001):
            house.kernel.give(GOOD)
            house.kernel.obey()  # verdicts that nobody reads fill the socket; netlink's kernel reads them at once

    talking = threading.Thread(target=chatter)
    talking.start()
    try:
        threading.Timer(0.3, house.ring).start()
        assert house.serve()
        assert house.queue.received > 50
    finally:
        stop.set()
        talking.join()


def test_a_silence_ends_the_reads_that_wait_and_a_time_is_kept(house: House) -> None:
    house.kernel.theirs.setblocking(True)
    house.kernel.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 5_000))
    for _ in range(20):
        house.kernel.give(GOOD)
        assert not house.serve(once=True)
    threading.Timer(0.05, house.ring).start()
    assert house.serve()
    before = time.monotonic_ns()
    os.read(house.others, 1)
    assert not house.serve(30_000_000)
    assert 30_000_000 <= time.monotonic_ns() - before < 1_000_000_000


def test_who_may_not_wait_for_a_packet_sees_the_others_at_once(house: House) -> None:
    house.kernel.theirs.setblocking(True)  # and no end to its reads
    loop = PacketLoop(house.queue, house.kernel.theirs.fileno(), house.others, False)
    for _ in range(20):
        house.kernel.give(GOOD)
        assert not loop.serve(time.monotonic_ns() + LONG, True)
    threading.Timer(0.02, house.ring).start()
    assert loop.serve(time.monotonic_ns() + LONG, False)
    loop.close()
