"""Events on their way to listeners, and `ctfw events` at a running daemon."""

import json
import re
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.running import COMMAND, OPEN, Datagrams, Running
from engine.conversation import Gateway, Tcp, Udp

from ctfw.cli import NOT_RUNNING, main
from ctfw.conntrack.events import LIMIT
from ctfw.service.control import Control
from ctfw.service.events import EventStream
from ctfw.service.peers import Peer
from ctfw.service.session import Refused, Session
from lab.net import CLIENT, SERVER, Network


def session() -> Session:
    return Session(Peer(1, 0, frozenset({0})))


def told(one: Session) -> list[dict[str, Any]]:
    """What the client is sent now."""
    return [json.loads(line) for line in one.take().splitlines()]


class Watched:
    """A gateway, its listeners, and their turns."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.stream = EventStream(self.gateway.tracker)

    def listener(self, **params: object) -> Session:
        one = session()
        assert self.stream.subscribe(params, one) == {}
        return one

    def settle(self) -> None:
        while self.stream.step():
            pass


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_listener_is_told_what_happens_from_now_on(watched: Watched) -> None:
    Udp(watched.gateway, sport=1).client()
    one = watched.listener()
    assert one.is_subscribed
    Udp(watched.gateway, sport=2).client()
    watched.settle()
    (event,) = told(one)
    assert event["event"] == "NEW" and isinstance(event["time"], float)
    assert event["line"].startswith("    [NEW] udp      17 30 src=10.1.0.2 dst=10.2.0.2 sport=2 dport=53 [UNREPLIED]")


def test_only_what_he_asked_for(watched: Watched) -> None:
    ends = watched.listener(kinds=["NEW", "DESTROY"], form="dict", only={"proto": "udp"})
    everything = watched.listener(form="dict")
    Tcp(watched.gateway).client("syn")
    talk = Udp(watched.gateway)
    talk.client()
    talk.server()
    watched.gateway.wait(31)
    watched.gateway.sweep()
    watched.settle()
    assert [(one["event"], one["proto"], one.get("cause")) for one in told(ends)] == [
        ("NEW", "udp", None),
        ("DESTROY", "udp", "expired"),
    ]
    assert [one["event"] for one in told(everything)] == ["NEW", "NEW", "UPDATE", "DESTROY"]


@pytest.mark.parametrize(
    "params",
    [
        {"form": "proc"}, {"kinds": ["OLD"]}, {"kinds": "NEW"}, {"kinds": [["NEW"]]}, {"only": []},
        {"only": {"proto": "x"}},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(watched: Watched, params: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        watched.stream.subscribe(params, session())
    assert watched.gateway.tracker.table.events is None


def test_nothing_is_kept_when_nobody_listens_any_more(watched: Watched) -> None:
    table = watched.gateway.tracker.table
    assert table.events is None
    one, other = watched.listener(), watched.listener()
    one.is_open = False
    watched.settle()
    assert watched.stream.figures()["listeners"] == 1
    other.is_open = False
    watched.settle()
    assert watched.gateway.tracker.table.events is None


def test_a_client_who_asks_twice_is_told_once(watched: Watched) -> None:
    one = watched.listener()
    watched.stream.subscribe({"kinds": ["NEW"]}, one)
    Udp(watched.gateway).client()
    watched.settle()
    assert len(told(one)) == 1


def test_a_flood_is_handed_out_in_slices_and_what_is_lost_is_said(watched: Watched) -> None:
    one = watched.listener(form="conntrack", only={"dport": 1})
    everything = watched.listener()
    events = watched.gateway.tracker.table.events
    assert events is not None
    talk = Udp(watched.gateway)
    conn = talk.client().conn
    assert conn is not None
    for _ in range(LIMIT + 99):
        events.add(0, conn, 0, 0)
    assert watched.stream.step()
    assert len(events) > LIMIT // 2  # a slice is a small part
    assert watched.stream.figures() == {"listeners": 2, "lost": 100}
    watched.settle()
    assert told(one) == [{"event": "dropped", "count": 100}]
    first, *_, last = told(everything)
    assert first == {"event": "dropped", "count": 100}
    assert last["event"] == "dropped" and last["count"] == everything.missed  # a client who takes nothing


def test_the_eve_log_hears_of_every_end(watched: Watched) -> None:
    ends = []
    watched.stream.tell_ends(lambda event, offset: ends.append(event.conn))
    said = Udp(watched.gateway).client()
    watched.gateway.wait(31)
    watched.gateway.sweep()
    watched.settle()
    assert ends == [said.conn]
    watched.stream.tell_ends(None)
    assert watched.gateway.tracker.table.events is None


def test_that_something_was_lost_is_no_end_of_the_command(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list is full just when somebody subscribes: the first that he hears is how many were lost."""
    stream = watched.stream
    stream.tell_ends(lambda event, offset: None)
    conn = Udp(watched.gateway).client().conn
    events = watched.gateway.tracker.table.events
    assert conn is not None and events is not None
    for _ in range(LIMIT + 1):
        events.add(0, conn, 0, 0)
    path = str(tmp_path / "control.sock")
    selector = selectors.DefaultSelector()
    control = Control(path, selector, {"events": stream.subscribe}, lambda what, error: None)

    has_ended = threading.Event()

    def serve() -> None:
        while not has_ended.is_set() and (not stream.figures()["listeners"] or stream.step()):
            for key, mask in selector.select(0.01):
                key.data(mask)
            control.step()
        control.step()
        control.close()

    server = threading.Thread(target=serve)
    server.start()
    code = main(["events", "--socket", path])
    has_ended.set()
    server.join()
    printed = capsys.readouterr()
    assert "2 events lost" in printed.err
    assert printed.out.startswith("    [NEW] udp ")
    assert code == NOT_RUNNING


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


@pytest.mark.kernel
def test_ctfw_events_follows_a_running_daemon(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        command = [*COMMAND, "events", "-f", "--socket", daemon.control, "--src", CLIENT, "-p", "udp"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with (
            subprocess.Popen([*command, "-n", "3"], **pipes) as lines,
            subprocess.Popen([*command, "-n", "1", "-o", "jsonl", "-e", "UPDATE"], **pipes) as objects,
        ):
            while good.answered() and (lines.poll() is None or objects.poll() is None):
                good.client.close()  # a new connection each time, until both listen
                with net.client:
                    good.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                good.client.settimeout(0.5)
                good.client.connect((SERVER, OPEN))
            out, err = lines.communicate(timeout=10)
            tuples = rf"src={CLIENT} dst={SERVER} sport=(\d+) dport={OPEN} "
            answer = rf"src={SERVER} dst={CLIENT} sport={OPEN} dport=\d+"
            assert re.search(rf"^    \[NEW\] udp      17 30 {tuples}\[UNREPLIED\] {answer}$", out, re.MULTILINE)
            assert re.search(rf"^ \[UPDATE\] udp      17 30 {tuples}{answer}$", out, re.MULTILINE)
            assert "3 flow events have been shown" in err
            (line,) = objects.communicate(timeout=10)[0].splitlines()
            event = json.loads(line)
            assert (event["event"], event["unreplied"], event["original"]["src"]) == ("UPDATE", False, CLIENT)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", event["time"])
