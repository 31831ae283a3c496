"""The kernel's end of a queue, for tests: it numbers packets, keeps those that wait, and obeys verdicts.

A pair of connected sockets that keep messages apart stands for netlink, so that reading, writing, blocking and
closing are real. What it says is written down here a second time, from linux/netfilter/nfnetlink_queue.h, with struct
and not with the code under test; native byte order is `=`, the network's `>`.
"""

import socket
import struct
from collections.abc import Iterable

from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ANY
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.nfqueue import Queue
from ctfw.packet import FORWARD
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import NumberSet

DROP, ACCEPT = 0, 1
GOOD, BAD = 53, 666  # ports that the rules of engine() accept and drop
BUFFER = 4096


def engine() -> Engine:
    """An engine that accepts UDP to GOOD and drops the rest."""
    rule = Rule("good", "", ACCEPT, 31, ANY, protos=NumberSet([(17, 17)]), dport=NumberSet([(GOOD, GOOD)]))
    return Engine(ConnTrack(Settings()), Ruleset([rule], {FORWARD: DROP}))


def broken_engine() -> Engine:
    """An engine that raises at every packet, compiled or not: it has nowhere to count."""
    broken = engine()
    broken.counters.hooks = []
    return broken


def udp(port: int, size: int = 8, source: int = 1) -> bytes:
    """An IPv4 datagram from 10.0.0.1 without a checksum, `size` bytes from the UDP header on."""
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + size, 0, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return ip + struct.pack(">HHHH", source, port, size, 0) + bytes(size - 8)


def attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


def packet_message(
    number: int,
    payload: bytes,
    *,
    hook: int = FORWARD,
    mark: int | None = None,
    indev: int = 0,
    outdev: int = 0,
    info: int | None = None,
    captured: int | None = None,
) -> bytes:
    """NFQNL_MSG_PACKET with its attributes in the kernel's order, one of a kind we do not read among them."""
    body = attribute(1, struct.pack(">IHB", number, 0x0800, hook))
    for kind, value in ((5, indev or None), (6, outdev or None), (3, mark)):
        if value is not None:
            body += attribute(kind, struct.pack(">I", value))
    body += attribute(9, struct.pack(">HH8s", 6, 0, b"\2\0\0\0\0\1\0\0"))  # hardware address
    for kind, value in ((13, captured), (14, info)):
        if value is not None:
            body += attribute(kind, struct.pack(">I", value))
    return netlink(3 << 8, struct.pack(">BBH", 2, 0, 0) + body + attribute(10, payload))


def netlink(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


class FakeKernel:
    """`waiting` are the packets without a verdict, `verdicts` what became of the others."""

    def __init__(self, number: int = 7) -> None:
        self.number = number
        self.theirs, self.ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.ids = 0
        self.waiting: list[int] = []
        self.verdicts: dict[int, int] = {}
        self.sends: list[int] = []  # messages in each of the writes

    def queue(self, judge: Engine | None = None, error_verdict: int = DROP) -> Queue:
        return Queue(self.theirs, self.number, judge or engine(), error_verdict, BUFFER)

    def give(self, *ports: int) -> None:
        """A datagram to each of the ports, as one message each."""
        for port in ports:
            self.give_raw(packet_message(self.next_id(), udp(port)))

    def give_raw(self, message: bytes) -> None:
        self.ours.send(message)

    def next_id(self) -> int:
        self.ids += 1
        self.waiting.append(self.ids)
        return self.ids

    def lose(self, count: int) -> None:
        """Packets that were numbered but did not fit into the socket."""
        self.ids += count

    def obey(self) -> dict[int, int]:
        """Read the verdicts and do what they say; all verdicts so far by packet number."""
        while True:
            try:
                data = self.ours.recv(65536)
            except BlockingIOError:
                return self.verdicts
            messages = list(split(data))
            self.sends.append(len(messages))
            for message in messages:
                self._verdict(message)

    def _verdict(self, message: bytes) -> None:
        size, kind, flags, _seq, _pid, family, version, queue = struct.unpack_from("=IHHIIBBH", message)
        assert (size, kind, flags, family, version) == (32, 3 << 8 | 3, 1, 0, 0)
        assert socket.ntohs(queue) == self.number
        assert struct.unpack_from("=HH", message, 20) == (12, 2)
        verdict, last = struct.unpack_from(">II", message, 24)
        for packet in [one for one in self.waiting if (last - one) & 0xFFFFFFFF < 0x80000000]:
            self.waiting.remove(packet)
            assert packet not in self.verdicts
            self.verdicts[packet] = verdict


def split(data: bytes) -> Iterable[bytes]:
    while data:
        (size,) = struct.unpack_from("=I", data)
        assert 16 <= size <= len(data)
        yield data[:size]
        data = data[size:]
