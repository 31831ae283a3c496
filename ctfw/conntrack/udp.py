"""UDP (RFC 768) and UDP-Lite (RFC 3828): no handshake, so a connection is known by who has answered, and for how long.

A UDP connection lives ``udp_timeout`` until it was answered. It is a stream, ASSURED and with the longer
``udp_timeout_stream``, once a packet comes more than two seconds after its creation: a lookup is over by then, and must
not hold its entry for minutes. UDP-Lite knows no such grace (docs/state-machine.md, "UDP and UDP-Lite").
"""

from typing import Final

from mypy_extensions import i64

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ASSURED, SEEN_REPLY
from ctfw.packet import UDPLITE, Packet, read16

_GRACE: Final = 2_000_000_000

# What ``track`` may answer besides 0: the connection is to be ASSURED from now on.
ASSURE: Final = -3


def check(packet: Packet) -> i64:
    """The reason why a datagram is INVALID whatever its connection, or 0."""
    left = packet.end - packet.l4
    if left < 8 or len(packet.data) - packet.l4 < 8:
        return reason.UDP_LENGTH
    length = read16(packet.data, packet.l4 + 4)
    if packet.more:
        return 0  # the rest of the datagram is still to come
    if packet.proto == UDPLITE:
        if read16(packet.data, packet.l4 + 6) == 0:
            return reason.CHECKSUM  # RFC 3828 section 3.1: there must be one
        if length == 0:
            return 0  # covers the whole packet
        return reason.UDP_LENGTH if length < 8 or length > left else 0
    return reason.UDP_LENGTH if length < 8 or length > left else 0


def track(conn: Conn, is_lite: bool, now: i64, settings: Settings) -> i64:
    """Refreshes the connection for one datagram; 0 or ASSURE. SEEN_REPLY must not yet count this datagram."""
    if conn.status & SEEN_REPLY == 0:
        conn.expires = now + settings.udp_timeout
        return 0
    if not is_lite and now - conn.created <= _GRACE:
        conn.expires = now + settings.udp_timeout
        return 0
    conn.expires = now + settings.udp_timeout_stream
    return ASSURE if conn.status & ASSURED == 0 else 0
