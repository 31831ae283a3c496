"""The recorder: every packet that the daemon judged, in a pcapng file that `ctfw replay` and Wireshark read.

This file owns the writing side of that file and the annotation, the comment that a packet carries there:

    ctfw chain=forward in=lan0 out=wan0 mark=0x0 checksum=verified

It says what the queue told about the packet and the bytes do not: where it was, and what the kernel knew of
its checksum (`verified`, `unverified`: ours to check, `partial`: still to be filled in by the hardware).
Interface names may hold any byte but a slash, so they are percent-encoded; an interface that the packet did
not have is left out. `annotation` and `parse_annotation` are each other's inverse.

Life-cycle: opened (or OSError, the daemon does not start); `write` per packet into a buffer, which goes to
the file when it is full or a second old; stopped for good by the first failing write or by `limit`, with
one log line; closed. While it is stopped it only counts what it misses. `write` never raises for trouble
with the file. The file always ends with a whole block as far as the file system lets us, so that what was
recorded can be replayed. It is readable by its owner alone: it holds other people's traffic.

The writes go to the page cache; a disk that stalls stalls the packet loop, so record to a disk that keeps up.

One section, one interface of raw IP packets with times in nanoseconds. Times are the caller's. The daemon
passes the monotonic clock its connections live by, plus the offset to Unix time that it took once when it
opened the recorder: then a replay sees the intervals that the daemon saw, also over a step of the wall
clock.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ctfw import __version__
from ctfw.nfqueue import PARTIAL, UNVERIFIED, VERIFIED
from ctfw.packet import HOOK_NAMES

CHECKSUMS: Final = (VERIFIED, UNVERIFIED, PARTIAL)
LIMIT: Final = 1 << 30  # bytes of one recording: traffic must not be able to fill the disk
BUFFER: Final = 1 << 18
FLUSH_INTERVAL: Final = 1_000_000_000
MAX_CACHED: Final = 1024  # comments kept ready; marks could make endlessly many

_LINK_RAW: Final = 101
_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_OPTION_COMMENT: Final = 1
_OPTION_IF_NAME: Final = 2
_OPTION_USERAPPL: Final = 4
_OPTION_TSRESOL: Final = 9


@dataclass(frozen=True, slots=True)
class Annotation:
    """What the queue said about a packet; the names of interfaces are empty where it had none."""

    hook: int
    indev: str
    outdev: str
    mark: int
    checksum: str


def annotation(hook: int, indev: str, outdev: str, mark: int, checksum: str) -> str:
    """The comment of a packet."""
    words = ["ctfw", f"chain={HOOK_NAMES[hook]}"]
    if indev:
        words.append(f"in={_escape(indev)}")
    if outdev:
        words.append(f"out={_escape(outdev)}")
    words.append(f"mark={mark:#x}")
    words.append(f"checksum={checksum}")
    return " ".join(words)


def parse_annotation(comment: str) -> Annotation | None:
    """What a comment says, None for a comment that is not ours. Raises ValueError for a wrong one of ours."""
    words = comment.split(" ")
    if words[0] != "ctfw":
        return None
    values: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or key in values:
            raise ValueError(f"not understood: {word!r}")
        values[key] = value
    chain = values.pop("chain", "")
    if chain not in HOOK_NAMES:
        raise ValueError(f"no such chain: {chain!r}")
    checksum = values.pop("checksum", "")
    if checksum not in CHECKSUMS:
        raise ValueError(f"no such checksum state: {checksum!r}")
    mark = int(values.pop("mark", "0"), 16)
    if not 0 <= mark <= 0xFFFFFFFF:
        raise ValueError(f"not a mark: {mark}")
    indev = _unescape(values.pop("in", ""))
    outdev = _unescape(values.pop("out", ""))
    if values:
        raise ValueError(f"not understood: {', '.join(values)}")
    return Annotation(HOOK_NAMES.index(chain), indev, outdev, mark, checksum)


class Recorder:
    """Writes packets to a file. Counts `packets` written, `lost` since it stopped, `errors` of the file."""

    def __init__(self, path: str, log: Callable[[str], None] | None = None, limit: int = LIMIT) -> None:
        """Opens the file, emptying it if it exists. Raises OSError.

        `log` gets the one line that is written when recording stops, `limit` is the file's size in bytes.
        """
        self.path = path
        self.packets = 0
        self.lost = 0
        self.errors = 0
        self._log = log if log is not None else _to_stderr
        self._limit = limit
        self._written = 0  # bytes that are in the file, always whole blocks
        self._pending = 0  # packets that are in the buffer
        self._flushed = 0
        self._buffer = bytearray(_header())
        self._comments: dict[tuple[int, str, str, int, str], bytes] = {}
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(self._file, self._buffer)
        except OSError:
            os.close(self._file)
            raise
        self._written = len(self._buffer)
        self._buffer.clear()

    def write(
        self,
        data: bytes,
        length: int,
        time_ns: int,
        hook: int,
        indev: str,
        outdev: str,
        mark: int,
        checksum: str,
        note: str = "",
    ) -> None:
        """Adds one packet, also when it does not reach the file.

        `length` is the packet's own, more than `len(data)` when the kernel copied only a part; `time_ns` is
        nanoseconds since 1970; `hook` to `checksum` are the annotation. `note` is one more comment.
        """
        if self._file < 0:
            self.lost += 1
            return
        key = (hook, indev, outdev, mark, checksum)
        comment = self._comments.get(key)
        if comment is None:
            if len(self._comments) >= MAX_CACHED:
                self._comments.clear()
            comment = self._comments[key] = _options((_OPTION_COMMENT, annotation(*key).encode()))
        if note:
            comment = comment[:-4] + _options((_OPTION_COMMENT, note.encode()))  # ahead of the end of the options
        padding = -len(data) & 3
        size = 32 + len(data) + padding + len(comment)
        if self._written + len(self._buffer) + size > self._limit:
            self.lost += 1
            self.flush()
            self._stop(f"the limit of {self._limit} bytes is reached")
            return
        time = time_ns & 0xFFFFFFFFFFFFFFFF
        self._buffer += struct.pack(
            "<IIIIIII", _PACKET, size, 0, time >> 32, time & 0xFFFFFFFF, len(data), max(length, len(data))
        )
        self._buffer += data
        self._buffer += bytes(padding)
        self._buffer += comment
        self._buffer += struct.pack("<I", size)
        self.packets += 1
        self._pending += 1
        if len(self._buffer) >= BUFFER or time_ns - self._flushed >= FLUSH_INTERVAL or time_ns < self._flushed:
            self._flushed = time_ns
            self.flush()

    def flush(self) -> None:
        """Hands what is buffered to the kernel.

        Called at the daemon's tick, it does not keep back the last packets before a quiet hour.
        """
        if self._file < 0 or not self._buffer:
            return
        try:
            _write_all(self._file, self._buffer)
        except OSError as error:
            self.errors += 1
            self.packets -= self._pending
            self.lost += self._pending
            with contextlib.suppress(OSError):  # a pipe cannot be shortened
                os.ftruncate(self._file, self._written)
            self._stop(str(error))
            return
        self._written += len(self._buffer)
        self._pending = 0
        self._buffer.clear()

    def close(self) -> None:
        """Writes what is left and closes the file; a second call does nothing."""
        self.flush()
        if self._file >= 0:
            self._close()

    def _stop(self, why: str) -> None:
        if self._file < 0:
            return  # the flush before has stopped it already
        self._close()
        self._log(
            f"record: stopped: file={self.path} packets={self.packets} reason={why}; restart the daemon to record again"
        )

    def _close(self) -> None:
        file, self._file = self._file, -1
        self._buffer.clear()
        self._comments.clear()
        try:
            os.close(file)
        except OSError:  # a network file system may say only now that it lost something
            self.errors += 1


def _header() -> bytes:
    section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _options((_OPTION_USERAPPL, f"ctfw {__version__}".encode()))
    interface = struct.pack("<HHI", _LINK_RAW, 0, 0) + _options((_OPTION_IF_NAME, b"ctfw"), (_OPTION_TSRESOL, b"\x09"))
    return _block(_SECTION, section) + _block(_INTERFACE, interface)


def _block(kind: int, body: bytes) -> bytes:
    size = 12 + len(body)
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def _options(*options: tuple[int, bytes]) -> bytes:
    packed = b"".join(struct.pack("<HH", code, len(value)) + value + bytes(-len(value) & 3) for code, value in options)
    return packed + bytes(4)


def _write_all(file: int, data: bytearray) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(file, view[done:])


def _escape(name: str) -> str:
    # surrogatepass: any str at all gets through, whatever the names were decoded with.
    return quote(name.encode("utf-8", "surrogatepass"), safe="")


def _unescape(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogatepass")


def _to_stderr(line: str) -> None:
    print(f"ctfw: {line}", file=sys.stderr)
