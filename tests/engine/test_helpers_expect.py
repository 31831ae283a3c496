"""Expectations themselves: who fulfils one, which may stand beside each other, and when each is over."""

import socket

import pytest
from engine.conversation import CLIENT, SERVER, STRANGER

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import ADDED, FULL, KNOWN, OVERLAPS, Expectation, Expectations, Policy
from ctfw.conntrack.settings import FTP, SECOND
from ctfw.conntrack.state import CONFIRMED, DYING
from ctfw.packet import inverse

POLICY = Policy(FTP, "", 2, 300 * SECOND)
OTHER = Policy(FTP, "other", 1, 10 * SECOND)
NOW = 1_000 * SECOND


def key(src: str, sport: int, dst: str, dport: int, zone: bytes = b"") -> bytes:
    return (
        b"\6"
        + socket.inet_aton(src)
        + socket.inet_aton(dst)
        + b"".join(n.to_bytes(2, "big") for n in (sport, dport))
        + zone
    )


def master(sport: int = 40000, zone: bytes = b"") -> Conn:
    tuple_ = key(CLIENT, sport, SERVER, 21, zone)
    conn = Conn(tuple_, inverse(tuple_), NOW)
    conn.status = CONFIRMED
    conn.expires = NOW + 1000 * SECOND
    return conn


def to(
    conn: Conn, port: int = 1000, src: str = SERVER, policy: Policy = POLICY, prefix: int | None = None
) -> Expectation:
    source = socket.inet_aton(src) if src else b""
    one = Expectation(conn, policy, 6, source, socket.inet_aton(CLIENT), port.to_bytes(2, "big"), NOW)
    if prefix is not None:
        one.prefix = prefix
    return one


def fulfils(
    expectations: Expectations, src: str = SERVER, sport: int = 20, port: int = 1000, now: int = NOW, zone: bytes = b""
) -> bool:
    return expectations.take(key(src, sport, CLIENT, port, zone), now) is not None


def holding(*several: Expectation) -> Expectations:
    expectations = Expectations()
    for one in several:
        assert expectations.add(one, 100, NOW) == ADDED
    return expectations


def test_it_is_fulfilled_once_and_a_permanent_one_for_ever() -> None:
    expectations = holding(to(master()))
    assert fulfils(expectations) and not fulfils(expectations)
    assert expectations.count == 0
    lasting = to(master())
    lasting.permanent = True
    expectations = holding(lasting)
    assert fulfils(expectations) and fulfils(expectations)


def test_an_inactive_one_cannot_be_fulfilled_but_holds_its_place() -> None:
    waiting = to(master())
    waiting.inactive = True
    expectations = holding(waiting)
    assert not fulfils(expectations)
    assert expectations.add(to(master(2)), 100, NOW) == OVERLAPS
    waiting.inactive = False
    assert fulfils(expectations)


@pytest.mark.parametrize(
    ("src", "prefix", "comes", "is_right"),
    [
        (SERVER, 32, SERVER, True),
        (SERVER, 32, STRANGER, False),
        ("", 0, STRANGER, True),
        ("10.2.255.255", 16, "10.2.7.7", True),
        ("10.2.255.255", 16, "10.3.7.7", False),
    ],
)
def test_sources(src: str, prefix: int, comes: str, is_right: bool) -> None:
    assert fulfils(holding(to(master(), src=src, prefix=prefix)), comes) is is_right


def test_a_source_port_counts_when_it_is_given() -> None:
    one = to(master())
    one.sport = b"\0\x14"
    assert not fulfils(holding(one), sport=21)
    assert fulfils(holding(one), sport=20)


@pytest.mark.parametrize("what", ["expired", "master expired", "master gone", "master unconfirmed", "another zone"])
def test_when_it_cannot_be_fulfilled(what: str) -> None:
    conn = master(zone=b"\0\1" if what == "another zone" else b"")
    expectations = holding(to(conn))
    if what == "master expired":
        conn.expires = NOW
    elif what == "master gone":
        conn.status |= DYING
    elif what == "master unconfirmed":
        conn.status = 0
    assert not fulfils(expectations, now=NOW + 300 * SECOND if what == "expired" else NOW)


def test_what_overlaps_is_refused_and_what_does_not_is_not() -> None:
    expectations = holding(to(master(1)))
    assert expectations.add(to(master(2)), 100, NOW) == OVERLAPS
    assert expectations.add(to(master(2), src=""), 100, NOW) == OVERLAPS
    assert expectations.add(to(master(2), src="10.2.255.255", prefix=16), 100, NOW) == OVERLAPS
    assert expectations.add(to(master(2), src=STRANGER), 100, NOW) == ADDED
    assert expectations.add(to(master(3), port=1001), 100, NOW) == ADDED
    assert expectations.add(to(master(4, b"\0\1")), 100, NOW) == ADDED


def test_the_same_one_of_the_same_master_starts_anew() -> None:
    conn = master()
    expectations = holding(to(conn))
    again = to(conn)
    again.expires += SECOND
    assert expectations.add(again, 1, NOW) == ADDED
    assert expectations.all() == [again]


def test_the_same_one_of_another_class_or_master_is_known() -> None:
    conn = master(1)
    expectations = holding(to(conn))
    assert expectations.add(to(conn, policy=OTHER), 100, NOW) == KNOWN
    assert expectations.add(to(master(2)), 100, NOW) == OVERLAPS
    assert expectations.add(to(master(2)), 100, NOW, known_elsewhere=True) == KNOWN


def test_of_each_class_the_oldest_gives_way() -> None:
    conn = master()
    several = [to(conn, 1000 + number) for number in range(3)] + [
        to(conn, 2000 + number, policy=OTHER) for number in range(2)
    ]
    assert holding(*several).of(conn) == [several[4], several[2], several[1]]


def test_a_full_table_refuses_unless_something_in_it_is_over() -> None:
    conn = master(1)
    expectations = holding(to(conn))
    assert expectations.add(to(master(2), 1001), 1, NOW) == FULL
    conn.status |= DYING
    assert expectations.add(to(master(2), 1001), 1, NOW) == ADDED
    assert expectations.count == 1


def test_those_of_a_master_go_with_it() -> None:
    first, second = master(1), master(2)
    expectations = holding(to(first), to(first, 1001), to(second, 1002))
    expectations.remove_master(first)
    assert [one.master for one in expectations.all()] == [second]
    second.status |= DYING
    assert expectations.all() == [] and expectations.count == 1
    expectations.sweep(NOW)
    assert expectations.count == 0
