"""The service restarts, crashes and boots, and neither packets nor connections are lost."""

import contextlib
import ftplib
import io
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from boot.gateway import booted, gateway, stats, survivors
from daemon.running import OPEN, RULES, Datagrams, wait_until

from lab.net import SERVER, Network
from lab.systemd import System
from lab.traffic import PAGE, files, serve

pytestmark = [pytest.mark.kernel, pytest.mark.systemd]

# In the middle of a connection nothing passes but what is ESTABLISHED, and nothing is picked up.
STRICT: Final = """
version: 1
conntrack: {helpers: {ftp: 21}, tcp_loose: false}
policy: {input: accept, forward: drop, output: accept}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: ftp, chain: forward, in: lan0, proto: tcp, dport: 21, state: NEW, verdict: accept}
"""


def test_200_of_200_datagrams_survive_a_restart_and_50_of_50_a_sigkill() -> None:
    """Each of them once. One that comes just when the new daemon takes over may overtake those that waited."""
    with gateway() as (net, system):
        pid = system.property("ctfw", "MainPID")
        assert sorted(survivors(net, 200, system, "systemctl", "restart", "ctfw")) == list(range(200))
        assert system.property("ctfw", "MainPID") != pid
        queue = stats(system)["queue"]
        assert (queue["lost"], queue["errors"], queue["refused"]) == (0, 0, 0)
        assert queue["received"] == queue["answered"]

        assert sorted(survivors(net, 50, system, "systemctl", "kill", "-s", "KILL", "ctfw")) == list(range(50))
        assert system.property("ctfw", "NRestarts") == "1"
        queue = stats(system)["queue"]
        assert (queue["lost"], queue["errors"], queue["refused"]) == (0, 0, 0)
        assert queue["kernel"]["waiting"] == 0


def test_a_queue_of_another_number_is_given_up_and_stop_gives_up_all() -> None:
    with gateway() as (_, system):
        assert _queues(system) == [0]
        system.put("/etc/ctfw/rules.yaml", RULES + "queue: {number: 5}\n")
        system.run("systemctl", "restart", "ctfw")
        assert "kept by systemd, but not used any more and given up: queue-0" in system.journal("-u", "ctfw")
        wait_until(lambda: _queues(system) == [5])
        assert system.property("ctfw", "NFileDescriptorStore") == "3"
        system.run("systemctl", "stop", "ctfw")
        assert _queues(system) == []


def test_an_ftp_session_survives_a_restart_a_sigkill_and_a_reboot(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    keeps = {"/var/lib/ctfw": tmp_path / "state"}
    with Network() as net, files() as directory:
        serve(net.server, directory)
        with net.client:
            ftp = ftplib.FTP(timeout=5)
        with booted(net, STRICT, keeps) as system:
            _inside(net, lambda: (ftp.connect(SERVER), ftp.login()))
            system.run("systemctl", "restart", "ctfw")
            assert "left_out=0 as=they were" in system.journal("-u", "ctfw")
            _fetch(net, ftp, passive=True)

            system.run("systemctl", "kill", "-s", "KILL", "ctfw")
            wait_until(lambda: system.property("ctfw", "NRestarts") == "1")
            wait_until(lambda: system.property("ctfw", "ActiveState") == "active")
            assert "left_out=0 as=picked up" in system.journal("-u", "ctfw")
            _fetch(net, ftp, passive=False)
            system.poweroff()
        with booted(net, STRICT, keeps):
            _fetch(net, ftp, passive=True)
        ftp.close()


def test_what_somebody_did_just_before_a_sigkill_is_done() -> None:
    ports = (OPEN, OPEN + 10, OPEN + 20)
    rules = RULES.replace(f"dport: {OPEN}", f"dport: {list(ports)}")
    with gateway(rules) as (net, system), contextlib.ExitStack() as stack:
        paths = [stack.enter_context(Datagrams(net, port)) for port in ports]
        assert all(path.answered() for path in paths)
        wait_until(lambda: all(_is_on_record(system, path) for path in paths))
        words = f"ctfw panic on --for 60 && ctfw kill --dport {ports[1]} && ctfw delete --dport {ports[0]}"
        system.run("sh", "-c", f"{words} && systemctl kill -s KILL ctfw")
        wait_until(lambda: system.property("ctfw", "NRestarts") == "1")
        wait_until(lambda: system.property("ctfw", "ActiveState") == "active")
        listed = system.run("ctfw", "list", "-p", "udp").stdout
        assert [f"dport={port} " in listed for port in ports] == [False, False, True]
        assert not paths[2].answered()
        system.run("ctfw", "panic", "off")
        assert [path.answered() for path in paths] == [True, False, True]


def test_a_state_that_cannot_be_used_is_refused_in_a_line_and_never_stops_the_start() -> None:
    with gateway() as (net, system), Datagrams(net, OPEN) as path:
        assert path.answered()
        other = "import ctfw.service.snapshot as s; s.FORMAT += 1; from ctfw.cli import main; main()"
        command = system.path("/usr/bin/ctfw").read_text().replace("-m ctfw", f"-c '{other}'")
        system.put("/usr/bin/ctfw-next", command)
        system.put(
            "/etc/systemd/system/ctfw.service.d/next.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/ctfw-next run\n",
        )
        system.run("systemctl", "daemon-reload")
        system.run("systemctl", "restart", "ctfw")
        refusals = [line for line in system.journal("-u", "ctfw").splitlines() if "of format" in line]
        wanted = r"of format (\d), written by ctfw [\d.]+; this is ctfw [\d.]+, format (\d)"
        where = ("connections-[01], kept by systemd", "/var/lib/ctfw/connections")
        for line, place in zip((refusals[0], refusals[-1]), where, strict=True):
            assert re.fullmatch(f"ctfw: {place}: not used: {wanted}", line), line
        assert path.answered()  # its queue was taken over all the same

        system.run("systemctl", "stop", "ctfw")
        system.put("/var/lib/ctfw/connections", "junk")
        system.run("systemctl", "start", "ctfw")
        assert "ctfw: /var/lib/ctfw/connections: not used: not written by ctfw\n" in system.journal("-u", "ctfw")


def _is_on_record(system: System, path: Datagrams) -> bool:
    """Whether the connection is known to the logs that systemd keeps."""
    (client, sport), (server, dport) = path.client.getsockname(), path.client.getpeername()
    key = bytes([17]) + socket.inet_aton(client) + socket.inet_aton(server) + struct.pack(">HH", sport, dport)
    logs = "/proc/$(systemctl show -p MainPID --value ctfw)/fd/*"
    dump = f"for log in {logs}; do readlink $log | grep -q memfd && od -An -v -tx1 $log; done; true"
    return key.hex(" ") in " ".join(system.run("sh", "-c", dump).stdout.split())


def _inside(net: Network, do: Callable[[], object]) -> None:
    with net.client:
        do()


def _fetch(net: Network, ftp: ftplib.FTP, passive: bool) -> None:
    """A command and a file, on the control connection that there is."""
    data = io.BytesIO()
    ftp.set_pasv(passive)
    _inside(net, lambda: ftp.retrbinary("RETR page", data.write))
    assert data.getvalue() == PAGE


def _queues(system: System) -> list[int]:
    lines = system.run("cat", "/proc/net/netfilter/nfnetlink_queue").stdout.splitlines()
    return [int(line.split()[0]) for line in lines]
