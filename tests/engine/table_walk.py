"""Is a table what its essay says? Looks behind its methods: they are what is being asked about."""

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import ASSURED, CONFIRMED, DYING
from ctfw.conntrack.table import Table


def check_table(table: Table) -> None:
    """Fails unless every connection stands under both of its keys, is counted once, and is listed if unassured."""
    places = [(key, conn) for shard in table._shards for key, conn in shard.items()]
    conns = {id(conn): conn for _, conn in places}
    assert len(table) == len(conns)
    assert len(places) == sum(len({conn.key, conn.reply_key}) for conn in conns.values())
    for key, conn in places:
        assert key in (conn.key, conn.reply_key)
        assert conn.status & (CONFIRMED | DYING) == CONFIRMED
    assert sorted(map(id, listed(table))) == sorted(id(c) for c in conns.values() if not c.status & ASSURED)
    by_shard = [conn for number in range(table.shards) for conn in table.shard(number)]
    assert sorted(map(id, by_shard)) == sorted(conns)


def listed(table: Table) -> list[Conn]:
    """The unassured, from the oldest on; fails when the list's two directions disagree or it is out of order."""
    found: list[Conn] = []
    before: Conn | None = None
    at = table._oldest
    while at is not None:
        assert at.previous is before
        assert before is None or before.created <= at.created
        found.append(at)
        before, at = at, at.next
    assert table._newest is before
    return found
