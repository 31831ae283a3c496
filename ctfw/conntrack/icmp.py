"""ICMP (RFC 792) and ICMPv6 (RFC 4443): queries that make connections, and errors that speak about others.

A query and its answer are a connection of their own, never ASSURED; its tuple holds identifier, type and code. An error
quotes a packet: it is RELATED to that packet's connection, on which it leaves no trace (no SEEN_REPLY, no refresh).
Neighbour discovery and multicast listener messages (RFC 4861, RFC 2710, RFC 3810, RFC 4286) are UNTRACKED.
"""

from typing import Final

from mypy_extensions import i64

from ctfw import reason
from ctfw.packet import AF_INET, ICMP, ICMPV6, Packet, decode_quoted

# Types above this one are not assigned (as far as the kernel is concerned).
_ICMP_HIGHEST: Final = 18
_ICMP_QUERIES: Final = (8, 13, 15, 17)
_ICMPV6_QUERIES: Final = (128, 139)
_ICMP_ERRORS: Final = (3, 4, 5, 11, 12)
_REDIRECT: Final = 137
_UNTRACKED: Final = (130, 131, 132, 133, 134, 135, 136, 143, 151, 152)

# What a message is, as ``classify`` says it; a reason is any other number above 0.
QUERY: Final = 0
ERROR: Final = -1
UNTRACK: Final = -2

_REDIRECTED_HEADER: Final = 4
_LINK_LOCAL: Final = 0xFE80


def classify(packet: Packet) -> i64:
    """QUERY (track it by its own tuple), ERROR (by the packet that it quotes), UNTRACK, or why it is INVALID."""
    kind: i64 = packet.data[packet.l4]
    if packet.proto == ICMP:
        if packet.family != AF_INET:
            return reason.ICMP_NEW
        if kind > _ICMP_HIGHEST:
            return reason.ICMP_TYPE
        return ERROR if is_in(kind, _ICMP_ERRORS) else QUERY
    if packet.family == AF_INET:
        return reason.ICMP_NEW
    if is_in(kind, _UNTRACKED):
        return UNTRACK
    if kind < 128:
        return ERROR
    if kind == _REDIRECT and packet.data[packet.l4 + 1] == 0:
        return ERROR
    return QUERY


def is_query(proto: i64, kind: i64) -> bool:
    """True for the types that may open a connection."""
    return is_in(kind, _ICMP_QUERIES) if proto == ICMP else is_in(kind, _ICMPV6_QUERIES)


def quoted_key(packet: Packet) -> bytes:
    """The key of the packet that an error quotes; empty when there is none to read."""
    data = packet.data
    at = packet.l4 + 8
    if packet.proto == ICMPV6 and data[packet.l4] == _REDIRECT:
        return _redirected_key(packet)
    return decode_quoted(data, at, packet.family)


def _redirected_key(packet: Packet) -> bytes:
    """The key of the packet in a redirect's redirected-header option (RFC 4861 sections 4.5 and 8.1)."""
    data = packet.data
    source: i64 = data[8]
    if data[7] != 255 or source != _LINK_LOCAL >> 8 or data[9] & 0xC0 != 0x80:
        return b""
    at = packet.l4 + 40
    # Measured: only the first option counts, and how long it says it is does not, but for zero.
    if at + 8 > packet.end or at + 8 > len(data) or data[at] != _REDIRECTED_HEADER or data[at + 1] == 0:
        return b""
    return decode_quoted(data, at + 8, packet.family)


def is_in(number: i64, members: tuple[int, ...]) -> bool:
    """True when ``number`` is one of ``members``."""
    for member in members:
        if number == member:
            return True
    return False
