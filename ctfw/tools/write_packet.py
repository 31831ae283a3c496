"""A packet -> the words that make it again, as far as a firewall can tell the difference.

Unlike ``packet_text.describe``, which is a line for people, this leaves out what ``build_packet`` would do by itself
and says all the rest. What a payload holds is said only when it is asked for: captures hold other people's letters.
"""

from __future__ import annotations

from typing import Final

from ctfw.config.packet_vocabulary import MAX_LENGTH
from ctfw.config.packet_words import MAX_SACKS, parse
from ctfw.packet import (
    AF_INET,
    GRE,
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Packet,
    decode,
    read16,
    read32,
)
from ctfw.packet_text import CHUNK_NAMES, chunk_types, ends_text
from ctfw.ruleset.rule import hop_limit, service
from ctfw.tools.build_packet import TTL, WINDOW, Talk

_FLAGS: Final = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
_FIRST: Final = ("syn", "fin", "rst", "ack", "psh", "urg", "ece", "cwr")  # the order in which one says them
_PLAIN: Final = range(0x20, 0x7F)
_SYN: Final = 0x02
_ACK: Final = 0x10
_MASK: Final = 0xFFFFFFFF
_DATA_HEADER: Final = 16


class Bases:
    """The number from which each end of a TCP connection is counted, so that the words count from 0."""

    def __init__(self, relative: bool) -> None:
        self._relative = relative
        self._of: dict[bytes, int] = {}

    def of(self, packet: Packet, seq: int, ack: int, flags: int) -> tuple[int, int]:
        """From where a segment's ``seq`` and ``ack`` are counted: the first number of each end that was seen."""
        if not self._relative:
            return 0, 0
        key = packet.key
        size = (len(key) - 5) // 2
        here = key[1 : 1 + size] + key[1 + 2 * size : 3 + 2 * size]
        there = key[1 + size : 1 + 2 * size] + key[3 + 2 * size : 5 + 2 * size]
        base = self._of.setdefault(here, 0 if seq == 0 else (seq if flags & _SYN else seq - 1))
        other = self._of.setdefault(there, ack - 1) if flags & _ACK else self._of.get(there, 0)
        return base, other if flags & _ACK or ack else 0


def write(packet: Packet, talk: Talk, bases: Bases, payload: bool, ttl: bool) -> str:
    """The words. ``talk`` is what was said before: it gets the packet, and its ``arrived`` is the caller's to say.

    ``payload``: say what the packet carries; ``ttl``: say its TTL, too. Raises PacketError for what no words can make.
    """
    if packet.proto == TCP and not packet.fragment:
        return _segment(packet, talk, bases, payload, _general(packet, ttl))
    words = [ends_text(packet), *_words(packet, payload)]
    if packet.proto == SCTP and not packet.fragment and len(packet.data) >= packet.l4 + 12:
        text = " ".join([*words, *_general(packet, ttl)])
        tag = read32(packet.data, packet.l4 + 4)
        if _vtag(talk.build(parse(text))) == tag:
            return text
        words.append(f"vtag={tag}")
    text = " ".join([*words, *_general(packet, ttl)])
    talk.build(parse(text))
    return text


def _words(packet: Packet, payload: bool) -> list[str]:
    data, at = packet.data, packet.l4
    if packet.fragment:
        return [f"fragment={packet.fragment}", f"len={packet.end - at}"]
    if packet.proto in (UDP, UDPLITE):
        words = _carried(packet, at + 8, payload)
        if packet.proto == UDPLITE and read16(data, at + 4):
            words.append(f"coverage={read16(data, at + 4)}")
        return [*words, "nosum"] if packet.proto == UDP and read16(data, at + 6) == 0 else words
    if packet.proto in (ICMP, ICMPV6):
        return _icmp(packet)
    if packet.proto == SCTP:
        chunks = [kind for kind in chunk_types(packet) if kind in CHUNK_NAMES]
        words = [CHUNK_NAMES[kind] for kind in chunks]
        if chunks and chunks[0] in (1, 2) and len(data) >= at + 20:
            words.append(f"itag={read32(data, at + 16)}")
        elif chunks and chunks[-1] == 0:
            last = at + 12 + _size_of_chunks(packet, len(chunks) - 1)
            words.append(f"len={max(read16(data, last + 2) - _DATA_HEADER, 0)}")
        return words or _carried(packet, at + 12, False)
    if packet.proto == GRE and data[at + 1] & 7 == 1:
        return [f"call={read16(data, at + 6)}", *_carried(packet, at + 8, False)]
    return _carried(packet, at + 4 * (packet.proto == GRE), False)


def _segment(packet: Packet, talk: Talk, bases: Bases, payload: bool, general: list[str]) -> str:
    """With ``seq`` and ``ack`` where a real end would not have sent these."""
    data, at = packet.data, packet.l4
    flags, win = data[at + 13], read16(data, at + 14)
    seq, ack = read32(data, at + 4), read32(data, at + 8)
    base, other = bases.of(packet, seq, ack, flags)
    seq, ack = (seq - base) & _MASK, (ack - other) & _MASK
    words = [ends_text(packet), *([name for name in _FIRST if flags >> _FLAGS.index(name) & 1] or ["null"])]
    words += [f"win={win}"] * (win != WINDOW) + _options(packet, other)
    words += _carried(packet, at + (data[at + 12] >> 4) * 4, payload)
    text = " ".join([*words, *general])
    built = talk.build(parse(text))
    place = int(decode(built, len(built)).l4)
    numbers = [f"seq={seq}"] * (read32(built, place + 4) != seq) + [f"ack={ack}"] * (read32(built, place + 8) != ack)
    if numbers:
        text = " ".join([*words, *numbers, *general])
        talk.build(parse(text))
    return text


def _vtag(built: bytes) -> int:
    return int(read32(built, decode(built, len(built)).l4 + 4))


def _general(packet: Packet, ttl: bool) -> list[str]:
    data = packet.data
    words = []
    if ttl and hop_limit(packet) != TTL:
        words.append(f"ttl={hop_limit(packet)}")
    if service(packet):
        words.append(f"dscp={service(packet)}")
    if packet.more or packet.fragment:
        words += ["more"] * packet.more
        identity = read16(data, 4) if packet.family == AF_INET else read32(data, packet.identity)
        words.append(f"ipid={identity}")
    return words


def _options(packet: Packet, base: int) -> list[str]:
    """The TCP options that tracking reads; ``base``: from where acknowledgements are counted."""
    data, at = packet.data, packet.l4 + 20
    stop = min(packet.l4 + (data[packet.l4 + 12] >> 4) * 4, len(data))
    words: list[str] = []
    sacks = 0
    while at < stop and data[at] != 0:
        if data[at] == 1:
            at += 1
            continue
        size = data[at + 1] if at + 1 < stop else 0
        if size < 2 or at + size > stop:
            break
        if data[at] == 2 and size == 4:
            words.append(f"mss={read16(data, at + 2)}")
        elif data[at] == 3 and size == 3:
            words.append(f"wscale={data[at + 2]}")
        elif data[at] == 4 and size == 2:
            words.append("sackok")
        elif data[at] == 5:
            for edge in range(at + 2, at + size - 7, 8):
                sacks += 1
                if sacks <= MAX_SACKS:
                    edges = [(read32(data, one) - base) & _MASK for one in (edge, edge + 4)]
                    words.append(f"sack={edges[0]}-{edges[1]}")
        at += size
    return words


def _icmp(packet: Packet) -> list[str]:
    data, at = packet.data, packet.l4
    kind = data[at]
    words = [f"type={kind}", f"code={data[at + 1]}"]
    is_error = kind in (3, 4, 5, 11, 12) if packet.proto == ICMP else kind < 128
    if not is_error:
        return [*words, f"id={read16(data, at + 4)}", f"seq={read16(data, at + 6)}", *_carried(packet, at + 8, False)]
    mtu = read32(data, at + 4) if packet.proto == ICMPV6 else read16(data, at + 6)
    if mtu and (kind == 2 or (packet.proto == ICMP and kind == 3 and data[at + 1] == 4)):
        words.append(f"mtu={mtu}")
    quoted = decode(data[at + 8 :], 1 << 20)
    if quoted.key == b"":
        return [*words, *_carried(packet, at + 8, False)]
    inner = [ends_text(quoted)]
    if quoted.proto in (ICMP, ICMPV6):
        inner += _icmp(quoted)[:3]
    return [*words, f"quotes ({' '.join(inner)})"]


def _carried(packet: Packet, at: int, said: bool) -> list[str]:
    length = packet.end - at
    if length <= 0:
        return []
    if said and packet.end <= len(packet.data):
        return [f'payload="{escaped(packet.data[at : packet.end])}"']
    return [f"len={min(length, MAX_LENGTH)}"]


def _size_of_chunks(packet: Packet, count: int) -> int:
    """Bytes of the first ``count`` chunks of an SCTP packet."""
    at = packet.l4 + 12
    for _ in range(count):
        at += max(read16(packet.data, at + 2) + 3 & ~3, 4)
    return int(at - packet.l4 - 12)


def escaped(data: bytes) -> str:
    r"""Bytes as they stand between the quotation marks of a payload: printable ones as they are, \r, \n, \x00."""
    known = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}
    return "".join(known.get(byte) or (chr(byte) if byte in _PLAIN else f"\\x{byte:02x}") for byte in data)
