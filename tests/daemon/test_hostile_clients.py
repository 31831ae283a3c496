"""What a client may send to hold up the loop: whatever it is, one turn stays short and others are served."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.test_sessions import House

from ctfw.service.control import ACCEPTS, MAX_LINE

TURN = 0.010  # seconds of processor time: what a packet may wait at most
LINES = {
    "numbers": b"[" + b"1," * 32_000 + b"1]",
    "objects": b"[" + b'{"a":1},' * 8_000 + b"1]",
    "keys": ("{" + ",".join(f'"{number}":1' for number in range(6_000)) + "}").encode(),
    "fractions": b"[" + b"1e5," * 16_000 + b"1]",
    "deep": b"[" * 60_000,
    "just not too deep": b"[" * 900 + b"]" * 900,
    "one number": b"9" * 60_000,
    "escapes": b'["' + b"\\u0041" * 10_000 + b'"]',
    "a long id": b'{"id": "' + b"x" * 60_000 + b'", "method": "look"}',
    "a long method": b'{"id": 1, "method": "' + b"x" * 60_000 + b'"}',
}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "control.sock")
    yield made
    made.control.close()
    made.selector.close()


def longest_turn(house: House) -> float:
    """Seconds of processor time of the longest turn until nothing is left to do."""
    longest, quiet = 0.0, 0
    while quiet < 2:
        begun = time.thread_time()
        events = house.selector.select(0)
        for key, mask in events:
            key.data(mask)
        is_busy = house.control.step() or bool(events)
        longest = max(longest, time.thread_time() - begun)
        quiet = 0 if is_busy else quiet + 1
    return longest


@pytest.mark.parametrize("name", LINES)
def test_no_line_takes_a_turn_long(house: House, name: str) -> None:
    line = LINES[name]
    assert len(line) < MAX_LINE
    times = []
    for _ in range(3):  # the quickest counts: this is about the line, not about the machine
        guest = house.enter()
        guest.sock.setblocking(True)
        guest.sock.sendall(line + b"\n")
        times.append(longest_turn(house))
        guest.sock.close()
    assert min(times) < TURN


def test_ten_thousand_requests_at_once_are_served_one_a_turn(house: House) -> None:
    greedy, modest = house.enter(), house.enter()
    requests = b'{"id":1,"method":"look"}\n' * 10_000
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            requests = requests[greedy.sock.send(requests) :]
        turn(house)
    assert max(len(client.input) for client in house.control._clients) <= 2 * MAX_LINE
    modest.sock.send(b'{"id":2,"method":"look"}\n')
    for _ in range(4):
        turn(house)
    assert json.loads(modest.sock.recv(999)) == {"id": 2, "result": "seen"}


def test_those_who_ask_for_much_are_served_in_turn(house: House) -> None:
    """Three with thousands of requests each, one whose only request takes thousands of slices."""
    greedy = [house.enter() for _ in range(3)]
    patient = house.enter()
    for guest in greedy:
        guest.sock.send(b'{"id":1,"method":"look"}\n' * 2_000)
    patient.sock.send(json.dumps({"id": 1, "method": "work", "params": {"words": ["on"] * 2_000}}).encode() + b"\n")
    turns = 400
    for _ in range(turns):
        turn(house)
    served = [guest.sock.recv(1 << 20).count(b"seen") for guest in greedy]
    assert max(*served, len(house.slices)) - min(*served, len(house.slices)) <= 1
    assert sum(served) + len(house.slices) >= turns - 2  # and no turn was for nobody


def test_who_asks_little_waits_for_one_request_of_each_other(house: House) -> None:
    greedy = [house.enter() for _ in range(5)]
    modest = house.enter()
    for guest in greedy:
        guest.sock.send(b'{"id":1,"method":"look"}\n' * 2_000)
    for number in range(20):
        turn(house)
        modest.sock.send(b'{"id":%d,"method":"look"}\n' % number)
        for _ in range(len(greedy) + 1):
            turn(house)
        assert json.loads(modest.sock.recv(999)) == {"id": number, "result": "seen"}


def turn(house: House) -> None:
    """A turn of the loop, without its packets."""
    for key, mask in house.selector.select(0):
        key.data(mask)
    house.control.step()


def test_a_flood_of_connections_takes_little_of_each_turn(house: House) -> None:
    socks = []
    for _ in range(50):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(house.path)
        socks.append(sock)
    for key, mask in house.selector.select(0):
        key.data(mask)
    assert len(house.control._clients) == ACCEPTS
    assert longest_turn(house) < TURN
    assert len(house.control._clients) == len(socks)
    for sock in socks:
        sock.close()
