"""The innermost loop of the daemon: wait, judge what came, wait again, until somebody else wants a turn.

Owns the wait, and when to come back from it. Everything beside the queue is one descriptor here (that of a selector
with all the others): what it is about, the daemon knows. It is compiled with the packet's way because a round trip on
an idle gateway is two turns of this loop and little else: interpreted, a turn costs more than the packet it is for.

The call that reads many packets pays from the second one on; for one alone it costs two microseconds more than the call
that reads one, when the processor's caches have forgotten it. So where the last packets came alone the next ones are
read alone, and now and then together, to see whether they still do. (How long it waited for them says nothing: what
answers a packet is often there as soon as that packet has left.) The call that reads one can also wait for it, which
saves asking who is ready, a call as dear as the read; the others then have their look after seven packets, or when none
comes for some milliseconds.
"""

import gc
import select
import time
from typing import Final

from mypy_extensions import i64

from ctfw.nfqueue import Queue

BUDGET: Final = 256  # packets in a row before anything else has its turn: a millisecond or two
YOUNG: Final = 5_000  # objects after which a young collection is due; it then takes well below a millisecond

ALONE: Final = 8  # reads in a row that brought one packet, until the next ones ask for one
TOGETHER: Final = 8  # of what is read alone, each eighth is read together

PATIENCE: Final = 10_000_000  # nanoseconds to go at least until the caller's time, for a read that waits

_SECOND: Final = 1_000_000_000
_MOST: Final = 2


class PacketLoop:
    """Serves ``queue``, whose socket is ``sock``, and watches ``others`` for the caller. Both are descriptors.

    ``may_wait``: for a packet alone, while the others get no look.
    """

    def __init__(self, queue: Queue, sock: int, others: int, may_wait: bool) -> None:
        self._queue: Queue = queue
        self._sock: int = sock
        self._ready = select.epoll()
        self._ready.register(sock, select.EPOLLIN)
        self._ready.register(others, select.EPOLLIN)
        self._poll = self._ready.poll
        self._may_wait: bool = may_wait
        self._alone: i64 = 0  # reads in a row that brought no more, as far as they could tell

    def serve(self, until: i64, once: bool) -> bool:
        """Judges packets until that time (monotonic, in ns), or the first that came if ``once``; are others ready?

        Comes back earlier when they are, when the queue has something to tell (``blocked``, ``last_error``), and when a
        young collection is due. With a time that is over it looks once and does not wait. Raises OSError as
        ``Queue.process`` does.
        """
        queue = self._queue
        now: i64 = time.monotonic_ns()
        while True:
            left: i64 = until - now
            alone = self._alone >= ALONE and self._alone % TOGETHER != 0
            if alone and self._may_wait and left > PATIENCE and not once:
                self._alone += 1
                if queue.process_one(True):
                    if queue.blocked or queue.last_error is not None:
                        return False
                    now = queue.now  # garbage is looked for each eighth time, when the next ones are read together
                    continue
                left = until - time.monotonic_ns()
            found = self._poll(left / _SECOND if left > 0 else 0, _MOST)
            others = False
            for descriptor, _ in found:
                if descriptor != self._sock:
                    others = True
                elif alone:
                    self._alone += 1
                    queue.process_one(False)
                else:
                    self._alone = self._alone + 1 if queue.process(BUDGET) <= 1 else 0
            if others or once or left <= 0 or not found:
                return others
            if self._is_due():
                return False
            now = time.monotonic_ns()

    def _is_due(self) -> bool:
        """Has the caller something to do about the queue, or about garbage?"""
        return self._queue.blocked or self._queue.last_error is not None or gc.get_count()[0] > YOUNG

    def close(self) -> None:
        """Ends the wait, not what was waited for."""
        self._ready.close()
