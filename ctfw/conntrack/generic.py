"""Protocols without a tracker of their own, and GRE: a connection is a pair of addresses that talk in this protocol.

GRE (RFC 2784) is ASSURED and lives longer once it was answered; the rest never is (CONNTRACK.md section 4).
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ASSURED, SEEN_REPLY

# What ``track_gre`` may answer besides 0: the connection is to be ASSURED from now on.
ASSURE: Final = -3


def track(conn: Conn, now: i64, settings: Settings) -> None:
    """Refreshes the connection for one packet."""
    conn.expires = now + settings.generic_timeout


def track_gre(conn: Conn, now: i64, settings: Settings) -> i64:
    """Refreshes a GRE connection for one packet; 0 or ASSURE. SEEN_REPLY must not yet count this packet."""
    if conn.status & SEEN_REPLY == 0:
        conn.expires = now + settings.gre_timeout
        return 0
    conn.expires = now + settings.gre_timeout_stream
    return ASSURE if conn.status & ASSURED == 0 else 0
