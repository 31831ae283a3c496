"""Helpers: they read a connection's payload after it was accepted, and announce the connections that belong to it.

``inspect`` picks the helper of a connection. A helper answers 0, or the reason why the packet must not go on: a command
of which only a part is here, one that makes no sense, or an announcement for which there is no room. It sees what the
kernel copied; of a packet that was cut it judges the head. The work is bounded by the packet's length: searches go
forward only. docs/state-machine.md, "Helpers and expectations", has the details of each, as measured.
"""

from mypy_extensions import i64

from ctfw.conntrack import gre
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectations
from ctfw.conntrack.helpers import amanda, ftp, irc, netbios_ns, pptp, sane, sip, snmp, tftp
from ctfw.conntrack.settings import AMANDA, FTP, IRC, NETBIOS_NS, PPTP, SANE, SIP, SNMP, TFTP, Settings
from ctfw.conntrack.table import Table
from ctfw.packet import Packet


def inspect(
    conn: Conn, packet: Packet, expectations: Expectations, calls: gre.Calls, table: Table, settings: Settings, now: i64
) -> i64:
    """Runs the connection's helper on an accepted packet of it; 0, or the reason to drop it after all."""
    helper = conn.helper
    if helper == FTP:
        return ftp.inspect(conn, packet, expectations, settings, now)
    if helper == SIP:
        return sip.inspect(conn, packet, expectations, settings, now)
    if helper == IRC:
        return irc.inspect(conn, packet, expectations, settings, now)
    if helper == TFTP:
        return tftp.inspect(conn, packet, expectations, settings, now)
    if helper == AMANDA:
        return amanda.inspect(conn, packet, expectations, settings, now)
    if helper == SANE:
        return sane.inspect(conn, packet, expectations, settings, now)
    if helper == NETBIOS_NS:
        return netbios_ns.inspect(conn, packet, expectations, settings, now)
    if helper == SNMP:
        return snmp.inspect(conn, packet, expectations, settings, now)
    if helper == PPTP:
        pptp.inspect(conn, packet, expectations, calls, table, settings, now)
    return 0
