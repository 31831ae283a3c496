"""After a trial the old rules look again at what the tried ones have let in, while packets bring new connections."""

from itertools import count

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.tracker import ConnTrack
from ctfw.service.aside import Aside
from ctfw.service.reloading import NEVER, _look_again

TRIED = 7
HOUR = 3600 * 10**9


def test_connections_may_come_meanwhile() -> None:
    tracker = ConnTrack(Settings({"max": 0}))
    table = tracker.table
    numbers = count()

    def come(generation: int) -> Conn:
        number = next(numbers).to_bytes(4, "big")
        conn = Conn(b"\x11" + number + b"\x0a\0\0\1" + bytes(4), b"\x11" + b"\x0a\0\0\1" + number + bytes(4), 0)
        conn.expires = HOUR
        conn.generation = generation
        assert table.insert(conn, 0)
        return conn

    def turn() -> None:
        if len(turns) < 16:  # or a slow machine would never get to the end
            turns.append(1)
            for _ in range(1024):  # some in nearly each shard
                come(TRIED + 1)

    turns: list[int] = []
    tried = [come(TRIED) for _ in range(50_000)]
    Aside(turn).run(lambda: _look_again(tracker, TRIED, False, 1))
    assert {conn.generation for conn in tried} == {NEVER}
    assert len(table) == len(tried) + 1024 * len(turns)
