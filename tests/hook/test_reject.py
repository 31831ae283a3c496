"""`verdict: reject`: the kernel's chain behind the queue tells the peer at once, and that answer is not judged."""

import errno
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import OPEN, RULES, SHUT, Datagrams, Running
from hook.hooked import hooked, needs_both_iptables, needs_nft

from ctfw.ruleset.verdict import REJECT_NAMES
from ctfw.service.hook.nft import can_queue
from lab.net import GATEWAY, GATEWAY6, SERVER, SERVER6, Network

pytestmark = [pytest.mark.kernel, needs_nft, needs_both_iptables]

QUEUES = ["iptables-nft", *(["nft"] if can_queue() else [])]
# The gateway's own packets are queued too, and nothing that belongs to no connection may leave it.
STRICT = """
version: 1
policy: {input: drop, forward: drop, output: drop}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: neighbours, state: UNTRACKED, verdict: accept}
  - {name: own, chain: output, state: NEW, proto: udp, dport: 5353, verdict: accept}
  - {name: own no, chain: output, state: NEW, proto: tcp, verdict: reject}
  - {name: others no, chain: [input, forward], state: NEW, verdict: reject}
"""
# What a peer sees of each manner: IPv4, IPv6.
SEEN = {
    "port-unreachable": (errno.ECONNREFUSED, errno.ECONNREFUSED),
    "host-unreachable": (errno.EHOSTUNREACH, errno.EHOSTUNREACH),
    "no-route": (errno.ENETUNREACH, errno.ENETUNREACH),
    "admin-prohibited": (errno.EHOSTUNREACH, errno.EACCES),
}


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        yield made


def refusal(kind: socket.SocketKind, address: str, port: int) -> int:
    """The error that a caller gets, 0 for none within the time."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as caller:
        caller.settimeout(1)
        if kind == socket.SOCK_DGRAM:  # which else hears of closed ports only: IPV6_RECVERR, IP_RECVERR
            level, option = (socket.IPPROTO_IPV6, 25) if family == socket.AF_INET6 else (socket.IPPROTO_IP, 11)
            caller.setsockopt(level, option, 1)
        try:
            caller.connect((address, port))
            caller.send(b"x")
            caller.recv(1)
        except TimeoutError:
            return 0
        except OSError as error:
            return error.errno or 0
    return 0


@pytest.mark.parametrize("name", QUEUES)
def test_callers_are_told_at_once_in_every_chain(net: Network, tmp_path: Path, name: str) -> None:
    with hooked(net, name, STRICT), Running(net, tmp_path, rules=STRICT) as daemon:
        begun = time.monotonic()
        with net.client:
            for address in (SERVER, SERVER6, GATEWAY, GATEWAY6):
                assert refusal(socket.SOCK_STREAM, address, SHUT) == errno.ECONNREFUSED
                assert refusal(socket.SOCK_DGRAM, address, SHUT) == errno.ECONNREFUSED
        with net.gateway:
            for address in (SERVER, SERVER6):
                assert refusal(socket.SOCK_STREAM, address, SHUT) == errno.ECONNREFUSED
        assert time.monotonic() - begun < 1
        assert daemon.stats()["conntrack"]["invalid"] == 0  # the answers, which leave by OUTPUT, were not judged
        with Datagrams(net, OPEN) as served, net.gateway, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(1)
            asker.connect((SERVER, OPEN))
            asker.send(b"x")
            peer = served.server.recvfrom(10)[1]
            served.server.sendto(b"y", peer)
            assert asker.recv(10) == b"y"


@pytest.mark.parametrize("name", QUEUES)
def test_each_manner_says_what_it_is_called(net: Network, tmp_path: Path, name: str) -> None:
    rules = "".join(
        f"  - {{name: {manner}, chain: forward, proto: udp, dport: {1000 + number}, verdict: reject,"
        f" reject_with: {manner}}}\n"
        for number, manner in enumerate(SEEN)
    )
    with hooked(net, name), Running(net, tmp_path, rules=RULES + rules), net.client:
        assert set(SEEN) == set(REJECT_NAMES) - {"", "tcp-reset"}
        for number, errors in enumerate(SEEN.values()):
            for address, error in zip((SERVER, SERVER6), errors, strict=True):
                assert refusal(socket.SOCK_DGRAM, address, 1000 + number) == error


@pytest.mark.parametrize("name", QUEUES)
def test_a_mark_of_others_in_our_bits_orders_nothing(net: Network, tmp_path: Path, name: str) -> None:
    mark = "iptables-nft -t mangle -A FORWARD -p udp -j MARK --set-mark 0x48000007"
    net.gateway.run(*mark.split())
    net.gateway.run("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-m", "mark", "--mark", "7", "-j", "ACCEPT")
    with hooked(net, name), Running(net, tmp_path), Datagrams(net, OPEN) as good:
        assert good.answered()
    text = RULES + "failure: {no_listener: accept}\n"
    with hooked(net, name, text), Datagrams(net, OPEN) as good:
        assert good.answered()  # nor where nobody judges


def test_without_the_answering_chain_rejected_packets_are_dropped(net: Network, tmp_path: Path) -> None:
    with hooked(net, "iptables-legacy", STRICT), Running(net, tmp_path, rules=STRICT), net.client:
        assert refusal(socket.SOCK_DGRAM, SERVER, SHUT) == 0
