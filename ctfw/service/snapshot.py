"""The table on record: a log of frames that tells, read to its end, which connections there were.

One log is written in one go round the table (a cycle). It begins with a header: the format, who wrote it in which
version, on which boot, the number of the cycle. Frames follow, each with a checksum and the moment of its writing:

    RULES         the generation of the rules in force, and which of its connections they have to look at
    KILLED        some of those that were killed, whose packets are to be dropped: all before the first SHARD, and each
                  once more when it happens
    CONNECTIONS   some connections of one shard of the writer's table; a later one replaces an earlier of the same key
    SHARD         all of this shard has been written since the header: what an older log says of it is out of date
    REMOVED       keys of connections that somebody took out: what stands before this of them is void
    FORGIVEN      keys of killed ones whose packets are judged again; what stands before this of them is void
    EXPECTATIONS  all of them, and CALLS likewise; a later frame replaces an earlier one
    COMPLETE      the whole table has been written since the header; what was taken out since may follow
    EXACT         and nothing has happened to it meanwhile: the writer has stopped

What a connection consists of is ctfw.conntrack.image's business. Nothing here is a point in time by which a connection
would have to be judged: it carries what remains of its life, and the moments of the frames say how much of that has
passed since, by the steady clock on the same boot, by the wall clock otherwise.

Reading raises SnapshotError, in words, for anything that is not a log of this format from beginning to end. The tail of
a log whose writer was killed may be cut (``cut``); the frames before it count.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ctfw import __version__
from ctfw.conntrack.image import FORMAT

MOST_BYTES: Final = 1 << 30

RULES: Final = 1
CONNECTIONS: Final = 2
SHARD: Final = 3
EXPECTATIONS: Final = 4
CALLS: Final = 5
COMPLETE: Final = 6
EXACT: Final = 7
KILLED: Final = 8
REMOVED: Final = 9
FORGIVEN: Final = 10

MAGIC: Final = b"ctfw\0log"
BOOT_SIZE: Final = 16
WRITER_SIZE: Final = 16
_VERSION_SIZE: Final = 16
_HEADER: Final = struct.Struct(f"<8sH{_VERSION_SIZE}s{BOOT_SIZE}s{WRITER_SIZE}sQI")
_FRAME: Final = struct.Struct("<BBHIqqI")  # kind, nothing, shard, length, monotonic and unix nanoseconds, checksum
_RULES: Final = struct.Struct("<qqq32s")
_UNSIGNED: Final = 0xFFFFFFFF


class SnapshotError(Exception):
    """Why a log is not used."""


@dataclass(frozen=True)
class Header:
    """``boot`` is the kernel's boot id, ``writer`` drawn by each process, ``cycle`` counts on through all of them."""

    boot: bytes
    writer: bytes
    cycle: int

    def to_bytes(self) -> bytes:
        """The first bytes of a log."""
        version = __version__.encode()[:_VERSION_SIZE]
        head = _HEADER.pack(MAGIC, FORMAT, version, self.boot, self.writer, self.cycle, 0)[:-4]
        return head + zlib.crc32(head).to_bytes(4, "little")


@dataclass(frozen=True)
class Frame:
    """One frame: ``body`` is where its bytes lie in the log, ``monotonic`` and ``unix`` when it was written."""

    kind: int
    shard: int
    body: slice
    monotonic: int
    unix: int


@dataclass(frozen=True)
class RulesNote:
    """Which rules were in force: their generation, the two numbers of ctfw.ruleset.ruleset, a digest of their text."""

    generation: int
    floor: int
    floor_means: int
    digest: bytes

    def to_bytes(self) -> bytes:
        """The body of a RULES frame."""
        return _RULES.pack(self.generation, self.floor, self.floor_means, self.digest)


@dataclass(frozen=True)
class Log:
    """A log that was read. ``data`` holds the bodies of ``frames``."""

    header: Header
    data: bytes
    frames: list[Frame] = field(repr=False)
    cut: bool

    def is_complete(self) -> bool:
        """True when it tells of the whole table by itself."""
        return any(frame.kind in (COMPLETE, EXACT) for frame in reversed(self.frames))

    def is_exact(self) -> bool:
        """True when nothing has happened between its frames."""
        return bool(self.frames) and self.frames[-1].kind == EXACT

    def last(self, kind: int) -> Frame | None:
        """The last frame of a kind."""
        return next((frame for frame in reversed(self.frames) if frame.kind == kind), None)

    def rules(self) -> RulesNote | None:
        """What its last RULES frame says. Raises SnapshotError."""
        frame = self.last(RULES)
        if frame is None:
            return None
        body = self.data[frame.body]
        if len(body) != _RULES.size:
            raise SnapshotError("the note about the rules has another length")
        generation, floor, floor_means, digest = _RULES.unpack(body)
        if not (0 <= floor <= generation < 1 << 62 and 0 <= floor_means <= 2):
            raise SnapshotError("the note about the rules makes no sense")
        return RulesNote(generation, floor, floor_means, digest)


def frame_bytes(kind: int, shard: int, body: bytes, monotonic: int, unix: int) -> bytes:
    """A frame, ready to be appended."""
    head = _FRAME.pack(kind, 0, shard, len(body), monotonic, unix, 0)[:-4]
    return head + zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little") + body


def keys_to_bytes(keys: Iterable[bytes]) -> bytes:
    """The body of a REMOVED or FORGIVEN frame."""
    return b"".join([bytes((len(key),)) + key for key in keys])


def keys_of_bytes(body: bytes) -> list[bytes]:
    """The keys that such a body names. Raises ValueError."""
    keys = []
    at = 0
    while at < len(body):
        end = at + 1 + body[at]
        if end > len(body):
            raise ValueError("a key ends early")
        keys.append(body[at + 1 : end])
        at = end
    return keys


def read_log(data: bytes) -> Log:
    """The log in ``data``. Raises SnapshotError."""
    if len(data) > MOST_BYTES:
        raise SnapshotError(f"larger than {MOST_BYTES} bytes")
    if not data.startswith(MAGIC):
        raise SnapshotError("not written by ctfw")
    if len(data) < _HEADER.size:
        raise SnapshotError("cut off in its header")
    _, number, version, boot, writer, cycle, checksum = _HEADER.unpack_from(data)
    if number != FORMAT:
        name = version.rstrip(b"\0").decode("ascii", "backslashreplace")
        raise SnapshotError(f"of format {number}, written by ctfw {name}; this is ctfw {__version__}, format {FORMAT}")
    if zlib.crc32(data[: _HEADER.size - 4]) != checksum:
        raise SnapshotError("its header is damaged")
    frames: list[Frame] = []
    at = _HEADER.size
    while at + _FRAME.size <= len(data):
        kind, _, shard, size, monotonic, unix, checksum = _FRAME.unpack_from(data, at)
        body = slice(at + _FRAME.size, at + _FRAME.size + size)
        if body.stop > len(data):
            break
        if zlib.crc32(memoryview(data)[body], zlib.crc32(data[at : at + _FRAME.size - 4])) & _UNSIGNED != checksum:
            break
        frames.append(Frame(kind, shard, body, monotonic, unix))
        at = body.stop
    return Log(Header(boot, writer, cycle), data, frames, cut=at != len(data))
