"""Offload with real packets: the hook's rules, a real ctfw, and the kernel that carries what was handed to it."""

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.running import Datagrams, Running, wait_until
from hook.hooked import IPTABLES, command, hooked, judged, needs_both_iptables, needs_nft

from ctfw.service.client import Client
from lab.net import SERVER, Network

pytestmark = [pytest.mark.kernel, needs_nft, needs_both_iptables]

PORT = 5201
RULES = """
version: 1
policy: {input: drop, forward: drop, output: accept}
hook: {chains: forward}
conntrack: {acct: on}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: bulk, chain: forward, proto: [tcp, udp], dport: 5201, state: NEW, verdict: accept, offload: on}
  - {name: others, chain: forward, proto: tcp, dport: 5202, state: NEW, verdict: accept}
"""
CHUNK = b"x" * 65536


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        yield made


class Stream:
    """A TCP connection from the client to the server (``to`` as the client names it)."""

    def __init__(self, net: Network, port: int = PORT, to: str = SERVER) -> None:
        with net.server, socket.create_server((SERVER, port)) as listener:
            listener.settimeout(5)
            with net.client:
                self.client = socket.create_connection((to, port), timeout=5)
            self.server, _ = listener.accept()
        self.server.settimeout(5)

    def send(self, chunks: int) -> None:
        """So many chunks through, read on the other side, and a byte back."""
        for _ in range(chunks):
            self.client.sendall(CHUNK)
            left = len(CHUNK)
            while left:
                left -= len(self.server.recv(left))
        self.server.send(b"!")
        assert self.client.recv(1) == b"!"

    def passes(self) -> bool:
        self.client.send(b"?")
        self.server.settimeout(0.5)
        try:
            return self.server.recv(1) == b"?"
        except TimeoutError:
            return False

    def close(self) -> None:
        self.client.close()
        self.server.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def records(daemon: Running) -> list[dict[str, Any]]:
    with Client(daemon.control) as client:
        return list(client.pages("list", form="dict"))


def offloaded(daemon: Running) -> int:
    return sum(record["offload"] for record in records(daemon))


def received(daemon: Running) -> int:
    with Client(daemon.control) as client:
        return int(client.call("stats")["queue"]["received"])


def count(net: Network) -> None:
    """Has the kernel's own connection tracking count packets and bytes."""
    with net.gateway:
        Path("/proc/sys/net/netfilter/nf_conntrack_acct").write_text("1")


def marks(net: Network) -> list[int]:
    """The marks of the kernel's own connections."""
    with net.gateway, open("/proc/thread-self/net/nf_conntrack") as table:
        return [int(mark) for mark in re.findall(r"mark=(\d+)", table.read())]


@pytest.mark.parametrize("name", IPTABLES)
def test_a_bulk_transfer_passes_in_the_kernel_and_its_record_ends_with_it(
    net: Network, tmp_path: Path, name: str
) -> None:
    with judged(net, tmp_path, name, RULES) as daemon:
        count(net)
        with Stream(net) as bulk:
            bulk.send(1)
            before = received(daemon)
            bulk.send(100)
            assert received(daemon) - before < 5
            assert offloaded(daemon) == 1
            assert "[OFFLOAD]" in daemon.ctfw("list").stdout
            # What passed in the kernel counts, and the record lives by the kernel's own clock.
            wait_until(lambda: records(daemon)[0]["original"]["bytes"] > 100 * len(CHUNK))
        wait_until(lambda: [record["state"] for record in records(daemon)] == ["TIME_WAIT"])
        assert offloaded(daemon) == 0 and marks(net) == [0]
        assert daemon.stats()["conntrack"]["invalid"] == 0
        with Stream(net, 5202) as other:
            before = received(daemon)
            other.send(20)
            assert received(daemon) - before > 20 and offloaded(daemon) == 0


def test_a_udp_stream_passes_in_the_kernel_and_ends_with_its_entry(net: Network, tmp_path: Path) -> None:
    with judged(net, tmp_path, "iptables-nft", RULES) as daemon, Datagrams(net, PORT) as stream:
        count(net)
        wait_until(lambda: stream.answered() and offloaded(daemon) == 1)
        before, known = received(daemon), records(daemon)[0]["original"]["packets"]
        for _ in range(50):
            assert stream.answered()
        assert received(daemon) == before
        wait_until(lambda: records(daemon)[0]["original"]["packets"] >= known + 50)  # it was looked at since
        net.gateway.run("conntrack", "-D", "-p", "udp")
        wait_until(lambda: not records(daemon))


def test_new_rules_look_at_what_is_offloaded_too(net: Network, tmp_path: Path) -> None:
    """A reload that re-judges ends the offload; what the new rules refuse passes no more."""
    with judged(net, tmp_path, "iptables-nft", RULES) as daemon, Stream(net) as bulk:
        bulk.send(10)
        wait_until(lambda: offloaded(daemon) == 1)
        daemon.ctfw("reload", "--existing", "recheck")
        wait_until(lambda: offloaded(daemon) == 0)
        bulk.send(10)
        assert offloaded(daemon) == 1
        daemon.rules.write_text(RULES.replace("[tcp, udp]", "udp") + "existing: recheck\n")
        daemon.ctfw("reload")
        wait_until(lambda: 0 in marks(net))
        assert not bulk.passes()


def test_rules_that_offload_no_more_take_the_connections_back(net: Network, tmp_path: Path) -> None:
    with judged(net, tmp_path, "iptables-nft", RULES) as daemon, Stream(net) as bulk:
        bulk.send(10)
        wait_until(lambda: offloaded(daemon) == 1)
        daemon.rules.write_text(RULES.replace("offload: on", "offload: off"))
        daemon.ctfw("reload")
        wait_until(lambda: marks(net) == [0])
        before = received(daemon)
        bulk.send(10)
        assert received(daemon) - before > 10 and offloaded(daemon) == 0


def test_a_daemon_without_the_record_takes_the_connection_back(net: Network, tmp_path: Path) -> None:
    with hooked(net, "iptables-nft", RULES):
        (tmp_path / "first").mkdir()
        with Running(net, tmp_path / "first", rules=RULES) as daemon:
            bulk = Stream(net)
            bulk.send(10)
            wait_until(lambda: offloaded(daemon) == 1)
            daemon.signal(signal.SIGKILL)
            daemon.process.wait()
        assert bulk.passes()  # whoever is down: the kernel carries it
        (tmp_path / "second").mkdir()
        with Running(net, tmp_path / "second", rules=RULES) as daemon, bulk:
            assert marks(net) == [0]
            bulk.send(10)
            assert records(daemon)[0]["state"] == "ESTABLISHED"


def test_without_the_hooks_rules_connections_stay_with_ctfw_and_a_line_says_so(net: Network, tmp_path: Path) -> None:
    text = RULES.replace("offload: on", "offload: off")
    with hooked(net, "iptables-nft", text), Running(net, tmp_path, rules=RULES) as daemon, Stream(net) as bulk:
        bulk.send(10)
        wait_until(lambda: "offload: the kernel keeps no mark of ours" in daemon.log())
        before = received(daemon)
        bulk.send(10)
        assert received(daemon) - before > 10 and offloaded(daemon) == 0
        with net.gateway:
            command(net.gateway, "apply", "--rules", str(daemon.rules), "--backend", "iptables-nft")


@pytest.mark.parametrize(("dnat", "snat"), [(True, False), (False, True), (True, True)])
def test_one_end_may_be_translated(net: Network, tmp_path: Path, dnat: bool, snat: bool) -> None:
    """The record is found by the tuple that agrees. With both translated there is none: then it stays with ctfw."""
    with judged(net, tmp_path, "iptables-nft", RULES) as daemon:
        if dnat:
            rule = f"-A PREROUTING -d 198.51.100.77 -j DNAT --to-destination {SERVER}"
            net.gateway.run("iptables-nft", "-t", "nat", *rule.split())
        if snat:
            net.gateway.run("iptables-nft", "-t", "nat", *["-A", "POSTROUTING", "-o", "wan0", "-j", "MASQUERADE"])
        with Stream(net, to="198.51.100.77" if dnat else SERVER) as bulk:
            bulk.send(1)
            before = received(daemon)
            bulk.send(20)
            assert (received(daemon) - before < 5) is not (dnat and snat)
            wait_until(lambda: offloaded(daemon) == (not (dnat and snat)))
        wait_until(lambda: [record["state"] for record in records(daemon)] == ["TIME_WAIT"])


def test_a_record_that_is_deleted_takes_the_connection_back(net: Network, tmp_path: Path) -> None:
    changed = ["import signal", "signal.signal(signal.SIGUSR1, lambda number, frame: self._tracker.flush())"]
    with hooked(net, "iptables-nft", RULES), Running(net, tmp_path, rules=RULES, changed=changed) as daemon:
        bulk = Stream(net)
        bulk.send(10)
        wait_until(lambda: offloaded(daemon) == 1)
        daemon.signal(signal.SIGUSR1)
        wait_until(lambda: marks(net) == [0])
        with bulk:
            assert bulk.passes()  # picked up in its middle


def test_panic_stops_what_is_offloaded_too(net: Network, tmp_path: Path) -> None:
    with judged(net, tmp_path, "iptables-nft", RULES) as daemon, Stream(net) as bulk:
        bulk.send(10)
        wait_until(lambda: offloaded(daemon) == 1)
        with Client(daemon.control) as client:
            client.call("panic", on=True, seconds=60)
            wait_until(lambda: 0 in marks(net))
            assert not bulk.passes()
            client.call("panic", on=False)
        wait_until(bulk.passes)
