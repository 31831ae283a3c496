"""Who may do what at the control socket, who has a place there, and what is sent without a question."""

import json
import os
import selectors
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctfw.service.control import IDLE, MAX_CLIENTS, RESERVED, SHARE, STALL, Control
from ctfw.service.peers import Access, Peer
from ctfw.service.session import MAX_BACKLOG, Later, Method, Refused, Session

NOBODY, READER, WRITER = 60_001, 60_002, 60_003  # users and groups of these tests alone
ACCESS = Access(frozenset({READER}), frozenset({WRITER}))
NOT_PERMITTED, TOO_MANY = -32001, -32002

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")


class House:
    """A Control on a selector, turned by hand; its methods leave their sessions and answers here."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.selector = selectors.DefaultSelector()
        self.sessions: list[Session] = []
        self.later = Later()
        self.slices: list[str] = []
        methods: dict[str, Method] = {
            "look": lambda params, session: "seen",
            "change": lambda params, session: "changed",
            "follow": self._follow,
            "wait": lambda params, session: self.later,
            "work": self._work,
        }
        reading = {"look", "follow"}
        self.control = Control(self.path, self.selector, methods, lambda what, error: None, reading, ACCESS)
        os.chmod(self.path, 0o666)

    def _follow(self, params: dict[str, Any], session: Session) -> object:
        session.is_subscribed = True
        self.sessions.append(session)
        return None

    def _work(self, params: dict[str, Any], session: Session) -> Generator[None, None, object]:
        for word in params["words"]:
            self.slices.append(word)
            yield
        if params["words"] == ["no"]:
            raise Refused(-32000, "refused at the end")
        if params["words"] == ["bug"]:
            raise KeyError("a bug")
        return "worked"

    def settle(self) -> None:
        quiet = 0
        while quiet < 2:
            events = self.selector.select(0)
            for key, mask in events:
                key.data(mask)
            quiet = 0 if self.control.step() or events else quiet + 1

    def enter(self, uid: int = 0, gid: int = 0) -> "Guest":
        """Somebody connects."""
        sock = socket.socket(socket.AF_UNIX)
        before = os.getgroups()
        if uid:
            os.setgroups([])
            os.setegid(gid)
            os.seteuid(uid)
        try:
            sock.connect(self.path)
        finally:
            if uid:
                os.seteuid(0)
                os.setegid(0)
                os.setgroups(before)
        self.settle()
        return Guest(self, sock)


class Guest:
    def __init__(self, house: House, sock: socket.socket) -> None:
        self.house = house
        self.sock = sock
        sock.setblocking(False)
        (self.hello,) = self.lines()

    def say(self, method: str, **params: object) -> None:
        self.sock.send(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
        self.house.settle()

    def lines(self) -> list[dict[str, Any]]:
        """What came since the last time."""
        data = b""
        while True:
            self.house.settle()
            try:
                chunk = self.sock.recv(1 << 20)
            except BlockingIOError:
                break
            if not chunk:
                break
            data += chunk
        return [json.loads(line) for line in data.splitlines()]

    def ask(self, method: str, **params: object) -> Any:
        """The result, or the code of the error."""
        self.say(method, **params)
        (answer,) = self.lines()
        return answer["error"]["code"] if "error" in answer else answer["result"]

    def is_out(self) -> bool:
        self.house.settle()
        try:
            return self.sock.recv(1 << 20) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            os.chmod(folder, 0o711)
    made = House(tmp_path / "control.sock")
    yield made
    made.control.close()
    made.selector.close()


# --- rights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "rights"),
    [
        (Peer(1, 0, frozenset()), ("read", "write")),
        (Peer(1, os.geteuid(), frozenset()), ("read", "write")),
        (Peer(1, NOBODY, frozenset({NOBODY})), ()),
        (Peer(1, NOBODY, frozenset({NOBODY, READER})), ("read",)),
        (Peer(1, NOBODY, frozenset({WRITER})), ("read", "write")),
        (Peer(1, NOBODY, frozenset({READER, WRITER})), ("read", "write")),
    ],
)
def test_who_may_what(peer: Peer, rights: tuple[str, ...]) -> None:
    assert ACCESS.rights(peer) == rights


@needs_root
def test_the_hello_says_the_rights_and_methods_ask_for_them(house: House) -> None:
    reader, writer = house.enter(NOBODY, READER), house.enter(NOBODY, WRITER)
    assert (reader.hello["rights"], writer.hello["rights"]) == (["read"], ["read", "write"])
    assert (reader.ask("look"), writer.ask("look")) == ("seen", "seen")
    assert (reader.ask("change"), writer.ask("change")) == (NOT_PERMITTED, "changed")
    told: list[int] = []
    house.control.refused = lambda peer, why: told.append(peer.uid)
    assert house.enter(NOBODY, NOBODY).hello["error"]["code"] == NOT_PERMITTED
    assert told == [NOBODY]


@needs_root
def test_a_right_that_is_taken_away_ends_at_the_next_request(house: House) -> None:
    writer = house.enter(NOBODY, WRITER)
    assert writer.ask("change") == "changed"
    house.control.access = Access(frozenset({WRITER}), frozenset())
    assert (writer.ask("look"), writer.ask("change")) == ("seen", NOT_PERMITTED)


# --- places -------------------------------------------------------------------------------------


@needs_root
def test_a_user_has_a_share_and_his_own_idle_one_makes_room(house: House) -> None:
    same = [house.enter(NOBODY, READER) for _ in range(SHARE)]
    assert house.enter(NOBODY, READER).hello["error"]["code"] == TOO_MANY
    assert house.enter(NOBODY + 10, READER).hello["hello"] == "ctfw"
    house.control.tick(IDLE)
    for guest in same[1:]:
        assert guest.ask("look") == "seen"
    assert house.enter(NOBODY, READER).hello["hello"] == "ctfw"
    assert [guest.is_out() for guest in same] == [True] + [False] * (SHARE - 1)
    assert house.control.dropped == 1


@needs_root
def test_a_full_house_has_places_for_root_and_no_idle_client_keeps_one_for_ever(house: House) -> None:
    others = [house.enter(NOBODY + number // SHARE, READER) for number in range(MAX_CLIENTS)]
    assert all("hello" in guest.hello for guest in others)
    assert house.enter(NOBODY + 10, READER).hello["error"]["code"] == TOO_MANY
    roots = [house.enter() for _ in range(RESERVED)]
    assert all("hello" in root.hello for root in roots)
    assert house.enter().hello["error"]["code"] == TOO_MANY
    house.control.tick(IDLE)
    for guest in others:
        assert guest.ask("look") == "seen"
    assert house.enter(NOBODY + 10, READER).hello["error"]["code"] == TOO_MANY  # root alone is idle, and not moved
    assert not any(root.is_out() for root in roots)
    newcomer = house.enter()
    assert newcomer.hello["hello"] == "ctfw"
    assert sum(root.is_out() for root in roots) == 1
    house.control.tick(2 * IDLE)
    assert house.enter(NOBODY + 10, READER).hello["hello"] == "ctfw"


@needs_root
def test_who_listens_to_a_stream_or_waits_for_an_answer_is_not_idle(house: House) -> None:
    streaming, waiting = house.enter(NOBODY, READER), house.enter(NOBODY, WRITER)
    streaming.say("follow")
    waiting.say("wait")
    same = [house.enter(NOBODY, READER) for _ in range(SHARE - 2)]
    house.control.tick(IDLE)
    newcomers = [house.enter(NOBODY, READER) for _ in same]
    assert all("hello" in guest.hello for guest in newcomers)
    assert all(guest.is_out() for guest in same)
    assert not waiting.is_out()
    house.later.done("at last")
    assert waiting.lines() == [{"id": 1, "result": "at last"}]


# --- streams ------------------------------------------------------------------------------------


def test_what_is_pushed_comes_between_answers(house: House) -> None:
    guest = house.enter()
    guest.say("follow")
    (session,) = house.sessions
    assert session.push(b'{"event":"new","number":1}')
    assert session.push(b'{"event":"new","number":2}')
    assert guest.lines() == [
        {"id": 1, "result": None},
        {"event": "new", "number": 1},
        {"event": "new", "number": 2},
    ]
    assert guest.ask("look") == "seen"
    guest.sock.close()
    house.settle()
    assert not session.is_open
    assert not session.push(b"{}")


def test_who_does_not_read_his_stream_loses_lines_and_is_told_how_many(house: House) -> None:
    guest = house.enter()
    guest.say("follow")
    (session,) = house.sessions
    line = b'{"event":"%s"}' % (b"x" * 1000)
    pushed = 0
    while session.missed < 5:
        pushed += 1
        session.push(line)
        house.settle()
    house.control.tick(STALL * 2)  # slow is allowed
    (client,) = house.control._clients
    assert len(client.output) + len(session._backlog) <= 2 * MAX_BACKLOG
    events = [one for one in guest.lines() if "event" in one]
    assert events[-1] == {"event": "dropped", "count": 5}
    assert len(events) - 1 == pushed - 5
    assert session.push(line)
    assert len(guest.lines()) == 1


# --- answers that take longer -------------------------------------------------------------------


def test_an_answer_that_comes_later_is_waited_for_by_that_client_alone(house: House) -> None:
    waiting, other = house.enter(), house.enter()
    waiting.say("wait")
    waiting.say("look")
    assert waiting.lines() == []
    assert other.ask("look") == "seen"
    house.later.done(Refused(-32000, "no", ["because"]))
    assert waiting.lines() == [
        {"id": 1, "error": {"code": -32000, "message": "no", "data": ["because"]}},
        {"id": 1, "result": "seen"},
    ]


def test_nobody_minds_when_who_waited_has_gone(house: House) -> None:
    waiting = house.enter()
    waiting.say("wait")
    waiting.sock.close()
    house.settle()
    house.later.done("too late")
    house.settle()
    assert not house.control._clients


def test_a_long_answer_is_made_in_slices_between_those_of_others(house: House) -> None:
    slow, quick = house.enter(), house.enter()
    slow.sock.send(b'{"id":1,"method":"work","params":{"words":["a","b","c"]}}\n')
    for key, mask in house.selector.select(0):
        key.data(mask)
    assert house.control.step()
    assert house.control.step()
    assert house.slices == ["a"]
    quick.sock.send(b'{"id":2,"method":"look"}\n')
    for key, mask in house.selector.select(0):
        key.data(mask)
    assert house.control.step()
    assert house.control.step()
    assert json.loads(quick.sock.recv(999))["result"] == "seen"
    assert house.slices == ["a", "b"]
    assert slow.lines() == [{"id": 1, "result": "worked"}]
    assert slow.ask("work", words=["no"]) == -32000
    assert slow.ask("work", words=["bug"]) == -32603
