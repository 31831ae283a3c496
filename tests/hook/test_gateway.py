"""What docs/gateway.md says of NAT, bridges and tunnels, done: its commands and rules, with packets behind them.

Blocks of the page that are called `sh NAME` and `yaml NAME` are what the test NAME runs and loads.
"""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from daemon.running import Running
from hook.hooked import judged

from lab import traffic
from lab.net import CLIENT, OUTSIDE, SERVER, Namespace, Network

pytestmark = pytest.mark.kernel

PAGE: Final = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text(encoding="utf-8")
BACKEND: Final = "iptables"
AHEAD: Final = "version: 1\npolicy: {input: drop, forward: drop, output: accept}\n"
PATIENCE: Final = 30.0


def block(kind: str, name: str) -> str:
    (text,) = re.findall(rf"^```{kind} {name}\n(.*?)^```$", PAGE, re.M | re.S)
    return str(text)


def rules(name: str) -> str:
    return AHEAD + block("yaml", name)


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        yield made


def connections(daemon: Running) -> str:
    return daemon.ctfw("list").stdout


def server_at(namespace: Namespace, address: str, port: int) -> socket.socket:
    with namespace:
        listener = socket.create_server((address, port))
    listener.settimeout(PATIENCE)
    return listener


def without_way_back(net: Network) -> None:
    """The server knows the gateway's outer network alone, as servers in the world do."""
    net.server.run("ip", "route", "del", "default")


def test_nat(net: Network, tmp_path: Path) -> None:
    net.gateway.run("sh", "-ec", block("sh", "nat"))
    without_way_back(net)
    with (
        judged(net, tmp_path, BACKEND, rules("nat")) as daemon,
        server_at(net.client, CLIENT, 80),
        server_at(net.server, SERVER, 443) as outer,
    ):
        with net.client, socket.create_connection((SERVER, 443), timeout=PATIENCE):
            conn, (seen, _) = outer.accept()
            conn.close()
        assert seen == OUTSIDE  # as the kernel's NAT made it
        assert f"src={CLIENT} dst={SERVER} sport=" in connections(daemon)  # as it is inside
        with net.server:
            assert traffic.connect(OUTSIDE, 8080) == "connected"
            assert traffic.connect(OUTSIDE, 80) == "no answer"
        assert f"src={SERVER} dst={CLIENT} " in connections(daemon)


def test_ftp_under_nat_whose_payload_the_kernel_rewrites(net: Network, tmp_path: Path) -> None:
    """The outer address has more digits than the inner one, so the kernel shifts what follows in the stream."""
    longer = "203.0.113.100"
    assert len(longer) > len(CLIENT)
    net.gateway.run("ip", "address", "add", f"{longer}/24", "dev", "wan0")
    net.gateway.run("sh", "-ec", block("sh", "nat").replace("MASQUERADE", f"SNAT --to-source {longer}"))
    net.gateway.run("sh", "-ec", block("sh", "ftp"))
    without_way_back(net)
    with traffic.files() as files:
        traffic.serve(net.server, files)
        with judged(net, tmp_path, BACKEND, rules("ftp")) as daemon, net.client:
            assert traffic.fetch(SERVER, passive=False).endswith("intact")
            assert traffic.fetch(SERVER, passive=True).endswith("intact")
            assert daemon.stats()["states"]["INVALID"] == 0


def test_a_bridge(net: Network, tmp_path: Path) -> None:
    net.gateway.run("ip", "link", "add", "br0", "type", "bridge")
    net.gateway.run("ip", "link", "set", "br0", "up")
    for number, host in enumerate((net.client, net.server), 2):
        port = f"port{number}"
        net.gateway.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth1", "netns", host.path)
        net.gateway.run("ip", "link", "set", port, "master", "br0", "up")
        host.run("ip", "address", "add", f"10.9.0.{number}/24", "dev", "eth1")
        host.run("ip", "link", "set", "eth1", "up")
    (knob, *_) = knobs = dict(re.findall(r"net\.bridge\.(\S+)=(\d)", block("sh", "bridge")))
    with net.gateway:
        Path(f"/proc/sys/net/bridge/{knob}").write_text("0")
    with (
        judged(net, tmp_path, BACKEND, rules("bridge")) as daemon,
        server_at(net.server, "10.9.0.3", 443),
        server_at(net.server, "10.9.0.3", 80),
        net.client,
    ):
        assert traffic.connect("10.9.0.3", 80) == "connected"  # ctfw does not see it
        assert "10.9.0.2" not in connections(daemon)
        with net.gateway:  # as sysctl would, which not every machine has
            for name, value in knobs.items():
                Path(f"/proc/sys/net/bridge/{name}").write_text(value)
        assert traffic.connect("10.9.0.3", 443) == "connected"
        assert traffic.connect("10.9.0.3", 80) == "no answer"
        assert "src=10.9.0.2 dst=10.9.0.3" in connections(daemon)


def test_a_tunnel_is_seen_outside_and_inside(net: Network, tmp_path: Path) -> None:
    """VXLAN stands in for WireGuard, which not every kernel has: to ctfw both are UDP outside and a device inside."""
    for host, name, here, there, inner in (
        (net.gateway, "wg0", OUTSIDE, SERVER, "10.8.0.1"),
        (net.server, "far0", SERVER, OUTSIDE, "10.8.0.2"),
    ):
        kind = ("type", "vxlan", "id", "7", "local", here, "remote", there, "dstport", "51820")
        host.run("ip", "link", "add", name, *kind)
        host.run("ip", "address", "add", f"{inner}/24", "dev", name)
        host.run("ip", "link", "set", name, "up")
    net.server.run("ip", "route", "add", "192.168.1.0/24", "via", "10.8.0.1")
    with (
        judged(net, tmp_path, BACKEND, rules("vpn")) as daemon,
        server_at(net.client, CLIENT, 443),
        server_at(net.client, CLIENT, 80),
        net.server,
    ):
        assert traffic.connect(CLIENT, 443) == "connected"
        assert traffic.connect(CLIENT, 80) == "no answer"
        listed = connections(daemon)
        assert f"src=10.8.0.2 dst={CLIENT} " in listed and "dport=443" in listed
        assert re.search(rf"udp .*src={SERVER} dst={OUTSIDE} .*dport=51820", listed)


def test_a_connection_that_was_open_before_goes_on(net: Network, tmp_path: Path) -> None:
    with server_at(net.server, SERVER, 443) as listener:
        with net.client:
            client = socket.create_connection((SERVER, 443), timeout=PATIENCE)
        server, _ = listener.accept()
        server.settimeout(PATIENCE)
        with client, server, judged(net, tmp_path, BACKEND, rules("nat")) as daemon:
            client.sendall(b"there?")
            assert server.recv(100) == b"there?"
            server.sendall(b"here")
            assert client.recv(100) == b"here"
            assert "ESTABLISHED" in connections(daemon)
