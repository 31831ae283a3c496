"""Records, against lines that a kernel printed (docs/state-machine.md, "Reading a connection")."""

import pytest
from engine import packets
from engine.conversation import Gateway, Ping, Tcp, Udp

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import as_dict, conntrack_line, proc_line, seconds_left

TCP_LINE = (
    "ipv4     2 tcp      6 431998 ESTABLISHED src=10.71.1.2 dst=10.71.2.2 sport=20008 dport=82 "
    "src=10.71.2.2 dst=10.71.1.2 sport=82 dport=20008 [ASSURED] mark=0 zone=0 use=2"
)
PING_LINE = (
    "ipv4     2 icmp     1 29 src=10.71.1.2 dst=10.71.2.2 type=8 code=0 id=20012 "
    "src=10.71.2.2 dst=10.71.1.2 type=0 code=0 id=20012 mark=0 zone=0 use=2"
)
UNKNOWN_LINE = "ipv4     2 unknown  50 600 src=10.71.1.2 dst=10.71.2.2 src=10.71.2.2 dst=10.71.1.2 mark=0 zone=0 use=2"
CLIENT, SERVER = "10.71.1.2", "10.71.2.2"


def only(gateway: Gateway) -> Conn:
    (conn,) = gateway.conns
    return conn


def tcp() -> Gateway:
    talk = Tcp(None, CLIENT, SERVER, 20008, 82).opened()
    talk.wait(1.5)
    return talk.gateway


def ping() -> Gateway:
    talk = Ping(None, CLIENT, SERVER, ident=20012)
    talk.client()
    talk.server()
    talk.wait(0.001)
    return talk.gateway


def unknown() -> Gateway:
    gateway = Gateway()
    gateway.sees(packets.ip(CLIENT, SERVER, 50, b"12345678"))
    gateway.sees(packets.ip(SERVER, CLIENT, 50, b"12345678"))
    return gateway


@pytest.mark.parametrize(("gateway", "line"), [(tcp(), TCP_LINE), (ping(), PING_LINE), (unknown(), UNKNOWN_LINE)])
def test_a_connection_is_printed_as_the_kernel_prints_it(gateway: Gateway, line: str) -> None:
    assert proc_line(only(gateway), gateway.now) == line
    shown = line.removeprefix("ipv4     2 ").replace(" zone=0 use=2", " use=1")
    assert conntrack_line(only(gateway), gateway.now) == shown


def test_an_unanswered_connection_says_so_between_its_tuples() -> None:
    talk = Udp(None, CLIENT, SERVER, 40000, 53)
    talk.client().is_new()
    only(talk.gateway).mark = 17
    assert conntrack_line(only(talk.gateway), talk.gateway.now) == (
        "udp      17 30 src=10.71.1.2 dst=10.71.2.2 sport=40000 dport=53 [UNREPLIED] "
        "src=10.71.2.2 dst=10.71.1.2 sport=53 dport=40000 mark=17 use=1"
    )


def test_ipv6_addresses_are_whole_in_proc_and_short_in_conntrack() -> None:
    talk = Ping(None, "2001:db8:1::2", "2001:db8:2::2", ident=5)
    talk.client()
    assert proc_line(only(talk.gateway), talk.gateway.now) == (
        "ipv6     10 icmpv6   58 30 "
        "src=2001:0db8:0001:0000:0000:0000:0000:0002 dst=2001:0db8:0002:0000:0000:0000:0000:0002 "
        "type=128 code=0 id=5 [UNREPLIED] "
        "src=2001:0db8:0002:0000:0000:0000:0000:0002 dst=2001:0db8:0001:0000:0000:0000:0000:0002 "
        "type=129 code=0 id=5 mark=0 zone=0 use=2"
    )
    assert conntrack_line(only(talk.gateway), talk.gateway.now) == (
        "icmpv6   58 30 src=2001:db8:1::2 dst=2001:db8:2::2 type=128 code=0 id=5 [UNREPLIED] "
        "src=2001:db8:2::2 dst=2001:db8:1::2 type=129 code=0 id=5 mark=0 use=1"
    )


def test_seconds_are_whole_ones_that_are_left_and_never_below_zero() -> None:
    talk = Udp()
    talk.client().is_new()
    conn = only(talk.gateway)
    assert [seconds_left(conn, talk.gateway.now + after) for after in (0, 1, 30 * 10**9, 90 * 10**9)] == [30, 29, 0, 0]


def test_a_connection_as_plain_data() -> None:
    gateway = tcp()
    found = as_dict(only(gateway), gateway.now)
    assert found == found | {
        "family": "ipv4",
        "proto": "tcp",
        "protonum": 6,
        "timeout": 431998,
        "state": "ESTABLISHED",
        "original": {"src": CLIENT, "dst": SERVER, "sport": 20008, "dport": 82},
        "reply": {"src": SERVER, "dst": CLIENT, "sport": 82, "dport": 20008},
        "unreplied": False,
        "assured": True,
        "mark": 0,
    }
