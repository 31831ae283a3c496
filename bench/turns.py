"""`ctfw run` for bench/latency.py: the daemon as it is, and how long the turns of its loop take by its own fault.

``python bench/turns.py FILE run ...`` keeps the longest turn in FILE, eight bytes in the order of this machine, in
nanoseconds; whoever reads it may write 0 there. A turn is what happens between two looks at what is ready. By its own
fault is the processor's time that it took. When it let go of the processor of its own accord, waiting for something, it
is all of its time but that in which it was ready and the kernel let others run (/proc/self/schedstat). So what does not
count is what neighbours take, on this machine or, when it is a virtual one, beside it: a tenth of a second at times.
"""

import mmap
import os
import resource
import select
import struct
import sys
import time
from typing import Final

from ctfw import daemon
from ctfw.cli import main
from ctfw.loop import PacketLoop

_EPOLL: Final = select.epoll
_SCHEDSTAT: Final = os.open("/proc/self/schedstat", os.O_RDONLY)
_LONGEST: Final = struct.Struct("=q")


def now() -> tuple[int, int, int, int]:
    """Nanoseconds: the time, this thread's on a processor, and ready without one; how often it let go of it."""
    kept = int(os.pread(_SCHEDSTAT, 100, 0).split()[1])
    return time.monotonic_ns(), time.thread_time_ns(), kept, resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Watched:
    """What the daemon asks for the next thing to do, and which knows when a turn begins and ends."""

    def __init__(self) -> None:
        self._epoll = _EPOLL()
        with open(sys.argv[1], "w+b") as file:
            file.truncate(_LONGEST.size)
            self._longest = mmap.mmap(file.fileno(), _LONGEST.size)
        self._begun = (0, 0, 0, 0)
        self.register = self._epoll.register
        self.close = self._epoll.close

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        if self._begun[0]:
            took, computed, kept, waited = (after - before for before, after in zip(self._begun, now(), strict=True))
            own = took - kept if waited else computed
            if own > _LONGEST.unpack(self._longest)[0]:
                _LONGEST.pack_into(self._longest, 0, own)
        ready = self._epoll.poll(timeout, most)
        self._begun = now()
        return ready


if __name__ == "__main__":
    select.epoll = Watched  # type: ignore[misc,assignment]
    # A read that waits for a packet would count as a turn that takes long.
    setattr(daemon, "PacketLoop", lambda queue, sock, others, may_wait: PacketLoop(queue, sock, others, False))  # noqa: B010
    sys.exit(main(sys.argv[2:]))
