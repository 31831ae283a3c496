"""`ctfw delete`, `kill` and `flush`: what they take out, what they leave, and whom they ask first."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.running import COMMAND, OPEN, Datagrams, Running
from engine.conversation import CLIENT, SERVER, Gateway, Tcp, Udp
from engine.test_gre_pptp import Pptp
from hook.hooked import judged, needs_both_iptables

from ctfw.cli.asker import ssh_session
from ctfw.service.peers import Peer
from ctfw.service.removal import Removal
from ctfw.service.session import Refused, Session
from lab.net import SERVER as REAL_SERVER
from lab.net import Network

ALL = "version: 1\npolicy: {input: accept, forward: accept, output: accept}\n"


class Asked:
    """A table of two lookups and a TCP connection, and the methods."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.gateway.now = 1 << 62  # ahead of any clock: nothing expires here
        self.talks = [Udp(self.gateway, sport=port) for port in (1, 2)]
        for talk in self.talks:
            talk.client()
        self.tcp = Tcp(self.gateway).opened()
        self.removal = Removal(self.gateway.tracker, lambda: None)
        self.session = Session(Peer(1, 0, frozenset({0})))

    def ask(self, method: str, **params: object) -> list[str]:
        """The lines of an answer, all pages of it."""
        lines: list[str] = []
        answer: Any = self.removal.table()[method](params, self.session)
        while answer["more"]:
            lines += answer["entries"]
            answer = self.removal.table()[method]({**params, "next": True}, self.session)
        return lines

    def left(self) -> int:
        return len(self.gateway.tracker.table)


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.mark.parametrize("method", ["delete", "kill"])
def test_it_takes_what_the_filter_means_and_says_so(asked: Asked, method: str) -> None:
    (line,) = asked.ask(method, only={"sport": "1"})
    assert re.match(r"udp      17 \d+ src=10\.1\.0\.2 dst=10\.2\.0\.2 sport=1 dport=53 \[UNREPLIED\] ", line)
    assert asked.left() == 2
    asked.talks[1].client().is_new()
    assert asked.talks[0].client().reason == ("killed" if method == "kill" else "")


@pytest.mark.parametrize("method", ["delete", "kill"])
def test_a_dry_run_takes_nothing(asked: Asked, method: str) -> None:
    assert len(asked.ask(method, only={"proto": "udp"}, dry_run=True)) == 2
    assert asked.left() == 3


@pytest.mark.parametrize("method", ["delete", "kill"])
@pytest.mark.parametrize("params", [{}, {"only": {}}, {"only": []}, {"only": "all"}, {"only": {"sport": "x"}}])
def test_without_a_filter_it_is_refused(asked: Asked, method: str, params: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        asked.ask(method, **params)
    assert asked.left() == 3


def test_kill_tells_the_ends_when_asked_to(asked: Asked) -> None:
    asked.ask("kill", only={"proto": "tcp"}, reset=True)
    asked.tcp.client("ack").is_dropped_unasked("killed")
    assert asked.gateway.engine._judgement.reject != 0


class Sessions:
    """Two FTP sessions, each with a transfer under way."""

    def __init__(self) -> None:
        self.gateway = Gateway({"ftp": [21], "pptp": [1723]})
        self.gateway.now = 1 << 62  # ahead of any clock
        self.controls = [Tcp(self.gateway, sport=sport, dport=21).opened() for sport in (40000, 40001)]
        self.data = []
        for number, talk in enumerate(self.controls):
            talk.client("ack", b"USER x\r\n")
            talk.client("ack", b"PORT 10,1,0,2,100,%d\r\n" % number)
            data = Tcp(self.gateway, SERVER, CLIENT, 20, 25600 + number)
            data.client("syn").is_related("ORIGINAL")
            data.server("syn ack")
            self.data.append(data)
        self.removal = Removal(self.gateway.tracker, lambda: None)
        self.session = Session(Peer(1, 0, frozenset({0})))

    def ask(self, method: str, **params: object) -> set[str]:
        """The ports that were called of what was taken out."""
        ask: Any = self.removal.table()[method]
        answer = ask(params, self.session)
        lines = answer["entries"]
        if answer["more"]:
            assert ask({**params, "next": True}, self.session) == {"entries": [], "more": False}
        assert len(set(lines)) == len(lines)
        return {found[0] for line in lines if (found := re.findall(r"dport=(\d+)", line))}


def test_kill_takes_along_what_belongs_to_it() -> None:
    sessions = Sessions()
    for dry_run in (True, False):
        assert sessions.ask("kill", only={"sport": "40000", "dport": "21"}, dry_run=dry_run) == {"21", "25600"}
    sessions.data[0].client("ack", b"more").is_dropped_unasked("killed")
    sessions.data[1].client("ack", b"more").is_established("ORIGINAL")
    for dry_run in (True, False):
        assert sessions.ask("kill", only={"proto": "tcp"}, dry_run=dry_run) == {"21", "25601"}  # each of them once


def test_delete_does_not() -> None:
    sessions = Sessions()
    assert sessions.ask("delete", only={"dport": "21"}) == {"21"}
    sessions.data[0].client("ack", b"more").is_established("ORIGINAL")
    # Nor does a kill afterwards: what is long over brings nothing to its end.
    assert sessions.ask("kill", only={"dport": "21"}) == set()


def test_what_belongs_to_what_belongs_to_it() -> None:
    sessions = Sessions()
    sessions.data[1].conn.master = sessions.data[0].conn
    assert sessions.ask("kill", only={"sport": "40000"}) == {"21", "25600", "25601"}


def test_a_circle_of_masters_is_no_trap() -> None:
    sessions = Sessions()
    conn = sessions.data[0].conn
    conn.master = conn
    assert sessions.ask("kill", only={"sport": "40000"}) == {"21"}


def test_the_tunnel_of_a_killed_pptp_session_is_told_too() -> None:
    gateway = Sessions().gateway
    call = Pptp(gateway).calls_out()
    call.from_client()
    removal, session = Removal(gateway.tracker, lambda: None), Session(Peer(1, 0, frozenset({0})))
    for dry_run in (True, False):
        answer = removal.kill({"only": {"dport": "1723"}, "dry_run": dry_run}, session)
        assert sorted(line.split()[0] for line in answer["entries"]) == ["gre", "tcp"]
    assert not gateway.tracker.calls() and gateway.tracker.killed.count == 2


def test_a_session_that_belongs_to_what_would_be_killed_is_found() -> None:
    sessions = Sessions()
    own = {"tuple": [SERVER, 20, CLIENT, 25600], "only": {"dport": "21"}}
    assert sessions.removal.meets(own, sessions.session) == {"meets": False}
    assert sessions.removal.meets({**own, "related": True}, sessions.session) == {"meets": True}


def test_flush_takes_all_and_forgets_the_killed(asked: Asked) -> None:
    asked.ask("kill", only={"sport": "1"})
    work = asked.removal.flush({}, asked.session)
    with pytest.raises(StopIteration) as end:
        while True:
            next(work)
    assert end.value.value == {"removed": 2}
    assert asked.left() == 0 and asked.gateway.tracker.killed.count == 0


def test_a_large_table_is_emptied_in_slices() -> None:
    gateway = Gateway(max=0)
    for port in range(1, 20_000):
        Udp(gateway, sport=port).client()
    slices = sum(1 for _ in Removal(gateway.tracker, lambda: None).flush({}, Session(Peer(1, 0, frozenset()))))
    assert slices > 1 and len(gateway.tracker.table) == 0


def test_many_killed_are_forgotten_in_slices() -> None:
    gateway = Gateway(max=0)
    for port in range(1, 20_000):
        said = Udp(gateway, sport=port).client()
        assert said.conn is not None
        gateway.tracker.kill(said.conn, False, gateway.now)
    assert gateway.tracker.killed.count == 19_999
    slices = sum(1 for _ in Removal(gateway.tracker, lambda: None).flush({}, Session(Peer(1, 0, frozenset()))))
    assert slices > 1 and gateway.tracker.killed.count == 0


@pytest.mark.parametrize("method", ["delete", "kill", "flush"])
def test_what_an_answer_tells_of_is_on_record(method: str) -> None:
    gateway = Gateway(max=0)
    table = gateway.tracker.table
    for port in range(1, 20_000):
        Udp(gateway, sport=port).client()
    table.removed = []

    def note() -> None:
        table.removed = []

    removal, session = Removal(gateway.tracker, note), Session(Peer(1, 0, frozenset({0})))
    if method == "flush":
        for _ in removal.flush({}, session):
            assert table.removed == []
    else:
        ask = removal.delete if method == "delete" else removal.kill
        params: dict[str, Any] = {"only": {"proto": "udp"}}
        while ask(params, session)["more"]:
            assert table.removed == []
            params["next"] = True
    assert len(table) == 0 and table.removed == []


def test_whether_a_filter_means_a_session(asked: Asked) -> None:
    own = [CLIENT, 40000, SERVER, 80]
    port = asked.tcp.sides[1].port
    for one, only, expected in (
        ([CLIENT, 40000, SERVER, port], {}, True),
        ([CLIENT, 40000, SERVER, port], {"proto": "tcp"}, True),
        ([CLIENT, 40000, SERVER, port], {"proto": "udp"}, False),
        ([CLIENT, 40001, SERVER, port], {}, False),
    ):
        assert asked.removal.meets({"tuple": one, "only": only}, asked.session) == {"meets": expected}
    for bad in (None, [], [*own, 1], ["x", 1, "y", 2], [CLIENT, 1 << 16, SERVER, 80], [CLIENT, -1, SERVER, 80]):
        with pytest.raises(Refused):
            asked.removal.meets({"tuple": bad}, asked.session)


def test_the_ssh_session_is_found_above_sudo() -> None:
    program = "import os, subprocess, sys; subprocess.run([sys.executable, '-P', '-c', sys.argv[1]], env={})"
    ask = f"import sys; sys.path[:0] = {[*map(str, _path())]}; from ctfw.cli.asker import ssh_session as s; print(s())"
    env = {**os.environ, "SSH_CONNECTION": "fe80::1%eth0 50000 192.0.2.1 22"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, ask], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "('fe80::1', 50000, '192.0.2.1', 22)\n"


def _path() -> list[Path]:
    import ctfw

    return [Path(ctfw.__file__).parent.parent]


def test_without_ssh_there_is_none() -> None:
    assert ssh_session(1) is None


def connected(net: Network) -> tuple[socket.socket, socket.socket]:
    """A listener on the server, and the client's connection to it."""
    with net.server:
        listener = socket.create_server((REAL_SERVER, 2222))
    with net.client:
        return listener, socket.create_connection((REAL_SERVER, 2222), timeout=5)


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def ctfw(daemon: Running, *arguments: str, code: int = 0, ssh: str = "") -> "subprocess.CompletedProcess[str]":
    """The command, typed in this SSH session."""
    done = subprocess.run(
        [*COMMAND, *arguments, "--socket", daemon.control],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "SSH_CONNECTION": ssh},
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.kernel
def test_kill_cuts_traffic_and_delete_does_not(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        port = str(good.client.getsockname()[1])
        done = ctfw(daemon, "delete", "--sport", port, "--dry-run")
        assert "1 flow entries would have been deleted" in done.stderr
        done = ctfw(daemon, "delete", "--sport", port)
        assert done.stdout.startswith("udp      17 ") and "1 flow entries have been deleted" in done.stderr
        assert good.answered()
        ctfw(daemon, "kill", "--sport", port)
        assert not good.arrives()
        assert daemon.stats()["reasons"]["killed"] == 1
        assert daemon.stats()["conntrack"]["killed"] == 1
        assert "the table has been emptied" in ctfw(daemon, "flush").stderr
        assert good.answered()
        assert "needs a filter" in ctfw(daemon, "delete", code=2).stderr


@pytest.mark.kernel
def test_ones_own_session_is_not_cut_without_a_word(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=ALL) as daemon:
        listener, session = connected(net)
        with session, listener:
            client, port = session.getsockname()
            ssh = f"{client} {port} {REAL_SERVER} 2222"
            refused = ctfw(daemon, "kill", "-p", "tcp", code=1, ssh=ssh)
            assert "would cut the SSH session that you are in; nothing was done" in refused.stderr
            assert "warning" not in ctfw(daemon, "kill", "-p", "udp", "--dry-run", ssh=ssh).stderr
            assert "warning" in ctfw(daemon, "kill", "-p", "tcp", "--dry-run", ssh=ssh).stderr
            assert "warning" in ctfw(daemon, "delete", "-p", "tcp", ssh=ssh).stderr
            session.send(b"x")
            assert listener.accept()[0].recv(1) == b"x"
            assert "1 flow entries have been killed" in ctfw(daemon, "kill", "-p", "tcp", "--force", ssh=ssh).stderr


@pytest.mark.kernel
@needs_both_iptables
def test_both_ends_are_reset_at_their_next_word(tmp_path: Path) -> None:
    with Network() as net, judged(net, tmp_path, "iptables-nft", ALL) as daemon:
        listener, client = connected(net)
        with client, listener, listener.accept()[0] as server:
            server.settimeout(5)
            ctfw(daemon, "kill", "--dport", "2222", "--reset")
            for end in (client, server):
                end.send(b"x")
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
