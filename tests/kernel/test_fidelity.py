"""The engine says and remembers what the kernel says and remembers, packet by packet.

Random conversations from fixed seeds, in numbers that fit into half a minute; ``python -m kernel.oracle`` holds as
many as wanted. Named ones (kernel.conversations.corners) for what once differed. And tests of the test: that it can
fail, and that the one sum in which ctfw follows the standard and not the kernel is the one that Linux hosts send.
"""

import socket
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice

import pytest
from kernel import packets
from kernel.adapter import Engine
from kernel.compare import Counts, Talked, hold, in_time, pair
from kernel.conversations import KINDS
from kernel.conversations.corners import CORNERS, cells
from kernel.gateway import CLIENT_SIDE, Gateway
from kernel.oracle import GROUP, PAUSE, expiring, fuzz

from ctfw import engine as built
from ctfw.checksum import is_checksum_good
from ctfw.packet import decode
from lab.net import Namespace

pytestmark = pytest.mark.kernel

FAMILIES = pytest.mark.parametrize("family", ["4", "6"])
# What the builds share is the source; the slower one shows here that it says the same of it.
CONVERSATIONS = 1000 if str(built.__file__).endswith(".py") else 5000
OF_A_KIND = 160


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway() as made:
        yield made


@pytest.fixture
def engine() -> Engine:
    return Engine(follow_sysctls=False)


def agree(talks: Iterable[Talked]) -> None:
    differing = [talk for talk in talks if talk.difference]
    assert not differing, "\n" + "\n".join(str(talk) for talk in differing[:3])


@FAMILIES
def test_random_conversations(gateway: Gateway, engine: Engine, family: str) -> None:
    counts = Counts()
    names = (f"test/{family}/{group}" for group in range(-(-CONVERSATIONS // GROUP)))
    agree(islice(fuzz(gateway, engine, names, "", counts), 3))
    assert counts.conversations >= CONVERSATIONS
    assert counts.unseen < counts.packets // 100
    for state in ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"):
        assert counts.states[state] > CONVERSATIONS // 50


@FAMILIES
@pytest.mark.parametrize("kind", KINDS)
def test_random_conversations_of_each_kind(gateway: Gateway, engine: Engine, kind: str, family: str) -> None:
    names = (f"{kind}/{family}/{group}" for group in range(OF_A_KIND // GROUP))
    agree(islice(fuzz(gateway, engine, names, kind, Counts()), 3))


@FAMILIES
def test_conversations_that_outlive_their_time_outs(gateway: Gateway, engine: Engine, family: str) -> None:
    knobs, held = expiring(f"test/{family}/0")
    agree(in_time(partial(hold, gateway, engine, held), knobs, PAUSE))


@FAMILIES
@pytest.mark.parametrize("name", CORNERS)
def test_a_corner(gateway: Gateway, engine: Engine, name: str, family: str) -> None:
    knobs, conversation = CORNERS[name]
    agree(hold(gateway, engine, [conversation(pair(0, family == "6"))], knobs))


@FAMILIES
def test_every_cell_of_the_tcp_table(gateway: Gateway, engine: Engine, family: str) -> None:
    every = list(cells())
    assert len(every) == 10 * 2 * 7 * 2
    for first in range(0, len(every), GROUP):
        some = every[first : first + GROUP]
        talks = hold(gateway, engine, [make(pair(at, family == "6")) for at, (_, make) in enumerate(some)])
        for (name, _), talk in zip(some, talks, strict=True):
            talk.log.insert(0, name)
        agree(talks)


def test_it_sees_a_difference(gateway: Gateway, engine: Engine) -> None:
    """A knob that only the engine has not heard of changes states, and in other conversations only the records."""

    class Deaf(Engine):
        def set(self, values: object) -> None:
            super().set({})

    for name in ("unanswered, no pick-up", "unanswered, one retransmission", "simultaneous open"):
        knobs, conversation = CORNERS[name]
        (talk,) = hold(gateway, Deaf(follow_sysctls=False), [conversation(pair(0, False))], knobs)
        assert talk.difference
        assert ("in the records" in talk.difference) == (name != "unanswered, no pick-up")


def test_udplite_has_the_sum_that_linux_hosts_send_and_the_kernels_conntrack_is_wrong(gateway: Gateway) -> None:
    for ipv6, family, host in ((False, socket.AF_INET, "127.0.0.1"), (True, socket.AF_INET6, "::1")):
        client, server = pair(0, ipv6).address
        right = packets.udplite(client, 1000, server, 2000, b"data", 8)
        gateway.set({})
        assert gateway.send(CLIENT_SIDE, right, lambda packet: True).state == "INVALID"
        assert is_checksum_good(decode(right, len(right)))
        for coverage in (0, 8, 11):
            sent = _sent_over_udplite(family, host, coverage, b"datagram")
            assert sent[(6 if ipv6 else 9)] == packets.UDPLITE
            assert is_checksum_good(decode(sent, len(sent)))
            covered = sent[:-8] + bytes([sent[-8] ^ 1]) + sent[-7:]
            assert is_checksum_good(decode(covered, len(sent))) == (coverage == 8)
            beyond = sent[:-1] + bytes([sent[-1] ^ 1])
            assert is_checksum_good(decode(beyond, len(sent))) == (coverage != 0)


def _sent_over_udplite(family: int, host: str, coverage: int, data: bytes) -> bytes:
    """What Linux sends for ``data`` with this send coverage (UDPLITE_SEND_CSCOV)."""
    namespace = Namespace()
    namespace.run("ip", "link", "set", "lo", "up")
    with namespace:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        tap.bind(("lo", 0))
        tap.settimeout(5)
        with tap, socket.socket(family, socket.SOCK_DGRAM, packets.UDPLITE) as sender:
            sender.setsockopt(packets.UDPLITE, 10, coverage)
            sender.sendto(data, (host, 9))
            while not (frame := tap.recv(2048)).endswith(data):
                pass
    namespace.close()
    return frame[14:]
