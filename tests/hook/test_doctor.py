"""`ctfw doctor` on gateways with something wrong, and on one with nothing wrong."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import OPEN, RULES, Datagrams, Running, wait_until
from hook.hooked import command as hook_command
from hook.hooked import hooked, needs_both_iptables, needs_nft
from hook.test_apply import FOREIGN, FOREIGN_NFT

from ctfw.service.client import Client
from ctfw.service.doctor import examine, other_queues
from ctfw.service.finding import FAIL, OK, WARN, Finding
from ctfw.service.hook.plan import Plan
from ctfw.service.listeners import held, listeners, processes_of, why_not
from lab.net import CLIENT, SERVER, Network

pytestmark = [pytest.mark.kernel, needs_nft, needs_both_iptables]

# It has another netlink socket before, so the port of the queue's is not the number of the process.
HOLDER = """
import netfilterqueue, socket
other = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
other.bind((0, 0))
queue = netfilterqueue.NetfilterQueue()
queue.bind(0, print, mode=0)
print("bound", flush=True)
input()
"""


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        yield made


def findings(net: Network, rules: Path, control: str = "/nonexistent") -> list[Finding]:
    with net.gateway:
        return list(examine(str(rules), control))


def found(them: list[Finding], level: str, what: str) -> list[str]:
    return [finding.text for finding in them if (finding.level, finding.what) == (level, what)]


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def test_a_healthy_gateway(net: Network, tmp_path: Path) -> None:
    with hooked(net, "iptables-nft"), Running(net, tmp_path) as daemon:
        them = findings(net, daemon.rules, daemon.control)
        assert [finding for finding in them if finding.level == FAIL] == []
        assert found(them, OK, "hook") == ["complete: backend=iptables-nft chains=input,forward,output"]
        (holder,) = found(them, OK, "queue")
        assert holder.startswith(f"queue 0 is held by pid {daemon.process.pid}, ")
        (running,) = found(them, OK, "daemon")
        assert running.startswith(f"running: pid={daemon.process.pid} ")
        command = [
            sys.executable,
            "-P",
            "-m",
            "ctfw",
            "doctor",
            "--rules",
            str(daemon.rules),
            "--socket",
            daemon.control,
        ]
        done = subprocess.run(["nsenter", f"--net={net.gateway.path}", *command, "-o", "json"], capture_output=True)
        assert done.returncode == 0, done.stderr
        assert {"level": "ok", "what": "rights", "text": "CAP_NET_ADMIN", "advice": ""} in json.loads(done.stdout)


def test_nothing_installed_and_nobody_running(net: Network, rules: Path) -> None:
    them = findings(net, rules)
    assert found(them, FAIL, "hook") == ["no rule sends packets to ctfw: nothing is filtered"]
    assert found(them, FAIL, "queue") == ["nobody listens on queue 0: what is sent there is dropped"]
    assert found(them, FAIL, "daemon") == ["not running"]
    rules.write_text("version: 2\n")
    (text,) = found(findings(net, rules), FAIL, "rules")
    assert text.startswith(f"{rules}: problems=")


def test_a_hook_that_something_else_damaged(net: Network, rules: Path) -> None:
    with hooked(net, "iptables-nft"):
        net.gateway.run("iptables-nft", "-t", "security", "-F", "FORWARD")
        assert found(findings(net, rules), FAIL, "hook") == [
            "iptables-nft -t security: missing: -A FORWARD -j CTFW-FORWARD"
        ]


def test_the_queue_is_somebody_elses(net: Network, rules: Path, tmp_path: Path) -> None:
    process = net.gateway.start([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == "bound\n"
        with net.gateway:
            ports = listeners()
            assert ports is not None and ports[0] != process.pid
            assert list(processes_of(ports[0])) == [process.pid]
        (text,) = found(findings(net, rules), OK, "queue")
        assert text.startswith(f"queue 0 is held by pid {process.pid}, ")
        (tmp_path / "other").mkdir()
        with Running(net, tmp_path / "other", "--queue", "9") as daemon:
            (text,) = found(findings(net, rules, daemon.control), FAIL, "queue")
            assert text.startswith(f"queue 0 is held by pid {process.pid}, ") and text.endswith(", not by ctfw")
    finally:
        process.kill()
        process.wait()


def test_a_queue_of_several_without_a_listener(net: Network, rules: Path, tmp_path: Path) -> None:
    workers = RULES + "queue: {number: 4, workers: 3}\n"
    with Running(net, tmp_path, rules=workers) as daemon:
        them = findings(net, daemon.rules, daemon.control)
        assert found(them, FAIL, "queue") == [] and len(found(them, OK, "queue")) == 3
        daemon.rules.write_text(workers.replace("workers: 3", "workers: 5"))
        assert found(findings(net, daemon.rules, daemon.control), FAIL, "queue") == [
            "nobody listens on queues 7, 8: what is sent there is dropped"
        ]
        done = hook_command(net.gateway, "apply", "--rules", str(daemon.rules), code=1)
        assert "nobody listens on queues 7, 8 yet: " in done.stderr
        assert found(findings(net, daemon.rules), FAIL, "hook") == [
            "no rule sends packets to ctfw: nothing is filtered"
        ]
    rules.write_text(workers)
    assert found(findings(net, rules), FAIL, "queue") == [
        "nobody listens on queues 4, 5, 6: what is sent there is dropped"
    ]


@pytest.mark.parametrize(
    ("plan", "standing", "heard", "words"),
    [
        (Plan(), [], [], ""),  # before the first start, and at boot
        (Plan(), [0], [], ""),
        (Plan(), [0], [0], ""),
        (Plan(queue=5), [0], [0], "nobody listens on queue 5 yet"),
        (Plan(queue=5), [0], [5], ""),  # ctfw was restarted
        (Plan(queue=5), [0], [0, 5], ""),  # two of them, and the new one is to take over
        (Plan(workers=4), [0], [0], "nobody listens on queues 1, 2, 3 yet"),
        (Plan(workers=4), [], [0], "nobody listens on queues 1, 2, 3 yet"),
        (Plan(workers=4), [0], [0, 1, 2, 3], ""),
        (Plan(workers=4), [0, 1, 2, 3], [], ""),
        (Plan(), [0, 1], [0, 1], "ctfw still has queues 0, 1"),
        (Plan(), [0, 1], [0], ""),
    ],
)
def test_a_hook_does_not_part_from_the_ctfw_that_runs(
    plan: Plan, standing: list[int], heard: list[int], words: str
) -> None:
    assert why_not(plan, standing, heard).partition(":")[0] == words


def test_a_reload_of_another_queue_leaves_the_packets_where_they_are_judged(net: Network, tmp_path: Path) -> None:
    with hooked(net, "iptables-nft"), Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as path:
        for queue, count in (("{number: 5}", 1), ("{number: 0, workers: 3}", 1), ("{number: 5, workers: 3}", 2)):
            daemon.rules.write_text(RULES + f"queue: {queue}\n")
            for _ in range(2):  # it is as true the second time
                assert daemon.ctfw("reload").stderr.count("needs a restart") == count
            done = hook_command(net.gateway, "apply", "--rules", str(daemon.rules), code=1)
            assert "nobody listens on queue" in done.stderr and "The hook is as it was" in done.stderr
            assert path.answered()


@pytest.mark.parametrize(
    ("holders", "ours", "level", "words"),
    [
        ({7: "ctfw"}, {7}, OK, "is held by pid 7, ctfw"),
        ({1: "systemd", 7: "ctfw"}, {7}, OK, "is held by pid 7, ctfw"),
        ({6: "nsenter", 7: "ctfw"}, {7}, OK, "is held by pid 7, ctfw"),  # who started it may have kept it open
        ({6: "other"}, {7}, FAIL, "is held by pid 6, other, not by ctfw"),
        ({}, {7}, FAIL, "is held by a process that cannot be seen from here, not by ctfw"),
        ({}, set(), OK, "is held by a process that cannot be seen from here"),
        ({1: "systemd"}, set(), WARN, "is kept by systemd for the next ctfw, and nobody reads it"),
    ],
)
def test_who_holds_a_queue(holders: dict[int, str], ours: set[int], level: str, words: str) -> None:
    finding = held(3, holders, ours)
    assert finding.level == level and finding.text.startswith(f"queue 3 {words}")


def test_rules_of_others_that_send_to_one_of_our_queues() -> None:
    plan = Plan(queue=4, workers=3)
    for words, ours in (
        ("num 4", True),
        ("num 6", True),
        ("num 7", False),
        ("balance 0:4", True),
        ("balance 7:9", False),
    ):
        saved = f"-A FORWARD -j NFQUEUE --queue-{words} --queue-bypass\n"
        assert other_queues("iptables", saved, plan) == ["iptables FORWARD"] * ours
    assert other_queues("iptables", "-A FORWARD -j NFQUEUE\n", Plan()) == ["iptables FORWARD"]  # queue 0 it is


def test_the_neighbours_are_named_and_those_that_drop_are_told(net: Network, rules: Path) -> None:
    net.gateway.run("iptables-nft-restore", input=FOREIGN)
    net.gateway.run("nft", "-f", "-", input=FOREIGN_NFT.replace("policy accept", "policy drop"))
    with hooked(net, "iptables-nft"):
        them = findings(net, rules)
        names = [text.split()[0] for text in found(them, OK, "neighbours")]
        assert names == ["Docker", "ufw", "firewalld", "fail2ban"]
        assert found(them, WARN, "neighbours") == [
            "inet firewalld filter_INPUT (input 10) drops by policy, ahead of ctfw (150)",
            "inet mine forward (forward 0) drops by policy, ahead of ctfw (150)",
        ]


def test_rules_made_by_hand(net: Network, rules: Path) -> None:
    net.queue()
    (text,) = found(findings(net, rules), OK, "hook")
    assert text.startswith("rules made by hand: ")
    with hooked(net, "iptables-nft"):
        assert [text for text in found(findings(net, rules), WARN, "hook") if "FORWARD sends to queue 0 too" in text]


def test_the_machines_settings(net: Network, rules: Path) -> None:
    net.gateway.set(ipv4__ip_forward=0, ipv4__conf__wan0__rp_filter=1)
    them = findings(net, rules)
    assert "IPv4 is not forwarded" in found(them, WARN, "machine")
    assert "wan0: rp_filter drops what would not be answered by it" in found(them, OK, "machine")


TCP_RULES = RULES.replace("proto: udp, dport: 5353", "proto: tcp")


def callers(net: Network, count: int) -> list[socket.socket]:
    """TCP connections that the client begins with the server, and waits for."""
    with net.client:
        made = [socket.socket() for _ in range(count)]
    for caller in made:
        caller.setblocking(False)
        caller.connect_ex((SERVER, 80))
    return made


def test_answers_that_take_another_way_are_told_by_interface(net: Network, tmp_path: Path) -> None:
    """The server has a line of its own to the client: it answers by that, and the gateway sees the questions alone."""
    net.client.run("ip", "link", "add", "back", "type", "veth", "peer", "name", "back", "netns", net.server.path)
    for host, address in ((net.client, "10.9.9.1/24"), (net.server, "10.9.9.2/24")):
        host.run("ip", "address", "add", address, "dev", "back")
        host.run("ip", "link", "set", "back", "up")
        host.set(ipv4__conf__all__rp_filter=0, ipv4__conf__back__rp_filter=0)
    net.server.run("ip", "route", "add", f"{CLIENT}/32", "via", "10.9.9.1", "dev", "back")
    text = TCP_RULES.replace("{name: garbage", "{name: whatever, state: INVALID, verdict: drop}\n  - {name: garbage")
    with hooked(net, "iptables-nft"), Running(net, tmp_path, rules=text) as daemon:
        with net.server:
            listener = socket.create_server((SERVER, 80), backlog=64)
        open_ones = callers(net, 25)
        wait_until(lambda: daemon.stats()["conntrack"]["entries"] >= 25)

        def told() -> list[str]:
            return found(findings(net, daemon.rules, daemon.control), WARN, "direction")

        wait_until(lambda: any("only one direction seen on lan0: " in text for text in told()))
        (text,) = [text for text in told() if text.startswith("only one direction")]
        assert text == "only one direction seen on lan0: 25 of 25 TCP have no answer"
        for caller in open_ones:
            caller.close()
        listener.close()


def test_answered_connections_are_no_finding(net: Network, tmp_path: Path) -> None:
    with hooked(net, "iptables-nft"), Running(net, tmp_path, rules=TCP_RULES) as daemon:
        with net.server:
            listener = socket.create_server((SERVER, 80), backlog=64)
        open_ones = callers(net, 25)

        def counted() -> dict[str, int]:
            with Client(daemon.control) as client:
                counts: dict[str, int] = client.call("directions")["interfaces"].get("lan0", {})
                return counts

        wait_until(lambda: counted() == {"tcp": 25, "unanswered": 0})
        assert found(findings(net, daemon.rules, daemon.control), WARN, "direction") == []
        for caller in open_ones:
            caller.close()
        listener.close()


def test_a_socket_that_a_killed_daemon_left(net: Network, tmp_path: Path) -> None:
    with hooked(net, "iptables-nft"):
        with Running(net, tmp_path) as daemon:
            pass  # the end is SIGKILL
        them = findings(net, daemon.rules, daemon.control)
        assert found(them, FAIL, "daemon") == ["not running"]
        assert found(them, WARN, "daemon") == [
            f"{daemon.control} was left behind by a daemon that was killed, or one that hangs"
        ]


def test_whether_fragments_come_joined(net: Network, rules: Path) -> None:
    assert found(findings(net, rules), WARN, "fragments") == [
        "IPv4: they come one by one",
        "IPv6: they come one by one",
    ]
    net.gateway.run("iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    net.gateway.run("nft", "add table ip6 mine; add chain ip6 mine x; add rule ip6 mine x ct state new accept")
    them = findings(net, rules)
    assert found(them, OK, "fragments") == ["IPv4: the kernel joins them", "IPv6: the kernel joins them"]
    assert found(them, WARN, "fragments") == []


def test_the_hook_has_them_joined(net: Network, rules: Path) -> None:
    with hooked(net, "iptables-nft"):
        assert len(found(findings(net, rules), OK, "fragments")) == 2


def test_an_interface_with_larger_packets_than_ctfw_looks_at(net: Network, tmp_path: Path) -> None:
    with hooked(net, "iptables-nft"), Running(net, tmp_path) as daemon:
        whole = "packets are seen whole: mtu=1600 copy_range=1600"
        assert whole in found(findings(net, daemon.rules, daemon.control), OK, "machine")
        net.gateway.run("ip", "link", "set", "lan0", "mtu", "9000")
        told = found(findings(net, daemon.rules, daemon.control), WARN, "machine")
        assert "ctfw looks at 1600 bytes of a packet, and an interface sends 9000" in told


def test_a_daemon_that_is_degraded(net: Network, tmp_path: Path) -> None:
    with hooked(net, "iptables-nft"), Running(net, tmp_path) as daemon:
        daemon.rules.write_text("version: 2\n")
        daemon.ctfw("reload", code=1)
        daemon.rules.write_text(RULES)
        (text,) = found(findings(net, daemon.rules, daemon.control), WARN, "daemon")
        assert text.endswith(" health=degraded")


def test_a_clock_that_was_never_set(net: Network, rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    told = found(findings(net, rules), WARN, "machine")
    assert "the clock says 1970-01-01T00:00:00Z, before this ctfw was installed" in told


def test_the_command_paints_only_when_it_is_told_to(net: Network, rules: Path) -> None:
    command = [sys.executable, "-P", "-m", "ctfw", "doctor", "--rules", str(rules), "--socket", "/nonexistent"]
    plain = subprocess.run(["nsenter", f"--net={net.gateway.path}", *command], capture_output=True, text=True)
    assert plain.returncode == 1 and "\033" not in plain.stdout
    assert re.search(r"^fail  daemon      not running\n +→ systemctl start ctfw", plain.stdout, re.MULTILINE)
    painted = subprocess.run(
        ["nsenter", f"--net={net.gateway.path}", *command, "--color", "always"], capture_output=True, text=True
    )
    assert "\033[31mfail\033[0m  daemon      not running" in painted.stdout
