"""TFTP (RFC 1350): a read or write request is answered from another port of the server."""

from typing import Final

from mypy_extensions import i64

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectation, Expectations
from ctfw.conntrack.settings import SECOND, TFTP, Settings
from ctfw.packet import UDP, Packet, read16

_LIFETIME: Final = 300 * SECOND
_MOST: Final = 1
_READ_REQUEST: Final = 1
_WRITE_REQUEST: Final = 2


def inspect(conn: Conn, packet: Packet, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """Reads one datagram; 0, or the reason to drop it. It may be the one that opens the connection."""
    at = packet.l4 + 8
    if packet.end < at + 2 or len(packet.data) < at + 2:
        return 0
    opcode = read16(packet.data, at)
    if opcode != _READ_REQUEST and opcode != _WRITE_REQUEST:
        return 0
    # The reply tuple: from the server (any port) to the client's address and port.
    key = conn.reply_key
    half = (len(key) - 5) >> 1
    src = key[1 : 1 + half]
    dst = key[1 + half : 1 + 2 * half]
    one = Expectation(conn, UDP, src, dst, key[3 + 2 * half :], now + _LIFETIME, TFTP)
    return 0 if expectations.add(one, _MOST, settings.expect_max, now) else reason.HELPER_EXPECT_FULL
