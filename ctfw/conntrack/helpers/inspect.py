"""Helpers: they read a connection's payload after it was accepted, and announce the connections that belong to it.

``inspect`` picks the helper of a connection. A helper answers 0, or the reason why the packet must not go on: a command
of which only a part is here, or an announcement for which there is no room. It sees what the kernel copied; of a packet
that was cut it judges the head. CONNTRACK.md section 6 has the details of each, as measured.
"""

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectations
from ctfw.conntrack.helpers import ftp, irc, tftp
from ctfw.conntrack.settings import FTP, IRC, TFTP, Settings
from ctfw.packet import Packet


def inspect(conn: Conn, packet: Packet, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """Runs the connection's helper on an accepted packet of it; 0, or the reason to drop it after all."""
    if conn.helper == FTP:
        return ftp.inspect(conn, packet, expectations, settings, now)
    if conn.helper == IRC:
        return irc.inspect(conn, packet, expectations, settings, now)
    if conn.helper == TFTP:
        return tftp.inspect(conn, packet, expectations, settings, now)
    return 0
