"""After a clean end every connection is what it was, to the number."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, Gateway, Ping, Tcp, Udp
from engine.test_gre_pptp import CLIENT_ID, SERVER_ID, Pptp
from engine.test_helpers_ftp import PORT, logged_in
from engine.test_sctp import COOKIE_ACK, COOKIE_ECHO, HEARTBEAT, INIT, INIT_ACK, Association
from handover.lives import exact_log, reborn

from ctfw.conntrack import helpers
from ctfw.conntrack.conn import Conn, GreTrack, SctpTrack, Side, TcpTrack
from ctfw.conntrack.expect import Policy
from ctfw.conntrack.image import policies
from ctfw.conntrack.record import expect_line, proc_line
from ctfw.conntrack.settings import Settings

# Made anew: the table's links, and what the rules remember.
ANEW = {"previous", "next", "judged_original", "judged_reply"}
HELPERS = {"ftp": [21], "pptp": [1723], "sip": [5060]}


def attributes(thing: object) -> Any:
    """Everything a connection holds, whatever it is called; other connections by their key."""
    if not isinstance(thing, (Conn, TcpTrack, Side, SctpTrack, GreTrack)):
        return [attributes(one) for one in thing] if isinstance(thing, list) else thing
    # Slots, which the compiled build has in another form.
    names = {name for name, value in vars(type(thing)).items() if inspect.isdatadescriptor(value)} - ANEW
    assert "status" in names or "flags" in names or not isinstance(thing, (Conn, Side))
    return {
        name: value.key if isinstance(value := getattr(thing, name), Conn) else attributes(value)
        for name in names - {"__dict__"}
    }


def everything(gateway: Gateway) -> tuple[Any, ...]:
    conns = sorted(gateway.conns, key=lambda conn: conn.key)
    return (
        [attributes(conn) for conn in conns],
        [proc_line(conn, gateway.now) for conn in conns],
        sorted(expect_line(one, gateway.now) for one in gateway.tracker.expectations()),
        sorted((call[0].key, call[0].sender, call[1].key, call[1].sender) for call in gateway.tracker.calls()),
        sorted((call[0].tunnel is not None) for call in gateway.tracker.calls()),
    )


def tcp(gateway: Gateway) -> None:
    talk = Tcp(gateway, server_options=b"\3\3\7\0", client_options=b"\3\3\2\0").opened()
    talk.client("psh ack", b"GET /")
    talk.server("ack", b"200 " * 100)
    talk.client("syn", seq=77)  # ignored, and remembered
    Tcp(gateway, sport=40001).client("syn")
    Tcp(gateway, sport=40002).opened().closed()
    talk.conn.mark = 0xFFFFFFFF


def ipv6(gateway: Gateway) -> None:
    Tcp(gateway, CLIENT6, SERVER6).opened()
    Udp(gateway, CLIENT6, SERVER6).client()
    Ping(gateway, CLIENT6, SERVER6).client()


def udp_and_ping(gateway: Gateway) -> None:
    talk = Udp(gateway)
    talk.client()
    gateway.wait(3)
    talk.server()
    gateway.wait(3)
    talk.client()
    Ping(gateway).client()


def sctp(gateway: Gateway) -> None:
    talk = Association(gateway=gateway)
    talk.client(INIT)
    talk.server(INIT_ACK)
    talk.client(COOKIE_ECHO)
    talk.server(COOKIE_ACK)
    talk.client(HEARTBEAT, vtag=7)


def ftp(gateway: Gateway) -> None:
    talk = logged_in()
    gateway.tracker, gateway.engine, gateway.now = talk.gateway.tracker, talk.gateway.engine, talk.gateway.now
    talk.client("ack", PORT)
    data = Tcp(gateway, SERVER, CLIENT, 20, 25602)
    data.client("syn").is_related("ORIGINAL")
    talk.client("ack", b"PORT 10,1,0,2,100,3\r\n")
    assert len(gateway.expected) == 1


def pptp_agreed(gateway: Gateway) -> None:
    Pptp(gateway).calls_out()


def pptp_under_way(gateway: Gateway) -> None:
    call = Pptp(gateway).calls_out()
    call.from_client(SERVER_ID).is_related("ORIGINAL")
    call.from_server(CLIENT_ID).is_established("REPLY")


@pytest.mark.parametrize("talks", [tcp, ipv6, udp_and_ping, sctp, ftp, pptp_agreed, pptp_under_way])
def test_nothing_is_different(talks: Callable[[Gateway], None]) -> None:
    gateway = Gateway(HELPERS)
    talks(gateway)
    before = everything(gateway)
    assert before[0]
    done = reborn(gateway, exact_log(gateway), exact=True)
    assert done.connections == len(before[0])
    assert everything(gateway) == before


def test_every_class_of_expectations_can_be_named() -> None:
    known = set(policies())
    for module in pkgutil.iter_modules(helpers.__path__, "ctfw.conntrack.helpers."):
        for value in vars(importlib.import_module(module.name)).values():
            assert not isinstance(value, Policy) or value.full_name() in known


def test_the_conversation_goes_on() -> None:
    talk = logged_in()
    talk.client("ack", PORT)
    reborn(talk.gateway, exact_log(talk.gateway), exact=True)
    Tcp(talk.gateway, SERVER, CLIENT, 20, 25602).client("syn").is_related("ORIGINAL")
    talk.server("ack", b"200 ok\r\n").is_established("REPLY")
    talk.client("ack", seq=10_000_000).is_invalid("tcp-seq-over")  # the windows bind as before
    talk.client("ack", b"PORT 10,1,0,2,100,3\r\n").is_established("ORIGINAL")
    assert len(talk.gateway.expected) == 1


def test_a_hung_up_call_takes_its_tunnel_along() -> None:
    call = Pptp().calls_out()
    call.from_client()
    call.from_server()
    reborn(call.gateway, exact_log(call.gateway), exact=True)
    assert len(call.gateway.conns) == 2
    call.client(12)  # clear the call
    call.server(13)  # and it is
    assert len(call.gateway.conns) == 1


def test_the_time_between_counts() -> None:
    gateway = Gateway()
    tcp(gateway)
    udp_and_ping(gateway)
    log = exact_log(gateway)
    lines = {conn.key: int(proc_line(conn, gateway.now).split()[4]) for conn in gateway.conns}
    gateway.wait(31)
    reborn(gateway, log, exact=True)
    left = {conn.key: int(proc_line(conn, gateway.now).split()[4]) for conn in gateway.conns}
    assert left == {key: seconds - 31 for key, seconds in lines.items() if seconds > 31}
    assert len(left) < len(lines)


def test_what_came_first_makes_room_first() -> None:
    gateway = Gateway(max=4)
    for port in range(4):
        Udp(gateway, sport=1000 + port).client()
        gateway.wait(1)
    reborn(gateway, exact_log(gateway), exact=True)
    Udp(gateway, sport=2000).client().is_new()
    ports = {int.from_bytes(conn.key[9:11], "big") for conn in gateway.conns}
    assert ports == {1001, 1002, 1003, 2000}


def test_a_smaller_table_keeps_the_assured_and_the_young() -> None:
    gateway = Gateway()
    for port in range(4):
        Udp(gateway, sport=1000 + port).client()
        gateway.wait(1)
    Tcp(gateway).opened()
    log = exact_log(gateway)
    gateway.tracker.reconfigure(Settings({"max": 3}))
    done = reborn(gateway, log, exact=True)
    assert (done.connections, done.left_out) == (3, 2)
    ports = {int.from_bytes(conn.key[9:11], "big") for conn in gateway.conns}
    assert ports == {40000, 1002, 1003}


def test_a_source_has_no_more_than_its_share() -> None:
    gateway = Gateway(per_source=2)
    Udp(gateway, sport=1000).client()
    Udp(gateway, sport=1001).client()
    reborn(gateway, exact_log(gateway), exact=True)
    Udp(gateway, sport=1002).client().is_dropped_unasked("source-full")
