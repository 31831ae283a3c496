"""What the kernel says of a queue, where it says less than one would like."""

from pathlib import Path

import pytest
from daemon.fakekernel import DROP, engine

from ctfw.nfqueue import Queue
from ctfw.service.failure import Account
from ctfw.service.kernel_queue import KernelQueue
from lab.net import Network

pytestmark = pytest.mark.kernel

WRAPPED = 1 << 32


def test_what_was_dropped_is_counted_on_where_the_kernel_begins_anew(tmp_path: Path) -> None:
    said = tmp_path / "nfnetlink_queue"

    def say(queue_dropped: int, socket_dropped: int) -> None:
        said.write_text(f"    0  1234     0 2  1600 {queue_dropped % WRAPPED} {socket_dropped % WRAPPED}      100  1\n")

    with Network() as net, net.gateway:
        kernel = KernelQueue(0, gso=True, fail_open=False)
        say(WRAPPED - 10, 3)
        with said.open() as kernel._proc:
            account = Account(Queue(kernel.sock, 0, engine(), DROP, kernel.buffer), kernel, ask=lambda queue: [])
            for queue_dropped, socket_dropped in (
                (WRAPPED - 1, 3),
                (WRAPPED + 5, WRAPPED + 2),
                (2 * WRAPPED + 4, WRAPPED + 2),
            ):
                say(queue_dropped, socket_dropped)
                figures = kernel.figures()
                assert figures is not None
                assert (figures["queue_dropped"], figures["socket_dropped"]) == (queue_dropped, socket_dropped)
                dropped = account.figures()["unjudged"]["queue_full"]["drop"]
                assert dropped == queue_dropped - (WRAPPED - 10) + socket_dropped - 3
            kernel.sock.close()
