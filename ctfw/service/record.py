"""The form of a recording: packets with what the queue said of them, as a pcapng file for `ctfw replay` and Wireshark.

This file owns the blocks of that file and the annotation, the comment that a packet carries there:

    ctfw chain=forward in=lan0 out=wan0 mark=0x0 checksum=verified

It says what the queue told about the packet and the bytes do not: where it was, and what the kernel knew of
its checksum (`verified`, `unverified`: ours to check, `partial`: still to be filled in by the hardware).
Interface names may hold any byte but a slash, so they are percent-encoded; an interface that the packet did
not have is left out. `annotation` and `parse_annotation` are each other's inverse.

One section, one interface of raw IP packets with times in nanoseconds. What the recording misses stands in it twice, in
pcapng's own words, which Wireshark shows and `ctfw replay` sums up: the packet behind a hole says how many there were
(epb_dropcount), and the statistics at the end of the file say how many in all (isb_ifdrop).

Only makes bytes; record_file.py writes them, and recorder.py does so for the running daemon.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ctfw import __version__
from ctfw.nfqueue import PARTIAL, UNVERIFIED, VERIFIED
from ctfw.packet import HOOK_NAMES

CHECKSUMS: Final = (VERIFIED, UNVERIFIED, PARTIAL)
MAX_CACHED: Final = 1024  # comments kept ready; marks could make endlessly many

_LINK_RAW: Final = 101
_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_STATISTICS: Final = 5
_PACKET: Final = 6
_OPTION_COMMENT: Final = 1
_OPTION_IF_NAME: Final = 2
_OPTION_USERAPPL: Final = 4
_OPTION_DROPCOUNT: Final = 4
_OPTION_IFRECV: Final = 4
_OPTION_IFDROP: Final = 5
_OPTION_TSRESOL: Final = 9
_MASK: Final = 0xFFFFFFFFFFFFFFFF


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


class Blocks:
    """Makes the blocks of packets; keeps the comments of those seen before."""

    def __init__(self) -> None:
        self._comments: dict[tuple[int, str, str, int, str], bytes] = {}

    def packet(
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
        missing: int = 0,
    ) -> bytes:
        """One packet.

        `length` is the packet's own, more than `len(data)` when the kernel copied only a part; `time_ns` is
        nanoseconds since 1970; `hook` to `checksum` are the annotation. `note` is one more comment; so many packets
        are `missing` between the one before and this.
        """
        key = (hook, indev, outdev, mark, checksum)
        options = self._comments.get(key)
        if options is None:
            if len(self._comments) >= MAX_CACHED:
                self._comments.clear()
            options = self._comments[key] = _options((_OPTION_COMMENT, annotation(*key).encode()))
        if note:
            options = options[:-4] + _options((_OPTION_COMMENT, note.encode()))  # ahead of the end of the options
        if missing:
            options = options[:-4] + _options((_OPTION_DROPCOUNT, struct.pack("<Q", missing)))
        padding = -len(data) & 3
        size = 32 + len(data) + padding + len(options)
        time = time_ns & _MASK
        head = struct.pack(
            "<IIIIIII", _PACKET, size, 0, time >> 32, time & 0xFFFFFFFF, len(data), max(length, len(data))
        )
        return b"".join((head, data, bytes(padding), options, struct.pack("<I", size)))


def header() -> bytes:
    """What a recording begins with."""
    section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _options((_OPTION_USERAPPL, f"ctfw {__version__}".encode()))
    interface = struct.pack("<HHI", _LINK_RAW, 0, 0) + _options((_OPTION_IF_NAME, b"ctfw"), (_OPTION_TSRESOL, b"\x09"))
    return _block(_SECTION, section) + _block(_INTERFACE, interface)


def statistics(time_ns: int, seen: int, missing: int) -> bytes:
    """What a recording ends with: of the packets `seen`, so many are `missing` in it. Always of one size."""
    time = time_ns & _MASK
    counts = _options((_OPTION_IFRECV, struct.pack("<Q", seen)), (_OPTION_IFDROP, struct.pack("<Q", missing)))
    return _block(_STATISTICS, struct.pack("<III", 0, time >> 32, time & 0xFFFFFFFF) + counts)


def _block(kind: int, body: bytes) -> bytes:
    size = 12 + len(body)
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def _options(*options: tuple[int, bytes]) -> bytes:
    packed = b"".join(struct.pack("<HH", code, len(value)) + value + bytes(-len(value) & 3) for code, value in options)
    return packed + bytes(4)


def _escape(name: str) -> str:
    # surrogatepass: any str at all gets through, whatever the names were decoded with.
    return quote(name.encode("utf-8", "surrogatepass"), safe="")


def _unescape(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogatepass")
