"""`ctfw run` for bench/latency.py: the daemon as it is, and how long the turns of its loop take by its own fault.

``python bench/turns.py FILE run ...`` keeps the longest turn in FILE, eight bytes in the order of this machine, in
nanoseconds; whoever reads it may write 0 there. A turn is what happens between two looks at what is ready. By its own
fault: what it computed and what it waited for, but not the time in which it could have run and the kernel let others
(/proc/self/schedstat says how much that was), which on a busy machine is most of it. Measuring costs some microseconds.
"""

import mmap
import os
import selectors
import struct
import sys
import time
from typing import Final

from ctfw.cli import main

_SCHEDSTAT: Final = os.open("/proc/self/schedstat", os.O_RDONLY)
_LONGEST: Final = struct.Struct("=q")


def kept_waiting() -> int:
    """Nanoseconds in which this thread was ready and not let run."""
    return int(os.pread(_SCHEDSTAT, 100, 0).split()[1])


class Watched(selectors.EpollSelector):
    """The daemon's selector, which knows when a turn begins and ends."""

    def __init__(self) -> None:
        super().__init__()
        with open(sys.argv[1], "w+b") as file:
            file.truncate(_LONGEST.size)
            self._longest = mmap.mmap(file.fileno(), _LONGEST.size)
        self._begun = (0, 0)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        begun, kept = self._begun
        if begun:
            own = time.monotonic_ns() - begun - (kept_waiting() - kept)
            if own > _LONGEST.unpack(self._longest)[0]:
                _LONGEST.pack_into(self._longest, 0, own)
        ready = super().select(timeout)
        self._begun = (time.monotonic_ns(), kept_waiting())
        return ready


if __name__ == "__main__":
    selectors.DefaultSelector = Watched  # type: ignore[misc,assignment]
    sys.exit(main(sys.argv[2:]))
