"""Real workers on the queues of --queue-balance: real packets, one control socket, a reload of all or of none."""

import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.running import PATIENCE, RULES, Datagrams, Running, wait_until

from ctfw.service.client import Client, ClientError
from ctfw.tools.capture import read
from lab.net import CLIENT, SERVER, Network

pytestmark = pytest.mark.kernel

RUN = (sys.executable, "-P", "-m", "ctfw", "run", "--log", "stderr")
QUEUES = "queue: {number: 4, workers: 3}\nconntrack: {acct: on}\n"
WORKERS = RULES + QUEUES
IRC = """
version: 1
policy: {input: accept, forward: drop, output: accept}
rules:
  - {name: replies, state: ESTABLISHED, verdict: accept}
  - {name: expected, state: RELATED, verdict: accept}
  - {name: irc, chain: forward, in: lan0, proto: tcp, dport: 6667, state: NEW, verdict: accept}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        for program in ("iptables", "ip6tables"):
            for chain in ("INPUT ! -i lo", "OUTPUT ! -o lo", "FORWARD"):
                made.gateway.run(program, *f"-A {chain} -j NFQUEUE --queue-balance 4:6".split())
        for number in range(10, 30):
            made.server.run("ip", "address", "add", f"203.0.113.{number}/24", "dev", "eth0")
            made.server.run("ip", "address", "add", f"2001:db8:1::{number}/64", "dev", "eth0", "nodad")
        made.server.set(ipv4__icmp_ratelimit=0)
        yield made


def exchange(net: Network, address: str, times: int = 1) -> int:
    """Datagrams from the client to this address of the server, each answered: how many were."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with net.server:
        server = socket.socket(family, socket.SOCK_DGRAM)
    with net.client:
        client = socket.socket(family, socket.SOCK_DGRAM)
    with server, client:
        server.bind((address, 5353))
        for end in (server, client):
            end.settimeout(1)
        answered = 0
        for _ in range(times):
            client.sendto(b"there?", (address, 5353))
            _, peer = server.recvfrom(10)
            server.sendto(b"here", peer)
            answered += client.recv(10) == b"here"
        return answered


def rules_in(directory: Path) -> Path:
    path = directory / "rules.yaml"
    path.write_text(WORKERS)
    return path


def call(daemon: Running, method: str, worker: str = "", **params: Any) -> Any:
    with Client(daemon.control + worker) as client:
        return client.call(method, **params)


def received(daemon: Running) -> list[int]:
    return [worker["received"] for worker in call(daemon, "status")["workers"]]


def connections(daemon: Running, worker: str = "") -> list[dict[str, Any]]:
    with Client(daemon.control + worker) as client:
        return list(client.pages("list", form="dict"))


def test_a_connection_stays_with_one_worker_and_all_speak_as_one(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        addresses = [f"203.0.113.{number}" for number in range(10, 30)]
        addresses += [f"2001:db8:1::{number}" for number in range(10, 30)]
        for address in addresses:
            assert exchange(net, address, 3) == 3
        shares = [[one for one in connections(daemon, f".{number}") if one["proto"] == "udp"] for number in range(3)]
        assert min(map(len, shares)) > 3  # the kernel's hash spreads them
        counts = [(one["original"]["packets"], one["reply"]["packets"]) for share in shares for one in share]
        assert counts == [(3, 3)] * len(addresses)  # both directions of each in one place
        assert len([one for one in connections(daemon) if one["proto"] == "udp"]) == 40
        stats = daemon.stats()
        assert stats["conntrack"]["entries"] >= 40 and stats["conntrack"]["invalid"] == 0
        assert sum(stats["states"].values()) == stats["queue"]["received"]
        rules = {rule["name"]: rule["packets"] for rule in daemon.stats()["rules"]}
        assert rules["open"] == 40 and rules["replies"] == 40 * 5
        for words in (["list"], ["status"], ["rules"], ["stats"], ["list", "--proto", "udp", "-o", "json"]):
            daemon.ctfw(*words)
        explained = daemon.ctfw("explain", "--live", f"udp {CLIENT}:1 > 203.0.113.10:5353", "--in", "lan0").stdout
        assert "accept by 'open'" in explained
        refused = daemon.ctfw("events", code=1)
        assert "each worker answers this for itself" in refused.stderr
        assert call(daemon, "flush")["removed"] >= 40
        assert connections(daemon) == []


def test_each_has_a_log_of_its_own_and_status_counts_them_all(net: Network, tmp_path: Path) -> None:
    eve = f"eve: {{path: {tmp_path}/eve.json}}\n"
    with Running(net, tmp_path, rules=WORKERS + eve) as daemon:
        for number in range(10, 30):
            assert exchange(net, f"203.0.113.{number}") == 1
        flows = call(daemon, "flush")["removed"]
        logs = [tmp_path / f"eve.{number}.json" for number in range(3)]
        wait_until(lambda: all(log.exists() for log in logs))

        def written() -> int:
            return sum(len(log.read_bytes().splitlines()) for log in logs)

        wait_until(lambda: call(daemon, "status")["eve"]["written"] == written() >= flows)


def test_each_records_into_a_file_of_its_own_and_status_counts_them_all(net: Network, tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    with Running(net, tmp_path, "--record", str(file), rules=WORKERS) as daemon:
        for number in range(10, 30):
            assert exchange(net, f"203.0.113.{number}") == 1
        wait_until(lambda: call(daemon, "status")["record"]["written"] >= 40)
        daemon.signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE) == 0
        received = sum(int(count) for count in re.findall(r"stopped: received=(\d+)", daemon.log()))
    frames = [list(read(io.BytesIO(Path(f"{file}.{number}").read_bytes()))) for number in range(3)]
    assert sum(map(len, frames)) == received


def test_a_reload_is_for_all_or_for_none(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        assert exchange(net, SERVER) == 1
        daemon.rules.write_text(WORKERS.replace("dport: 5353", "dport: nonsense"))
        daemon.ctfw("reload", code=1)
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: "reload failed" in daemon.log())
        assert exchange(net, SERVER) == 1
        assert [call(daemon, "status", f".{number}")["rules"]["generation"] for number in range(3)] == [0, 0, 0]
        daemon.rules.write_text(WORKERS.replace("dport: 5353", "dport: 5354") + "existing: recheck\n")
        daemon.ctfw("reload")
        assert [call(daemon, "status", f".{number}")["rules"]["generation"] for number in range(3)] == [1, 1, 1]
        with Datagrams(net, 5353) as shut:
            assert not shut.arrives()
        daemon.rules.write_text(WORKERS)
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: call(daemon, "status", ".2")["rules"]["generation"] == 2)
        assert exchange(net, SERVER) == 1


def test_members_of_a_set_are_known_to_all(net: Network, tmp_path: Path) -> None:
    banned = "sets: {banned: {dynamic: on}}\nrules:\n  - {name: out, src: $banned, verdict: drop}"
    text = WORKERS.replace("rules:", banned)
    with Running(net, tmp_path, rules=text) as daemon:
        daemon.ctfw("set", "add", "banned", CLIENT)
        wait_until(lambda: all(call(daemon, "members", f".{number}")["entries"] for number in range(3)))
        with Datagrams(net, 5353) as shut:
            assert not shut.arrives()
        daemon.ctfw("set", "del", "banned", CLIENT)
        assert [call(daemon, "members", f".{number}")["entries"] for number in range(3)] == [[], [], []]
        assert exchange(net, SERVER) == 1


def is_told(sender: socket.socket) -> bool:
    """Does an ICMP error about a datagram come back?"""
    try:
        sender.send(b"too far")
        sender.recv(10)
    except TimeoutError:
        return False
    except OSError as error:
        return error.errno == errno.EHOSTUNREACH
    return False


def test_an_icmp_error_finds_the_connection_of_another_worker(net: Network, tmp_path: Path) -> None:
    """The far router says that a packet's time is over: from the server, about one to somebody beyond it."""
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        before = daemon.stats()["states"]["RELATED"]
        for number in range(1, 13):
            with net.client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 2)
                sender.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
                sender.settimeout(0.5)
                sender.connect((f"198.51.100.{number}", 5353))
                assert any(is_told(sender) for _ in range(10))  # a busy machine may keep a worker from answering
        assert daemon.stats()["states"]["RELATED"] - before >= 12
        asked = call(daemon, "siblings")
        assert asked["asked"] > asked["unanswered"] and (asked["unasked"], asked["lost"]) == (0, 0)


def test_an_expectation_is_fulfilled_at_another_worker(net: Network, tmp_path: Path) -> None:
    """IRC: the client offers a file through the server; who comes for it may be any address, so any worker."""
    with Running(net, tmp_path, rules=IRC + QUEUES.replace("acct: on", "helpers: {irc: 6667}")) as daemon:
        with net.server, socket.create_server((SERVER, 6667)) as listener, net.client:
            talk = socket.create_connection((SERVER, 6667), timeout=2)
            with net.server:
                heard, _ = listener.accept()
        own = int.from_bytes(socket.inet_aton(CLIENT), "big")
        with talk, heard, net.client:
            for number in range(10, 22):
                with socket.create_server((CLIENT, 5000 + number)) as offered:
                    offered.settimeout(2)
                    talk.send(b"PRIVMSG bob :\1DCC SEND file %d %d 1234\1\r\n" % (own, 5000 + number))
                    assert heard.recv(100)
                    with net.server:
                        friend = socket.create_connection(
                            (CLIENT, 5000 + number), timeout=2, source_address=(f"203.0.113.{number}", 0)
                        )
                    friend.close()
                    offered.accept()[0].close()
        assert {rule["name"]: rule["packets"] for rule in daemon.stats()["rules"]}["expected"] >= 12
        asked = call(daemon, "siblings")
        assert asked["asked"] > asked["unanswered"] and (asked["unasked"], asked["lost"]) == (0, 0)
        # Each worker knows what belongs to whom, wherever that is; and one of them knows the session that is asked for.
        (entry,) = call(daemon, "list", form="dict", only={"dport": "6667"})["entries"]
        for tuple_, meets in (
            ((CLIENT, entry["original"]["sport"], SERVER, 6667), True),
            ((CLIENT, 1, SERVER, 2), False),
        ):
            assert call(daemon, "meets", tuple=tuple_, only={"proto": "tcp"}) == {"meets": meets}
        killed = daemon.ctfw("kill", "--dport", "6667").stdout.splitlines()
        assert len(killed) == 13 and not [one for one in connections(daemon) if one["proto"] == "tcp"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_when_one_ends_all_do_and_nobody_is_left(net: Network, tmp_path: Path, number: int) -> None:
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        pids = [worker["pid"] for worker in call(daemon, "status")["workers"]]
        os.kill(pids[1], number)
        assert daemon.process.wait(PATIENCE) == 1
        wait_until(lambda: f"worker 1 ended: pid={pids[1]}" in daemon.log())
        wait_until(lambda: not any(map(is_running, pids)))
        assert not list(tmp_path.glob("control.sock*"))


def test_a_panic_outlives_a_crash_of_one_and_ends_with_a_restart(net: Network, tmp_path: Path) -> None:
    def shut() -> list[bool]:
        return [call(daemon, "status", f".{number}")["rules"]["panic"] is not None for number in range(3)]

    with Running(net, tmp_path, rules=WORKERS) as daemon:
        daemon.ctfw("panic", "on", "--for", "60")
        os.kill(call(daemon, "status")["workers"][1]["pid"], signal.SIGKILL)
        assert daemon.process.wait(PATIENCE) != 0
    (tmp_path / "notify").unlink()
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        assert shut() == [True] * 3
        daemon.signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE) == 0
    (tmp_path / "notify").unlink()
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        assert shut() == [False] * 3


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_supervisors_end_is_the_workers_end(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        pids = [worker["pid"] for worker in call(daemon, "status")["workers"]]
        daemon.signal(signal.SIGKILL)
        daemon.process.wait()
        wait_until(lambda: not any(map(is_running, pids)))


def test_the_watchdog_is_fed_only_while_every_worker_makes_progress(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        assert "WATCHDOG=1" in daemon.notices(1)
        pid = call(daemon, "status")["workers"][2]["pid"]
        os.kill(pid, signal.SIGSTOP)
        daemon.notices(0.3)
        assert "WATCHDOG=1" not in daemon.notices(1)
        os.kill(pid, signal.SIGCONT)
        assert "WATCHDOG=1" in daemon.notices(1)


def test_a_worker_without_its_queue_is_a_failed_start(net: Network, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with Running(net, tmp_path / "first", "--queue", "6"):
        done = subprocess.run(
            ["nsenter", f"--net={net.gateway.path}", *RUN, "--rules", str(rules_in(tmp_path / "second")), "--socket",
             str(tmp_path / "second" / "control.sock")],
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 1
        assert "worker 2: queue 6: already bound" in done.stderr


def test_a_control_socket_that_is_taken_is_a_failed_start(net: Network, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        done = subprocess.run(
            ["nsenter", f"--net={net.gateway.path}", *RUN, "--rules", str(rules_in(tmp_path)), "--socket", path],
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"ctfw: control socket: {path}: another daemon listens there" in done.stderr
    assert "Traceback" not in done.stderr


# Puts the descriptors that it is given where systemd would, says so in the environment, and becomes ctfw.
_KEPT = """
import fcntl, os, sys
names, numbers = sys.argv[1], [int(number) for number in sys.argv[2].split(",") if number]
copies = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in numbers]
for place, copy in enumerate(copies, 3):
    os.dup2(copy, place)
    os.close(copy)
if numbers:
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": names}
os.execv(sys.executable, [sys.executable, "-P", "-m", "ctfw", "run", *sys.argv[3:]])
"""


class Keeper:
    """What systemd does for a service with a store of descriptors."""

    def __init__(self, net: Network, directory: Path) -> None:
        self.kept: dict[str, int] = {}
        self.control = str(directory / "control.sock")
        self._net = net
        self._rules = rules_in(directory)
        self._path = str(directory / "notify")
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(self._path)
        self._notices.settimeout(PATIENCE)

    def start(self) -> "subprocess.Popen[str]":
        names, numbers = ":".join(self.kept), ",".join(map(str, self.kept.values()))
        process = self._net.gateway.start(
            [sys.executable, "-P", "-c", _KEPT, names, numbers, "--rules", str(self._rules), "--socket", self.control],
            env={"NOTIFY_SOCKET": self._path},
            pass_fds=tuple(self.kept.values()),
            stderr=subprocess.DEVNULL,
        )
        said = ""
        while "READY=1" not in said:
            data, ancillary, _, _ = self._notices.recvmsg(4096, 256)
            said = data.decode()
            lines = dict(line.partition("=")[::2] for line in said.splitlines())
            for _, _, rights in ancillary:
                self.kept[lines["FDNAME"]] = int.from_bytes(rights[:4], sys.byteorder)
            if "FDSTOREREMOVE" in lines:
                os.close(self.kept.pop(lines["FDNAME"]))
        return process

    def close(self) -> None:
        self._notices.close()
        for descriptor in self.kept.values():
            os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_queues_and_tables_outlive_a_restart(net: Network, tmp_path: Path, number: int) -> None:
    """Each worker gets its own back: no packet is lost, and connections stay ESTABLISHED that no rule would open."""
    keeper = Keeper(net, tmp_path)
    process = keeper.start()
    with net.client:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    servers = []
    for last in range(10, 22):
        with net.server:
            servers.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        servers[-1].bind((f"203.0.113.{last}", 5353))
    for end in (client, *servers):
        end.settimeout(PATIENCE)
    try:
        assert {name.partition(".")[0] for name in keeper.kept} == {"worker0", "worker1", "worker2"}
        assert len(keeper.kept) == 9
        for server in servers:
            client.sendto(b"there?", server.getsockname())
            _, peer = server.recvfrom(10)
            server.sendto(b"here", peer)
            assert client.recv(10) == b"here"
        with Client(keeper.control) as asker:
            pids = [worker["pid"] for worker in asker.call("status")["workers"]]
        os.kill(process.pid, number)
        process.wait(PATIENCE)
        wait_until(lambda: not any(map(is_running, pids)))
        for server in servers:
            server.sendto(b"waits", peer)  # in a queue, until the next worker reads it
        process = keeper.start()
        assert [client.recv(10) for _ in servers] == [b"waits"] * len(servers)
        with Client(keeper.control) as asker:
            states = asker.call("stats")["states"]
        assert (states["ESTABLISHED"], states["NEW"]) == (len(servers), 0)
    finally:
        process.kill()
        process.wait()
        keeper.close()
        for end in (client, *servers):
            end.close()


def waiting(net: Network, number: int) -> int:
    """Packets in this queue, by the kernel."""
    lines = net.gateway.run("cat", "/proc/net/netfilter/nfnetlink_queue").splitlines()
    return sum(int(line.split()[2]) for line in lines if int(line.split()[0]) == number)


def test_a_queue_goes_on_when_the_number_of_workers_changes(net: Network, tmp_path: Path) -> None:
    """Of three, one is left, and then there are three again: queue 4 is somebody's each time, with what waits in it."""
    keeper = Keeper(net, tmp_path)
    process = keeper.start()
    try:
        for workers, names in ((1, {"queue-4"}), (3, {f"worker{number}.queue-{4 + number}" for number in range(3)})):
            process.terminate()
            assert process.wait(PATIENCE) == 0
            with net.client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for last in range(10, 30):
                    client.sendto(b"waits", (f"203.0.113.{last}", 5353))
            wait_until(lambda: waiting(net, 4) > 0)
            kept = waiting(net, 4)
            (tmp_path / "rules.yaml").write_text(RULES + f"queue: {{number: 4, workers: {workers}}}\n")
            process = keeper.start()
            deadline = time.monotonic() + PATIENCE
            with Client(keeper.control) as asker:
                while asker.call("status")["queue"]["received"] < kept:
                    assert time.monotonic() < deadline
            assert {name for name in keeper.kept if "queue" in name} == names
    finally:
        process.kill()
        process.wait()
        keeper.close()


def test_members_that_were_kept_are_known_to_all(net: Network, tmp_path: Path) -> None:
    """More of them than fit between two workers while these are starting."""
    kept = {f"10.0.{number // 250}.{number % 250}": -1 for number in range(3000)}
    state = tmp_path / "state"
    state.mkdir()
    (state / "sets.json").write_text(json.dumps({"version": 1, "time": 0, "sets": {"banned": list(kept.items())}}))
    text = WORKERS.replace("rules:", "sets: {banned: {dynamic: on}}\nrules:")
    with Running(net, tmp_path, "--state", str(state), rules=text) as daemon:
        for number in range(3):
            with Client(f"{daemon.control}.{number}") as client:
                assert len(list(client.pages("members"))) == len(kept), number
        assert call(daemon, "siblings")["lost"] == 0


def test_the_control_socket_answers_while_a_reload_is_under_way(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        slow = call(daemon, "status")["workers"][2]["pid"]
        os.kill(slow, signal.SIGSTOP)
        try:
            daemon.signal(signal.SIGHUP)
            daemon.notice("RELOADING=1")
            with Client(daemon.control, 2) as client, pytest.raises(ClientError, match="answers this for itself"):
                client.call("events")
        finally:
            os.kill(slow, signal.SIGCONT)
        daemon.notice("READY=1")


def test_a_worker_that_needs_longer_for_its_end_gets_it(net: Network, tmp_path: Path) -> None:
    """What it says to its systemd, which is the supervisor, goes on to the real one."""
    with Running(net, tmp_path, rules=WORKERS) as daemon:
        slow = call(daemon, "status")["workers"][2]["pid"]
        daemon.signal(signal.SIGTERM)
        daemon.notice("EXTEND_TIMEOUT_USEC=10000000")
        assert daemon.process.wait(PATIENCE) == 0
        assert not is_running(slow)


def test_an_error_that_ends_a_worker_is_told(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WORKERS, changed=["self._reloading.ask = None"]) as daemon:
        os.kill(call(daemon, "status")["workers"][1]["pid"], signal.SIGHUP)
        assert daemon.process.wait(PATIENCE) == 1
        wait_until(lambda: "TypeError: 'NoneType' object is not callable" in daemon.log())
