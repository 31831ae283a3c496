"""Rules on trial: they stay when somebody confirms them in time, and go by themselves in every other case, once."""

import os
import pty
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.running import COMMAND, OPEN, RULES, SHUT, Datagrams, Running, wait_until

from ctfw.service.client import Client, ClientError
from lab.net import Network

pytestmark = pytest.mark.kernel

OPENED = RULES.replace(str(OPEN), str(SHUT))  # what was open is shut, and the other way round
BROKEN = "version: 1\nrules: [{name: x, verdict: perhaps}]\n"


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def status(daemon: Running) -> dict[str, Any]:
    with Client(daemon.control) as client:
        answer: dict[str, Any] = client.call("status")["rules"]
    return answer


def confirmed_in(daemon: Running, seconds: int, **params: object) -> int:
    """Puts the rules in the file on trial; their generation."""
    with Client(daemon.control) as client:
        return int(client.call("reload", confirm=seconds, **params)["generation"])


def refused(daemon: Running, method: str, **params: object) -> str:
    with Client(daemon.control) as client, pytest.raises(ClientError) as error:
        client.call(method, **params)
    return str(error.value)


def test_rules_that_are_confirmed_stay(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as old, Datagrams(net, SHUT) as new:
        daemon.rules.write_text(OPENED)
        said = daemon.ctfw("reload", "--confirm", "60").stderr
        assert "to keep the rules: ctfw reload --confirmed" in said
        assert "without --state" in said
        wait_until(new.answered)
        assert not old.answered()
        assert 0 < status(daemon)["trial"]["seconds"] <= 60
        daemon.notice("STATUS=RULES ON TRIAL")
        daemon.ctfw("reload", "--confirmed")
        assert status(daemon)["trial"] is None
        assert status(daemon)["trials"] == {"confirmed": 1, "rolled_back": 0}
        wait_until(new.answered)
        wait_until(lambda: "rules confirmed: uid=0" in daemon.log())
        assert "no such rules are on trial" in daemon.ctfw("reload", "--confirmed", code=1).stderr


def test_rules_that_nobody_confirms_go_although_the_client_is_gone(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as old, Datagrams(net, SHUT) as new:
        daemon.rules.write_text(OPENED)
        assert confirmed_in(daemon, 1) == 1  # its connection is closed by now
        wait_until(new.answered)
        wait_until(lambda: "the old rules are back: nobody has confirmed the new ones in time" in daemon.log())
        wait_until(old.answered)
        assert not new.answered()
        told = status(daemon)
        assert (told["generation"], told["trial"], told["trials"]["rolled_back"]) == (2, None, 1)
        assert "generation 2" in refused(daemon, "confirm", generation=1)
        assert "no such rules" in refused(daemon, "rollback")
        assert daemon.log().count("the old rules are back") == 1


def test_a_trial_ends_once_whoever_comes_first(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon:
        for _ in range(10):
            daemon.rules.write_text(OPENED)
            before = status(daemon)["trials"]
            generation = confirmed_in(daemon, 1)
            answers: list[str] = []

            def end(method: str, generation: int = generation, answers: list[str] = answers) -> None:
                with Client(daemon.control) as client:
                    try:
                        client.call(method, generation=generation)
                        answers.append(method)
                    except ClientError:
                        pass

            ends = [threading.Thread(target=end, args=(method,)) for method in ("confirm", "rollback", "confirm")]
            for one in ends:
                one.start()
            for one in ends:
                one.join()
            assert len(answers) == 1
            after = status(daemon)["trials"]
            assert after["confirmed"] - before["confirmed"] == (answers == ["confirm"])
            assert after["rolled_back"] - before["rolled_back"] == (answers == ["rollback"])


def test_every_other_reload_waits_for_the_end_of_the_trial(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as old, Datagrams(net, SHUT) as new:
        daemon.rules.write_text(OPENED)
        confirmed_in(daemon, 60)
        assert "confirm them or roll back first" in refused(daemon, "reload")
        assert "confirm them or roll back first" in refused(daemon, "reload", confirm=60)
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: daemon.log().count("reload refused: rules are on trial") == 3)
        assert status(daemon)["trial"] is not None
        daemon.ctfw("reload", "--rollback")
        wait_until(old.answered)
        daemon.ctfw("reload")
        wait_until(new.answered)


def test_a_file_with_errors_begins_no_trial(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as old:
        daemon.rules.write_text(BROKEN)
        daemon.ctfw("reload", "--confirm", "60", code=1)
        assert status(daemon)["trial"] is None
        wait_until(old.answered)


@pytest.mark.parametrize(("existing", "word"), [("keep", "keep"), ("recheck", "recheck"), ("kill", "kill")])
def test_connections_of_the_tried_rules_end_with_them_and_others_do_not(
    net: Network, tmp_path: Path, existing: str, word: str
) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as old, Datagrams(net, SHUT) as new:
        wait_until(old.answered)
        daemon.rules.write_text(RULES + f"  - {{name: too, proto: udp, dport: {SHUT}, verdict: accept}}\n")
        confirmed_in(daemon, 60, existing=word)
        wait_until(new.answered)
        wait_until(new.answered)
        wait_until(old.answered)
        daemon.ctfw("reload", "--rollback")
        assert not new.answered()
        wait_until(old.answered)
        assert f"dport={SHUT} " not in daemon.ctfw("list").stdout


def test_members_that_came_during_the_trial_stay(net: Network, tmp_path: Path) -> None:
    rules = RULES + "sets: {bad: {dynamic: true}}\n"
    rules = rules.replace("rules:\n", "rules:\n  - {name: bad, src: $bad, verdict: drop}\n")
    with Running(net, tmp_path, rules=rules) as daemon:
        daemon.ctfw("set", "add", "bad", "192.0.2.1")
        daemon.ctfw("set", "add", "bad", "192.0.2.2")
        confirmed_in(daemon, 60)
        daemon.ctfw("set", "del", "bad", "192.0.2.1")
        daemon.ctfw("set", "add", "bad", "192.0.2.3")
        daemon.ctfw("reload", "--rollback")
        listed = daemon.ctfw("set", "list", "bad").stdout
        assert [end in listed for end in ("192.0.2.1", "192.0.2.2", "192.0.2.3")] == [False, True, True]


@pytest.mark.parametrize(("said", "code", "kept"), [("y\n", 0, True), ("n\n", 1, False), ("\x04", 1, False)])
def test_who_sits_at_a_terminal_is_asked(net: Network, tmp_path: Path, said: str, code: int, kept: bool) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, SHUT) as new:
        daemon.rules.write_text(OPENED)
        master, terminal = pty.openpty()
        arguments = [*COMMAND, "reload", "--confirm", "60", "--socket", daemon.control]
        process = subprocess.Popen(arguments, stdin=terminal, stderr=terminal)
        os.close(terminal)
        told = b""
        while b"Keep them? [y/N]" not in told:
            told += os.read(master, 4096)
        os.write(master, said.encode())
        assert process.wait(10) == code
        os.close(master)
        assert new.answered() == kept
        assert status(daemon)["trial"] is None


# --- the last good rules ------------------------------------------------------------------------


def test_a_broken_file_at_the_start_and_the_last_good_rules_run(net: Network, tmp_path: Path) -> None:
    (tmp_path / "more.d").mkdir()
    more = tmp_path / "more.d" / "open.yaml"
    more.write_text(f"rules: [{{name: more, proto: udp, dport: {SHUT}, verdict: accept}}]\n")
    (tmp_path / "bad.txt").write_text("198.51.100.0/24\n")
    rules = RULES + "include: more.d/*.yaml\nsets: {bad: {file: bad.txt}}\n"
    rules = rules.replace("rules:\n", "rules:\n  - {name: bad, src: $bad, verdict: drop}\n")
    options = ("--state", str(tmp_path))
    with Running(net, tmp_path, *options, rules=rules) as daemon:
        wait_until((tmp_path / "last-good.json").exists)
        daemon.stop()
    more.unlink()
    (tmp_path / "bad.txt").unlink()
    (tmp_path / "notify").unlink()
    with Running(net, tmp_path, *options, rules=BROKEN) as daemon, Datagrams(net, SHUT) as new:
        wait_until(new.answered)  # by the file that was included, and is gone
        wait_until(lambda: "LAST GOOD RULES of 20" in daemon.log() and f"{daemon.rules}:2:" in daemon.log())
        assert "LAST GOOD RULES" in daemon.notice("STATUS=")
        assert f"{daemon.rules}:2:" in status(daemon)["last_good"]["why"]
        daemon.rules.write_text(OPENED)
        daemon.ctfw("reload")
        assert status(daemon)["last_good"] is None


def test_without_last_good_rules_a_broken_file_is_no_start(net: Network, tmp_path: Path) -> None:
    (tmp_path / "last-good.json").write_text("{torn")
    (tmp_path / "rules.yaml").write_text(BROKEN)
    arguments = ["run", "--rules", str(tmp_path / "rules.yaml"), "--socket", str(tmp_path / "s"), "--state"]
    process = net.gateway.start([*COMMAND, *arguments, str(tmp_path)], stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "rules.yaml:2:" in said


@pytest.mark.parametrize("end", ["while on trial", "after it"])
def test_rules_that_nobody_confirmed_do_not_come_back_with_a_restart(net: Network, tmp_path: Path, end: str) -> None:
    options = ("--state", str(tmp_path))
    with Running(net, tmp_path, *options) as daemon:
        wait_until((tmp_path / "last-good.json").exists)
        daemon.rules.write_text(OPENED)
        assert "without --state" not in daemon.ctfw("reload", "--confirm", "60").stderr
        if end == "after it":
            daemon.ctfw("reload", "--rollback")
        daemon.process.kill()
        daemon.process.wait()
    for name in ("notify", "control.sock"):
        (tmp_path / name).unlink()
    with Running(net, tmp_path, *options, rules=OPENED) as daemon, Datagrams(net, OPEN) as old:
        wait_until(old.answered)
        wait_until(lambda: "were on trial and nobody has confirmed them" in daemon.log())
        daemon.ctfw("reload")  # without a trial: somebody wants them
        daemon.stop()
    (tmp_path / "notify").unlink()
    with Running(net, tmp_path, *options, rules=OPENED) as daemon, Datagrams(net, SHUT) as new:
        wait_until(new.answered)
        assert status(daemon)["last_good"] is None


@pytest.mark.parametrize("way", ["confirmed", "without a trial"])
def test_rules_that_somebody_wanted_are_those_of_the_next_start(net: Network, tmp_path: Path, way: str) -> None:
    """The daemon dies as soon as it has answered, and a full disk would make no difference."""
    options = ("--state", str(tmp_path))
    with Running(net, tmp_path, *options) as daemon:
        wait_until((tmp_path / "last-good.json").exists)
        (tmp_path / "last-good.json.new").mkdir()  # from now on they cannot be written
        daemon.rules.write_text(OPENED)
        daemon.ctfw("reload", "--confirm", "60")
        if way == "confirmed":
            assert "not kept for a restart: " in daemon.ctfw("reload", "--confirmed").stderr
        else:
            daemon.ctfw("reload", "--rollback")
            daemon.ctfw("reload")
        daemon.process.kill()
        daemon.process.wait()
    for name in ("notify", "control.sock"):
        (tmp_path / name).unlink()
    with Running(net, tmp_path, *options, rules=OPENED) as daemon, Datagrams(net, SHUT) as new:
        assert status(daemon)["last_good"] is None
        wait_until(new.answered)


# --- the session that asks ----------------------------------------------------------------------


def test_a_reload_that_would_cut_the_session_that_asks_warns_of_it(net: Network, tmp_path: Path) -> None:
    rules = RULES.replace("input: accept", "input: drop").replace(
        "rules:\n", "rules:\n  - {name: ssh, chain: input, proto: tcp, dport: 22, state: NEW, verdict: accept}\n"
    )
    with Running(net, tmp_path, rules=rules) as daemon:
        with net.gateway:
            listener = socket.create_server(("192.168.1.1", 22))
        with net.client:
            session = socket.create_connection(("192.168.1.1", 22), timeout=5)
        host, port = session.getsockname()
        ask = [*COMMAND, "reload", "--socket", daemon.control, "--existing", "recheck", "--confirm", "60"]
        environment = {**os.environ, "SSH_CONNECTION": f"{host} {port} 192.168.1.1 22"}
        daemon.rules.write_text(rules.replace("dport: 22", "dport: 2222"))
        done = subprocess.run(ask, capture_output=True, text=True, env=environment, timeout=30)
        assert "warning: this session would be cut: " in done.stderr
        assert "by 'policy input'" in done.stderr
        daemon.ctfw("reload", "--rollback")
        daemon.rules.write_text(rules)
        done = subprocess.run(ask, capture_output=True, text=True, env=environment, timeout=30)
        assert "session" not in done.stderr
        session.close()
        listener.close()
