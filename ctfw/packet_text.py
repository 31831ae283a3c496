"""A packet in words: the form of ``explain`` and ``tests`` (DESIGN: ``PROTO SRC[:PORT] > DST[:PORT] words``).

For people only; the packet's way never comes here. Whatever cannot be read is left out, nothing raises.
"""

import socket

from ctfw.packet import AF_INET, AF_INET6, ICMP, ICMPV6, TCP, UDP, Packet, has_ports, read16, read32

PROTO_NAMES: dict[int, str] = {
    1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah",
    58: "icmpv6", 89: "ospf", 103: "pim", 112: "vrrp", 132: "sctp", 136: "udplite",
}  # fmt: skip

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


def describe(packet: Packet) -> str:
    """One line about the packet: protocol, ends, and what its transport header says."""
    if packet.family not in (AF_INET, AF_INET6):
        return f"not-ip len={packet.length}"
    ported = has_ports(packet)
    ends = (
        f"{endpoint_text(packet.src, packet.sport if ported else None)} > "
        f"{endpoint_text(packet.dst, packet.dport if ported else None)}"
    )
    return " ".join([proto_name(packet.proto), ends, *_words(packet)])


def _words(packet: Packet) -> list[str]:
    data, at = packet.data, packet.l4
    if packet.fragment:
        return [f"fragment={packet.fragment}", f"len={packet.length}"]
    if packet.proto == TCP and at + 20 <= len(data):
        flags = data[at + 13]
        words = [name for bit, name in _FLAGS if flags & bit] or ["null"]
        payload = max(packet.end - at - (data[at + 12] >> 4) * 4, 0)
        words.append(f"seq={read32(data, at + 4)}")
        if flags & 0x10:
            words.append(f"ack={read32(data, at + 8)}")
        return [*words, f"win={read16(data, at + 14)}", f"len={payload}"]
    if packet.proto == UDP:
        return [f"len={max(packet.end - at - 8, 0)}"]
    if packet.proto in (ICMP, ICMPV6) and at + 8 <= len(data):
        words = [f"type={data[at]}", f"code={data[at + 1]}"]
        is_query = data[at] >= 128 if packet.proto == ICMPV6 else data[at] in (0, 8, 13, 14, 15, 16, 17, 18)
        return [*words, f"id={read16(data, at + 4)}"] if is_query else words
    return [f"len={packet.length}"]
