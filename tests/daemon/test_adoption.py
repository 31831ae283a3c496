"""Taking over a live queue: what the predecessor read and did not judge, and what it never read, is judged once."""

import os
import socket
from collections.abc import Iterator

import pytest
from daemon.fakekernel import DROP
from daemon.running import OPEN, Datagrams, wait_until

from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ANY
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.nfqueue import Queue
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import NumberSet
from ctfw.ruleset.verdict import ACCEPT
from ctfw.service.kernel_queue import KernelQueue, QueueError
from lab.net import Network

pytestmark = pytest.mark.kernel


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def bind(net: Network, kept: socket.socket | None = None, number: int = 0) -> KernelQueue:
    with net.gateway:
        return KernelQueue(number, gso=True, fail_open=False, kept=kept)


def copy_of(queue: KernelQueue) -> socket.socket:
    """The socket as systemd hands it on: another descriptor of it, and the first one closed."""
    sock = socket.socket(fileno=os.dup(queue.sock.fileno()))
    queue.close()
    return sock


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("read", [0, 7, 20])
def test_every_packet_of_the_dead_is_judged_once_and_none_is_lost(net: Network, readable: bool, read: int) -> None:
    dead = bind(net)
    with Datagrams(net, OPEN) as path:
        for number in range(20):
            path.client.send(b"%d" % number)
        for _ in range(read):
            wait_until(lambda: _reads(dead.sock))
        kernel = bind(net, copy_of(dead))
        if not readable:
            kernel._proc = None
        ours = Rule("ours", "", ACCEPT, 31, ANY, protos=NumberSet([(17, 17)]), dport=NumberSet([(OPEN, OPEN)]))
        rest = Rule("rest", "", ACCEPT, 31, ANY)  # what machines say to each other of themselves
        engine = Engine(ConnTrack(Settings()), Ruleset([ours, rest], {}))
        queue = Queue(kernel.sock, 0, engine, DROP, kernel.buffer)
        queue.resume(*kernel.settle())
        while queue.process(256):
            pass
        assert [int(path.server.recv(100)) for _ in range(20)] == list(range(20))
        assert (ours.packets, queue.lost, queue.refused, queue.malformed) == (20, 0, 0, 0)
        assert queue.received == queue.answered == ours.packets + rest.packets
        path.client.send(b"20")
        wait_until(lambda: queue.process(256) and ours.packets == 21)
        assert path.server.recv(100) == b"20"
        assert queue.lost == 0
        kernel.close()


def _reads(sock: socket.socket) -> bool:
    try:
        return len(sock.recv(4096)) > 0
    except BlockingIOError:
        return False


def test_the_socket_of_another_queue_is_refused(net: Network) -> None:
    with pytest.raises(QueueError, match="queue 5: cannot be configured"):
        bind(net, copy_of(bind(net)), number=5)


def test_a_socket_that_is_no_queue_at_all_is_refused(net: Network) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(QueueError, match="not a netfilter socket"):
        bind(net, ours)


def test_closing_the_last_descriptor_gives_the_queue_back(net: Network) -> None:
    bind(net).close()
    bind(net).close()
