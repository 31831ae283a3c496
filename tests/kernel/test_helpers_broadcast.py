"""NetBIOS name service and SNMP by broadcast: the gateway itself asks a network, and its answers are expected.

The kernel expects them when the packet comes from a socket of its own and goes to the broadcast address of the
interface that it leaves by; we, when it comes from an own address to that address's broadcast address.
"""

import re
import socket
import time
from collections.abc import Iterator

import pytest
from kernel import packets
from kernel.gateway import CLIENT_SIDE, Label
from kernel.helper_lab import Engine, Gateway

from lab.net import GATEWAY, SERVER

pytestmark = pytest.mark.kernel

# An address that was given without its broadcast address (`ip address add` does not guess one) has none, and the kernel
# expects nothing: so it is not the network of the other tests.
OWN, BROADCAST, NEAR, NEIGHBOUR = "192.168.9.1", "192.168.9.255", "192.168.9.2", "192.168.9.77"


def packed(address: str) -> bytes:
    return socket.inet_aton(address)


NETWORKS = [(packed(OWN), packed(BROADCAST), 24)]


class Both:
    """The kernel and the engine, which must say and hold the same after each packet."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.engine = Engine(NETWORKS)
        self.said: tuple[str, str | None] = ("", None)
        gateway.flush()

    def _decide(self, packet: bytes) -> bool:
        self.said = self.engine.packet(packet, time.monotonic())
        return self.engine.verdict(True)

    def _compare(self, label: Label) -> str:
        assert self.said[0] == label.state
        now = time.monotonic()
        for theirs, ours in (
            (self.gateway.table(), self.engine.table(now)),
            (self.gateway.expectations(), self.engine.expectations(now)),
        ):
            seconds = [sorted(_seconds(line) for line in lines) for lines in (theirs, ours)]
            assert [text for text, _ in seconds[0]] == [text for text, _ in seconds[1]]
            assert all(abs(a - b) <= 1 for (_, a), (_, b) in zip(*seconds, strict=True)), (theirs, ours)
        return label.state

    def asks(self, port: int, target: str = BROADCAST, source: str = OWN, sport: int = 0) -> str:
        return self._compare(self.gateway.say((source, sport or port), (target, port), b"who?", self._decide))

    def hears(self, src: str, sport: int, dport: int, dst: str = OWN) -> str:
        data = packets.udp(packed(src), sport, packed(dst), dport, b"me!")
        return self._compare(self.gateway.send(CLIENT_SIDE, data, self._decide))

    @property
    def expected(self) -> list[str]:
        return [line.split(" ", 1)[1] for line in self.engine.expectations(time.monotonic())]


def _seconds(line: str) -> tuple[str, int]:
    match = re.match(r"((?:ip\S+ +\d+ \S+ +\d+ )?)(\d+) (.*?)( use=\d+)?$", line)
    assert match, line
    return match[1] + match[3], int(match[2])


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway() as found:
        found.give_address(OWN, BROADCAST, "lan0")
        yield found


@pytest.mark.parametrize(("name", "port"), [("netbios-ns", 137), ("snmp", 161)])
def test_a_network_is_asked_and_all_of_it_may_answer(gateway: Gateway, name: str, port: int) -> None:
    both = Both(gateway)
    assert both.asks(port, sport=4000) == "NEW"
    assert both.expected == [f"l3proto = 2 proto=17 src={BROADCAST} dst={OWN} sport={port} dport=4000 PERMANENT {name}"]
    assert both.hears(NEAR, port, 4000) == "RELATED"
    assert both.hears(NEIGHBOUR, port, 4000) == "RELATED"
    assert both.hears(NEAR, port, 4000) == "RELATED"
    assert both.expected, "it stays"


def test_what_is_no_answer_is_new(gateway: Gateway) -> None:
    both = Both(gateway)
    both.asks(137)
    assert both.hears(NEAR, 138, 137) == "NEW"
    assert both.hears(NEAR, 137, 138) == "NEW"
    assert both.hears(SERVER, 137, 137) == "NEW"


def test_a_second_question_replaces_the_first(gateway: Gateway) -> None:
    both = Both(gateway)
    both.asks(161, sport=4000)
    both.asks(161, sport=4000)
    assert len(both.expected) == 1
    both.asks(161, sport=4001)
    assert len(both.expected) == 2


def test_questions_to_one_or_to_everybody_expect_nothing(gateway: Gateway) -> None:
    both = Both(gateway)
    assert both.asks(137, NEAR) == "NEW"
    assert both.asks(161, NEAR) == "NEW"
    assert both.expected == []


def test_questions_of_others_expect_nothing(gateway: Gateway) -> None:
    both = Both(gateway)
    assert both.hears(NEAR, 137, 137, BROADCAST) == "NEW"
    assert both.hears(NEIGHBOUR, 4000, 161, BROADCAST) == "NEW"
    assert both.expected == []


def test_a_broadcast_address_that_nobody_set_is_none(gateway: Gateway) -> None:
    both = Both(gateway)
    assert both.asks(137, "192.168.1.255", GATEWAY) == "NEW"
    assert both.expected == []
