"""Is the transport checksum right? Asked only for packets that neither a network card nor the kernel has verified.

The sum of RFC 1071 is arithmetic modulo 65535, and 65536 is 1 there: so the whole segment, read as one big number, has
the same remainder as the sum of its words. That is two passes in C over the bytes, compiled or not; a loop in Python
would cost ten times as much. A right sum, its own field included, leaves the remainder 0; but zeroes alone do not
have the sum zero, for then the field would say 0xffff.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.packet import AF_INET, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, Packet, read16, read32


def _crc32c_table() -> list[int]:
    """What each value of a byte does to the checksum: its remainder by the polynomial, bits reversed."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C: Final = _crc32c_table()


def is_checksum_good(packet: Packet) -> bool:
    """False when the packet's TCP, UDP, UDP-Lite, SCTP, ICMP or ICMPv6 checksum is wrong.

    True for every other protocol, for a UDP checksum of zero (not sent), and for a packet that is not wholly here.
    RFC 9293 section 3.1, RFC 768, RFC 3828, RFC 9260 section 6.8, RFC 792, RFC 4443 section 2.3.
    """
    data = packet.data
    at = packet.l4
    end = packet.end
    proto = packet.proto
    if end > len(data) or packet.more:
        return True
    covered = end
    if proto == ICMP and packet.family == AF_INET:
        return _is_right(data[at:end], 0)
    if proto == UDP:
        if end - at >= 8 and read16(data, at + 6) == 0:
            return True
    elif proto == UDPLITE:
        if end - at < 8:
            return True
        coverage = read16(data, at + 4)
        if coverage != 0:
            covered = at + coverage
        if covered > end:
            return True
    elif proto == SCTP:
        return end - at < 12 or _is_sctp_good(data, at, end)
    elif proto != TCP and proto != ICMPV6:
        return True
    pseudo = int.from_bytes(packet.src + packet.dst, "big") + int(proto) + int(end - at)
    return _is_right(data[at:covered], pseudo)


def _is_sctp_good(data: bytes, at: i64, end: i64) -> bool:
    """SCTP's sum is no sum but a CRC32c, over the packet with the field itself (bytes 8 to 11) as zero."""
    crc = crc32c(b"\0\0\0\0", 0, 4, crc32c(data, at, at + 8, 0xFFFFFFFF))
    crc = crc32c(data, at + 12, end, crc) ^ 0xFFFFFFFF
    sent = read32(data, at + 8)
    return crc == (sent >> 24 | (sent >> 8 & 0xFF00) | (sent << 8 & 0xFF0000) | (sent << 24 & 0xFF000000))


def crc32c(data: bytes, at: i64, end: i64, crc: i64) -> i64:
    """The CRC32c of bytes ``at`` to ``end``, from and to the register: begin with all ones, and invert the result."""
    table = _CRC32C
    while at < end:
        value: i64 = data[at]
        step: i64 = table[(crc ^ value) & 0xFF]
        crc = crc >> 8 ^ step
        at += 1
    return crc


def _is_right(segment: bytes, pseudo: int) -> bool:
    if len(segment) & 1:
        segment = segment + b"\0"
    total = int.from_bytes(segment, "big") + pseudo
    return total != 0 and total % 0xFFFF == 0
