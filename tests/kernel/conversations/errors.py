"""ICMP and ICMPv6 errors about a connection: right ones, and those that quote or go where they should not."""

import struct
from collections.abc import Callable
from random import Random
from typing import Final

from kernel import packets
from kernel.conversations.step import CLIENT, SERVER, Conversation, Pair, Step, spoil
from kernel.packets import MSS

_V4: Final = ((3, 3), (3, 1), (3, 4), (3, 13), (4, 0), (5, 0), (5, 1), (11, 0), (11, 1), (12, 0), (12, 2))
_V6: Final = ((1, 0), (1, 4), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (100, 0), (127, 9), (137, 0), (137, 1))

Flow = Callable[[int], bytes]


def _flow(rng: Random, pair: Pair) -> tuple[str, Flow]:
    """A name, and what makes a packet of the flow from either side."""
    a, b = rng.randint(1024, 65535), rng.randint(1, 65535)
    ports = (a, b)
    number = struct.pack("!HH", a, 1)

    def udp(side: int) -> bytes:
        return packets.udp(pair.address[side], ports[side], pair.address[1 - side], ports[1 - side], b"question")

    def tcp(side: int) -> bytes:
        flags, seq, ack = ("S", 1000, 0) if side == CLIENT else ("SA", 5000, 1001)
        ends = (pair.address[side], ports[side], pair.address[1 - side], ports[1 - side])
        return packets.tcp(*ends, flags, seq, ack, options=MSS)

    def echo(side: int) -> bytes:
        kinds = (128, 129) if pair.ipv6 else (8, 0)
        return packets.icmp(pair.address[side], pair.address[1 - side], kinds[side], 0, number, b"ping" * 4)

    def other(side: int) -> bytes:
        return packets.ip(pair.address[side], pair.address[1 - side], 50, b"\0\1\2\3" * 5)

    name, make = rng.choice((("udp", udp), ("udp", udp), ("tcp", tcp), ("icmp", echo), ("esp", other)))
    return name, make


def errors(rng: Random, pair: Pair) -> Conversation:
    """A few packets of a flow, and errors about it."""
    name, make = _flow(rng, pair)
    steps: Conversation = []
    for _ in range(rng.randint(2, 8)):
        if not steps and rng.random() < 0.9:
            steps.append(Step(CLIENT, make(CLIENT), name))
        elif rng.random() < 0.25:
            side = rng.choice((CLIENT, SERVER))
            steps.append(Step(side, make(side), name))
        else:
            steps.append(_error(rng, pair, name, make))
    spoil(rng, steps)
    return steps


def _error(rng: Random, pair: Pair, name: str, make: Flow) -> Step:
    quoted = rng.choice((CLIENT, CLIENT, CLIENT, SERVER))  # whose packet
    sender = 1 - quoted if rng.random() < 0.9 else quoted
    source = pair.other[sender] if rng.random() < 0.3 else pair.address[sender]
    target = pair.address[quoted]
    inner = make(quoted)
    words = [f"quotes {'cs'[quoted]} {name}"]
    head = 40 if pair.ipv6 else 20
    if rng.random() < 0.1:
        target = rng.choice((pair.other[quoted], pair.address[1 - quoted]))
        words.append("to somebody else")
    chance = rng.random()
    if chance < 0.1:
        size = rng.choice((0, 1, head - 1, head, head + 3, head + 4, head + 7, head + 8))
        inner = inner[:size]
        words.append(f"cut to {size}")
    elif chance < 0.3:
        inner = inner[: head + 8]
    elif chance < 0.35 and not pair.ipv6:
        inner = inner[:6] + b"\0\x10" + inner[8:]
        words.append("quotes a later fragment")
    elif chance < 0.4 and not pair.ipv6:
        inner = inner[:6] + b"\x20\0" + inner[8:]
        words.append("quotes a first fragment")
    elif chance < 0.45:
        at = rng.randrange(min(head + 8, len(inner)))
        inner = inner[:at] + bytes([inner[at] ^ 1 << rng.randrange(8)]) + inner[at + 1 :]
        words.append(f"byte {at} of the quote wrong")
    elif chance < 0.5:
        inner = packets.icmp(target, source, 1 if pair.ipv6 else 3, 1, data=inner)
        words.append("quotes an error")
    kind, code = rng.choice(_V6 if pair.ipv6 else _V4)
    spoilt = rng.random() < 0.08
    ttl = 64
    rest, data = b"\0\0\5\0", inner
    if kind == 137:
        data, ttl, source = _redirect(rng, pair, source, inner)
    raw = packets.icmp(source, target, kind, code, rest, data, spoilt, ttl)
    return Step(sender, raw, f"error {kind}/{code} {', '.join(words)}{' bad checksum' if spoilt else ''}")


def _redirect(rng: Random, pair: Pair, source: bytes, inner: bytes) -> tuple[bytes, int, bytes]:
    """ICMPv6's redirect (RFC 4861 section 4.5): target, destination, options; its hop limit and source."""
    link_local = b"\xfe\x80" + bytes(13) + b"\1"
    ttl = 255 if rng.random() < 0.8 else 64
    source = link_local if rng.random() < 0.8 else source
    inner += bytes(-len(inner) % 8)
    redirected = bytes([4, 1 + len(inner) // 8]) + bytes(6) + inner
    lladdr = b"\2\1\2\0\0\0\0\1"
    options = rng.choice(
        (redirected, redirected, lladdr + redirected, redirected + lladdr, lladdr, b"", b"\4\0" + redirected)
    )
    return pair.other[CLIENT] + pair.address[SERVER] + options, ttl, source
