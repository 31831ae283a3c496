"""Packets as bytes, for conversations that are held with the kernel and with the engine: IPv4 and IPv6 alike.

Everything is built from addresses as bytes (4 or 16), and with right checksums unless the caller spoils them. Written
with struct and not with the code under test. RFC 791, 8200, 9293, 768, 3828, 792, 4443, 4861.
"""

import struct
from collections.abc import Sequence
from typing import Final

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
GRE: Final = 47
ICMPV6: Final = 58
SCTP: Final = 132
UDPLITE: Final = 136

FLAGS: Final = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}

MSS: Final = b"\2\4\5\xb4"
SACK_PERMITTED: Final = b"\4\2"
NOP: Final = b"\1"


def checksum(data: bytes) -> int:
    """RFC 1071's sum over ``data``."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(
    src: bytes, dst: bytes, proto: int, payload: bytes, ttl: int = 64, options: bytes = b"", fragment: int = 0
) -> bytes:
    """An IP packet. ``options`` are IPv4's, in whole words; ``fragment`` is IPv4's flags and offset field."""
    if len(src) == 16:
        return struct.pack("!IHBB", 6 << 28, len(payload), proto, ttl) + src + dst + payload
    first = 0x45 + len(options) // 4
    length = 20 + len(options) + len(payload)
    head = struct.pack("!BBHHHBBH", first, 0, length, 1, fragment, ttl, proto, 0) + src + dst + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def extensions(src: bytes, dst: bytes, chain: Sequence[tuple[int, bytes]], proto: int, payload: bytes) -> bytes:
    """An IPv6 packet with extension headers: (number, bytes without the next-header byte) each, in order."""
    numbers = [number for number, _ in chain] + [proto]
    body = b"".join(bytes([numbers[at + 1]]) + rest for at, (_, rest) in enumerate(chain))
    return ip(src, dst, numbers[0], body + payload)


def pseudo(src: bytes, dst: bytes, proto: int, length: int) -> bytes:
    return src + dst + (struct.pack("!II", length, proto) if len(src) == 16 else struct.pack("!HH", proto, length))


def _with_sum(segment: bytes, at: int, head: bytes, covered: int | None = None, spoilt: bool = False) -> bytes:
    total = checksum(head + segment[:covered])
    if spoilt:
        total ^= 0x5555
    return segment[:at] + struct.pack("!H", total or 0xFFFF) + segment[at + 2 :]


def tcp(
    src: bytes,
    sport: int,
    dst: bytes,
    dport: int,
    flags: str,
    seq: int,
    ack: int = 0,
    win: int = 64240,
    data: bytes = b"",
    options: bytes = b"",
    spoilt: bool = False,
    offset: int | None = None,
) -> bytes:
    """A segment; ``flags`` are letters of FLAGS, ``offset`` the header's length in words when it is to lie."""
    options += b"\1" * (-len(options) % 4)
    words = 5 + len(options) // 4 if offset is None else offset
    bits = sum(FLAGS[letter] for letter in flags)
    numbers = (sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, words << 4, bits, win, 0, 0)
    segment = struct.pack("!HHIIBBHHH", *numbers) + options + data
    head = pseudo(src, dst, TCP, len(segment))
    return ip(src, dst, TCP, _with_sum(segment, 16, head, spoilt=spoilt))


def udp(
    src: bytes,
    sport: int,
    dst: bytes,
    dport: int,
    data: bytes = b"x",
    spoilt: bool = False,
    unsummed: bool = False,
    length: int | None = None,
) -> bytes:
    """A datagram; ``length`` is what its header says when that is to lie."""
    said = 8 + len(data) if length is None else length
    segment = struct.pack("!HHHH", sport, dport, said, 0) + data
    if not unsummed:
        segment = _with_sum(segment, 6, pseudo(src, dst, UDP, len(segment)), spoilt=spoilt)
    return ip(src, dst, UDP, segment)


def udplite(
    src: bytes,
    sport: int,
    dst: bytes,
    dport: int,
    data: bytes = b"x",
    coverage: int = 0,
    spoilt: bool = False,
    unsummed: bool = False,
    dirty: bool = False,
) -> bytes:
    """A UDP-Lite datagram; ``dirty`` changes its last byte behind the checksum's back."""
    segment = struct.pack("!HHHH", sport, dport, coverage, 0) + data
    if not unsummed:
        head = pseudo(src, dst, UDPLITE, len(segment))
        segment = _with_sum(segment, 6, head, coverage or None, spoilt)
    if dirty:
        segment = segment[:-1] + bytes([segment[-1] ^ 0xFF])
    return ip(src, dst, UDPLITE, segment)


def icmp(
    src: bytes,
    dst: bytes,
    kind: int,
    code: int = 0,
    rest: bytes = b"\0\0\0\0",
    data: bytes = b"",
    spoilt: bool = False,
    ttl: int = 64,
) -> bytes:
    """An ICMP message, or over IPv6 addresses an ICMPv6 one; ``rest`` is the second word."""
    message = struct.pack("!BBH", kind, code, 0) + rest + data
    if len(src) == 16:
        message = _with_sum(message, 2, pseudo(src, dst, ICMPV6, len(message)), spoilt=spoilt)
        return ip(src, dst, ICMPV6, message, ttl)
    return ip(src, dst, ICMP, _with_sum(message, 2, b"", spoilt=spoilt), ttl)


def crc32c(data: bytes) -> int:
    """The checksum of RFC 9260 appendix A, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp(src: bytes, sport: int, dst: bytes, dport: int, vtag: int, chunks: bytes, spoilt: bool = False) -> bytes:
    """An SCTP packet around ``chunks``."""
    head = struct.pack("!HHI", sport, dport, vtag)
    crc = crc32c(head + b"\0\0\0\0" + chunks) ^ (0x5555 if spoilt else 0)
    return ip(src, dst, SCTP, head + struct.pack("<I", crc) + chunks)


def gre(src: bytes, dst: bytes, payload: bytes = b"data", version: int = 0, proto: int = 0x0800) -> bytes:
    """Plain GRE (RFC 2784), or a version that does not exist."""
    return ip(src, dst, GRE, struct.pack("!HH", version, proto) + payload)


def enhanced_gre(src: bytes, dst: bytes, call: int, payload: bytes = b"data", proto: int = 0x880B) -> bytes:
    """PPTP's GRE (RFC 2637) to the end that calls the call ``call``."""
    return ip(src, dst, GRE, struct.pack("!HHHHI", 0x3001, proto, len(payload), call, 1) + payload)


def scale(shift: int) -> bytes:
    """TCP's window scale option (RFC 7323), with the padding that brings it to a word."""
    return NOP + b"\3\3" + bytes([shift])


def sack(*blocks: tuple[int, int]) -> bytes:
    """TCP's SACK option (RFC 2018), with the padding that brings it to a word."""
    edges = b"".join(struct.pack("!II", left & 0xFFFFFFFF, right & 0xFFFFFFFF) for left, right in blocks)
    return NOP + NOP + bytes([5, 2 + len(edges)]) + edges
