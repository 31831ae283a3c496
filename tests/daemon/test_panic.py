"""`ctfw panic`: nothing passes but the admin's own session, for a time, and then everything is as before."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.parts import Gateway
from daemon.running import COMMAND, OPEN, RULES, SHUT, Datagrams, Running, wait_until

from ctfw.service.boot import boot_id
from ctfw.service.client import Client, ClientError
from ctfw.service.panic import LONGEST
from lab.net import GATEWAY, Network

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def test_panic_shuts_everything_and_off_opens_it_again(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        wait_until(good.answered)
        daemon.ctfw("panic", "on", "--for", "60")
        assert not good.answered()  # although it is established
        with Client(daemon.control) as client:
            told = client.call("status")
        assert 0 < told["rules"]["panic"]["seconds"] <= 60
        assert told["rules"]["generation"] == 0
        wait_until(lambda: "PANIC: everything is dropped for 60 s: uid=0" in daemon.log())
        daemon.notice("STATUS=PANIC")
        daemon.ctfw("panic", "off")
        wait_until(good.answered)
        wait_until(lambda: "panic is over" in daemon.log())


def test_panic_ends_by_itself(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        daemon.ctfw("panic", "on", "--for", "1")
        wait_until(lambda: "panic is over, the rules hold again: the time is over" in daemon.log())
        wait_until(good.answered)


def test_it_ends_by_itself_although_a_disk_stands_still(net: Network, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last-good.json.new")  # to open it for writing takes until somebody reads
    with Running(net, tmp_path, "--state", str(tmp_path)) as daemon, Datagrams(net, OPEN) as good:
        daemon.ctfw("panic", "on", "--for", "1")
        wait_until(lambda: "panic is over, the rules hold again: the time is over" in daemon.log())
        wait_until(good.answered)
        daemon.stop()


def is_over(daemon: Running) -> bool:
    wait_until(lambda: "panic is over" in daemon.log())
    return True


def after(directory: Path) -> None:
    """Makes room for the next daemon."""
    for name in ("notify", "control.sock"):
        (directory / name).unlink(missing_ok=True)


def test_a_crash_does_not_end_it_and_a_restart_does(net: Network, tmp_path: Path) -> None:
    with Datagrams(net, OPEN) as good:
        with Running(net, tmp_path) as daemon:
            daemon.ctfw("panic", "on", "--for", "60")
            daemon.signal(signal.SIGKILL)
            daemon.process.wait()
        after(tmp_path)
        with Running(net, tmp_path) as daemon:
            wait_until(lambda: re.search(r"PANIC goes on, everything is dropped for (60|5\d) s: ", daemon.log()))
            assert not good.answered()
            daemon.stop()
        after(tmp_path)
        with Running(net, tmp_path) as daemon:
            wait_until(good.answered)
            wait_until(lambda: "started: " in daemon.log())
            assert "PANIC" not in daemon.log()


def test_what_is_over_does_not_come_back_with_a_crash(net: Network, tmp_path: Path) -> None:
    with Datagrams(net, OPEN) as good:
        for how in (("off",), ("on", "--for", "1")):
            with Running(net, tmp_path) as daemon:
                daemon.ctfw("panic", "on", "--for", "60")
                daemon.ctfw("panic", *how)
                assert is_over(daemon)
                daemon.signal(signal.SIGKILL)
                daemon.process.wait()
            after(tmp_path)
            assert not list(tmp_path.glob("panic*"))
        with Running(net, tmp_path):
            wait_until(good.answered)


@pytest.mark.parametrize(
    "noted",
    [
        "",
        "[]",
        '{"boot": "another", "until": 1000000000000000000, "session": null}',
        '{"boot": "this", "until": 1, "session": null}',
        '{"boot": "this", "until": "soon", "session": null}',
        '{"boot": "this"}',
    ],
)
def test_a_note_that_says_nothing_of_today_is_no_panic(tmp_path: Path, noted: str) -> None:
    path = tmp_path / "panic.0"
    path.write_text(noted.replace("this", boot_id().hex()))
    gateway = Gateway(tmp_path)
    panic = gateway.parts.reloading.panic
    panic.begin(str(path))
    assert panic.left() is None
    gateway.close()


@pytest.mark.parametrize("session", ["null", '{"src": "nonsense"}', '"x"', '{"src": "192.0.2.1"}'])
def test_a_panic_lasts_a_day_at_most_whatever_was_noted(tmp_path: Path, session: str) -> None:
    path = tmp_path / "panic.0"
    path.write_text(f'{{"boot": "{boot_id().hex()}", "until": {1 << 62}, "session": {session}}}')
    gateway = Gateway(tmp_path)
    panic = gateway.parts.reloading.panic
    panic.begin(str(path))
    assert panic.left() == LONGEST
    gateway.close()


def test_a_reload_during_a_panic_opens_nothing_and_holds_afterwards(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as old, Datagrams(net, SHUT) as new:
        daemon.ctfw("panic", "on", "--for", "60")
        daemon.rules.write_text(RULES.replace(str(OPEN), str(SHUT)))
        daemon.ctfw("reload")
        assert not new.answered()
        daemon.ctfw("panic", "off")
        wait_until(new.answered)
        assert not old.answered()


def test_the_rules_that_wait_are_told_and_not_those_that_shut(net: Network, tmp_path: Path) -> None:
    def told() -> list[tuple[str, str]]:
        with Client(daemon.control) as client:
            return [(rule["name"], rule["verdict"]) for rule in client.pages("rules")]

    with Running(net, tmp_path) as daemon:
        rules = told()
        daemon.ctfw("panic", "on", "--for", "60")
        assert told() == rules
        daemon.ctfw("rules", "--reset")
        assert told() == rules
        daemon.ctfw("reload")
        assert told() == rules
        daemon.ctfw("panic", "off")
        assert told() == rules


def test_the_session_that_asks_stays(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon:
        with net.gateway:
            listener = socket.create_server((GATEWAY, 22))
        with net.client:
            session = socket.create_connection((GATEWAY, 22), timeout=5)
            other = socket.create_connection((GATEWAY, 22), timeout=5)
        ends = [listener.accept()[0], listener.accept()[0]]
        host, port = session.getsockname()
        environment = {**os.environ, "SSH_CONNECTION": f"{host} {port} {GATEWAY} 22"}
        arguments = [*COMMAND, "panic", "on", "--for", "60", "--socket", daemon.control]
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=30)
        assert f"the session from {host} port {port} stays" in done.stdout
        for sock in ends:
            sock.settimeout(0.5)
        session.send(b"still here")
        assert ends[0].recv(99) == b"still here"
        other.send(b"not me")
        with pytest.raises(TimeoutError):
            ends[1].recv(99)
        for sock in (session, other, listener, *ends):
            sock.close()


@pytest.mark.parametrize(
    "params",
    [
        {"on": True},
        {"on": True, "seconds": 0},
        {"on": True, "seconds": 10, "session": {"src": "x"}},
        {"on": True, "seconds": 10, "session": {"src": "::1", "sport": 1, "dst": '1"', "dport": 2}},
        {"on": True, "seconds": 10, "session": {"src": "::1", "sport": 1, "dst": "192.0.2.1", "dport": 2}},
        {"on": True, "seconds": 10, "session": {"src": "::1", "sport": float("inf"), "dst": "::2", "dport": 2}},
    ],
)
def test_what_cannot_be_meant_shuts_nothing(net: Network, tmp_path: Path, params: dict[str, object]) -> None:
    with Running(net, tmp_path) as daemon, Client(daemon.control) as client:
        with pytest.raises(ClientError, match=r"^(session|seconds) is "):
            client.call("panic", **params)
        assert client.call("status")["rules"]["panic"] is None
