"""SNMP by broadcast (RFC 3411 and before): agents are looked for in a whole network. As netbios_ns, for port 161."""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectations, Policy
from ctfw.conntrack.helpers.netbios_ns import expect_answers
from ctfw.conntrack.settings import SECOND, SNMP, Settings
from ctfw.packet import Packet

POLICY: Final = Policy(SNMP, "", 1, 30 * SECOND)
_SERVICE: Final = b"\0\xa1"  # port 161


def inspect(conn: Conn, packet: Packet, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """Reads one datagram; always 0."""
    expect_answers(conn, packet, POLICY, _SERVICE, expectations, settings, now)
    return 0
