"""Headers -> Packet: what connection tracking and the rules need of a packet, or the reason why it cannot be had.

Owns the walk from the first byte to the transport header, for IPv4 (RFC 791) and IPv6 with its extension headers
(RFC 8200), and the tuple ("key") that names a packet's direction of its connection. ``decode`` never raises, whatever
the bytes: a packet that cannot be tracked carries a reason and an empty key.

The key is protocol, source, destination, source part, destination part, in this order and without gaps, because that
is how the bytes of an ordinary header stand in the packet: one slice makes it. The parts are the ports, or for ICMP
the identifier and type+code, or zero; behind them a zone of two bytes, if the tracker put the packet into one.
``inverse`` turns a key into that of the answer.

Knows nothing of connections; the only state of a connection in here are the three fields that conntrack writes on a
packet (``state``, ``direction``, ``reason``), as the kernel does on its own packets.
"""

from typing import Final

from mypy_extensions import i64, mypyc_attr

from ctfw import reason

AF_INET: Final = 2
AF_INET6: Final = 10

# Hooks, with the numbers of NF_INET_*: a rule's chain is one of them.
PREROUTING: Final = 0
INPUT: Final = 1
FORWARD: Final = 2
OUTPUT: Final = 3
POSTROUTING: Final = 4
HOOK_NAMES: Final = ("prerouting", "input", "forward", "output", "postrouting")

ORIGINAL: Final = 0
REPLY: Final = 1
NO_DIRECTION: Final = -1
DIRECTION_NAMES: Final = ("ORIGINAL", "REPLY")

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
GRE: Final = 47
ICMPV6: Final = 58
SCTP: Final = 132
UDPLITE: Final = 136

# IPv6 extension headers that are walked (RFC 8200 section 4, RFC 4302); 59 ends the packet without a transport.
_HOP_BY_HOP: Final = 0
_ROUTING: Final = 43
_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_NO_NEXT: Final = 59
_DESTINATION: Final = 60

_PPTP: Final = 0x880B
_QUOTED: Final = 1 << 20  # as a length: only the head of the packet is there, its length field means nothing here
_NO_PARTS: Final = b"\0\0\0\0"
BYTE: Final = tuple([bytes([i]) for i in range(256)])

# The type that answers an ICMP query (RFC 792, 950, 4443, 4620). A type without a counterpart has no inverse.
_ICMP_ANSWER: Final = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
_ICMPV6_ANSWER: Final = {128: 129, 129: 128, 139: 140, 140: 139}


@mypyc_attr(free_list_len=1, acyclic=True)
class Packet:
    """One packet's place of everything; made by ``decode`` alone.

    ``end`` is the offset behind the packet's last byte according to its IP header; it lies beyond ``len(data)`` when
    the kernel copied only the head. ``key`` is empty when ``reason`` is set by decode. Of a fragment (one whose
    datagram has others) ``identity`` is the offset of its identification, ``fragment`` its place in the datagram in
    bytes, and ``more`` says that others follow behind it.
    """

    __slots__ = (
        "data", "direction", "end", "family", "fragment", "identity", "key", "l4", "length", "more", "proto", "reason",
        "state",
    )  # fmt: skip

    def __init__(self, data: bytes, length: i64) -> None:
        self.data = data
        self.length: i64 = length
        self.family: i64 = 0
        self.proto: i64 = 0
        self.l4: i64 = 0
        self.end: i64 = 0
        self.fragment: i64 = 0
        self.identity: i64 = 0
        self.more: bool = False
        self.key: bytes = b""
        self.reason: i64 = 0
        self.state: i64 = 0
        self.direction: i64 = NO_DIRECTION

    # Properties, although the packet's way should have none: only the first packet of a connection and packets that
    # somebody prints ask for these, and slicing them for every packet would cost a fifth of the whole engine.
    @property
    def src(self) -> bytes:
        """Source address, 4 or 16 bytes; empty when the packet is not IP."""
        if self.family == AF_INET:
            return self.data[12:16]
        return self.data[8:24] if self.family == AF_INET6 else b""

    @property
    def dst(self) -> bytes:
        """Destination address, 4 or 16 bytes; empty when the packet is not IP."""
        if self.family == AF_INET:
            return self.data[16:20]
        return self.data[24:40] if self.family == AF_INET6 else b""

    @property
    def sport(self) -> int:
        """Source port; 0 for a protocol without ports or when it cannot be read."""
        return read16(self.data, self.l4) if has_ports(self) else 0

    @property
    def dport(self) -> int:
        """Destination port; 0 for a protocol without ports or when it cannot be read."""
        return read16(self.data, self.l4 + 2) if has_ports(self) else 0


def read16(data: bytes, at: i64) -> i64:
    """Two bytes in network order. The caller has checked the length."""
    high: i64 = data[at]
    low: i64 = data[at + 1]
    return (high << 8) | low


def read32(data: bytes, at: i64) -> i64:
    """Four bytes in network order. The caller has checked the length."""
    a: i64 = data[at]
    b: i64 = data[at + 1]
    c: i64 = data[at + 2]
    d: i64 = data[at + 3]
    return (a << 24) | (b << 16) | (c << 8) | d


def is_port_protocol(proto: i64) -> bool:
    """True for the protocols whose first four bytes are source and destination port."""
    return proto == TCP or proto == UDP or proto == SCTP or proto == UDPLITE


def has_ports(packet: Packet) -> bool:
    """True when the packet has readable ports."""
    return is_port_protocol(packet.proto) and packet.fragment == 0 and 0 < packet.l4 <= len(packet.data) - 4


def decode(data: bytes, length: i64) -> Packet:
    """The Packet in ``data``, the bytes from the IP header on.

    ``length`` is the packet's true length, at least ``len(data)``: the kernel may copy only the head. Never raises;
    ``reason`` is set and ``key`` empty when the packet cannot be tracked (docs/state-machine.md, "Why
    a packet is INVALID").
    """
    packet = Packet(data, length)
    size: i64 = len(data)
    if size < 20:
        packet.reason = reason.NOT_IP
        return packet
    first: i64 = data[0]
    if first >> 4 == 4:
        _decode_ipv4(packet, data, size, (first & 15) * 4)
    elif first >> 4 == 6 and size >= 40:
        _decode_ipv6(packet, data, size)
    else:
        packet.reason = reason.NOT_IP
    return packet


def _decode_ipv4(packet: Packet, data: bytes, size: i64, header: i64) -> None:
    packet.family = AF_INET
    packet.proto = data[9]
    packet.l4 = header
    if (header < 20 and packet.length != _QUOTED) or header > size:
        packet.reason = reason.IP_HEADER
        return
    total = read16(data, 2)
    if packet.length == _QUOTED or (total == 0 and packet.length > 0xFFFF):
        total = packet.length  # quoted, or a GSO packet longer than the field can say
    packet.end = total
    if total < header or total > packet.length:
        packet.reason = reason.IP_LENGTH
        return
    flags = read16(data, 6)
    if flags & 0x3FFF != 0:
        packet.identity = 4
        packet.more = flags & 0x2000 != 0
        packet.fragment = (flags & 0x1FFF) << 3
        if packet.fragment != 0:
            packet.reason = reason.FRAGMENT
            return
    proto = packet.proto
    if header == 20 and (proto == TCP or proto == UDP):
        if size < 24 or total < 24:
            packet.reason = reason.L4_TRUNCATED
            return
        packet.key = data[9:10] + data[12:24]
    else:
        _make_key(packet, data, size, data[12:20])


def _decode_ipv6(packet: Packet, data: bytes, size: i64) -> None:
    packet.family = AF_INET6
    total = read16(data, 4) + 40
    if packet.length == _QUOTED or (total == 40 and packet.length > 0xFFFF):
        total = packet.length  # quoted, or a jumbogram (RFC 2675), or a GSO packet
    packet.end = total
    proto: i64 = data[6]
    packet.proto = proto
    packet.l4 = 40
    if total > packet.length:
        packet.reason = reason.IP_LENGTH
        return
    if (proto == TCP or proto == UDP) and size >= 44 and total >= 44:
        packet.key = data[6:7] + data[8:44]
        return
    at: i64 = 40
    while (
        proto == _HOP_BY_HOP
        or proto == _ROUTING
        or proto == _FRAGMENT
        or proto == _AUTHENTICATION
        or proto == _DESTINATION
    ):
        least: i64 = at + (4 if proto == _FRAGMENT else 2)  # how much of it is looked at
        if least > size or least > total:
            packet.reason = reason.IPV6_EXTENSIONS
            return
        units: i64 = data[at + 1]
        step: i64 = (units + 1) << 3
        if proto == _FRAGMENT:
            step = 8
            flags = read16(data, at + 2)
            packet.fragment = flags & 0xFFF8
            packet.more = flags & 1 != 0
            if packet.more or packet.fragment != 0:
                if at + 8 > size or at + 8 > total:
                    packet.reason = reason.IPV6_EXTENSIONS
                    return
                packet.identity = at + 4
        elif proto == _AUTHENTICATION:
            step = (units + 2) << 2
        proto = data[at]
        at += step
        packet.proto = proto
        packet.l4 = at
        if packet.fragment != 0:
            packet.reason = reason.FRAGMENT
            return
    if proto == _NO_NEXT:
        packet.reason = reason.IPV6_EXTENSIONS
        return
    # A last header that is longer than the packet leaves nothing to read: enough for a protocol without parts.
    _make_key(packet, data, size, data[8:40])


def _make_key(packet: Packet, data: bytes, size: i64, addresses: bytes) -> None:
    """Sets the key from the transport header, for everything that the two short cuts above do not cover."""
    at = packet.l4
    left = (size if size < packet.end else packet.end) - at
    proto = packet.proto
    parts = _NO_PARTS
    if is_port_protocol(proto):
        if left < 4:
            packet.reason = reason.L4_TRUNCATED
            return
        parts = data[at : at + 4]
    elif proto == ICMP or proto == ICMPV6:
        if left < 8:
            packet.reason = reason.L4_TRUNCATED
            return
        parts = data[at + 4 : at + 6] + data[at : at + 2]
    elif proto == GRE:
        if left >= 8 and data[at + 1] & 7 == 1:
            if read16(data, at + 2) != _PPTP:
                packet.reason = reason.GRE_PROTOCOL
                return
            # The call id names the receiver's end; the sender's own is known to the PPTP helper alone.
            parts = b"\0\0" + data[at + 6 : at + 8]
    packet.key = BYTE[proto] + addresses + parts


def decode_quoted(data: bytes, at: i64, family: i64) -> bytes:
    """The key of the packet that an ICMP error quotes from offset ``at`` on; empty when it has none (RFC 792, 4443).

    It is taken to be of ``family``, the error's own, whatever version it says, and an IPv4 header may be too short:
    nobody has checked the quote on its way, and measured, the kernel does not either.
    """
    quoted = Packet(data[at:], _QUOTED)
    size: i64 = len(quoted.data)
    if family == AF_INET and size >= 20:
        first: i64 = data[at]
        _decode_ipv4(quoted, quoted.data, size, (first & 15) * 4)
    elif family == AF_INET6 and size >= 40:
        _decode_ipv6(quoted, quoted.data, size)
    return quoted.key


def address_size(key: bytes) -> i64:
    """How many bytes each of the two addresses in ``key`` has: 4 or 16."""
    return 4 if len(key) < 37 else 16


def inverse(key: bytes) -> bytes:
    """The key of a packet that answers ``key``; empty when nothing can (docs/state-machine.md, "Queries")."""
    proto: i64 = key[0]
    size = address_size(key)
    src = key[1 : 1 + size]
    dst = key[1 + size : 1 + 2 * size]
    at: i64 = 1 + 2 * size
    if proto == ICMP or proto == ICMPV6:
        kind: i64 = key[at + 2]
        answer = _ICMP_ANSWER.get(kind, -1) if proto == ICMP else _ICMPV6_ANSWER.get(kind, -1)
        if answer < 0:
            return b""
        return key[0:1] + dst + src + key[at : at + 2] + BYTE[answer] + key[at + 3 :]
    return key[0:1] + dst + src + key[at + 2 : at + 4] + key[at : at + 2] + key[at + 4 :]
