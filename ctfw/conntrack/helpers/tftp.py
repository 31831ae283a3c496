"""TFTP (RFC 1350): a read or write request is answered from another port of the server."""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectation, Expectations, Policy
from ctfw.conntrack.settings import SECOND, TFTP, Settings
from ctfw.packet import UDP, Packet, address_size, read16

POLICY: Final = Policy(TFTP, "", 1, 300 * SECOND)
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
    size = address_size(key)
    ports = 1 + 2 * size
    src = key[1 : 1 + size]
    dst = key[1 + size : ports]
    one = Expectation(conn, POLICY, UDP, src, dst, key[ports + 2 : ports + 4], now)
    return expectations.require(one, settings.expect_max, now)
