"""`ctfw list --compare-kernel` and the filters, on a gateway whose kernel tracks the same packets."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import COMMAND, Datagrams, Running

from lab.net import SERVER, SERVER6, Network
from lab.traffic import download, files, ping, serve

pytestmark = pytest.mark.kernel

RULES = """
version: 1
policy: {input: accept, forward: accept, output: accept}
rules:
  - {name: all, verdict: accept}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        for family in ("iptables", "ip6tables"):
            made.gateway.run(family, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW")
        made.queue()
        yield made


def test_both_tables_hold_the_same_records(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=RULES) as daemon, files() as directory, Datagrams(net, 5353) as datagrams:
        serve(net.server, directory)
        assert datagrams.answered()
        with net.client:
            ping(SERVER, 1)
            ping(SERVER6, 1)
            download(SERVER)
            download(SERVER6)
        arguments = [*COMMAND, "list", "--socket", daemon.control, "--compare-kernel"]
        text = net.gateway.run(*arguments)
        last = text.splitlines()[-1]
        same = re.fullmatch(r"same=(\d+) differing=0 only_kernel=0 only_ctfw=0", last)
        assert same is not None and int(same[1]) >= 5, text
        assert re.fullmatch(r"same=[1-9]\d* .*", net.gateway.run(*arguments, "-p", "tcp", "-f", "ipv4").strip())

        # Negative control: what only one of them knows is said, and is exit code 1.
        net.gateway.run("conntrack", "-D", "-p", "udp")
        done = net.gateway.start(arguments, stdout=subprocess.PIPE)
        text, _ = done.communicate()
        assert done.returncode == 1
        assert "only in ctfw:       ipv4     2 udp" in text


def test_filters_reach_the_daemon(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=RULES) as daemon, Datagrams(net, 5353) as datagrams:
        assert datagrams.answered()
        with net.client:
            ping(SERVER, 1)
        for option, value in (("-p", "udp"), ("--dport", "5353"), ("-u", "SEEN_REPLY"), ("-d", f"{SERVER}/24")):
            lines = daemon.ctfw("list", option, value).stdout.splitlines()
            assert [line for line in lines if "dport=5353" in line], (option, lines)
        assert not [line for line in daemon.ctfw("list", "-p", "icmp").stdout.splitlines() if " udp " in line]
        assert "sport: " in daemon.ctfw("list", "--sport", "x", code=1).stderr
        footer = daemon.ctfw("list", "-o", "conntrack", "-p", "udp", "--dport", "5353").stderr
        assert re.fullmatch(r"ctfw \S+: 1 flow entries have been shown.\n", footer)
