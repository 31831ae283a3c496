"""The control socket: JSON lines with the shape of JSON-RPC, served between packets.

Owns the socket file, the clients and their buffers. What the methods do is not known here: they are a dict of
functions, ``method(params, session) -> result``, that raise ``Refused`` for an answer that is an error.

A conversation::

    <- {"hello": "ctfw", "protocol": 1, "version": "0.1.0"}
    -> {"id": 1, "method": "status", "params": {}}
    <- {"id": 1, "result": {...}}
    -> {"id": 2, "method": "no such"}
    <- {"id": 2, "error": {"code": -32601, "message": "..."}}

The loop must never wait for a client, so nothing here blocks and everything a client can make grow has a limit: its
line (MAX_LINE), what it has not read yet (MAX_OUTPUT), and how many there are (MAX_CLIENTS). A client is not read from
while a request of his waits or an answer is not yet taken; one that takes nothing for STALL is dropped. ``step`` serves
one request of one client, in turn, and a method keeps its share of work short by answering in pages: what is left for
the next page stands in the client's Session, a generator that is thrown away with the client.

Who may: root, the daemon's own user, and members of its group. The file's mode (0660) says so, and SO_PEERCRED is
checked too, because modes get changed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import stat
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from ctfw import __version__

PROTOCOL: Final = 1
DEFAULT_PATH: Final = "/run/ctfw/control.sock"
MAX_LINE: Final = 64 << 10
MAX_OUTPUT: Final = 1 << 20
MAX_CLIENTS: Final = 64
STALL: Final = 10_000_000_000

# JSON-RPC 2.0's numbers, and ours from -32000 on.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
NO_METHOD: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
FAILED: Final = -32000
NOT_PERMITTED: Final = -32001
TOO_MANY_CLIENTS: Final = -32002
LINE_TOO_LONG: Final = -32003

_SO_PEERGROUPS: Final = 59
_MAX_OPTION: Final = 1024  # bytes of a socket option that Python reads at once


class ControlError(Exception):
    """The socket cannot be made."""


class Refused(Exception):
    """The answer to a request is an error; ``data`` says more to a program."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class Session:
    """What a client's conversation keeps between two requests: the pages still to come."""

    def __init__(self) -> None:
        self.pages: Iterator[list[Any]] | None = None


Method = Callable[[dict[str, Any], Session], object]


class _Client:
    def __init__(self, sock: socket.socket, now: int) -> None:
        self.sock = sock
        self.session = Session()
        self.input = bytearray()
        self.output = bytearray()
        self.events = 0
        self.ended = False  # sends no more, but may wait for answers
        self.closing = False  # gets what is in its output, nothing more
        self.moved = now  # when it last took something of its output


class Control:
    """The listening socket and its clients, on the loop's selector. ``failed`` is told of a method that raised."""

    def __init__(
        self,
        path: str,
        selector: selectors.BaseSelector,
        methods: dict[str, Method],
        failed: Callable[[str, Exception], None],
    ) -> None:
        self.path = path
        self.dropped = 0  # clients that took too much room or time
        self._selector = selector
        self._methods = methods
        self._failed = failed
        self._clients: set[_Client] = set()
        self._ready: deque[_Client] = deque()
        self._now = 0
        self._listener = _listen(path)
        self._inode = os.stat(path).st_ino
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def step(self) -> bool:
        """Serve one waiting request. True: more wait, come back soon."""
        if not self._ready:
            return False
        client = self._ready.popleft()
        line, _, rest = client.input.partition(b"\n")
        client.input = rest
        self._reply(client, self._answer(bytes(line), client.session))
        self._rearm(client)
        return bool(self._ready)

    def tick(self, now: int) -> None:
        """Drop the clients that do not take their answers."""
        self._now = now
        for client in [c for c in self._clients if c.output and now - c.moved > STALL]:
            self.dropped += 1
            self._close(client)

    def close(self) -> None:
        """Close everything and remove the socket file, if it is still ours."""
        for client in list(self._clients):
            self._close(client)
        self._selector.unregister(self._listener)
        self._listener.close()
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # he went away, or we are out of descriptors
            return
        sock.setblocking(False)
        client = _Client(sock, self._now)
        self._clients.add(client)
        if not _is_permitted(sock):
            self._turn_away(client, NOT_PERMITTED, "only for root, the daemon's user and its group")
        elif len(self._clients) > MAX_CLIENTS:
            self._turn_away(client, TOO_MANY_CLIENTS, f"{MAX_CLIENTS} clients are connected already")
        else:
            self._reply(client, {"hello": "ctfw", "protocol": PROTOCOL, "version": __version__})
            self._rearm(client)

    def _turn_away(self, client: _Client, code: int, message: str) -> None:
        self._reply(client, {"id": None, "error": {"code": code, "message": message}})
        self._close(client)  # one line always fits into a fresh socket

    def _ready_for(self, client: _Client, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(client)
        elif events & selectors.EVENT_READ:
            self._receive(client)
        self._rearm(client)

    def _receive(self, client: _Client) -> None:
        try:
            data = client.sock.recv(MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            client.ended = True
        client.input += data
        # The limit is the line's, not the buffer's: several short requests may come at once.
        newline = client.input.find(b"\n")
        if newline > MAX_LINE or (newline < 0 and len(client.input) > MAX_LINE):
            message = f"a request is one line of at most {MAX_LINE} bytes"
            self._reply(client, {"id": None, "error": {"code": LINE_TOO_LONG, "message": message}})
            client.closing = True

    def _answer(self, line: bytes, session: Session) -> dict[str, object]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            return {"id": None, "error": {"code": PARSE_ERROR, "message": f"not JSON: {error}"}}
        if not isinstance(request, dict) or not isinstance(request.get("id"), str | int | float | None):
            message = 'a request is an object: {"id": 1, "method": "status", "params": {}}'
            return {"id": None, "error": {"code": INVALID_REQUEST, "message": message}}
        try:
            return {"id": request.get("id"), "result": self._call(request, session)}
        except Refused as refused:
            reply: dict[str, object] = {"code": refused.code, "message": str(refused)}
            if refused.data is not None:
                reply["data"] = refused.data
            return {"id": request.get("id"), "error": reply}

    def _call(self, request: dict[str, Any], session: Session) -> object:
        name = request.get("method")
        method = self._methods.get(name) if isinstance(name, str) else None
        if method is None:
            raise Refused(NO_METHOD, f"no such method; there are {', '.join(sorted(self._methods))}")
        params = request.get("params", {})
        if not isinstance(params, dict):
            raise Refused(INVALID_PARAMS, "params is an object")
        try:
            return method(params, session)
        except Refused:
            raise
        except Exception as error:  # the loop's guard for questions: a wrong answer must not end the firewall
            self._failed(f"control method {name}", error)
            raise Refused(INTERNAL_ERROR, f"internal error: {type(error).__name__}: {error}") from error

    def _reply(self, client: _Client, message: dict[str, object]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode()
        if not client.output:
            client.moved = self._now
        client.output += line + b"\n"
        if len(client.output) > MAX_OUTPUT:
            self.dropped += 1
            client.output.clear()
            client.closing = True
            return
        self._send(client)

    def _send(self, client: _Client) -> None:
        try:
            sent = client.sock.send(client.output)
        except BlockingIOError:
            return
        except OSError:  # nobody there any more
            client.output.clear()
            client.closing = True
            return
        del client.output[:sent]
        client.moved = self._now

    def _rearm(self, client: _Client) -> None:
        """Decide what the client waits for next: to be written to, to be served, to be read from, or the end."""
        events = 0
        if client.output:
            events = selectors.EVENT_WRITE
        elif client.closing:
            self._close(client)
            return
        elif b"\n" in client.input:
            self._ready.append(client)
        elif client.ended:
            self._close(client)
            return
        else:
            events = selectors.EVENT_READ
        if events == client.events:
            return
        if not client.events:
            self._selector.register(client.sock, events, lambda mask: self._ready_for(client, mask))
        elif not events:
            self._selector.unregister(client.sock)
        else:
            self._selector.modify(client.sock, events, lambda mask: self._ready_for(client, mask))
        client.events = events

    def _close(self, client: _Client) -> None:
        if client.events:
            self._selector.unregister(client.sock)
            client.events = 0
        with contextlib.suppress(ValueError):
            self._ready.remove(client)
        self._clients.discard(client)
        client.sock.close()


def _listen(path: str) -> socket.socket:
    """Make the socket file, in the place of one that nobody listens at any more."""
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o117)  # the mode from the first moment on, not a moment later
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        raise ControlError(
            f"control socket: {path}: {error.strerror or error}; choose another with --socket"
        ) from error
    return listener


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(
            f"control socket: {path}: exists and is not a socket; remove it or choose another with --socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(path)
    if code != errno.ECONNREFUSED:
        raise ControlError(
            f"control socket: {path}: another daemon listens there; stop it or choose another with --socket"
        )
    os.unlink(path)


def _is_permitted(sock: socket.socket) -> bool:
    _pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid in (0, os.geteuid()) or gid == os.getegid():
        return True
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION)
    except OSError:  # in more groups than we can read
        return False
    return os.getegid() in struct.unpack(f"{len(groups) // 4}I", groups)
