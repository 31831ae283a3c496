"""`ctfw run` as an admin runs it: real packets, real iptables rules, signals, and what goes wrong at the start."""

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import COMMAND, OPEN, PATIENCE, RULES, SHUT, Datagrams, Running, command, wait_until

from ctfw.tools.capture import read
from lab.net import CLIENT, SERVER, Network
from lab.traffic import RST, download, files, segment, serve

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def test_packets_pass_and_drop_by_the_rules_and_are_counted(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        assert good.answered()
        assert not bad.arrives()
        stats = daemon.stats()
        rules = {rule["name"]: rule["packets"] for rule in stats["rules"]}
        assert (rules["open"], rules["replies"], rules["policy forward"]) == (1, 1, 1)
        assert stats["packets"]["forward"] == {"accept": 2, "drop": 1}
        assert stats["states"]["NEW"] >= 2
        assert stats["queue"]["received"] == stats["queue"]["answered"]
        assert stats["queue"]["kernel"]["waiting"] == 0
        text = daemon.ctfw("stats").stdout
        assert re.match(r"cpu=0 found=\d+ invalid=\d+ insert=\d+ ", text)
        assert re.search(r"^ +1 +34 +accept +open$", text, re.MULTILINE)


def test_list_shows_the_connection_as_the_kernel_does(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        port = good.client.getsockname()[1]
        tuples = (
            rf"src={CLIENT} dst={SERVER} sport={port} dport={OPEN} src={SERVER} dst={CLIENT} sport={OPEN} dport={port}"
        )
        lines = daemon.ctfw("list").stdout.splitlines()
        assert [
            line for line in lines if re.fullmatch(rf"ipv4     2 udp      17 \d+ {tuples} mark=0 zone=0 use=2", line)
        ]
        lines = daemon.ctfw("list", "-o", "conntrack").stdout.splitlines()
        assert [line for line in lines if re.fullmatch(rf"udp      17 \d+ {tuples} mark=0 use=1", line)]
        entries = json.loads(daemon.ctfw("list", "-o", "json").stdout)
        several = [json.loads(line) for line in daemon.ctfw("list", "-o", "jsonl").stdout.splitlines()]
        assert len(entries) == len(several) == len(lines)
        assert daemon.ctfw("list", "--expect").stdout == ""


def test_a_long_list_comes_whole(net: Network, tmp_path: Path) -> None:
    count = 3000
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        for port in range(20000, 20000 + count):
            with net.client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((CLIENT, port))
                sender.sendto(b"x", good.client.getpeername())
        wait_until(lambda: daemon.stats()["conntrack"]["entries"] >= count)
        lines = daemon.ctfw("list").stdout.splitlines()
        assert len(set(lines)) == len(lines)
        assert {int(re.findall(r"sport=(\d+)", line)[0]) for line in lines} >= set(range(20000, 20000 + count))


def test_a_broken_file_leaves_the_old_rules_and_a_good_one_replaces_them(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        assert good.answered()
        daemon.rules.write_text(RULES.replace("verdict: drop", "verdict: dorp"))
        daemon.signal(signal.SIGHUP)
        assert re.search(r"^MONOTONIC_USEC=\d+$", daemon.notice("RELOADING=1"), re.MULTILINE)
        daemon.notice("READY=1")
        wait_until(lambda: "reload failed, the old rules stay: problems=1" in daemon.log())
        assert re.search(r"rules\.yaml:6:\d+: error: ", daemon.log())
        assert good.answered()
        assert not bad.arrives()

        done = daemon.ctfw("reload", code=1)
        assert "dorp" in done.stderr
        assert "old ones stay in force" in done.stderr
        daemon.rules.write_text(RULES.replace("dport: 5353", f"dport: {SHUT}"))
        assert daemon.ctfw("reload").stderr == ""
        assert bad.arrives()
        assert good.answered()  # its rule is gone, but it is an established connection
        status = json.loads(daemon.ctfw("status", "-o", "json").stdout)
        assert status["rules"]["reloads"] == {"done": 1, "failed": 2}
        assert status["rules"]["generation"] == 1
        assert " done=1 failed=2\n" in daemon.ctfw("status").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_under_load_and_no_packet_read_is_unanswered(
    net: Network, tmp_path: Path, number: int
) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        daemon.freeze()
        for _ in range(3000):
            good.client.send(b"x")
        wait_until(lambda: daemon.queue()["waiting"] >= 3000)
        daemon.signal(number)
        daemon.signal(signal.SIGCONT)
        daemon.notice("STOPPING=1")
        assert daemon.process.wait(10) == 0
        last = re.search(r"stopped: received=(\d+) answered=(\d+) lost=0 errors=0", daemon.log())
        assert last is not None, daemon.log()
        assert last[1] == last[2]
        assert int(last[1]) >= 3000  # what waited was judged
        assert not Path(daemon.control).exists()


def test_a_signal_that_comes_as_soon_as_it_is_taken_is_heard(net: Network, tmp_path: Path) -> None:
    changed = (
        "import os, signal",
        "take = signal.signal",
        "signal.signal = lambda number, handler: (take(number, handler), number == 15 and os.kill(os.getpid(), 15))[0]",
    )
    with Running(net, tmp_path, changed=changed) as daemon:
        assert daemon.process.wait(PATIENCE) == 0
        wait_until(lambda: "ctfw: stopped: " in daemon.log())


def test_a_stop_that_comes_with_an_alarm_is_heard(net: Network, tmp_path: Path) -> None:
    """The turn that the alarm brings about reads of the stop before its handler has run."""
    at_once = (
        "import os, signal",
        "both = {signal.SIGALRM, signal.SIGTERM}",
        "def work():",
        "    signal.pthread_sigmask(signal.SIG_BLOCK, both)",
        "    for number in both: os.kill(os.getpid(), number)",
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, both)",
        "    signal.setitimer(signal.ITIMER_REAL, 0)",  # this turn is the only one until the work is done
        "begun = self._reloading.start",
        "self._reloading.start = lambda: (begun(), self._aside.run(work))",
    )
    with Running(net, tmp_path, changed=at_once) as daemon:
        assert daemon.process.wait(PATIENCE) == 0, daemon.log()


def test_a_stop_is_heard_among_any_number_of_reloads(net: Network, tmp_path: Path) -> None:
    changed = (
        "import os, signal",
        "take, own = self._take_signals, os.getpid()",
        "self._take_signals = lambda: (take(), [os.kill(own, n) for n in 5000 * [signal.SIGHUP] + [signal.SIGTERM]])",
    )
    with Running(net, tmp_path, changed=changed) as daemon:
        assert daemon.process.wait(PATIENCE) == 0


def test_a_reload_that_is_asked_for_at_the_very_end_changes_nothing_about_it(net: Network, tmp_path: Path) -> None:
    changed = (
        "import os, signal, sys",
        "class Last: __del__ = lambda last, kill=os.kill, own=os.getpid(): kill(own, 1)",
        "sys.modules['last'] = Last()  # goes when the interpreter has given up its signals",
    )
    with Running(net, tmp_path, changed=changed) as daemon:
        daemon.stop()


@pytest.mark.parametrize("policy", ["accept", "drop"])
def test_every_packet_is_answered_although_the_engine_raises(net: Network, tmp_path: Path, policy: str) -> None:
    rules = RULES + f"failure: {{error: {policy}}}\n"
    broken = ("self.engine.counters.hooks = []",)
    with Running(net, tmp_path, rules=rules, changed=broken) as daemon, Datagrams(net, SHUT) as bad:
        passed = [bad.arrives() for _ in range(3)]
        assert passed == [policy == "accept"] * 3
        wait_until(lambda: daemon.queue()["waiting"] == 0)
        wait_until(lambda: "ctfw: packet: internal error: IndexError" in daemon.log())
        figures = daemon.stop()
        assert figures["received"] == figures["answered"] == figures["errors"] >= 3


def test_losses_in_the_socket_are_counted_exactly(net: Network, tmp_path: Path) -> None:
    small = ("import socket", "self._kernel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)")
    with Running(net, tmp_path, changed=small) as daemon, Datagrams(net, SHUT) as bad:
        daemon.freeze()
        for _ in range(2000):
            bad.client.send(b"x")
        wait_until(lambda: daemon.queue()["last"] >= 2000)
        daemon.signal(signal.SIGCONT)
        wait_until(lambda: daemon.queue()["waiting"] == 0)
        bad.arrives()  # its number tells of the ones before
        kernel = daemon.queue()
        queue = daemon.stats()["queue"]
        assert queue["lost"] == kernel["socket_dropped"] == queue["kernel"]["socket_dropped"] > 1000
        assert queue["received"] + queue["lost"] == kernel["last"]
        assert queue["received"] == queue["answered"]


def test_packets_that_find_the_queue_full_are_counted(net: Network, tmp_path: Path) -> None:
    short = ("import struct", "self._kernel._command(3, struct.pack('>I', 100), acknowledge=False)")
    with Running(net, tmp_path, changed=short) as daemon, Datagrams(net, SHUT) as bad:
        daemon.freeze()
        for _ in range(500):
            bad.client.send(b"x")
        wait_until(lambda: daemon.queue()["queue_dropped"] >= 400)
        daemon.signal(signal.SIGCONT)
        wait_until(lambda: daemon.stats()["queue"]["received"] >= 100)
        queue = daemon.stats()["queue"]
        assert queue["kernel"]["queue_dropped"] >= 400
        assert queue["lost"] == 0
        told = daemon.ctfw("status", code=1).stdout
        assert told.startswith("degraded: ")
        assert re.search(
            r"  - 4\d\d packets found the queue full \(failure.queue_full: drop\) in the last minute", told
        )
        assert re.search(r"^unjudged: .* queue_full: passed=\S+ dropped=4\d\d,", told, re.MULTILINE)


def test_queue_full_accept_lets_packets_pass(net: Network, tmp_path: Path) -> None:
    short = ("import struct", "self._kernel._command(3, struct.pack('>I', 10), acknowledge=False)")
    rules = RULES + "failure: {queue_full: accept}\n"
    with Running(net, tmp_path, rules=rules, changed=short) as daemon, Datagrams(net, SHUT) as bad:
        daemon.freeze()
        for _ in range(10):
            bad.client.send(b"x")
        wait_until(lambda: daemon.queue()["waiting"] == 10)
        assert bad.arrives()
        daemon.signal(signal.SIGCONT)


def test_invalid_packets_are_logged_in_the_words_of_iptables(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon:
        with net.client:
            segment(SERVER, 80, RST, net.server)
        wait_until(lambda: 'rule="garbage"' in daemon.log())
        line = next(line for line in daemon.log().splitlines() if "garbage" in line)
        assert re.fullmatch(
            rf'ctfw: rule="garbage" state=INVALID reason=tcp-new verdict=drop IN=lan0 OUT=wan0 SRC={CLIENT}'
            rf" DST={SERVER} PROTO=TCP SPT=\d+ DPT=80 LEN=40",
            line,
        )


def test_a_full_table_is_logged_in_the_words_of_the_kernel(net: Network, tmp_path: Path) -> None:
    rules = RULES + "  - {name: web, proto: tcp, verdict: accept}\nconntrack: {max: 1}\n"
    with Running(net, tmp_path, rules=rules) as daemon, Datagrams(net, OPEN) as good:
        with net.server:
            listener = socket.create_server((SERVER, 8080))
        with net.client:
            web = socket.create_connection((SERVER, 8080), timeout=5)
        web.send(b"x")
        assert listener.accept()[0].recv(1) == b"x"
        assert not good.arrives()
        wait_until(lambda: "ctfw: nf_conntrack: table full, dropping packet: dropped=1 max=1;" in daemon.log())
        assert daemon.stats()["reasons"]["table-full"] == 1
        web.close()
        listener.close()


@pytest.mark.parametrize("options", [(), ("--no-gso",), ("--copy-range", "100")])
def test_big_packets_come_through(net: Network, tmp_path: Path, options: tuple[str, ...]) -> None:
    rules = RULES + "  - {name: web, proto: tcp, dport: 80, verdict: accept}\n"
    with files() as directory, Running(net, tmp_path, *options, rules=rules) as daemon:
        serve_once(net, directory)
        with net.client:
            assert "intact" in download(SERVER)
        assert daemon.stats()["queue"]["errors"] == 0


_served: set[Network] = set()


def serve_once(net: Network, directory: str) -> None:
    if net not in _served:
        serve(net.server, directory)
        _served.add(net)


def test_what_is_recorded_is_every_packet_with_what_the_queue_said(net: Network, tmp_path: Path) -> None:
    record = tmp_path / "record.pcapng"
    with Running(net, tmp_path, "--record", str(record)) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        received = daemon.stop()["received"]
    with open(record, "rb") as file:
        frames = list(read(file))
    assert len(frames) == received
    assert [frame for frame in frames if "chain=forward in=lan0 out=wan0" in str(frame)]


def test_the_watchdog_is_fed_while_the_queue_is_seen_empty(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon:
        daemon.notice("WATCHDOG=1")
        daemon.notice("WATCHDOG=1")


def test_the_watchdog_is_not_fed_while_verdicts_cannot_leave(net: Network, tmp_path: Path) -> None:
    mute = (
        "def mute(file, data): raise BlockingIOError(11, 'no')",
        "self.queue._write_file = mute",
    )
    with Running(net, tmp_path, changed=mute) as daemon, Datagrams(net, OPEN) as good:
        assert not good.arrives()
        daemon.notices(0.1)
        assert "WATCHDOG=1" not in daemon.notices(1.0)  # it waits for one every 0.4 s
        assert (
            "packets:     received=" in command("status", "--socket", daemon.control).stdout
        )  # although the loop turns


def test_the_daemon_does_not_import_scapy(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, "--record", str(tmp_path / "record.pcapng")) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        daemon.ctfw("list")
        daemon.ctfw("reload")
        daemon.stop()
        (modules,) = re.findall("^modules: (.*)", daemon.log(), re.MULTILINE)
        assert {"ctfw", "netfilterqueue", "yaml"} <= set(modules.split())
        assert "scapy" not in modules.split()


def test_a_second_daemon_on_the_queue_is_told_who_has_it(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon:
        second = net.gateway.start(
            [*COMMAND, "run", "--rules", str(daemon.rules), "--socket", str(tmp_path / "other")], stderr=subprocess.PIPE
        )
        _, said = second.communicate(timeout=20)
        assert second.returncode == 1
        pid = daemon.process.pid
        assert f"ctfw: queue 0: already bound by netlink port {pid} (pid {pid}, " in said
        with Datagrams(net, OPEN) as good:
            assert good.answered()  # the first one has not noticed


def test_a_second_daemon_on_the_socket_is_refused_and_touches_no_queue(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon:
        arguments = ["run", "--rules", str(daemon.rules), "--socket", daemon.control, "--queue", "9"]
        second = net.gateway.start([*COMMAND, *arguments], stderr=subprocess.PIPE)
        _, said = second.communicate(timeout=20)
        assert (second.returncode, said.count("another daemon listens there")) == (1, 1)


def test_without_rights_it_says_which_are_needed(net: Network, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    powerless = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]
    arguments = [*powerless, *COMMAND, "run", "--rules", str(rules), "--socket", str(tmp_path / "control.sock")]
    process = net.gateway.start(arguments, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (
        4,
        "ctfw: queue 0: needs CAP_NET_ADMIN in this network namespace; run as root\n",
    )


def test_bad_rules_are_told_and_nothing_is_bound(net: Network, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.replace("version: 1", "version: one"))
    process = net.gateway.start([*COMMAND, "run", "--rules", str(rules)], stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"{rules}:2:" in said
