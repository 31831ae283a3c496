"""What was killed stays cut until its ends stop; what was only deleted may come back."""

import pytest
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, Gateway, Ping, Tcp, Udp

from ctfw.conntrack import killed
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.events import CAUSE_NAMES, Events
from ctfw.ruleset.verdict import TCP_RESET

QUIET = killed.QUIET // 1_000_000_000


def conn_of(gateway: Gateway) -> Conn:
    """The only connection."""
    (conn,) = (conn for number in range(256) for conn in gateway.tracker.table.shard(number))
    return conn


def kill(gateway: Gateway, tell: bool = False) -> None:
    gateway.tracker.kill(conn_of(gateway), tell, gateway.now)


def test_a_deleted_connection_is_taken_up_again_and_a_killed_one_is_not() -> None:
    gateway = Gateway()
    talk = Tcp(gateway).opened()
    gateway.tracker.remove(conn_of(gateway), gateway.now)
    talk.client("ack", b"still here").is_new()
    kill(gateway)
    talk.client("ack", b"and now").is_dropped_unasked("killed")
    talk.server("ack").is_dropped_unasked("killed")
    talk.server("fin ack").is_dropped_unasked("killed")
    assert talk.entry == "" and gateway.tracker.killed.count == 1


def test_its_ends_open_anew_with_a_syn() -> None:
    gateway = Gateway()
    talk = Tcp(gateway).opened()
    kill(gateway)
    talk.server("syn ack").is_dropped_unasked("killed")
    Tcp(gateway).opened()
    assert gateway.tracker.killed.count == 0


@pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT6, SERVER6)])
@pytest.mark.parametrize("kind", [Udp, Ping])
def test_datagrams_and_pings_are_cut_in_both_directions(kind: type[Udp] | type[Ping], ends: tuple[str, str]) -> None:
    gateway = Gateway()
    talk = kind(gateway, *ends)
    talk.client().is_new()
    kill(gateway)
    talk.client().is_dropped_unasked("killed")
    talk.server().is_dropped_unasked("killed")
    Udp(gateway, sport=1).client().is_new()  # nobody else


def test_until_nobody_has_tried_for_a_while() -> None:
    gateway = Gateway()
    talk = Udp(gateway)
    talk.client()
    kill(gateway)
    for _ in range(3):
        gateway.wait(QUIET - 1)
        talk.client().is_dropped_unasked("killed")
    gateway.wait(QUIET + 1)
    gateway.sweep()
    assert gateway.tracker.killed.count == 0
    talk.client().is_new()


def test_and_for_as_long_as_the_connection_would_have_lived() -> None:
    gateway = Gateway()
    talk = Tcp(gateway).opened()
    kill(gateway)
    gateway.wait(431_000)
    talk.client("ack", b"a keep-alive, days later").is_dropped_unasked("killed")


def test_both_ends_of_tcp_are_reset_when_they_shall_be_told() -> None:
    for tell in (False, True):
        gateway = Gateway()
        talk = Tcp(gateway).opened()
        kill(gateway, tell)
        for packet in (talk.packet(0, "ack"), talk.packet(1, "ack")):
            gateway.sees(packet).is_dropped_unasked("killed")
            judgement = gateway.engine._judgement
            assert judgement.reject == (TCP_RESET if tell else 0)
            assert (judgement.mark != -1, judgement.word()) == (tell, "reject" if tell else "drop")


def test_datagrams_are_not_reset() -> None:
    gateway = Gateway()
    talk = Udp(gateway)
    talk.client()
    kill(gateway, True)
    talk.client().is_dropped_unasked("killed")
    assert gateway.engine._judgement.reject == 0


def test_no_more_are_remembered_than_connections_there_may_be() -> None:
    gateway = Gateway(max=3)
    talks = [Udp(gateway, sport=port) for port in range(1, 6)]
    for talk in talks:
        talk.client().is_new()
        kill(gateway)
    assert gateway.tracker.killed.count == 3
    assert [talk.client().reason for talk in talks] == ["", "", "killed", "killed", "killed"]


def test_a_flush_forgets_them_and_listeners_hear_of_a_kill() -> None:
    gateway = Gateway()
    events = gateway.tracker.table.events = Events()
    talk = Udp(gateway)
    talk.client()
    kill(gateway)
    assert [CAUSE_NAMES[event.cause] for event in events.take(9)][-1] == "killed"
    gateway.tracker.flush()
    talk.client().is_new()


def test_a_cut_header_is_no_syn() -> None:
    gateway = Gateway()
    talk = Tcp(gateway).opened()
    kill(gateway)
    for size in range(24, 40):  # from the ports on
        gateway.sees(talk.packet(0, "syn"), copied=size)
    assert gateway.tracker.killed.count == 1
