"""Protocols without a tracker of their own: a connection is a pair of addresses that talk in this protocol.

It is never ASSURED, answered or not (docs/state-machine.md, "All other protocols").
"""

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.settings import Settings


def track(conn: Conn, now: i64, settings: Settings) -> None:
    """Refreshes the connection for one packet."""
    conn.expires = now + settings.generic_timeout
