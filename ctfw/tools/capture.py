"""Capture files: bytes of a pcap or pcapng file in, the IP packets in it with their times out.

This file owns the two file formats and the link layers in front of IP. It does not look into the IP packet
further than its length, and it does not judge anything.

`open_capture(path)` gives the stream (also a gzipped one, also `-`), `read(stream)` the frames one by one and what the
file itself says it misses, `network_layer` takes the link header off a frame. What is wrong with a file comes as one
`CaptureError`, after every frame that could be read before it. Nothing in a file can make us hold more than one block
of `MAX_BLOCK` bytes and the descriptions of `MAX_INTERFACES` interfaces.

Why not scapy's raw readers (2.8.0): they end silently where a file is cut off or broken, so that a replay
of half a capture looks like a whole one; they cut every packet to 65,535 bytes, which a GSO packet exceeds;
they ask for as many bytes as a block's length field says, up to 4 GiB; they keep the interfaces of a
section after its end and do not know `if_tsoffset`. What remains is two small formats
(draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng), read here with integer times only: a float cannot hold
nanoseconds since 1970.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

MAX_PACKET: Final = 1 << 20  # Linux makes packets of up to 512 KiB (BIG TCP), longer ones are garbage
MAX_BLOCK: Final = 1 << 24  # the same limit as Wireshark's
MAX_INTERFACES: Final = 4096  # in one pcapng section
TIME_LIMIT: Final = (1 << 32) * 1_000_000_000  # the year 2106, where classic pcap ends; the engine's clock has 63 bits

# https://www.tcpdump.org/linktypes.html
LINK_NULL: Final = 0
LINK_ETHERNET: Final = 1
LINK_RAW: Final = frozenset((12, 14, 101, 228, 229))  # 12 and 14 are what some systems write for 101
LINK_LOOP: Final = 108
LINK_LINUX_SLL: Final = 113
LINK_LINUX_SLL2: Final = 276
LINK_NAMES: Final = {105: "802.11", 127: "802.11 radiotap", 9: "PPP", 51: "PPPoE", 220: "USB", 239: "NFLOG"}

ETHERTYPES_IP: Final = frozenset((0x0800, 0x86DD))
ETHERTYPES_VLAN: Final = frozenset((0x8100, 0x88A8, 0x9100))
FAMILIES_IP: Final = frozenset(
    (2, 10, 24, 28, 30)
)  # AF_INET, then AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, macOS

_PCAP_MAGIC: Final = {  # magic as it stands in the file: byte order, nanoseconds per unit of the fraction
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}

_SECTION_START: Final = b"\x0a\x0d\x0d\x0a"  # the same in both byte orders, which only the section header names
_INTERFACE: Final = 1
_PACKET_OLD: Final = 2
_PACKET_SIMPLE: Final = 3
_STATISTICS: Final = 5
_PACKET: Final = 6
_OPTION_END: Final = 0
_OPTION_COMMENT: Final = 1
_OPTION_DROPCOUNT: Final = 4  # of a packet: so many are missing between the one before and this
_OPTION_IFDROP: Final = 5  # of an interface's statistics: so many are missing in all, for want of resources
_OPTION_OSDROP: Final = 7  # and so many more that the system dropped
_OPTION_TSRESOL: Final = 9
_OPTION_TSOFFSET: Final = 14


class CaptureError(Exception):
    """The file is no capture, or not from here on. The message says what and where, but not which file."""


@dataclass(slots=True)
class Frame:
    """One captured frame.

    `time` is in nanoseconds since 1970, None where the file gives none, or none between 1970 and 2106.
    `data` starts with the link header of type `linktype`; `length` is the frame's length on the wire, never
    less than `len(data)`.
    """

    time: int | None
    linktype: int
    data: bytes
    length: int
    comments: tuple[str, ...] = ()


@dataclass(slots=True)
class Gaps:
    """What a capture says of itself: so many packets are not in it that should be. Grows while it is read."""

    missing: int = 0


@dataclass(slots=True)
class _Interface:
    linktype: int
    snaplen: int
    multiplier: int  # time in nanoseconds = ticks * multiplier // divisor + offset
    divisor: int
    offset: int
    missing: int = 0  # packets, as far as was said


@contextmanager
def open_capture(path: str) -> Iterator[BinaryIO]:
    """The stream of a capture file, unpacked when it is gzipped; `-` is standard input. Raises OSError."""
    with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, unpacked)
        else:
            yield file


def read(stream: BinaryIO, gaps: Gaps | None = None) -> Iterator[Frame]:
    """Every frame of a pcap or pcapng file, then CaptureError if the file does not end there properly.

    Only a pcapng file can say what it misses; `gaps` holds that of what was read.
    """
    source = _Source(stream, gaps or Gaps())
    magic = source.take(4)
    if magic in _PCAP_MAGIC:
        yield from _read_pcap(source, *_PCAP_MAGIC[magic])
    elif magic == _SECTION_START:
        yield from _read_pcapng(source)
    elif not magic:
        raise CaptureError("not a capture file: it is empty")
    else:
        raise CaptureError(f"not a pcap or pcapng file: it starts with {magic.hex(' ')}")


def network_layer(frame: Frame) -> tuple[bytes, int] | None:
    """The IP packet in a frame: its captured bytes and its real length. None when it is not IP.

    What the link added behind the packet (Ethernet pads to 60 bytes) is cut off, as the kernel cuts it off
    before anybody sees the packet.
    Raises CaptureError for a link type that we do not know.
    """
    linktype = frame.linktype
    data = frame.data
    if linktype in LINK_RAW:
        return _trim(data, frame.length)
    if linktype == LINK_ETHERNET:
        return _by_ethertype(frame, 12, 14)
    if linktype == LINK_LINUX_SLL:
        return _by_ethertype(frame, 14, 16)
    if linktype == LINK_LINUX_SLL2:
        return _by_ethertype(frame, 0, 20)
    if linktype in (LINK_NULL, LINK_LOOP):
        # LINK_NULL has the byte order of the machine that captured, which the file does not name.
        families = (int.from_bytes(data[:4], "big"), int.from_bytes(data[:4], "little"))
        if len(data) < 4 or FAMILIES_IP.isdisjoint(families):
            return None
        return _trim(data[4:], frame.length - 4)
    name = f" ({LINK_NAMES[linktype]})" if linktype in LINK_NAMES else ""
    raise CaptureError(
        f"link type {linktype}{name} is not known; known are Ethernet, raw IP, BSD loopback and Linux cooked"
    )


def _by_ethertype(frame: Frame, position: int, start: int) -> tuple[bytes, int] | None:
    """A link header that names its payload at `position` and ends at `start`, where VLAN tags may follow."""
    data = frame.data
    ethertype = int.from_bytes(data[position : position + 2], "big")
    while ethertype in ETHERTYPES_VLAN:
        ethertype = int.from_bytes(data[start + 2 : start + 4], "big")
        start += 4
    if ethertype not in ETHERTYPES_IP or len(data) < start:
        return None
    return _trim(data[start:], frame.length - start)


def _trim(data: bytes, length: int) -> tuple[bytes, int]:
    total = length
    if len(data) >= 20 and data[0] >> 4 == 4:
        total = data[2] << 8 | data[3]
    elif len(data) >= 40 and data[0] >> 4 == 6 and data[4:6] != b"\0\0":  # 0: a jumbogram, or BIG TCP
        total = 40 + (data[4] << 8 | data[5])
    if 20 <= total < length:
        return data[:total], total
    return data, length


class _Source:
    """A stream, how far it was read, and its troubles as CaptureError."""

    def __init__(self, stream: BinaryIO, gaps: Gaps) -> None:
        self._read = stream.read
        self.gaps = gaps
        self.offset = 0
        self.packets = 0

    def take(self, count: int) -> bytes:
        """`count` bytes, or b"" at the end of the file; raises CaptureError when it ends between."""
        try:
            data = self._read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise self.error(f"cannot be read further: {error}") from error
        self.offset += len(data)
        if len(data) != count and data:
            raise self.cut_off()
        return data

    def need(self, count: int) -> bytes:
        """`count` bytes; raises CaptureError when the file ends before."""
        data = self.take(count)
        if len(data) != count:
            raise self.cut_off()
        return data

    def cut_off(self) -> CaptureError:
        return self.error("the file is cut off")

    def error(self, what: str) -> CaptureError:
        return CaptureError(f"{what} (at byte {self.offset}, after {self.packets} packets)")


def _read_pcap(source: _Source, order: str, unit: int) -> Iterator[Frame]:
    major, minor, _, _, _, linktype = struct.unpack(order + "HHIIII", source.need(20))
    if major != 2:
        raise source.error(f"pcap version {major}.{minor} is not known")
    linktype &= 0x03FFFFFF  # above it stands the length of the frame check sequence
    unpack = struct.Struct(order + "IIII").unpack
    while header := source.take(16):
        seconds, fraction, captured, length = unpack(header)
        if captured > MAX_PACKET:
            raise source.error(f"broken: a packet of {captured} bytes")
        data = source.need(captured) if captured else b""
        source.packets += 1
        yield Frame(_usable(seconds * 1_000_000_000 + fraction * unit), linktype, data, max(length, captured))


def _read_pcapng(source: _Source) -> Iterator[Frame]:
    order = ""
    interfaces: list[_Interface] = []
    # The first section's type was read as the file's magic number.
    header = _SECTION_START + source.need(4)
    while header:
        if header[:4] == _SECTION_START:
            order = _read_section(source, header[4:])
            interfaces = []
            header = source.take(8)
            continue
        kind, size = struct.unpack(order + "II", header)
        body = _read_body(source, order, size, 8)
        if kind in (_PACKET, _PACKET_OLD):
            yield _packet(source, order, kind, body, interfaces)
        elif kind == _PACKET_SIMPLE:
            yield _packet_simple(source, order, body, interfaces)
        elif kind == _STATISTICS:
            _statistics(source, order, body, interfaces)
        elif kind == _INTERFACE:
            if len(interfaces) == MAX_INTERFACES:
                raise source.error(f"broken: more than {MAX_INTERFACES} interfaces")
            interfaces.append(_interface(source, order, body))
        header = source.take(8)


def _read_section(source: _Source, size: bytes) -> str:
    """Reads the rest of a section header and says the section's byte order."""
    mark = source.need(4)
    if mark == b"\x1a\x2b\x3c\x4d":
        order = ">"
    elif mark == b"\x4d\x3c\x2b\x1a":
        order = "<"
    else:
        raise source.error(f"broken: a section without byte-order magic ({mark.hex(' ')})")
    body = _read_body(source, order, int(struct.unpack(order + "I", size)[0]), 12)
    if len(body) < 12:
        raise source.error("broken: a section header that is too short")
    major, minor = struct.unpack_from(order + "HH", body)
    if major != 1:
        raise source.error(f"pcapng version {major}.{minor} is not known")
    return order


def _read_body(source: _Source, order: str, size: int, already: int) -> bytes:
    """The rest of a block of `size` bytes, without its closing length, which must repeat the opening one."""
    if size < 12 or size < already + 4 or size % 4 or size > MAX_BLOCK:
        raise source.error(f"broken: a block of {size} bytes")
    body = source.need(size - already)
    if int.from_bytes(body[-4:], "big" if order == ">" else "little") != size:
        raise source.error("broken: a block that does not end where it says")
    return body[:-4]


def _interface(source: _Source, order: str, body: bytes) -> _Interface:
    if len(body) < 8:
        raise source.error("broken: an interface description that is too short")
    linktype, _, snaplen = struct.unpack_from(order + "HHI", body)
    interface = _Interface(linktype, snaplen, 1000, 1, 0)
    for code, value in _options(source, order, body, 8):
        if code == _OPTION_TSRESOL and len(value) == 1:
            interface.multiplier = 1_000_000_000
            interface.divisor = (2 if value[0] & 0x80 else 10) ** (value[0] & 0x7F)
        elif code == _OPTION_TSOFFSET and len(value) == 8:
            interface.offset = int(struct.unpack(order + "q", value)[0]) * 1_000_000_000
    return interface


def _packet(source: _Source, order: str, kind: int, body: bytes, interfaces: list[_Interface]) -> Frame:
    if len(body) < 20:
        raise source.error("broken: a packet block that is too short")
    number, high, low, captured, length = struct.unpack_from(order + "IIIII", body)
    if kind == _PACKET_OLD:
        number = struct.unpack_from(order + "H", body)[0]
    if number >= len(interfaces):
        raise source.error(f"broken: a packet of interface {number}, which was not described")
    if captured > len(body) - 20 or captured > MAX_PACKET:
        raise source.error(f"broken: a packet of {captured} bytes")
    interface = interfaces[number]
    time = (high << 32 | low) * interface.multiplier // interface.divisor + interface.offset
    comments = []
    for code, value in _options(source, order, body, 20 + ((captured + 3) & ~3)):
        if code == _OPTION_COMMENT:
            comments.append(value.decode("utf-8", "backslashreplace"))
        elif code == _OPTION_DROPCOUNT and len(value) == 8 and kind == _PACKET:
            missing = int(struct.unpack(order + "Q", value)[0])
            interface.missing += missing
            source.gaps.missing += missing
    source.packets += 1
    return Frame(_usable(time), interface.linktype, body[20 : 20 + captured], max(length, captured), tuple(comments))


def _statistics(source: _Source, order: str, body: bytes, interfaces: list[_Interface]) -> None:
    """What an interface's statistics say is missing, from the capture's beginning on; packets may have said it."""
    number = struct.unpack_from(order + "I", body)[0] if len(body) >= 12 else len(interfaces)
    if number >= len(interfaces):
        return  # no packet depends on it
    missing = sum(
        int(struct.unpack(order + "Q", value)[0])
        for code, value in _options(source, order, body, 12)
        if code in (_OPTION_IFDROP, _OPTION_OSDROP) and len(value) == 8
    )
    interface = interfaces[number]
    if missing > interface.missing:
        source.gaps.missing += missing - interface.missing
        interface.missing = missing


def _packet_simple(source: _Source, order: str, body: bytes, interfaces: list[_Interface]) -> Frame:
    """A packet of the first interface, without a time; how much was captured follows from the snap length."""
    if len(body) < 4:
        raise source.error("broken: a packet block that is too short")
    if not interfaces:
        raise source.error("broken: a packet of interface 0, which was not described")
    interface = interfaces[0]
    length = int(struct.unpack_from(order + "I", body)[0])
    captured = min(length, interface.snaplen or length)
    if captured > len(body) - 4 or captured > MAX_PACKET:
        raise source.error(f"broken: a packet of {captured} bytes")
    source.packets += 1
    return Frame(None, interface.linktype, body[4 : 4 + captured], length)


def _options(source: _Source, order: str, body: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    header = struct.Struct(order + "HH")
    while start + 4 <= len(body):
        code, size = header.unpack_from(body, start)
        start += 4
        if code == _OPTION_END:
            return
        if start + size > len(body):
            raise source.error("broken: an option that is longer than its block")
        yield code, body[start : start + size]
        start += (size + 3) & ~3


def _usable(time: int) -> int | None:
    return time if 0 <= time < TIME_LIMIT else None
