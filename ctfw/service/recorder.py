"""The recorder: every packet that the running daemon judged, on its way to a file (``ctfw run --record``).

No packet waits for the disk, or for whoever reads when the file is a pipe: a thread writes (spool.py), and gets CHUNK
bytes of finished blocks at a time, or what there is after FLUSH_INTERVAL, so that the loop is seldom disturbed. When
ROOM bytes wait already, packets are left out until there is room again. They are counted as ``slow``, the recording
says where they are missing (record.py), and the log says so as long as it goes on. That the file has ended
(record_file.py) is told once, and what comes after that is counted as ``ended``.

At the end of the daemon, what waits is written within PATIENCE; what is not by then is missing, and the last line
about the recording says how much that is in all.

Times are those of the monotonic clock that the connections live by, plus the offset to Unix time that the daemon took
once at its start: then a replay sees the intervals that the daemon saw, also over a step of the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ctfw.service.alarms import Alarms
from ctfw.service.kinds import SINK_FAILED
from ctfw.service.record import Blocks
from ctfw.service.record_file import LIMIT, RecordFile
from ctfw.service.spool import Spool

ROOM: Final = 1 << 24  # bytes that wait to be written: a second of 100,000 packets
CHUNK: Final = 1 << 18
FLUSH_INTERVAL: Final = 1_000_000_000
PATIENCE: Final = 3.0  # seconds that the daemon's end may take for what waits


class Recorder:
    """The recording of one daemon. ``seen`` packets came; ``slow`` and ``ended`` of them were left out, by why."""

    def __init__(self, path: str, offset: int, log: Callable[[str], None], limit: int = LIMIT) -> None:
        """Opens the file, emptying it. Raises OSError. ``offset``: of the times given from those since 1970."""
        self.path = path
        self.seen = 0
        self.slow = 0
        self.ended = 0
        self._log = log
        self._offset = offset
        self._blocks = Blocks()
        self._buffer = bytearray()
        self._buffered = 0  # packets in it
        self._flushed = 0
        self._hole = 0  # packets left out since the last one that was not
        self._last = 0
        self._is_told = False
        self._file = RecordFile(path, limit)
        self._spool: Spool[tuple[bytearray, int]] = Spool("ctfw-record", ROOM, self._write, self._finish)

    def write(
        self, data: bytes, length: int, now: int, hook: int, indev: str, outdev: str, mark: int, checksum: str
    ) -> None:
        """One packet that was judged (``Queue.record``). Never waits."""
        self.seen += 1
        self._last = time = now + self._offset
        if self._file.error:
            self.ended += 1
            return
        if not self._spool.has_room(len(self._buffer) + len(data)):
            self.slow += 1
            self._hole += 1
            return
        hole, self._hole = self._hole, 0
        self._buffer += self._blocks.packet(data, length, time, hook, indev, outdev, mark, checksum, missing=hole)
        self._buffered += 1
        if len(self._buffer) >= CHUNK or not 0 <= time - self._flushed < FLUSH_INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Hands over what is buffered; at a tick, for the last packets before a quiet hour."""
        if not self._buffer:
            return
        self._flushed = self._last
        self._spool.put((self._buffer, self._buffered), len(self._buffer))
        self._buffer, self._buffered = bytearray(), 0

    def tick(self) -> None:
        """About once a second."""
        self.flush()
        self._tell()

    def figures(self) -> dict[str, Any]:
        """For status and metrics: of packets."""
        return {
            "path": self.path,
            "written": self._file.packets,
            "slow": self.slow,
            "ended": self.ended + self._file.lost,
            "error": self._file.error or None,
        }

    def close(self, patience: float = PATIENCE) -> None:
        """The end of the daemon."""
        self.flush()
        self._spool.close(patience)
        self._tell()
        missing = self.seen - self._file.packets
        if missing:
            late = "" if self._spool.is_over() else " reason=it still waits to be written"
            self._log(f"record: incomplete: file={self.path} packets={self._file.packets} missing={missing}{late}")

    def _tell(self) -> None:
        error, packets = self._file.error, self._file.packets
        if error and not self._is_told:
            self._is_told = True
            what = f"file={self.path} packets={packets} reason={error}"
            self._log(f"record: stopped: {what}; restart the daemon to record again")

    # In the thread.

    def _write(self, chunks: list[tuple[bytearray, int]]) -> None:
        for blocks, packets in chunks:
            self._file.write(blocks, packets)

    def _finish(self) -> None:
        self._file.close(self._last, self.slow + self.ended)


def watch_record(alarms: Alarms, recorder: Recorder) -> None:
    """Has an admin hear of packets that were left out. That the file has ended is said once, by the recorder."""
    alarms.watch(
        SINK_FAILED,
        lambda: recorder.slow,
        lambda count: f"record: packets missing={count} file={recorder.path}: what it is written to is too slow",
    )
