"""The table of connections: its limit, what gives way, what expires; and the invariants of its essay, walked."""

from engine import packets
from engine.conversation import CLIENT, CLIENT6, ROUTER, SERVER, SERVER6, Gateway, Ping, Tcp, Udp
from engine.table_walk import check_table
from hypothesis import given, settings
from hypothesis import strategies as st

from ctfw import reason
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.table import MOST_FREED, SHARDS
from ctfw.conntrack.tracker import ConnTrack
from ctfw.packet import decode


def lookups(gateway: Gateway, *ports: int) -> list[Udp]:
    """A lookup from each of these ports, the questions alone."""
    talks = [Udp(gateway, sport=port) for port in ports]
    for talk in talks:
        talk.client().is_new()
    return talks


# Room


def test_the_oldest_unassured_connection_gives_way_when_the_table_is_full() -> None:
    gateway = Gateway(max=3)
    assured = Tcp(gateway).opened()
    older, newer = lookups(gateway, 1, 2)
    (third,) = lookups(gateway, 3)
    assert (older.entry, newer.entry != "", third.entry != "", assured.entry != "") == ("", True, True, True)
    assert len(gateway.tracker.table) == 3
    assert gateway.tracker.stats.early_drop == 1
    older.server().is_new()


def test_nothing_gives_way_while_there_is_room() -> None:
    gateway = Gateway(max=3)
    talks = lookups(gateway, 1, 2, 3)
    assert all(talk.entry for talk in talks)
    for talk in talks:
        talk.client().is_new()  # known, so it needs no room
    assert gateway.tracker.stats.early_drop == 0


def test_a_table_full_of_assured_connections_takes_no_more() -> None:
    gateway = Gateway(max=2)
    talks = [Tcp(gateway, sport=port).opened() for port in (1, 2)]
    late = Tcp(gateway, sport=3)
    late.client("syn").is_dropped_unasked("table-full")
    Udp(gateway).client().is_dropped_unasked("table-full")
    assert (gateway.tracker.stats.drop, len(gateway.tracker.table)) == (2, 2)
    talks[0].client("ack", b"still here").is_established()
    gateway.sees(packets.icmp(ROUTER, CLIENT, 3, data=talks[0].packet(0, "ack")[:28])).is_related("REPLY")
    talks[1].client("rst").is_established()
    gateway.wait(10)
    gateway.sweep()
    late.client("syn").is_new()


def test_zero_means_no_limit() -> None:
    gateway = Gateway(max=0)
    lookups(gateway, *range(1, 500))
    assert len(gateway.tracker.table) == 499


def test_a_refused_packet_takes_no_room() -> None:
    gateway = Gateway(max=1)
    for port in range(1, 10):
        Udp(gateway, sport=port).client(refused=True).is_new()
    assert len(gateway.tracker.table) == 0
    assert gateway.tracker.stats.early_drop == 0


# Time


def test_an_expired_connection_is_gone_before_anybody_sweeps() -> None:
    talk = Ping()
    talk.client().is_new()
    talk.wait(29.999_999_999)
    talk.server().is_established("REPLY")
    talk.wait(30)
    talk.server().is_invalid("icmp-new")
    assert len(talk.gateway.tracker.table) == 0


def test_sweeping_frees_what_has_expired_and_nothing_else() -> None:
    gateway = Gateway()
    lookups(gateway, *range(1, 101))
    alive = Tcp(gateway).opened()
    gateway.wait(30)
    gateway.sweep()
    assert (gateway.conns, gateway.tracker.stats.expired) == ([alive.conn], 100)


def test_one_step_of_sweeping_is_bounded() -> None:
    gateway = Gateway()
    lookups(gateway, *range(1, 1001))
    gateway.wait(30)
    gateway.tracker.sweep(gateway.now)
    assert 800 < len(gateway.tracker.table) < 1000


def test_one_step_of_sweeping_frees_no_more_than_it_may() -> None:
    gateway = Gateway()
    lookups(gateway, *range(1, 2 * MOST_FREED))
    gateway.wait(30)
    assert gateway.tracker.table.sweep(gateway.now, SHARDS) == MOST_FREED
    assert gateway.tracker.table.sweep(gateway.now, SHARDS) == MOST_FREED - 1
    check_table(gateway.tracker.table)


def test_a_step_that_has_freed_what_it_may_says_that_there_may_be_more() -> None:
    gateway = Gateway()
    lookups(gateway, *range(1, 100 * MOST_FREED))  # more in eight shards than one step may free
    assert not gateway.tracker.sweep(gateway.now)
    gateway.wait(30)
    steps = 1
    while gateway.tracker.sweep(gateway.now):
        steps += 1
    assert gateway.tracker.stats.expired == 100 * MOST_FREED - 1 - len(gateway.tracker.table)
    assert steps > 1


# Two packets of one connection at a time


def test_the_second_of_two_equal_connections_is_not_inserted() -> None:
    tracker = ConnTrack(Settings())
    data = packets.udp(CLIENT, SERVER, 40000, 53)
    one, two = decode(data, len(data)), decode(data, len(data))
    first, second = tracker.track(one, True, 1), tracker.track(two, True, 1)
    assert first is not None and second is not None
    assert tracker.confirm(one, first, 1) == 0
    assert tracker.confirm(two, second, 1) == reason.CLASH
    assert (len(tracker.table), tracker.stats.insert_failed) == (1, 1)
    check_table(tracker.table)


def test_somebody_who_talks_to_himself_is_one_connection() -> None:
    gateway = Gateway()
    talk = Udp(gateway, CLIENT, CLIENT, 53, 53)
    talk.client().is_new()
    talk.server().is_established("REPLY")  # measured: the kernel finds its reply first
    assert len(gateway.conns) == 1
    check_table(gateway.tracker.table)
    gateway.wait(30)
    gateway.sweep()
    check_table(gateway.tracker.table)
    assert len(gateway.tracker.table) == 0


# Invariants

HOSTS = st.sampled_from([(CLIENT, SERVER), (SERVER, CLIENT), (CLIENT, CLIENT), (CLIENT6, SERVER6), (SERVER6, CLIENT6)])
PORT = st.integers(1, 4)
FLAGS = st.sampled_from(["syn", "syn ack", "ack", "fin ack", "rst", "rst ack"])


@st.composite
def any_packet(draw: st.DrawFn) -> bytes:
    """One of so few that they often meet."""
    src, dst = draw(HOSTS)
    sport, dport, kind = draw(PORT), draw(PORT), draw(st.integers(0, 3))
    if kind == 0:
        return packets.udp(src, dst, sport, dport)
    if kind == 1:
        return packets.tcp(src, dst, sport, dport, draw(FLAGS), seq=5, ack=5)
    if kind == 2:
        return Ping(None, src, dst, ident=sport).packet(0)
    return packets.ip(src, dst, draw(st.sampled_from([50, 47])), b"12345678")


STEPS = st.one_of(
    st.tuples(st.just("packet"), any_packet(), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 3.0, 31.0, 130.0, 500.0]), st.booleans()),
    st.tuples(st.just("sweep"), st.none(), st.booleans()),
    st.tuples(st.just("flush"), st.none(), st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 8), st.lists(STEPS, max_size=60))
def test_the_table_keeps_its_invariants(most: int, steps: list[tuple[str, bytes | float | None, bool]]) -> None:
    gateway = Gateway(max=most)
    for what, argument, refused in steps:
        if isinstance(argument, bytes):
            gateway.sees(argument, refused=refused)
        elif isinstance(argument, float):
            gateway.wait(argument)
        elif what == "sweep":
            gateway.tracker.sweep(gateway.now)
        elif refused:
            gateway.tracker.flush()
        assert len(gateway.tracker.table) <= most
        check_table(gateway.tracker.table)
    gateway.sweep()
    assert [conn for conn in gateway.conns if conn.expires <= gateway.now] == []
    check_table(gateway.tracker.table)
