"""Marks and MAC addresses on their way through the queue's messages."""

import struct

from daemon.fakekernel import FakeKernel, packet_message, split, udp
from ruleset.gateway import HEAD

from ctfw import config
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.nfqueue import Queue
from ctfw.ruleset.marks import reject_kind
from ctfw.ruleset.verdict import ACCEPT, DROP, PORT_UNREACHABLE

RULES = """
rules:
  - {name: no, proto: udp, dport: 1, verdict: reject}
  - {name: marked, proto: udp, dport: [2, 3], set_mark: 0x20, verdict: accept}
  - {name: known, proto: udp, dport: 4, mac: "02:00:00:00:00:01", verdict: accept}
  - {name: rest, proto: udp, dport: 5, verdict: accept}
"""


class Kernel(FakeKernel):
    """Reads verdicts with marks."""

    def answers(self) -> list[tuple[int, int, int]]:
        """Number of the run's last packet, verdict, mark (-1: none) of each message."""
        found = []
        for message in split(self.ours.recv(65536)):
            size, kind = struct.unpack_from("=IH", message)
            assert kind == 3 << 8 | 3 and size in (32, 40)
            assert struct.unpack_from("=HH", message, 20) == (12, 2)
            verdict, last = struct.unpack_from(">II", message, 24)
            mark = -1
            if size == 40:
                assert struct.unpack_from("=HH", message, 32) == (8, 3)
                (mark,) = struct.unpack_from(">I", message, 36)
            found.append((last, verdict, mark))
        return found


def queue_of(kernel: Kernel) -> Queue:
    loaded = config.load("rules.yaml", HEAD + RULES)
    return kernel.queue(Engine(ConnTrack(loaded.settings), loaded.ruleset))


def test_runs_of_equal_marks_are_one_message() -> None:
    kernel = Kernel()
    queue = queue_of(kernel)
    kernel.give(5, 2, 3, 5, 6)
    queue.process(10)
    assert kernel.answers() == [(1, ACCEPT, -1), (3, ACCEPT, 0x20), (4, ACCEPT, -1), (5, DROP, -1)]
    assert queue.received == queue.answered == 5


def test_a_rejected_packet_is_accepted_only_when_the_kernel_answers_it() -> None:
    kernel = Kernel()
    queue = queue_of(kernel)
    kernel.give(1)
    queue.process(10)
    assert kernel.answers() == [(1, DROP, -1)]
    queue.rejects = True
    kernel.give(1)
    queue.process(10)
    ((_, verdict, mark),) = kernel.answers()
    assert verdict == ACCEPT and reject_kind(mark, queue.engine.ruleset.reject_bit) == PORT_UNREACHABLE


def test_a_reject_mark_that_came_with_a_packet_is_taken_away() -> None:
    kernel = Kernel()
    queue = queue_of(kernel)
    kernel.give_raw(packet_message(kernel.next_id(), udp(5), mark=0x40000001))
    queue.process(10)
    assert kernel.answers() == [(1, ACCEPT, 1)]


def test_the_mac_address_reaches_the_rules() -> None:
    kernel = Kernel()
    queue = queue_of(kernel)
    message = packet_message(kernel.next_id(), udp(4))
    kernel.give_raw(message.replace(b"\2\0\0\0\0\1\0\0", b"\2\0\0\0\0\2\0\0"))
    kernel.give_raw(packet_message(kernel.next_id(), udp(4)))
    queue.process(10)
    assert kernel.answers() == [(1, DROP, -1), (2, ACCEPT, -1)]
