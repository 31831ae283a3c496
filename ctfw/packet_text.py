"""A packet in words: the form of ``explain`` and ``tests`` (docs/packets.md: ``PROTO SRC[:PORT] > DST[:PORT] words``).

For people only; the packet's way never comes here. Whatever cannot be read is left out, nothing raises. What is printed
here about an IP packet can be read by ``ctfw.config.packet_words``, and makes a packet of which the same is printed.
"""

import socket

from ctfw.packet import (
    AF_INET,
    AF_INET6,
    GRE,
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Packet,
    has_ports,
    read16,
    read32,
)

PROTO_NAMES: dict[int, str] = {
    1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah",
    58: "icmpv6", 89: "ospf", 103: "pim", 112: "vrrp", 132: "sctp", 136: "udplite",
}  # fmt: skip

# Chunks of SCTP (RFC 9260 section 3.2).
CHUNK_NAMES: dict[int, str] = {
    0: "data", 1: "init", 2: "init-ack", 3: "sack", 4: "heartbeat", 5: "heartbeat-ack", 6: "abort", 7: "shutdown",
    8: "shutdown-ack", 9: "error", 10: "cookie-echo", 11: "cookie-ack", 14: "shutdown-complete",
}  # fmt: skip
MOST_CHUNKS = 16

_FLAGS = ((0x02, "syn"), (0x10, "ack"), (0x01, "fin"), (0x04, "rst"), (0x08, "psh"), (0x20, "urg"))


def proto_name(proto: int) -> str:
    """The protocol's name, or its number as text."""
    return PROTO_NAMES.get(proto, str(proto))


def address_text(address: bytes) -> str:
    """An address of 4 or 16 bytes as people write it; empty for anything else."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    return socket.inet_ntop(socket.AF_INET6, address) if len(address) == 16 else ""


def endpoint_text(address: bytes, port: int | None) -> str:
    """``192.0.2.1:80``, ``[2001:db8::1]:80``, or the address alone."""
    text = address_text(address)
    if port is None:
        return text
    return f"[{text}]:{port}" if len(address) == 16 else f"{text}:{port}"


def ends_text(packet: Packet) -> str:
    """``tcp 192.0.2.1:4000 > 198.51.100.1:80``: what every line about an IP packet begins with."""
    ported = has_ports(packet)
    source = endpoint_text(packet.src, packet.sport if ported else None)
    return f"{proto_name(packet.proto)} {source} > {endpoint_text(packet.dst, packet.dport if ported else None)}"


def describe(packet: Packet) -> str:
    """One line about the packet: protocol, ends, and what its transport header says."""
    if packet.family not in (AF_INET, AF_INET6):
        return f"not-ip len={packet.length}"
    return " ".join([ends_text(packet), *_words(packet), *["more"] * packet.more])


def _words(packet: Packet) -> list[str]:
    data, at = packet.data, packet.l4
    if packet.fragment:
        return [f"fragment={packet.fragment}", _length(packet, at)]
    if packet.proto == TCP and at + 20 <= len(data):
        flags = data[at + 13]
        words = [name for bit, name in _FLAGS if flags & bit] or ["null"]
        words.append(f"seq={read32(data, at + 4)}")
        if flags & 0x10:
            words.append(f"ack={read32(data, at + 8)}")
        return [*words, f"win={read16(data, at + 14)}", _length(packet, at + (data[at + 12] >> 4) * 4)]
    if packet.proto in (UDP, UDPLITE):
        return [_length(packet, at + 8)]
    if packet.proto in (ICMP, ICMPV6) and at + 8 <= len(data):
        words = [f"type={data[at]}", f"code={data[at + 1]}"]
        is_query = data[at] >= 128 if packet.proto == ICMPV6 else data[at] in (0, 8, 13, 14, 15, 16, 17, 18)
        return [*words, f"id={read16(data, at + 4)}"] if is_query else words
    if packet.proto == SCTP and at + 12 <= len(data):
        chunks = [CHUNK_NAMES[kind] for kind in chunk_types(packet) if kind in CHUNK_NAMES]
        return [*chunks, f"vtag={read32(data, at + 4)}", *[_length(packet, at + 12)] * (not chunks)]
    if packet.proto == GRE and at + 4 <= len(data):
        return _gre_words(packet, at)
    return [_length(packet, at)]


def _length(packet: Packet, at: int) -> str:
    return f"len={max(packet.end - at, 0)}"


def _gre_words(packet: Packet, at: int) -> list[str]:
    """RFC 2890, and RFC 2637 for version 1, of which only the header without its optional numbers is taken off."""
    data = packet.data
    if data[at + 1] & 7 == 1 and at + 8 <= len(data):
        return [f"call={read16(data, at + 6)}", _length(packet, at + 8)]
    has_sum, has_key = data[at] & 0xC0 != 0, data[at] & 0x20 != 0
    key = at + 4 + 4 * has_sum
    words = [f"key={read32(data, key)}"] if has_key and key + 4 <= len(data) else []
    return [*words, _length(packet, key + 4 * has_key + 4 * (data[at] & 0x10 != 0))]


def chunk_types(packet: Packet) -> list[int]:
    """The types of an SCTP packet's first chunks."""
    data, at = packet.data, packet.l4 + 12
    found: list[int] = []
    while at + 4 <= min(packet.end, len(data)) and len(found) < MOST_CHUNKS:
        found.append(data[at])
        at += max(read16(data, at + 2) + 3 & ~3, 4)
    return found
