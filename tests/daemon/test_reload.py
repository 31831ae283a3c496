"""A reload while packets flow: they go on, and so does everything else that the daemon does."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import OPEN, RULES, SHUT, Datagrams, Running, wait_until

from lab.net import Network

pytestmark = pytest.mark.kernel

# Takes a second or so to load, ten times as long as any packet may wait.
MANY = RULES + "".join(
    f"  - {{name: r{n}, chain: forward, src: 10.{n >> 8}.{n & 255}.0/24, proto: tcp, dport: [{n + 1}, 8000-8099], "
    f"state: NEW, verdict: accept}}\n"
    for n in range(2000)
)


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def test_packets_and_questions_do_not_wait_for_a_reload(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        daemon.rules.write_text(MANY)
        reloading = threading.Thread(target=daemon.ctfw, args=("reload",))
        reloading.start()
        daemon.notice("RELOADING=1")
        waits = []
        while reloading.is_alive():
            begun = time.monotonic()
            assert good.answered()
            waits.append(time.monotonic() - begun)
        reloading.join()
        assert len(waits) > 20
        waits.sort()
        assert waits[len(waits) // 2] < 0.05  # a busy machine may be late once or twice, never as a rule
        wait_until(lambda: "rules=2003" in daemon.log().rpartition("reloaded: ")[2])
        assert daemon.stop()["errors"] == 0


def test_a_daemon_that_is_stopped_while_it_reloads_ends_as_ever(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon:
        daemon.rules.write_text(MANY)
        daemon.signal(signal.SIGHUP)
        daemon.notice("RELOADING=1")
        figures = daemon.stop()
        assert figures["received"] == figures["answered"]
        assert "reloaded" not in daemon.log()


def test_who_asks_while_a_reload_is_under_way_gets_one_of_his_own(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, SHUT) as bad:
        daemon.rules.write_text(MANY)
        daemon.signal(signal.SIGHUP)
        daemon.notice("RELOADING=1")
        new = tmp_path / "new.yaml"
        new.write_text(RULES.replace(str(OPEN), str(SHUT)))
        new.replace(daemon.rules)  # whole, whether the first reload has read it already or not
        daemon.ctfw("reload")
        assert bad.answered()
        wait_until(lambda: daemon.log().count("reloaded: ") == 2)
