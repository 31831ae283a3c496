"""The control socket with real clients: whatever they send or leave unread, the loop goes on and nothing grows."""

import contextlib
import json
import os
import selectors
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ctfw
from ctfw.service.client import Client, ClientError, NotRunning
from ctfw.service.control import MAX_CLIENTS, MAX_LINE, MAX_OUTPUT, RESERVED, STALL, Control
from ctfw.service.session import Method, Refused
from ctfw.service.socket_file import ControlError

SECOND = 1_000_000_000
MOST = MAX_CLIENTS + (RESERVED if os.geteuid() == 0 else 0)


def echo(params: dict[str, Any], session: object) -> object:
    return params


def refuse(params: dict[str, Any], session: object) -> object:
    raise Refused(-32000, "not today", ["because"])


def fail(params: dict[str, Any], session: object) -> object:
    raise KeyError("a bug")


def large(params: dict[str, Any], session: object) -> object:
    return "x" * int(params["size"])


METHODS: dict[str, Method] = {"echo": echo, "refuse": refuse, "fail": fail, "large": large}


class Server:
    """A Control on a selector, turned by hand: `turn` is one turn of the daemon's loop without its packets."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.selector = selectors.DefaultSelector()
        self.failures: list[str] = []
        self.control = Control(self.path, self.selector, METHODS, lambda what, error: self.failures.append(what))
        self.stopped = False

    def turn(self, wait: float = 0.0) -> bool:
        events = self.selector.select(wait)
        for key, mask in events:
            key.data(mask)
        return self.control.step() or bool(events)

    def settle(self) -> None:
        quiet = 0
        while quiet < 2:
            quiet = 0 if self.turn(0.02) else quiet + 1

    def serve(self) -> None:
        while not self.stopped:
            self.turn(0.01)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.settimeout(5)
        return sock


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "control.sock")
    yield made
    made.stopped = True
    made.control.close()
    made.selector.close()


@pytest.fixture
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.stopped = True
    thread.join()


def lines(sock: socket.socket) -> list[dict[str, Any]]:
    """What has come so far, and nothing is waited for."""
    sock.setblocking(False)
    data = b""
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        while chunk := sock.recv(1 << 20):
            data += chunk
    return [json.loads(line) for line in data.splitlines()]


def ask(server: Server, *requests: bytes) -> list[dict[str, Any]]:
    """Send these bytes on a new connection; the answers behind the hello."""
    with server.connect() as sock:
        for request in requests:
            sock.sendall(request)
            server.settle()
        hello, *answers = lines(sock)
        assert hello == {
            "hello": "ctfw",
            "version": ctfw.__version__,
            "protocols": [1, 1],
            "rights": ["read", "write"],
        }
        return answers


def test_a_question_and_its_answer(server: Server) -> None:
    assert ask(server, b'{"id": 1, "method": "echo", "params": {"a": [1]}}\n') == [{"id": 1, "result": {"a": [1]}}]


def test_several_questions_in_one_write_and_one_in_several(server: Server) -> None:
    assert ask(server, b'{"id":1,"method":"echo"}\n{"id":2,"method":"ec', b'ho"}\n{"id":3,"method":"echo"}\n') == [
        {"id": 1, "result": {}},
        {"id": 2, "result": {}},
        {"id": 3, "result": {}},
    ]


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        (b"not json", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 60_000, -32700),
        (b"9" * 60_000, -32700),
        (b"[]", -32600),
        (b"3", -32600),
        (b"", -32700),
        (b'{"id": [1], "method": "echo"}', -32600),
        (b'{"id": 1, "method": "nothing"}', -32601),
        (b'{"id": 1, "method": ["echo"]}', -32601),
        (b'{"id": 1}', -32601),
        (b'{"id": 1, "method": "echo", "params": [1]}', -32602),
        (b'{"id": 1, "method": "refuse"}', -32000),
        (b'{"id": 1, "method": "fail"}', -32603),
    ],
)
def test_a_wrong_question_gets_an_error_and_the_next_one_its_answer(
    server: Server, request_line: bytes, code: int
) -> None:
    wrong, right = ask(server, request_line + b"\n", b'{"id": "x", "method": "echo"}\n')
    assert wrong["error"]["code"] == code
    assert right == {"id": "x", "result": {}}
    assert server.failures == (["control method fail"] if code == -32603 else [])


def test_a_refusal_carries_its_data(server: Server) -> None:
    (answer,) = ask(server, b'{"id": 1, "method": "refuse"}\n')
    assert answer["error"] == {"code": -32000, "message": "not today", "data": ["because"]}


def test_an_odd_id_comes_back_as_it_was(server: Server) -> None:
    (answer,) = ask(server, b'{"id": "\\ud800", "method": "echo"}\n')
    assert answer["id"] == "\ud800"


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_that_is_too_long_ends_the_conversation(server: Server, end: bytes) -> None:
    with server.connect() as sock:
        sock.setblocking(False)
        left = b'{"id": "' + b"x" * (MAX_LINE + 100_000) + end
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while left:
                with contextlib.suppress(BlockingIOError):
                    left = left[sock.send(left) :]
                server.turn()
        server.settle()
        codes = [line["error"]["code"] for line in lines(sock) if "error" in line]
        assert codes in ([-32003], [])  # a reset may overtake the answer
        assert not server.control._clients


def test_who_has_said_everything_still_gets_his_answers(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b'{"id":1,"method":"echo"}\n{"id":2,"method":"echo"}\n')
        sock.shutdown(socket.SHUT_WR)
        server.settle()
        assert [line.get("id") for line in lines(sock)] == [None, 1, 2]
        assert not server.control._clients


def test_a_client_that_reads_nothing_is_not_read_from_and_holds_up_nobody(server: Server) -> None:
    question = b'{"id": 1, "method": "large", "params": {"size": 300000}}\n'
    with server.connect() as slow, server.connect() as quick:
        slow.setblocking(False)
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                slow.send(question)
            server.turn()
        quick.sendall(b'{"id": 7, "method": "echo"}\n')
        server.settle()
        assert lines(quick)[-1] == {"id": 7, "result": {}}
        (stuck,) = [client for client in server.control._clients if client.output]
        assert len(stuck.output) <= 300_100  # one answer, not a hundred
        assert len(stuck.input) <= 2 * MAX_LINE


def test_a_client_that_takes_nothing_for_long_is_dropped(server: Server) -> None:
    with server.connect() as slow, server.connect():
        slow.sendall(b'{"id": 1, "method": "large", "params": {"size": 900000}}\n')
        server.settle()
        server.control.tick(STALL)
        assert len(server.control._clients) == 2
        server.control.tick(STALL + SECOND)
        assert len(server.control._clients) == 1
        assert server.control.dropped == 1


def test_an_answer_over_the_limit_drops_the_client(server: Server) -> None:
    question = b'{"id": 1, "method": "large", "params": {"size": %d}}\n' % (MAX_OUTPUT + 1)
    assert ask(server, question) == []
    assert server.control.dropped == 1


def test_one_request_a_turn_so_that_packets_come_in_between(server: Server) -> None:
    socks = [server.connect() for _ in range(10)]
    server.settle()
    for sock in socks:
        sock.sendall(b'{"id":1,"method":"echo"}\n')
    for key, mask in server.selector.select(1):
        key.data(mask)
    assert [server.control.step() for _ in range(10)] == [True] * 9 + [False]
    for sock in socks:
        sock.close()


def test_a_hundred_clients(serving: Server) -> None:
    socks = [serving.connect() for _ in range(100)]
    hellos = [json.loads(sock.makefile("rb").readline()) for sock in socks]
    served = [sock for sock, hello in zip(socks, hellos, strict=True) if "hello" in hello]
    refused = [hello["error"]["code"] for hello in hellos if "error" in hello]
    assert len(served) == MOST
    assert refused == [-32002] * (100 - MOST)
    for number, sock in enumerate(served):
        sock.sendall(b'{"id": %d, "method": "echo"}\n' % number)
    assert [json.loads(sock.makefile("rb").readline())["id"] for sock in served] == list(range(MOST))
    for sock in socks:
        sock.close()
    with Client(serving.path) as client:  # there is room again
        assert client.call("echo", x=1) == {"x": 1}


def test_the_client_tells_errors_apart(serving: Server, tmp_path: Path) -> None:
    with Client(serving.path) as client:
        with pytest.raises(ClientError, match="not today") as refused:
            client.call("refuse")
        assert refused.value.data == ["because"]
        assert client.call("echo") == {}
    with pytest.raises(NotRunning):
        Client(str(tmp_path / "nothing"))


def test_the_socket_is_for_owner_and_group(server: Server) -> None:
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_somebody_else_is_turned_away(server: Server, tmp_path: Path) -> None:
    os.chmod(server.path, 0o666)  # even so
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            os.chmod(folder, 0o711)
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({server.path!r}); print(s.recv(999).decode())"
    options: dict[str, Any] = {"user": 65534, "group": 65534, "stdout": subprocess.PIPE}
    for groups, expected in (([], '"code":-32001'), ([os.getegid()], '"hello"')):
        python = os.path.realpath(sys.executable)  # not the virtual environment's: its folder may be closed to others
        with subprocess.Popen([python, "-S", "-c", code], extra_groups=groups, **options) as other:
            while other.poll() is None:
                server.turn(0.01)
            assert other.stdout is not None
            assert expected in other.stdout.read().decode()


def test_a_socket_that_nobody_listens_at_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    Server(tmp_path / "control.sock").control.close()


def test_a_socket_that_somebody_listens_at_is_not_replaced(server: Server) -> None:
    with pytest.raises(ControlError, match="another daemon listens there"):
        Server(Path(server.path))


def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("precious")
    with pytest.raises(ControlError, match="not a socket"):
        Server(tmp_path / "control.sock")
    assert (tmp_path / "control.sock").read_text() == "precious"


def test_the_end_removes_the_socket_but_not_that_of_a_successor(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = Server(path)
    path.unlink()
    second = Server(path)
    first.control.close()
    assert path.exists()
    second.control.close()
    assert not path.exists()
