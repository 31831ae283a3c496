"""The packet with which a connection that was accepted under older rules began, for asking the new ones about it.

The idea is nebula's: after a reload each connection is judged again, once, at its next packet, in the direction in
which it was opened. The next packet may be an answer, so the first one is made up from what the connection knows:

* protocol, addresses and ports (ICMP: type and code) from its original tuple; TCP flags are those of an opening;
* TTL, DSCP and length are those of the packet at hand, for lack of better ones, and its MAC address and mark when it
  goes in the original direction, too;
* an answer's interfaces are taken the other way round, and so are input and output: what came in by lan0 is answered
  by lan0. Where routing is asymmetric that guess is wrong, and ``existing: keep`` is the word to use.

The state is NEW, or RELATED where a helper expected it. Rates and numbers of connections do not count: the connection
does not open now. Mode AGAIN of ``question`` stands for that.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import EXPECTED, NEW, RELATED
from ctfw.packet import (
    AF_INET,
    BYTE,
    FORWARD,
    ICMP,
    ICMPV6,
    INPUT,
    ORIGINAL,
    OUTPUT,
    REPLY,
    TCP,
    Packet,
    address_size,
    decode,
)

_SYN: Final = bytes(8) + b"\x50\x02" + bytes(6)  # sequence numbers, flags, window, checksum, pointer


def opening(conn: Conn, at_hand: Packet) -> Packet:
    """A packet as it may have opened ``conn``, of which ``at_hand`` is one."""
    key = conn.key
    size = address_size(key)
    proto: i64 = key[0]
    addresses = key[1 : 1 + 2 * size]
    parts = key[1 + 2 * size : 5 + 2 * size]
    body = parts + bytes(12)
    if proto == TCP:
        body = parts + _SYN
    elif proto == ICMP or proto == ICMPV6:
        body = parts[2:4] + bytes(2) + parts[0:2] + bytes(2)
    head = at_hand.data
    length: i64 = len(body)
    if size == 4:
        total: i64 = 20 + length
        ttl = head[8:9] if at_hand.family == AF_INET else b"\x40"
        tos = head[1:2] if at_hand.family == AF_INET else b"\0"
        data = b"\x45" + tos + b"\0" + BYTE[total] + bytes(4) + ttl + BYTE[proto] + bytes(2) + addresses + body
    else:
        hops = head[7:8] if at_hand.family != AF_INET else b"\x40"
        first = head[0:2] if at_hand.family != AF_INET else b"\x60\0"
        data = first + bytes(2) + b"\0" + BYTE[length] + BYTE[proto] + hops + addresses + body
    packet = decode(data, len(data))
    packet.length = at_hand.length
    packet.state = RELATED if conn.status & EXPECTED else NEW
    packet.direction = ORIGINAL
    return packet


def opening_hook(hook: i64, direction: i64) -> i64:
    """Where the first packet of a connection was caught when one of this direction was caught at ``hook``."""
    if direction != REPLY:
        return hook
    return OUTPUT if hook == INPUT else INPUT if hook == OUTPUT else FORWARD
