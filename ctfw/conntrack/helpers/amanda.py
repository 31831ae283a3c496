"""Amanda's backup protocol (security "bsd"): the client names the TCP ports on which it waits for the server.

``CONNECT DATA 50000 MESG 50001 INDEX 50002`` in an answer to the server, which opened the connection and may then reach
these ports from its own address. The client may take minutes for an answer, so each one keeps the connection alive for
five. docs/state-machine.md, "Helpers and expectations".
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectation, Expectations, Policy
from ctfw.conntrack.settings import AMANDA, SECOND, Settings
from ctfw.packet import REPLY, TCP, Packet

POLICY: Final = Policy(AMANDA, "", 4, 180 * SECOND)
_MASTER_LIFETIME: Final = 300 * SECOND
_STREAMS: Final = (b"DATA ", b"MESG ", b"INDEX ", b"STATE ")
_PORT_DIGITS: Final = 5


def inspect(conn: Conn, packet: Packet, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """Reads one datagram of the client; 0, or the reason to drop it."""
    if packet.direction != REPLY:
        return 0
    conn.expires = now + _MASTER_LIFETIME
    data = packet.data[: packet.end]
    start = data.find(b"CONNECT ", packet.l4 + 8)
    if start < 0:
        return 0
    start += 8
    stop = data.find(b"\n", start)
    if stop < 0:
        return 0
    answer: i64 = 0
    for stream in _STREAMS:
        at = data.find(stream, start, stop)
        if at < 0:
            continue
        at += len(stream)
        port = _port(data, at, min(at + _PORT_DIGITS, stop))
        if port == 0:
            break
        # The server waits where it sent from: packet.dst is the server, packet.src the client.
        one = Expectation(conn, POLICY, TCP, packet.dst, packet.src, int(port).to_bytes(2, "big"), now)
        why = expectations.require(one, settings.expect_max, now)
        if why != 0:
            answer = why
    return answer


def _port(data: bytes, at: i64, stop: i64) -> i64:
    """The decimal number from ``at`` on, as the kernel keeps it: in 16 bits."""
    port: i64 = 0
    while at < stop and 48 <= data[at] <= 57:
        port = port * 10 + data[at] - 48
        at += 1
    return port & 0xFFFF
