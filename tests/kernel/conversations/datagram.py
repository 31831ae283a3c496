"""UDP, UDP-Lite, queries of ICMP and ICMPv6, and protocols that nobody knows: random questions and answers."""

import struct
from random import Random
from typing import Final

from kernel import packets
from kernel.conversations.step import CLIENT, SERVER, Conversation, Pair, Step, spoil

_V4_TYPES: Final = (8, 8, 8, 0, 0, 13, 14, 15, 16, 17, 18, 9, 10, 1, 2, 6, 7, 18, 19, 30, 42, 255)
_V6_TYPES: Final = (128, 128, 128, 129, 129, 139, 140, 137, 138, 141, 142, 144, 145, 149, 150, 153, 200, 255)
_UNTRACKED: Final = (130, 131, 132, 133, 134, 135, 136, 143, 151, 152)
_PROTOCOLS: Final = (2, 4, 33, 41, 50, 89, 103, 112, 253, 255)


def _turns(rng: Random) -> list[int]:
    """Who speaks when; the client mostly begins."""
    first = CLIENT if rng.random() < 0.8 else SERVER
    return [first] + [rng.choice((CLIENT, SERVER)) for _ in range(rng.randint(0, 7))]


def udp(rng: Random, pair: Pair) -> Conversation:
    """Datagrams, among them those with a wrong sum, none, or a length that lies."""
    ports = (rng.randint(1024, 65535), rng.choice((53, 53, 53, 9999)))
    steps: Conversation = []
    for side in _turns(rng):
        source, target = pair.address[side], pair.address[1 - side]
        data = bytes(rng.choice((0, 1, 2, 3, 64, 500)))
        chance = rng.random()
        text, options = "udp", {}
        if chance < 0.06:
            text, options = "udp bad checksum", {"spoilt": True}
        elif chance < 0.12:
            text, options = "udp no checksum", {"unsummed": True}
        raw = packets.udp(source, ports[side], target, ports[1 - side], data, **options)
        if chance > 0.93:
            length = rng.choice((0, 7, 8, 8 + len(data) - 1, 8 + len(data) + 1, 65535)) & 0xFFFF
            raw = packets.udp(source, ports[side], target, ports[1 - side], data, length=length)
            text = f"udp length={length} of {8 + len(data)}"
        steps.append(Step(side, raw, f"{text} len={len(data)}"))
    spoil(rng, steps)
    return steps


def udplite(rng: Random, pair: Pair) -> Conversation:
    """UDP-Lite with full and partial coverage, and with coverage that cannot be."""
    ports = (rng.randint(1024, 65535), 5004)
    steps: Conversation = []
    for side in _turns(rng):
        source, target = pair.address[side], pair.address[1 - side]
        data = bytes(rng.getrandbits(8) for _ in range(rng.choice((0, 1, 13, 100))))
        total = 8 + len(data)
        coverage = rng.choice((0, 0, 8, 8, total, min(total, 11)))
        if rng.random() < 0.1:
            coverage = rng.choice((1, 7, total + 1, 65535))
        dirty = bool(data) and rng.random() < 0.2
        spoilt, unsummed = rng.random() < 0.06, rng.random() < 0.06
        raw = packets.udplite(
            source, ports[side], target, ports[1 - side], data, coverage, spoilt, unsummed=unsummed, dirty=dirty
        )
        words = [
            name for name, is_so in (("dirty", dirty), ("bad checksum", spoilt), ("no checksum", unsummed)) if is_so
        ]
        steps.append(Step(side, raw, f"udplite coverage={coverage} of {total} {' '.join(words)}"))
    spoil(rng, steps)
    return steps


def icmp(rng: Random, pair: Pair) -> Conversation:
    """Queries and answers, other types and codes among them; over IPv6 also what is never tracked."""
    ids = [rng.getrandbits(16) for _ in range(rng.choice((1, 1, 2)))]
    types = _V6_TYPES if pair.ipv6 else _V4_TYPES
    steps: Conversation = []
    wanted: list[int] = []
    for side in _turns(rng):
        source, target = pair.address[side], pair.address[1 - side]
        kind = rng.choice(types)
        if wanted and rng.random() < 0.5:  # the answer to what was asked
            kind = wanted.pop()
        answers = {8: 0, 13: 14, 15: 16, 17: 18, 128: 129, 139: 140}
        if kind in answers:
            wanted.append(answers[kind])
        if pair.ipv6 and rng.random() < 0.15:
            kind = rng.choice(_UNTRACKED)
        code = rng.choice((0, 0, 0, 0, 0, 0, 1, 255))
        spoilt = rng.random() < 0.08
        rest = struct.pack("!HH", rng.choice(ids), 1)
        raw = packets.icmp(source, target, kind, code, rest, bytes(rng.choice((0, 1, 24, 56))), spoilt)
        text = f"icmp {kind}/{code}{' bad checksum' if spoilt else ''}"
        if rng.random() < 0.03:
            size = rng.choice((0, 1, 4, 7))
            message = raw[40:] if pair.ipv6 else raw[20:]
            proto = packets.ICMPV6 if pair.ipv6 else packets.ICMP
            raw = packets.ip(source, target, proto, message[:size])
            text += f" cut to {size}"
        steps.append(Step(side, raw, text))
    spoil(rng, steps)
    return steps


def generic(rng: Random, pair: Pair) -> Conversation:
    """Protocols without ports: each is one connection per pair of addresses."""
    protocols = rng.sample(_PROTOCOLS, 2)
    steps: Conversation = []
    for side in _turns(rng):
        proto = rng.choice(protocols)
        payload = rng.randbytes(rng.choice((0, 1, 8, 40)))
        raw = packets.ip(pair.address[side], pair.address[1 - side], proto, payload)
        steps.append(Step(side, raw, f"protocol {proto} len={len(payload)}"))
    spoil(rng, steps)
    return steps
