"""Packets in words -> bytes, with every length and checksum right unless the words ask for a wrong one.

A Talk is what the ends of some connections have told each other, so that a packet in words may leave out what a real
end would know: a TCP sender goes on where it stopped and acknowledges all that it got, an SCTP packet carries the tag
that its receiver has picked. Numbers begin at 0, as a capture is read: behind the SYN it is 1. Only what arrived
counts: a packet that was dropped is sent again by the same words with the same numbers.

Formats: RFC 791, 8200 (IP), 9293, 7323, 2018 (TCP), 768, 3828 (UDP, UDP-Lite), 792, 4443 (ICMP), 9260 (SCTP), 2890 and
2637 (GRE). No scapy: the daemon runs the tests of a rule file, too.
"""

from __future__ import annotations

import struct
from typing import Final

from ctfw.checksum import crc32c
from ctfw.config.packet_vocabulary import FLAGS
from ctfw.config.packet_words import Wording
from ctfw.packet import GRE, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE

WINDOW: Final = 64240
TTL: Final = 64
QUOTED: Final = 548  # bytes of a packet that an error repeats, of what every host takes (RFC 1812 section 4.3.2.3)

_SYN, _FIN, _RST, _ACK = FLAGS["syn"], FLAGS["fin"], FLAGS["rst"], FLAGS["ack"]
_MASK: Final = 0xFFFFFFFF
_DATA, _INIT, _INIT_ACK, _SACK, _HEARTBEATS, _SHUTDOWN = 0, 1, 2, 3, (4, 5), 7
_FRAGMENT_HEADER: Final = 44

End = tuple[int, bytes, int | None, bytes, int | None]


class Talk:
    """What has been said so far. ``build`` makes a packet; ``arrived`` says that the last one was not dropped."""

    def __init__(self) -> None:
        self._next: dict[End, int] = {}  # TCP: the next number of the end that sends in this direction
        self._opened: dict[End, int] = {}  # TCP: the number of its SYN, while it has sent nothing else
        self._tags: dict[End, int] = {}  # SCTP: the tag that packets in this direction carry
        self._pending: list[tuple[dict[End, int], End, int | None]] = []

    def build(self, wording: Wording) -> bytes:
        """The packet, from its IP header on."""
        self._pending = []
        if wording.numbers.get("fragment"):
            body = _payload(wording)
        elif wording.proto == TCP:
            body = self._tcp(wording)
        elif wording.proto == SCTP:
            body = self._sctp(wording)
        elif wording.proto in (ICMP, ICMPV6):
            body = _icmp(wording)
        elif wording.proto in (UDP, UDPLITE):
            body = _udp(wording)
        elif wording.proto == GRE:
            body = _gre(wording)
        else:
            body = _payload(wording)
        return _ip(wording, body)

    def arrived(self) -> None:
        """The last packet built went through."""
        for memory, end, number in self._pending:
            if number is None:
                memory.pop(end, None)
            else:
                memory[end] = number
        self._pending = []

    def _tcp(self, wording: Wording) -> bytes:
        flags = wording.flags or 0
        here, there = _ends(wording)
        seq, ack = wording.numbers.get("seq"), wording.numbers.get("ack")
        if seq is None:
            if flags & _SYN and here in self._opened:
                seq = self._opened[here]  # the same SYN once more
            else:
                seq = self._next.get(here, 0 if flags & (_SYN | _RST) else 1)
        if ack is None:
            ack = self._next.get(there, 1) if flags & _ACK else 0
        payload = _payload(wording)
        end = (seq + len(payload) + (flags & _SYN != 0) + (flags & _FIN != 0)) & _MASK
        if not flags & _RST:
            self._pending.append((self._next, here, end))
            self._pending.append((self._opened, here, seq if flags & _SYN else None))
            if flags & _ACK:
                self._pending.append((self._opened, there, None))
        options = _options(wording)
        header = struct.pack(
            ">HHIIBBHHH",
            wording.sport,
            wording.dport,
            seq,
            ack,
            (20 + len(options)) // 4 << 4,
            flags,
            wording.numbers.get("win", WINDOW),
            0,
            0,
        )
        return _summed(wording, header + options + payload, 16)

    def _sctp(self, wording: Wording) -> bytes:
        here, there = _ends(wording)
        body = b""
        for kind in wording.chunks:
            if kind in (_INIT, _INIT_ACK):
                tag = wording.numbers.get("itag", kind)
                body += _chunk(kind, struct.pack(">IIHHI", tag, 65536, 1, 1, 1))
                self._pending.append((self._tags, there, tag))
            elif kind == _DATA:
                body += _chunk(kind, struct.pack(">IHHI", 1, 0, 0, 0) + _payload(wording), 3)
            elif kind == _SACK:
                body += _chunk(kind, struct.pack(">IIHH", 1, 65536, 0, 0))
            elif kind in _HEARTBEATS:
                body += _chunk(kind, struct.pack(">HHI", 1, 8, 0))
            else:
                body += _chunk(kind, bytes(4) if kind == _SHUTDOWN else b"")
        if not wording.chunks:
            body = b"\xff" * wording.numbers.get("len", 0) if wording.payload is None else wording.payload  # no chunk
        tag = wording.numbers.get("vtag", 0 if _INIT in wording.chunks else self._tags.get(here, 1))
        data = struct.pack(">HHII", wording.sport, wording.dport, tag, 0) + body
        crc = crc32c(data, 0, len(data), _MASK) ^ _MASK
        if "badsum" in wording.words:
            crc ^= 1
        return data[:8] + struct.pack("<I", crc) + data[12:]


def _ends(wording: Wording) -> tuple[End, End]:
    """The names of the packet's direction and of the other one."""
    return (
        (wording.proto, wording.src, wording.sport, wording.dst, wording.dport),
        (wording.proto, wording.dst, wording.dport, wording.src, wording.sport),
    )


def _payload(wording: Wording) -> bytes:
    return bytes(wording.numbers.get("len", 0)) if wording.payload is None else wording.payload


def _options(wording: Wording) -> bytes:
    options = b""
    if "mss" in wording.numbers:
        options += struct.pack(">BBH", 2, 4, wording.numbers["mss"])
    if "sackok" in wording.words:
        options += b"\4\2"
    if "wscale" in wording.numbers:
        options += bytes([3, 3, wording.numbers["wscale"]])
    if wording.sacks:
        options += bytes([5, 2 + 8 * len(wording.sacks)])
        options += b"".join(struct.pack(">II", left, right) for left, right in wording.sacks)
    return options + b"\1" * (-len(options) % 4)


def _chunk(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BBH", kind, flags, 4 + len(body)) + body + bytes(-len(body) % 4)


def _udp(wording: Wording) -> bytes:
    payload = _payload(wording)
    length = wording.numbers.get("coverage", 0) if wording.proto == UDPLITE else 8 + len(payload)
    data = struct.pack(">HHHH", wording.sport, wording.dport, length, 0) + payload
    if "nosum" in wording.words:
        return data
    return _summed(wording, data, 6, length if wording.proto == UDPLITE and 8 <= length <= len(data) else len(data))


def _icmp(wording: Wording) -> bytes:
    numbers = wording.numbers
    kind = numbers["type"]
    if wording.quoted is not None or "mtu" in numbers:
        rest = struct.pack(">I", numbers.get("mtu", 0))
    elif kind in (0, 8, 13, 14, 15, 16, 17, 18) if wording.proto == ICMP else kind >= 128:
        rest = struct.pack(">HH", numbers.get("id", 1), numbers.get("seq", 1))
    else:
        rest = struct.pack(">HH", numbers.get("id", 0), numbers.get("seq", 0))
    quoted = Talk().build(wording.quoted)[:QUOTED] if wording.quoted is not None else _payload(wording)
    return _summed(wording, bytes([kind, numbers.get("code", 0), 0, 0]) + rest + quoted, 2)


def _gre(wording: Wording) -> bytes:
    payload = _payload(wording)
    if "call" in wording.numbers:
        return struct.pack(">HHHH", 0x2001, 0x880B, len(payload) & 0xFFFF, wording.numbers["call"]) + payload
    if "key" in wording.numbers:
        return struct.pack(">HHI", 0x2000, 0x0800, wording.numbers["key"]) + payload
    return struct.pack(">HH", 0, 0x0800) + payload


def _summed(wording: Wording, segment: bytes, at: int, covered: int | None = None) -> bytes:
    """The segment with its checksum, over the pseudo header and its first ``covered`` bytes, at ``at``."""
    data = segment[:covered]
    if wording.proto != ICMP:
        data = wording.src + wording.dst + struct.pack(">II", len(segment), wording.proto) + data + bytes(len(data) % 2)
    value = _sum(data)
    if value == 0 and wording.proto in (UDP, UDPLITE):
        value = 0xFFFF
    if "badsum" in wording.words:
        value = value ^ 1 or 2
    return segment[:at] + value.to_bytes(2, "big") + segment[at + 2 :]


def _sum(data: bytes) -> int:
    """RFC 1071: the one's complement of the one's complement sum."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _ip(wording: Wording, body: bytes) -> bytes:
    numbers = wording.numbers
    offset, more = numbers.get("fragment", 0), "more" in wording.words
    is_fragment = more or offset != 0
    identification = numbers.get("ipid", 1 if is_fragment else 0)
    ttl, service = numbers.get("ttl", TTL), numbers.get("dscp", 0) << 2
    proto = wording.proto
    if wording.is_ipv6:
        if is_fragment or "ipid" in numbers:
            body = struct.pack(">BBHI", proto, 0, offset | more, identification) + body
            proto = _FRAGMENT_HEADER
        return struct.pack(">IHBB", 6 << 28 | service << 20, len(body), proto, ttl) + wording.src + wording.dst + body
    flags = offset >> 3 | more << 13 | ("df" in wording.words) << 14
    head = struct.pack(">BBHHHBBH", 0x45, service, 20 + len(body), identification, flags, ttl, proto, 0)
    head += wording.src + wording.dst
    return head[:10] + _sum(head).to_bytes(2, "big") + head[12:] + body
