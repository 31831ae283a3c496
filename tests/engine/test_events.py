"""What listeners are told of connections, when, and that nobody has to listen. The kernel says so in kernel/."""

from engine.conversation import Gateway, Tcp, Udp

from ctfw.conntrack import events
from ctfw.conntrack.events import CAUSE_NAMES, DESTROY, KIND_NAMES, Event, Events
from ctfw.conntrack.record import event_dict, event_line


def listening(limit: int = 100, max: int = 0) -> tuple[Gateway, Events]:
    """A gateway, and what happens to its connections."""
    gateway = Gateway(max=max)
    told = gateway.tracker.table.events = Events(limit)
    return gateway, told


def words(told: list[Event]) -> list[str]:
    """Kind, protocol state and status of each, and the cause of an end."""
    found = []
    for event in told:
        one = event_dict(event)
        status = "[UNREPLIED]" if one["unreplied"] else "[ASSURED]" if one["assured"] else ""
        found.append(" ".join(filter(None, (one["event"], one["state"], status, one.get("cause")))))
    return found


def test_the_life_of_a_connection() -> None:
    gateway, told = listening()
    talk = Tcp(gateway)
    talk.client("syn")
    talk.server("syn ack")
    talk.client("ack")
    talk.client("ack")
    gateway.wait(432001)
    gateway.sweep()
    assert words(told.take(100)) == [
        "NEW SYN_SENT [UNREPLIED]",
        "UPDATE SYN_RECV",
        "UPDATE ESTABLISHED [ASSURED]",
        "DESTROY ESTABLISHED [ASSURED] expired",
    ]
    assert len(told) == 0


def test_what_a_refused_packet_changed_is_told_with_the_next_one_that_is_accepted() -> None:
    gateway, told = listening()
    talk = Tcp(gateway)
    talk.client("syn", refused=True)
    assert words(told.take(100)) == []
    talk.client("syn")
    talk.server("syn ack", refused=True)
    assert words(told.take(100)) == ["NEW SYN_SENT [UNREPLIED]"]
    talk.server("syn ack")
    assert words(told.take(100)) == ["UPDATE SYN_RECV"]


def test_an_event_is_a_picture_of_its_moment() -> None:
    gateway, told = listening()
    talk = Udp(gateway, sport=1000)
    talk.client()
    talk.server()
    gateway.wait(3)
    talk.client()
    new, reply, assured = told.take(100)
    line = "src=10.1.0.2 dst=10.2.0.2 sport=1000 dport=53 {}src=10.2.0.2 dst=10.1.0.2 sport=53 dport=1000"
    assert event_line(new) == "    [NEW] udp      17 30 " + line.format("[UNREPLIED] ")
    assert event_line(reply) == " [UPDATE] udp      17 30 " + line.format("")
    assert event_line(assured) == " [UPDATE] udp      17 120 " + line.format("") + " [ASSURED]"


def test_packets_and_bytes_at_the_end_when_they_are_counted() -> None:
    gateway, told = listening()
    talk = Udp(gateway)
    talk.client()
    gateway.wait(31)
    gateway.sweep()
    end = told.take(100)[-1]
    assert end.kind == DESTROY and "packets=1 bytes=" in event_line(end, True) and "packets" not in event_line(end)
    assert event_dict(end, True)["original"]["packets"] == 1


def test_each_end_has_its_cause() -> None:
    gateway, told = listening(max=1)
    Udp(gateway, sport=1).client()
    Udp(gateway, sport=2).client()
    talk = Tcp(gateway, sport=3)
    talk.client("syn")
    talk.server("rst ack")
    talk.client("syn")
    (found,) = (conn for number in range(256) for conn in gateway.tracker.table.shard(number))
    gateway.tracker.remove(found, gateway.now)
    ends = [CAUSE_NAMES[event.cause] for event in told.take(100) if event.kind == DESTROY]
    assert ends == ["early_drop", "early_drop", "reset", "deleted"]


def test_nobody_waits_for_who_does_not_listen() -> None:
    gateway, told = listening(limit=3)
    for port in range(1, 6):
        Udp(gateway, sport=port).client()
    assert (len(told), told.lost) == (3, 2)
    assert [event.conn.key[-4:-2] for event in told.take(2)] == [b"\0\1", b"\0\2"]
    assert len(told) == 1
    gateway.tracker.table.events = None
    Udp(gateway, sport=9).client()
    assert len(told) == 1


def test_names() -> None:
    assert [KIND_NAMES[kind] for kind in (events.NEW, events.UPDATE, events.DESTROY)] == ["NEW", "UPDATE", "DESTROY"]
