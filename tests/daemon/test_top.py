"""`ctfw top`: its order and rates, the batch mode, the keys on a terminal; and the packed table beneath it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from daemon.running import COMMAND, OPEN, PATIENCE, Datagrams, Running
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, Gateway, Ping, Tcp, Udp

from ctfw.cli.top_view import ORDERS, Looked, clock, lines, short
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import as_dict, conntrack_line, proc_line
from ctfw.service.packed import packed, unpacked
from ctfw.service.selection import Selection
from lab.net import Network

SECOND = 1_000_000_000


def filled() -> Gateway:
    """One connection of each kind, ahead of any real clock."""
    gateway = Gateway(helpers={"ftp": [21]}, max=0)
    gateway.now = time.monotonic_ns()
    Tcp(gateway).opened()
    Tcp(gateway, CLIENT6, SERVER6).client("syn")
    Udp(gateway).client()
    Ping(gateway).client()
    Ping(gateway, CLIENT6, SERVER6).client()
    for conn in conns(gateway):
        conn.mark = 7
    return gateway


def conns(gateway: Gateway) -> list[Conn]:
    table = gateway.tracker.table
    return [conn for number in range(table.shards) for conn in table.shard(number)]


def asked(gateway: Gateway, **words: str) -> list[Conn]:
    """The connections as they come out of their packets."""
    return [conn for page in packed(gateway.tracker, Selection(words)) for one in page for conn, _ in unpacked(one)]


# Packed


@pytest.mark.parametrize("form", [proc_line, conntrack_line, as_dict])
def test_what_was_packed_prints_as_before(form: object) -> None:
    gateway = filled()
    now = gateway.now
    there = {conn.key: conn for conn in conns(gateway)}
    back = asked(gateway)
    assert len(back) == len(there) == 5
    for conn in back:
        original = there[conn.key]
        for acct in (False, True):
            mine, theirs = form(conn, 0, acct), form(original, now, acct)  # type: ignore[operator]
            assert _timeless(mine) == _timeless(theirs)
        assert abs(int(conn.expires - original.expires + now)) < 5 * SECOND
        assert abs(int(original.created - conn.created - now)) < 5 * SECOND


def _timeless(printed: object) -> str:
    return re.sub(r"(?<='timeout': )\d+|(?<=[ \d]) \d+(?= [A-Zs])", "N", str(printed))


def test_whether_packets_are_counted_is_told() -> None:
    for acct in (0, 1):
        gateway = Gateway(acct=acct)
        gateway.now = time.monotonic_ns()
        Udp(gateway).client()
        ((page,),) = packed(gateway.tracker, Selection({}))
        assert [told for _, told in unpacked(page)] == [bool(acct)]


def test_gre_keeps_its_time_outs() -> None:
    from engine import packets

    gateway = Gateway()
    gateway.now = time.monotonic_ns()
    gateway.sees(packets.ip(CLIENT, SERVER, 47, b"\0\0\x08\0" + bytes(20)))
    (conn,) = asked(gateway)
    assert "timeout=30, stream_timeout=180" in proc_line(conn, 0)


def test_only_those_that_are_meant_and_living_in_pages() -> None:
    gateway = Gateway(max=0)
    gateway.now = time.monotonic_ns()
    for port in range(1, 10_001):
        Udp(gateway, sport=port).client()
    assert len(asked(gateway)) == 10_000
    assert [int.from_bytes(conn.key[9:11], "big") for conn in asked(gateway, sport="77")] == [77]
    pages = list(packed(gateway.tracker, Selection({})))
    assert len(pages) > 2
    for conn in conns(gateway)[:10]:
        conn.expires = gateway.now
    assert len(asked(gateway)) == 9_990


# The view


def made(port: int, octets: int, age: float = 10, left: float = 30) -> Conn:
    key = b"\x11" + bytes([10, 0, 0, port]) + bytes([10, 9, 9, 9 - port]) + struct.pack("!HH", 1000 + port, 53)
    reply = b"\x11" + key[5:9] + key[1:5] + key[11:13] + key[9:11]
    conn = Conn(key, reply, -int(age * SECOND))
    conn.expires = int(left * SECOND)
    conn.original_bytes, conn.original_packets = octets, octets // 100
    return conn


def sources(looked: Looked, order: str, backwards: bool = False) -> list[int]:
    return [row.conn.key[4] for row in looked.first(10, order, backwards)]


def test_rates_are_between_two_looks() -> None:
    first = Looked([made(1, 1000), made(2, 5000)], 0)
    assert [row.rate for row in first.rows] == [100, 500]  # since they began
    second = Looked([made(1, 4000), made(2, 5000), made(3, 600, age=1), made(4, 600, age=99)], 2 * SECOND, first)
    assert [row.rate for row in second.rows] == [1500, 0, 600, 300]
    again = Looked([made(1, 10)], 4 * SECOND, second)  # another one between the same ports
    assert [row.rate for row in again.rows] == [5]


def test_every_order_and_its_reverse() -> None:
    looked = Looked([made(1, 300, 5, 9), made(2, 100, 50, 30), made(3, 200, 1, 20)], 0)
    expected = {
        "source": [1, 2, 3], "destination": [3, 2, 1], "proto": [1, 2, 3], "state": [1, 2, 3],
        "ttl": [2, 3, 1], "packets": [1, 3, 2], "bytes": [1, 3, 2], "rate": [3, 1, 2], "age": [2, 1, 3],
    }  # fmt: skip
    assert set(expected) == set(ORDERS)
    for order, ports in expected.items():
        assert sources(looked, order) == ports
        if order not in ("proto", "state"):
            assert sources(looked, order, True) == ports[::-1]


def test_the_columns() -> None:
    gateway = filled()
    shown = lines(Looked(asked(gateway), 0).first(10, "source", False))
    assert shown[0].split() == ["SOURCE", "DESTINATION", "PROTO", "STATE", "TTL", "PACKETS", "BYTES", "RATE"]
    text = "\n".join(shown)
    assert re.search(rf"^{CLIENT}:40000 +{SERVER}:53 +udp +UNREPLIED +0:00:\d\d +1 +29 +", text, re.MULTILINE)
    assert re.search(rf"^{CLIENT} +{SERVER} +icmp +8/0 +", text, re.MULTILINE)
    assert re.search(
        r"^\[2001:db8:1::2\]:40000 +\[2001:db8:2::2\]:\d+ +tcp +SYN_SENT +0:0[12]:\d\d ", text, re.MULTILINE
    )
    assert re.search(r" tcp +ESTABLISHED +1(20:00:00|19:59:\d\d) +3 ", text)


def test_numbers_and_times() -> None:
    assert [short(number) for number in (0, 999, 1000, 10_550, 123_456, 1.2e6, 7e15)] == [
        "0", "999", "1.0k", "10.6k", "123k", "1.2M", "7000T",
    ]  # fmt: skip
    assert [clock(seconds * SECOND) for seconds in (-1, 59, 3661, 432_000)] == [
        "0:00:00", "0:00:59", "1:01:01", "120:00:00",
    ]  # fmt: skip


# At a running daemon


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 130, 0, 0))
        env = {**os.environ, "TERM": "xterm", "LINES": "24", "COLUMNS": "130"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        self.text = ""

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def shows(self, *words: str) -> None:
        """All of them arrive, in this order."""
        end = time.monotonic() + PATIENCE
        for word in words:
            while word not in self.text:
                left = end - time.monotonic()
                assert left > 0 and select.select([self._fd], [], [], left)[0], f"no {word!r} in {self.text!r}"
                self.text += os.read(self._fd, 65536).decode()
            self.text = self.text.partition(word)[2]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


def ctfw_top(daemon: Running, *arguments: str) -> Sequence[str]:
    return [*COMMAND, "top", *arguments, "--socket", daemon.control]


@pytest.mark.kernel
def test_batch_mode_prints_each_look(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        command = ctfw_top(daemon, "-b", "-n", "2", "-d", "0.1", "-p", "udp", "--sort", "bytes", "--rows", "5")
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        first, second = done.stdout.split("\n\nctfw top - ")
        assert re.match(r"ctfw top - \d\d:\d\d:\d\d  connections \d+  rate \S+B/s  sorted by bytes\n\nSOURCE", first)
        for text in (first, second):
            assert re.search(rf" 203\.0\.113\.2:{OPEN} +udp +0:00:\d\d +2 +68 +\S+B/s", text)


@pytest.mark.kernel
def test_the_keys_on_a_terminal(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        screen = Terminal(*ctfw_top(daemon, "-d", "30"))
        try:
            screen.shows("ctfw top - ", "sorted by rate", "every 30 s", "SOURCE", f":{OPEN}")
            screen.type("1")
            screen.shows("source")
            screen.type("s")
            screen.shows("destination")
            screen.type("r")
            screen.shows("reversed")
            screen.type("h")
            screen.shows("another delay")
            screen.type("d")
            screen.shows("0.5")
            screen.type("/proto=nonsense\n")
            screen.shows("only:", "proto=nonsense", "is no number")
            screen.type("/proto=tcp\n")
            screen.shows(
                "only:", "proto=tcp", "every"
            )  # curses writes what has changed, and little of that in one piece
            screen.type("q")
            assert screen.process.wait(PATIENCE) == 0
        finally:
            screen.close()
