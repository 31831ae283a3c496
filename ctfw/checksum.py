"""Is the transport checksum right? Asked only for packets that neither a network card nor the kernel has verified.

The sum of RFC 1071 is arithmetic modulo 65535, and 65536 is 1 there: so the whole segment, read as one big number, has
the same remainder as the sum of its words. That is two passes in C over the bytes, compiled or not; a loop in Python
would cost ten times as much. A right sum, its own field included, leaves the remainder 0.
"""

from ctfw.packet import AF_INET, ICMP, ICMPV6, TCP, UDP, UDPLITE, Packet, read16


def is_checksum_good(packet: Packet) -> bool:
    """False when the packet's TCP, UDP, UDP-Lite, ICMP or ICMPv6 checksum is wrong.

    True for every other protocol, for a UDP checksum of zero (not sent), and for a packet that is not wholly here.
    RFC 9293 section 3.1, RFC 768, RFC 3828, RFC 792, RFC 4443 section 2.3.
    """
    data = packet.data
    at = packet.l4
    end = packet.end
    proto = packet.proto
    if end > len(data) or packet.more:
        return True
    covered = end
    if proto == ICMP and packet.family == AF_INET:
        return _remainder(data[at:end], 0) == 0
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
    elif proto != TCP and proto != ICMPV6:
        return True
    pseudo = int.from_bytes(packet.src + packet.dst, "big") + int(proto) + int(end - at)
    return _remainder(data[at:covered], pseudo) == 0


def _remainder(segment: bytes, pseudo: int) -> int:
    if len(segment) & 1:
        segment = segment + b"\0"
    return (int.from_bytes(segment, "big") + pseudo) % 0xFFFF
