"""Which interfaces see only one direction of their connections: how many of those that came by each have no answer.

Where packets of a connection go one way and their answers another (two routers, a bonded line, a VPN that comes back by
the front door), a firewall sees half of it: TCP never gets beyond its first packet. A connection does not remember the
interface that it came by, so its place is asked of the routing table (``routes``).

Runs on the daemon's loop, a slice a turn, and looks at MOST connections; the table is shuffled by its secret, so these
are a fair sample. Those younger than GRACE may still be answered and are left out.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Final

from ctfw.conntrack.record import Tuple
from ctfw.conntrack.state import DYING, SEEN_REPLY
from ctfw.engine import Engine
from ctfw.packet import TCP
from ctfw.service.pages import LOOK, SLICE
from ctfw.service.routes import Routes
from ctfw.service.session import Method, Session

MOST: Final = 20_000
GRACE: Final = 1_000_000_000


def method(engine: Engine) -> Method:
    """The control socket's method: TCP connections by the interface that they came by, "" for our own."""
    return lambda params, session: _count(engine, session)


def _count(engine: Engine, session: Session) -> Generator[None, None, dict[str, Any]]:
    table = engine.tracker.table
    found: dict[str, dict[str, int]] = {}
    looked = seen = 0
    until = time.monotonic_ns() + SLICE
    with Routes() as routes:
        for number in range(table.shards):
            if seen >= MOST or not session.is_open:
                break
            for conn in table.shard(number):
                looked += 1
                if looked % LOOK == 0 and time.monotonic_ns() > until:
                    yield
                    until = time.monotonic_ns() + SLICE
                now = time.monotonic_ns()
                if conn.key[0] != TCP or conn.status & DYING or conn.expires <= now or now - conn.created < GRACE:
                    continue
                seen += 1
                original = Tuple(conn.key)
                _, indev, _ = routes.place(original.src, original.dst)
                counts = found.setdefault(indev, {"tcp": 0, "unanswered": 0})
                counts["tcp"] += 1
                counts["unanswered"] += not conn.status & SEEN_REPLY
    return {"interfaces": found, "looked": seen}
