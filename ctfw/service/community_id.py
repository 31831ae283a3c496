"""Community ID, version 1: one short name for a flow that Suricata, Zeek, Wireshark and SIEMs all arrive at.

The specification: https://github.com/corelight/community-id-spec. A hash (SHA-1, in base64) over the addresses, the
protocol and the ports, the lesser end first so that both directions have one name. ICMP has types and codes where
others have ports: a query's and its answer's types stand for the ends, and a message that has no answer is not turned.
The seed is 0, as everybody has it.
"""

from __future__ import annotations

import hashlib
import struct
from base64 import b64encode
from typing import Final

from ctfw.packet import ICMP, ICMPV6, SCTP, TCP, UDP

_SEED: Final = b"\0\0"
_WITH_PORTS: Final = (TCP, UDP, SCTP)


def _both(pairs: tuple[tuple[int, int], ...]) -> dict[int, int]:
    return dict(pairs) | {answer: query for query, answer in pairs}


# Query and answer: echo, router, timestamp, information, mask; in IPv6 echo, multicast listener, router, neighbour,
# node information, home agent.
_COUNTERPARTS: Final = {
    ICMP: _both(((8, 0), (10, 9), (13, 14), (15, 16), (17, 18))),
    ICMPV6: _both(((128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145))),
}


def community_id(proto: int, src: bytes, dst: bytes, first: int, second: int) -> str:
    """The flow's name. ``first`` and ``second``: source and destination port, or ICMP type and code; else ignored."""
    ends = src, dst
    ports = first, second
    if proto in _COUNTERPARTS:
        answer = _COUNTERPARTS[proto].get(first)
        turned = answer is not None and (dst, answer) < (src, first)
        ports = (first, second) if answer is None else (first, answer)
    elif proto in _WITH_PORTS:
        turned = (dst, second) < (src, first)
    else:
        turned = dst < src
    if turned:
        ends, ports = ends[::-1], ports[::-1]
    data = _SEED + ends[0] + ends[1] + bytes([proto, 0])
    if proto in _COUNTERPARTS or proto in _WITH_PORTS:
        data += struct.pack("!HH", *ports)
    return "1:" + b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode("ascii")
