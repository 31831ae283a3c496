"""Signals at the worst moment: while workers start, while they reload, while they end."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import PATIENCE, RULES, Running, wait_until

from ctfw.service.client import Client
from lab.net import Network

pytestmark = pytest.mark.kernel

WORKERS = RULES + "queue: {number: 4, workers: 2}\n"
# The command, after what the test wants done to it.
CHANGED = """
import os, signal, sys
from ctfw.cli import main
from ctfw.daemon import Daemon
{statements}
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        yield made


def end_of(net: Network, directory: Path, *statements: str) -> "subprocess.CompletedProcess[str]":
    """`ctfw run` with that done to it, until its end."""
    (directory / "rules.yaml").write_text(WORKERS)
    return subprocess.run(
        ["nsenter", f"--net={net.gateway.path}", sys.executable, "-P", "-c",
         CHANGED.format(statements="\n".join(statements)), "run", "--log", "stderr",
         "--rules", str(directory / "rules.yaml"), "--socket", str(directory / "control.sock")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_stop_while_they_start_is_an_end_in_order(net: Network, tmp_path: Path) -> None:
    done = end_of(
        net,
        tmp_path,
        "Daemon._start = lambda self: (os.kill(os.getppid(), signal.SIGTERM), signal.pause())",
    )
    assert done.returncode == 0, done.stderr
    assert "ctfw: stopped: " in done.stderr
    assert not list(tmp_path.glob("control.sock*"))


def test_a_worker_hears_what_it_is_told_as_soon_as_it_lives(net: Network, tmp_path: Path) -> None:
    done = end_of(
        net,
        tmp_path,
        "fork = os.fork",
        "os.fork = lambda: fork() or os.kill(os.getpid(), signal.SIGTERM) or 0",
    )
    assert done.returncode == 1, done.stderr
    assert re.search(r"worker [01] ended: pid=\d+ code=-15; all end", done.stderr)


def test_a_stop_is_heard_among_any_number_of_reloads(net: Network, tmp_path: Path) -> None:
    done = end_of(
        net,
        tmp_path,
        "from ctfw.workers.supervisor import Supervisor",
        "take, own = Supervisor._take_signals, os.getpid()",
        "told = 5000 * [signal.SIGHUP] + [signal.SIGTERM]",
        "Supervisor._take_signals = lambda self: (take(self), [os.kill(own, number) for number in told])",
    )
    assert done.returncode == 0, done.stderr


def test_an_end_that_all_are_told_at_once_is_one_in_order(net: Network, tmp_path: Path) -> None:
    """As systemd does, on a machine where the first that is told is the last that hears of it."""
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        with Client(daemon.control) as client:
            pids = [worker["pid"] for worker in client.call("status")["workers"]]
        daemon.freeze()
        for pid in (daemon.process.pid, *pids):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: all(has_ended(pid) for pid in pids))
        daemon.signal(signal.SIGCONT)
        assert daemon.process.wait(PATIENCE) == 0, daemon.log()


def has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_reload_that_is_asked_for_during_one_is_done_after_it(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        with Client(daemon.control) as client:
            slow = client.call("status")["workers"][1]["pid"]
        os.kill(slow, signal.SIGSTOP)
        try:
            daemon.signal(signal.SIGHUP)
            daemon.notice("RELOADING=1")
            daemon.signal(signal.SIGHUP)
            with Client(daemon.control) as client, pytest.raises(Exception, match="answers this for itself"):
                client.call("events")  # so it has come by the signal, too
        finally:
            os.kill(slow, signal.SIGCONT)
        daemon.notice("READY=1")
        daemon.notice("RELOADING=1")
        daemon.notice("READY=1")
        wait_until(lambda: daemon.log().count("reloaded: ") == 4)
