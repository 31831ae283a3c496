"""`ctfw doctor` on gateways with something wrong, and on one with nothing wrong."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import OPEN, RULES, Datagrams, Running, wait_until
from hook.hooked import hooked, needs_both_iptables, needs_nft
from hook.test_apply import FOREIGN, FOREIGN_NFT

from ctfw.service.doctor import FAIL, OK, WARN, Finding, examine, process_of, queue_holder
from lab.net import Network

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
            port = queue_holder(0)
            assert port and port != process.pid
            assert process_of(port)[0] == process.pid
        (text,) = found(findings(net, rules), OK, "queue")
        assert text.startswith(f"queue 0 is held by pid {process.pid}, ")
        (tmp_path / "other").mkdir()
        with Running(net, tmp_path / "other", "--queue", "9") as daemon:
            (text,) = found(findings(net, rules, daemon.control), FAIL, "queue")
            assert text.startswith(f"queue 0 is held by pid {process.pid}, ") and text.endswith(", not by ctfw")
    finally:
        process.kill()
        process.wait()


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


def test_only_one_direction_is_seen(net: Network, tmp_path: Path) -> None:
    text = RULES.replace("proto: udp, dport: 5353", "proto: tcp")
    with hooked(net, "iptables-nft"), Running(net, tmp_path, rules=text) as daemon, Datagrams(net, OPEN):
        net.server.run("iptables", "-A", "INPUT", "-p", "tcp", "-j", "DROP")
        with net.client:
            callers = [socket.socket() for _ in range(25)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(("203.0.113.2", 80))
        wait_until(lambda: daemon.stats()["conntrack"]["entries"] >= 25)
        them = findings(net, daemon.rules, daemon.control)
        for caller in callers:
            caller.close()
        assert [text for text in found(them, WARN, "daemon") if text.startswith("only one direction seen: 25 of 25")]
