"""What comes and goes leaves nothing behind: the daemon's resident memory over many rounds of everything at once."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import RULES, Running, wait_until

from ctfw.service.client import Client
from lab.net import SERVER, Network

pytestmark = pytest.mark.kernel

TABLE = 256  # connections; a round makes more, so each makes room for others
WARM = 10  # rounds until the allocator has what it needs
ROUNDS = 25
# Bytes that may be more behind them: the recorder fills, the allocator wants some; each connection that stayed would be
# ten megabytes.
MOST = 3 << 20


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_does_not_creep(net: Network, tmp_path: Path) -> None:
    """Connections, listings, listeners to events, clients that go away in the middle, bans, and reloads."""
    rules = (
        RULES + f"conntrack: {{max: {TABLE}}}\n"
        "sets: {banned: {dynamic: on, ttl: 1s}}\n"
        "recorder: {minutes: 1, memory: 1 MiB}\n"
    ).replace("rules:\n", "rules:\n  - {name: banned, src: $banned, verdict: drop}\n")
    with Running(net, tmp_path, rules=rules) as daemon:
        sizes = []
        for number in range(WARM + ROUNDS):
            one_round(net, daemon, number)
            if number >= WARM:
                sizes.append(resident(daemon.process.pid))
        assert sizes[-1] - sizes[0] < MOST, sizes


def one_round(net: Network, daemon: Running, number: int) -> None:
    with Client(daemon.control) as client, Client(daemon.control) as listener:
        listener.call("events")
        inserted = client.call("stats")["conntrack"]["insert"]
        for goal in range(inserted + TABLE, inserted + 5 * TABLE, TABLE):
            with net.client:
                for _ in range(TABLE + 64):  # some come by the same port as an earlier one
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                        sender.sendto(b"x", (SERVER, 5353))
            wait_until(lambda goal=goal: client.call("stats")["conntrack"]["insert"] >= goal)  # type: ignore[misc]
        list(client.pages("list"))
        client.call("status")
        for host in range(100):
            client.call("set_add", set="banned", member=f"198.18.{number}.{host}")
        if number % 5 == 0:
            client.call("reload")
    for _ in range(50):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as passing, contextlib.suppress(OSError):
            passing.connect(daemon.control)
            passing.sendall(b'{"id": 1, "method": "list"}\n{"id":')
