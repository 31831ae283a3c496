"""The file of a recording: whole blocks of packets, as long as the disk takes them.

Life-cycle: opened, emptied and begun (or OSError); blocks are added; ended for good by the first write that fails or by
`limit`, after which packets are only counted; closed, with the counts at its end. What a write that failed left behind
is cut off again, so that what was recorded can be replayed. After the opening no trouble with the file is raised: it
is said in ``error``. The file is readable by its owner alone: it holds other people's traffic.

It writes when it is told to and waits for the disk; the running daemon has a thread do that (recorder.py).
"""

from __future__ import annotations

import os
from typing import Final

from ctfw.service.record import header, statistics

LIMIT: Final = 1 << 30  # bytes of one recording: traffic must not be able to fill the disk
_END: Final = len(statistics(0, 0, 0))


class RecordFile:
    """The open file. ``packets`` are in it, ``lost`` came after its end; ``error`` says why it ended, "" before."""

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        """Raises OSError. ``limit`` is the file's size in bytes."""
        self.path = path
        self.packets = 0
        self.lost = 0
        self.error = ""
        self._limit = limit
        self._size = 0  # always of whole blocks
        # Appending: behind what was cut off, the next write is at the end again.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        try:
            self._append(header())
        except OSError:
            os.close(self._file)
            raise

    def write(self, blocks: bytes | bytearray, packets: int = 1) -> None:
        """Adds the blocks of so many packets, all or none of them."""
        if not self.error and self._size + len(blocks) + _END > self._limit:
            self.error = f"the limit of {self._limit} bytes is reached"
        if not self.error:
            self._try(blocks)
        if self.error:
            self.lost += packets
        else:
            self.packets += packets

    def close(self, time_ns: int, missing: int = 0) -> None:
        """Ends the file. ``missing`` packets never came here; ``time_ns`` since 1970 is when the last one was seen."""
        if self._file >= 0:
            missing += self.lost
            self._try(statistics(time_ns, self.packets + missing, missing))
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                os.close(file)
            except OSError as error:  # a network file system may say only now that it lost something
                self.error = self.error or str(error)

    def _try(self, blocks: bytes | bytearray) -> None:
        try:
            self._append(blocks)
        except OSError as error:
            self.error = self.error or str(error)
            try:
                os.ftruncate(self._file, self._size)
            except OSError:  # a pipe cannot be shortened: whoever reads it has half a block, and nothing may follow
                os.close(self._file)
                self._file = -1

    def _append(self, blocks: bytes | bytearray) -> None:
        with memoryview(blocks) as view:
            done = 0
            while done < len(view):
                done += os.write(self._file, view[done:])
        self._size += len(blocks)
