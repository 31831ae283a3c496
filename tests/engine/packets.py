"""Packets as bytes, whole and with right checksums unless a test asks otherwise.

Written from the RFCs with struct and not with the code under test. An address with a colon makes IPv6. What a caller
hands over as ``extensions`` are IPv6 extension headers, each its number and its bytes; the first byte of each, the
number of the next header, is filled in here.
"""

import socket
import struct
from collections.abc import Sequence

ICMP, TCP, UDP, GRE, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 47, 58, 132, 136
FLAGS = {"fin": 0x01, "syn": 0x02, "rst": 0x04, "psh": 0x08, "ack": 0x10, "urg": 0x20, "ece": 0x40, "cwr": 0x80}

Extensions = Sequence[tuple[int, bytes]]


def is_ipv6(address: str) -> bool:
    return ":" in address


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if is_ipv6(address) else socket.AF_INET, address)


def checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ip(
    src: str,
    dst: str,
    proto: int,
    payload: bytes,
    *,
    ttl: int = 64,
    offset: int = 0,
    more: bool = False,
    options: bytes = b"",
    extensions: Extensions = (),
) -> bytes:
    """An IPv4 or IPv6 packet. ``offset`` (bytes) and ``more`` make an IPv4 fragment, ``options`` are IPv4 options."""
    if is_ipv6(src):
        return _ip6(src, dst, proto, payload, ttl, extensions)
    header = 20 + len(options)
    fields = (0x40 | header // 4, 0, header + len(payload), 0, offset // 8 | more << 13, ttl, proto, 0)
    head = struct.pack(">BBHHHBBH", *fields) + packed(src) + packed(dst) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def _ip6(src: str, dst: str, proto: int, payload: bytes, ttl: int, extensions: Extensions) -> bytes:
    following = proto
    for number, body in reversed(extensions):
        payload = bytes([following]) + body[1:] + payload
        following = number
    return struct.pack(">IHBB", 6 << 28, len(payload), following, ttl) + packed(src) + packed(dst) + payload


def summed(src: str, dst: str, proto: int, segment: bytes, at: int, covered: int | None = None) -> bytes:
    """The segment with its checksum written at ``at``; ``covered`` is how much of it the sum covers (RFC 3828)."""
    pseudo = packed(src) + packed(dst) + struct.pack(">IHH", len(segment), 0, proto)
    value = checksum(pseudo + segment[:covered]) or 0xFFFF
    return segment[:at] + struct.pack(">H", value) + segment[at + 2 :]


def tcp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    flags: str = "",
    *,
    seq: int = 0,
    ack: int = 0,
    win: int = 64240,
    options: bytes = b"",
    data: bytes = b"",
    extensions: Extensions = (),
) -> bytes:
    """A segment with ``flags`` in words: ``"syn ack"``. ``options`` are padded to a multiple of four with NOPs."""
    options += b"\1" * (-len(options) % 4)
    bits = sum(FLAGS[word] for word in flags.split())
    size = (20 + len(options)) // 4 << 4
    header = struct.pack(">HHIIBBHHH", sport, dport, seq % 2**32, ack % 2**32, size, bits, win, 0, 0)
    return ip(src, dst, TCP, summed(src, dst, TCP, header + options + data, 16), extensions=extensions)


def scale(shift: int) -> bytes:
    """The window scale option (RFC 7323)."""
    return bytes([3, 3, shift])


SACK_PERMITTED = bytes([4, 2])


def sack(*edges: tuple[int, int]) -> bytes:
    """The SACK option with these blocks (RFC 2018)."""
    blocks = b"".join(struct.pack(">II", left % 2**32, right % 2**32) for left, right in edges)
    return bytes([5, 2 + len(blocks)]) + blocks


def udp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    data: bytes = b"",
    *,
    length: int | None = None,
    extensions: Extensions = (),
) -> bytes:
    """A datagram; ``length`` lies in its length field."""
    header = struct.pack(">HHHH", sport, dport, 8 + len(data) if length is None else length, 0)
    return ip(src, dst, UDP, summed(src, dst, UDP, header + data, 6), extensions=extensions)


def udplite(src: str, dst: str, sport: int, dport: int, data: bytes = b"", *, coverage: int = 0) -> bytes:
    """UDP-Lite; ``coverage`` 0 covers everything."""
    header = struct.pack(">HHHH", sport, dport, coverage, 0)
    return ip(src, dst, UDPLITE, summed(src, dst, UDPLITE, header + data, 6, coverage or None))


def icmp(src: str, dst: str, kind: int, code: int = 0, ident: int = 0, seq: int = 0, data: bytes = b"") -> bytes:
    """An ICMP query or answer, or with its quoted packet as ``data`` an error."""
    return icmp_message(src, dst, struct.pack(">BBHHH", kind, code, 0, ident, seq) + data)


def icmp_message(src: str, dst: str, message: bytes, *, ttl: int = 64, extensions: Extensions = ()) -> bytes:
    """ICMP or ICMPv6, after the addresses, around ``message``, whose checksum is written."""
    if is_ipv6(src):
        return ip(src, dst, ICMPV6, summed(src, dst, ICMPV6, message, 2), ttl=ttl, extensions=extensions)
    return ip(src, dst, ICMP, message[:2] + struct.pack(">H", checksum(message)) + message[4:], ttl=ttl)


def fragments(packet: bytes, size: int) -> list[bytes]:
    """An IPv4 packet without options in fragments of at most ``size`` bytes of payload, a multiple of eight."""
    src, dst = (socket.inet_ntop(socket.AF_INET, packet[at : at + 4]) for at in (12, 16))
    rest = packet[20:]
    return [
        ip(src, dst, packet[9], rest[at : at + size], offset=at, more=at + size < len(rest))
        for at in range(0, len(rest), size)
    ]


def spoiled(packet: bytes) -> bytes:
    """The packet as a bad cable delivers it: its last bit turned."""
    return packet[:-1] + bytes([packet[-1] ^ 1])


def crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260 appendix A), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp(src: str, dst: str, sport: int, dport: int, vtag: int, *chunks: bytes) -> bytes:
    """An SCTP packet."""
    head, body = struct.pack(">HHI", sport, dport, vtag), b"".join(chunks)
    return ip(src, dst, SCTP, head + struct.pack("<I", crc32c(head + bytes(4) + body)) + body)


def chunk(kind: int, flags: int = 0, value: bytes = b"", length: int | None = None) -> bytes:
    """A chunk, padded to a multiple of four; ``length`` lies in its length field."""
    said = 4 + len(value) if length is None else length
    return struct.pack(">BBH", kind, flags, said) + value + bytes(-len(value) % 4)


def gre(src: str, dst: str, call: int | None = None) -> bytes:
    """Plain GRE; or with ``call``, that of the end it goes to, PPTP's enhanced GRE (RFC 2637)."""
    if call is None:
        return ip(src, dst, GRE, struct.pack(">HH", 0, 0x0800) + b"data")
    return ip(src, dst, GRE, struct.pack(">HHHHI", 0x3001, 0x880B, 4, call, 1) + b"data")
