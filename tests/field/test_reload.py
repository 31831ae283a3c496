"""A reload under way, and what it does to traffic: nothing."""

import contextlib
import threading
import time
from pathlib import Path

import pytest
from daemon.running import OPEN, RULES, Datagrams, Running

from lab.net import Network

pytestmark = pytest.mark.kernel

PAUSE = 0.002  # between two datagrams


def test_reload_cuts_no_traffic(tmp_path: Path) -> None:
    """Datagram after datagram, over three reloads with other rules: all arrive."""
    with Network() as net, Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as path:
        net.queue()
        over = threading.Event()
        sent = 0
        arrived = []

        def send() -> None:
            nonlocal sent
            while not over.is_set():
                path.client.send(b"%d" % sent)
                sent += 1
                time.sleep(PAUSE)

        def receive() -> None:
            with contextlib.suppress(TimeoutError):
                while True:
                    arrived.append(int(path.server.recv(100)))

        path.server.settimeout(2)
        ends = [threading.Thread(target=end) for end in (send, receive)]
        for end in ends:
            end.start()
        for number in range(3):
            daemon.rules.write_text(f"{RULES}  - {{name: one more {number}, src: 10.0.0.{number}, verdict: drop}}\n")
            daemon.ctfw("reload")
        over.set()
        for end in ends:
            end.join()
        assert arrived == list(range(sent))
        queue = daemon.stats()["queue"]
        assert queue["received"] >= sent
        assert (queue["lost"], queue["errors"], queue["kernel"]["queue_dropped"]) == (0, 0, 0)
