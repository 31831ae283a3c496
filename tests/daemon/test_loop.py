"""The innermost loop: what it judges, when it comes back, and how it reads."""

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from daemon.fakekernel import ACCEPT, BAD, BUFFER, DROP, GOOD, FakeKernel, broken_engine, engine
from daemon.running import wait_until

from ctfw.loop import PacketLoop
from ctfw.nfqueue import Queue

LONG = 60_000_000_000


class House:
    """A loop with its queue, and a pipe for all the others."""

    def __init__(self, queue: Queue | None = None) -> None:
        self.kernel = FakeKernel()
        self.queue = queue or self.kernel.queue()
        self.others, self.bell = os.pipe()
        self.loop = PacketLoop(self.queue, self.kernel.theirs.fileno(), self.others)

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


class Full(socket.socket):
    """A socket that takes nothing."""

    def send(self, data: object, flags: int = 0, /) -> int:
        raise BlockingIOError(11, "no")


def test_it_comes_back_when_verdicts_cannot_leave() -> None:
    house = House()
    sock = Full(fileno=house.kernel.theirs.detach())
    sock.setblocking(False)
    house.loop.close()
    house.queue = Queue(sock, house.kernel.number, engine(), DROP, BUFFER)
    house.loop = PacketLoop(house.queue, sock.fileno(), house.others)
    house.kernel.give(GOOD)
    assert not house.serve()
    assert house.queue.blocked
    house.close()


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
