"""Headers that are rare or wrong: IPv4 options, IPv6 extension headers, transport headers that are cut."""

from random import Random
from typing import Final

from kernel import packets
from kernel.conversations.step import CLIENT, SERVER, Conversation, Pair, Step, spoil

_DESTINATION: Final = (60, b"\0\1\4\0\0\0\0")
_LONG: Final = (60, b"\1\1\x0c" + bytes(12))
_HOP_BY_HOP: Final = (0, b"\0\1\4\0\0\0\0")
_ROUTING: Final = (43, b"\0\xfe\0\0\0\0\0")  # a type that nobody knows, with no segments left
_AUTHENTICATION: Final = (51, b"\4\0\0" + bytes(20))
_ATOMIC: Final = (44, b"\0\0\0\0\0\0\7")  # a fragment that is the whole packet (RFC 6946)
_LIES: Final = (60, b"\x20\1\4\0\0\0\0")  # longer than the packet
_CHAINS: Final = (
    (_DESTINATION,),
    (_LONG,),
    (_HOP_BY_HOP,),
    (_HOP_BY_HOP, _DESTINATION),
    (_ROUTING,),
    (_AUTHENTICATION,),
    (_AUTHENTICATION, _DESTINATION),
    (_DESTINATION, _DESTINATION, _LONG),
    (_ATOMIC,),
    (_DESTINATION, _ATOMIC),
    (_ATOMIC, _DESTINATION),
    (_LIES,),
)


def odd(rng: Random, pair: Pair) -> Conversation:
    """Two ends that use such headers, or a stranger's packets."""
    steps: Conversation = []
    port = rng.randint(1024, 65535)
    for _ in range(rng.randint(2, 6)):
        side = rng.choice((CLIENT, CLIENT, SERVER))
        steps.append(_packet(rng, pair, side, (port, 53) if side == CLIENT else (53, port)))
    spoil(rng, steps)
    return steps


def _packet(rng: Random, pair: Pair, side: int, ports: tuple[int, int]) -> Step:
    source, target = pair.address[side], pair.address[1 - side]
    ends = (source, ports[0], target, ports[1])
    head = 40 if pair.ipv6 else 20
    proto, plain = rng.choice(
        (
            (packets.UDP, packets.udp(*ends, b"data" * 5)),
            (packets.UDP, packets.udp(*ends, b"data" * 5)),
            (packets.TCP, packets.tcp(*ends, "A", 1000, 2000)),
            (packets.ICMPV6, packets.icmp(source, target, 128 + side, 0, b"\0\1\0\1"))
            if pair.ipv6
            else (packets.ICMP, packets.icmp(source, target, 8 * (1 - side), 0, b"\0\1\0\1")),
            (50, packets.ip(source, target, 50, b"\0\1\2\3\4\5\6\7")),
        )
    )
    body = plain[head:]
    how = rng.random()
    if how < 0.35:
        size = rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 12, 19, 20))
        return Step(side, packets.ip(source, target, proto, body[:size]), f"protocol {proto} cut to {size}")
    if how < 0.45:
        return Step(side, plain, f"protocol {proto}")
    if how < 0.5:
        wrong = packets.ICMP if pair.ipv6 else packets.ICMPV6
        kind = rng.choice((0, 3, 8, 128, 129, 135))
        raw = packets.ip(source, target, wrong, bytes([kind, 0, 0, 0, 0, 1, 0, 1]) + bytes(40))
        return Step(side, raw, f"the other family's ICMP, type {kind}")
    if not pair.ipv6:
        options = rng.choice((b"\1\1\1\0", b"\1\1\1\1\1\1\1\0", b"\x94\4\0\0"))
        return Step(side, packets.ip(source, target, proto, body, options=options), f"protocol {proto} with options")
    if how < 0.55:
        return Step(side, packets.ip(source, target, 59, body), "no next header")
    chain = rng.choice(_CHAINS)
    raw = packets.extensions(source, target, chain, proto, body)
    if rng.random() < 0.1:
        size = rng.randint(0, 8 * len(chain))
        raw = packets.ip(source, target, chain[0][0], raw[40 : 40 + size])
        return Step(side, raw, f"chain {[number for number, _ in chain]} cut to {size}")
    return Step(side, raw, f"chain {[number for number, _ in chain]} protocol {proto}")
