"""SANE's network protocol (scanners): the answer to NET_START names the TCP port of the image data.

All numbers are big-endian. A request is eight bytes when it is one that matters, code and handle; the next answer
starts with the status and the port, each four bytes. docs/state-machine.md, "Helpers and expectations".
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectation, Expectations, Policy
from ctfw.conntrack.settings import SANE, SECOND, Settings
from ctfw.conntrack.state import ESTABLISHED
from ctfw.packet import ORIGINAL, TCP, Packet, read32

POLICY: Final = Policy(SANE, "", 1, 300 * SECOND)
_NET_START: Final = 7
_REQUEST_SIZE: Final = 8
_ANSWER_SIZE: Final = 8


def inspect(conn: Conn, packet: Packet, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """Reads one segment; 0, or the reason to drop it. ``helper_data`` is [1] while the answer to NET_START is due."""
    if packet.state != ESTABLISHED:
        return 0
    data = packet.data
    offset: i64 = data[packet.l4 + 12]
    at = packet.l4 + ((offset >> 4) << 2)
    size = packet.end - at
    if size <= 0:
        return 0
    if packet.direction == ORIGINAL:
        if size == _REQUEST_SIZE and at + _REQUEST_SIZE <= len(data):
            conn.helper_data = [1] if read32(data, at) == _NET_START else None
        return 0
    if conn.helper_data is None:
        return 0
    conn.helper_data = None
    if size < _ANSWER_SIZE or at + _ANSWER_SIZE > len(data):
        return 0
    port = read32(data, at + 4)
    if read32(data, at) != 0 or port > 0xFFFF:
        return 0
    one = Expectation(conn, POLICY, TCP, packet.dst, packet.src, data[at + 6 : at + 8], now)
    return expectations.require(one, settings.expect_max, now)
