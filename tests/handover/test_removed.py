"""What was taken out by hand does not come back with a crash, whichever moment of the record it comes in."""

from collections.abc import Callable

import pytest
from engine.conversation import Gateway, Tcp, Udp
from engine.test_gre_pptp import Pptp
from handover.lives import Record, reborn, saving

from ctfw.conntrack.conn import Conn
from ctfw.service.peers import Peer
from ctfw.service.removal import Removal
from ctfw.service.saving import Saving
from ctfw.service.session import Session
from ctfw.service.snapshot import KILLED, SHARD, keys_of_bytes, keys_to_bytes

MOMENTS = ["complete", "begun", "written"]


def put_on_record(gateway: Gateway, saver: Saving, record: Record, moment: str) -> None:
    """The whole table; then, perhaps, the next cycle has begun, or has written every shard but not its end."""
    saver.begin(gateway.now)
    saver.step(gateway.now)
    if moment != "complete":
        saver.begin(gateway.now)
    if moment == "written":
        assert saver._work is not None
        while sum(frame.kind == SHARD for frame in record.logs()[0].frames) < gateway.tracker.table.shards:
            next(saver._work)


def forget(gateway: Gateway, conn: Conn) -> None:
    gateway.tracker.remove(conn, gateway.now)


def cut(gateway: Gateway, conn: Conn) -> None:
    gateway.tracker.kill(conn, False, gateway.now)


@pytest.mark.parametrize("take_out", [forget, cut])
@pytest.mark.parametrize("moment", MOMENTS)
def test_it_does_not_come_back(moment: str, take_out: Callable[[Gateway, Conn], None]) -> None:
    gateway = Gateway()
    talk, other = Tcp(gateway).opened(), Tcp(gateway, sport=40001).opened()
    with saving(gateway) as (saver, record):
        put_on_record(gateway, saver, record, moment)
        take_out(gateway, talk.conn)
        assert saver.note_removed(gateway.now) and not saver.note_removed(gateway.now)
        logs = record.logs()
        assert logs[0].is_complete() == (moment == "complete")
        reborn(gateway, *logs)
        assert (talk.entry, bool(other.entry)) == ("", True)
        assert gateway.tracker.killed.count == (take_out is cut)
        # The copy on disk is one of the log that was complete.
        reborn(gateway, next(log for log in logs if log.is_complete()))
    assert (talk.entry, bool(other.entry)) == ("", True)
    said = talk.client("psh ack", b"still there?")
    assert said.reason == ("killed" if take_out is cut else "")


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_that_came_anew_is_kept(moment: str) -> None:
    gateway = Gateway()
    talk = Udp(gateway)
    talk.client()
    with saving(gateway) as (saver, record):
        put_on_record(gateway, saver, record, moment)
        forget(gateway, gateway.conns[0])
        saver.note_removed(gateway.now)
        talk.client().is_new()
        talk.server()
        for _ in range(10):  # a second
            saver._write_young(gateway.now, gateway.now + 1)
        reborn(gateway, *record.logs())
    assert talk.entry == "30"  # the new one was answered


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_that_opened_anew_after_it_was_cut_is_not_cut(moment: str) -> None:
    gateway = Gateway()
    talk = Tcp(gateway).opened()
    with saving(gateway) as (saver, record):
        cut(gateway, talk.conn)
        put_on_record(gateway, saver, record, moment)
        again = Tcp(gateway).opened()
        saver.note_removed(gateway.now)
        reborn(gateway, *record.logs())
        assert gateway.tracker.killed.count == 0
        again.client("ack", b"hello").is_new()  # taken up in the middle


@pytest.mark.parametrize("moment", MOMENTS)
def test_flush_takes_all_and_what_was_cut_is_not_cut_any_more(moment: str) -> None:
    gateway = Gateway()
    gateway.now = 1 << 62  # ahead of any clock: nothing expires here
    talk, other = Tcp(gateway).opened(), Tcp(gateway, sport=40001).opened()
    cut(gateway, talk.conn)
    with saving(gateway) as (saver, record):
        put_on_record(gateway, saver, record, moment)
        removal = Removal(gateway.tracker, lambda: saver.note_removed(gateway.now))
        for _ in removal.flush({}, Session(Peer(1, 0, frozenset()))):
            pass
        reborn(gateway, *record.logs())
    assert (talk.entry, other.entry, gateway.tracker.killed.count) == ("", "", 0)


def test_the_tunnel_of_a_deleted_control_connection_stays_away_too() -> None:
    call = Pptp().calls_out()
    call.from_client()
    gateway = call.gateway
    with saving(gateway) as (saver, record):
        put_on_record(gateway, saver, record, "complete")
        assert len(gateway.conns) == 2
        forget(gateway, call.control.conn)
        saver.note_removed(gateway.now)
        assert reborn(gateway, *record.logs()).connections == 0


def test_what_was_cut_is_known_as_it_was_known_last() -> None:
    gateway = Gateway()
    talk = Udp(gateway)
    talk.client()
    with saving(gateway) as (saver, record):
        cut(gateway, gateway.conns[0])
        put_on_record(gateway, saver, record, "complete")
        gateway.wait(250)
        talk.client().is_dropped_unasked("killed")  # so it goes on being cut for as long again
        put_on_record(gateway, saver, record, "written")
        gateway.wait(200)
        logs = record.logs()
        assert sum(frame.kind == KILLED for log in logs for frame in log.frames) == 2
        reborn(gateway, *logs)
    talk.client().is_dropped_unasked("killed")


def test_what_dies_of_itself_is_not_noted() -> None:
    gateway = Gateway()
    with saving(gateway) as (saver, _):
        saver.begin(gateway.now)
        Udp(gateway).client()
        Tcp(gateway).opened().client("rst ack")
        gateway.wait(1000)
        gateway.sweep()
        assert not gateway.conns and not saver.note_removed(gateway.now)


def test_keys_go_there_and_back() -> None:
    keys = [bytes(13), b"x" * 39, b"", b"y" * 255]
    assert keys_of_bytes(keys_to_bytes(keys)) == keys
    with pytest.raises(ValueError, match="ends early"):
        keys_of_bytes(keys_to_bytes(keys)[:-1])
