"""`ctfw run --state` where nobody keeps anything for the daemon: the table goes by way of a file."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import OPEN, RULES, Datagrams, Running, wait_until

from lab.net import Network

pytestmark = pytest.mark.kernel

# After the first datagram only what is known passes.
STRICT = RULES.replace("state: NEW, verdict: accept", "state: NEW, verdict: drop")


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def again(directory: Path, name: str) -> Path:
    """A place for the next daemon's own files."""
    place = directory / name
    place.mkdir()
    return place


def test_a_clean_end_leaves_the_table_to_the_next_daemon(net: Network, tmp_path: Path) -> None:
    with Datagrams(net, OPEN) as path:
        with Running(net, again(tmp_path, "1"), "--state", str(tmp_path)) as daemon:
            assert path.answered()
            daemon.stop()
        assert (tmp_path / "connections").stat().st_mode & 0o777 == 0o600
        with Running(net, again(tmp_path, "2"), "--state", str(tmp_path), rules=STRICT) as daemon:
            assert path.answered()
            wait_until(lambda: "as=picked up" in daemon.log())
            assert daemon.stats()["queue"]["errors"] == 0
        with Running(net, again(tmp_path, "3"), rules=STRICT):
            assert not path.arrives()  # without a state directory nothing is known


def test_after_a_sigkill_the_copy_that_was_made_meanwhile_is_picked_up(net: Network, tmp_path: Path) -> None:
    state = tmp_path / "connections"
    soon = ("import ctfw.service.handover", "ctfw.service.handover.COPY_INTERVAL = 0")
    with Datagrams(net, OPEN) as path:
        with Running(net, again(tmp_path, "1"), "--state", str(tmp_path), changed=soon) as daemon:
            assert path.answered()
            empty = state.stat().st_ino if state.exists() else 0
            wait_until(lambda: state.exists() and state.stat().st_ino != empty)  # of a cycle begun before, perhaps
            one = state.stat().st_ino
            wait_until(lambda: state.stat().st_ino != one)
            daemon.signal(signal.SIGKILL)
            daemon.process.wait()
        with Running(net, again(tmp_path, "2"), "--state", str(tmp_path), rules=STRICT):
            assert path.answered()


def test_what_was_deleted_is_soon_out_of_the_copy_too(net: Network, tmp_path: Path) -> None:
    state = tmp_path / "connections"
    soon = ("import ctfw.service.handover", "ctfw.service.handover.COPY_SOON = 0")
    with Datagrams(net, OPEN) as path:
        with Running(net, again(tmp_path, "1"), "--state", str(tmp_path)) as daemon:
            assert path.answered()
            daemon.stop()
        before = state.stat().st_ino
        with Running(net, again(tmp_path, "2"), "--state", str(tmp_path), rules=STRICT, changed=soon) as daemon:
            assert path.answered()
            daemon.ctfw("delete", "-p", "udp")
            wait_until(lambda: state.stat().st_ino != before)
            daemon.signal(signal.SIGKILL)
            daemon.process.wait()
        with Running(net, again(tmp_path, "3"), "--state", str(tmp_path), rules=STRICT):
            assert not path.arrives()


def test_a_state_directory_that_cannot_be_written_is_told_and_nothing_else_happens(
    net: Network, tmp_path: Path
) -> None:
    (tmp_path / "connections.new").mkdir()
    with Running(net, again(tmp_path, "1"), "--state", str(tmp_path)) as daemon:
        daemon.stop()
        wait_until(lambda: f"connections not saved: {tmp_path}/connections.new: Is a directory" in daemon.log())
