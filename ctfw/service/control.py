"""The control socket: JSON lines with the shape of JSON-RPC, served between packets. docs/control.md is for its users.

Owns the clients and their buffers. What the methods do is not known here: they are a dict of
functions, ``method(params, session) -> result``, that raise ``Refused`` for an answer that is an error. Those named in
``reading`` need the right READ, all others WRITE.

A conversation::

    <- {"hello": "ctfw", "version": "0.1.0", "protocols": [1, 1], "rights": ["read", "write"]}
    -> {"id": 1, "method": "status", "params": {}}
    <- {"id": 1, "result": {...}}
    -> {"id": 2, "method": "no such"}
    <- {"id": 2, "error": {"code": -32601, "message": "..."}}

The loop must never wait for a client, so nothing here blocks and everything a client can make grow has a limit: its
line (MAX_LINE), what it has not read yet (MAX_OUTPUT, and session's MAX_BACKLOG of a stream), how many there are, and
how much of a turn they get: at most ACCEPTS new ones and one request of one client, in turn. A client is not read from
while a request of his waits or an answer is not yet taken.

A method keeps its share of work short in one of three ways. It answers in pages: what is left for the next page stands
in the client's Session, thrown away with the client. It is a generator: each turn runs it to its next ``yield``, and
what it returns is the answer. Or it returns a Later, which somebody else answers.

Places: there are MAX_CLIENTS, and RESERVED more that only root gets; nobody but root has more than SHARE of them. Who
comes when his share or the house is full takes the place of the one that has been idle longest (for IDLE at least, no
stream, nothing on its way; root's only for root), and is turned away when there is none. One that takes nothing of its
answers for STALL is dropped.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
from collections import deque
from collections.abc import Callable, Collection, Generator
from typing import Final

from ctfw import __version__
from ctfw.service.peers import READ, WRITE, Access, Peer, peer_of
from ctfw.service.session import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LINE_TOO_LONG,
    NO_METHOD,
    NOT_PERMITTED,
    PARSE_ERROR,
    TOO_MANY_CLIENTS,
    Later,
    Method,
    Refused,
    Session,
)
from ctfw.service.socket_file import listen, remove

PROTOCOL: Final = 1
OLDEST_PROTOCOL: Final = 1
DEFAULT_PATH: Final = "/run/ctfw/control.sock"
MAX_LINE: Final = 64 << 10
MAX_OUTPUT: Final = 1 << 20
MAX_CLIENTS: Final = 64
RESERVED: Final = 4
SHARE: Final = 16
ACCEPTS: Final = 8
IDLE: Final = 10_000_000_000
STALL: Final = 10_000_000_000


class _Client:
    def __init__(self, sock: socket.socket, session: Session, now: int) -> None:
        self.sock = sock
        self.session = session
        self.input = bytearray()
        self.output = bytearray()
        self.events = 0
        self.id: object = None  # of the request that is being served
        self.work: Generator[None, None, object] | None = None  # what makes its answer
        self.waits = False  # for an answer that comes later
        self.ended = False  # sends no more, but may wait for answers
        self.closing = False  # gets what is in its output, nothing more
        self.moved = now  # when it last said something or took something of its output

    def is_idle(self, now: int) -> bool:
        busy = self.output or self.input or self.work is not None or self.waits or self.session.is_subscribed
        return not busy and now - self.moved >= IDLE


class Control:
    """The listening socket and its clients, on the loop's selector. ``failed`` is told of a method that raised.

    ``access`` says who may do what, and may be replaced at any time.
    """

    def __init__(
        self,
        path: str,
        selector: selectors.BaseSelector,
        methods: dict[str, Method],
        failed: Callable[[str, Exception], None],
        reading: Collection[str] = (),
        access: Access | None = None,
    ) -> None:
        self.path = path
        self.access = Access() if access is None else access
        self.refused: Callable[[Peer, str], None] = lambda peer, why: None  # is told of whom was turned away, and why
        self.dropped = 0  # clients that took too much room or time, or made room for others
        self._selector = selector
        self._methods = methods
        self._reading = reading
        self._failed = failed
        self._clients: set[_Client] = set()
        self._streams: set[_Client] = set()
        self._ready: deque[_Client] = deque()
        self._now = 0
        self._listener, self._inode = listen(path, is_open=not self.access.is_usual())
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def step(self) -> bool:
        """Serve one waiting request, or a slice of one, and send what streams have. True: come back soon."""
        for client in list(self._streams):
            self._stream(client)
        if not self._ready:
            return False
        client = self._ready.popleft()
        if client.work is None:
            line, _, rest = client.input.partition(b"\n")
            client.input = rest
            self._serve(client, lambda: self._answer(client, bytes(line)))
        else:
            work = client.work
            self._serve(client, lambda: self._go_on(client, work))
        self._rearm(client)
        return bool(self._ready)

    @property
    def count(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    def tick(self, now: int) -> None:
        """Drop the clients that do not take their answers."""
        self._now = now
        for client in [c for c in self._clients if c.output and now - c.moved > STALL]:
            if not client.session.is_subscribed:
                self.dropped += 1
                self._close(client)

    def close(self) -> None:
        """Close everything and remove the socket file, if it is still ours."""
        for client in list(self._clients):
            self._close(client)
        self._selector.unregister(self._listener)
        self._listener.close()
        remove(self.path, self._inode)

    def _accept(self, _events: int) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, _ = self._listener.accept()
            except OSError:  # nobody is left, he went away, or we are out of descriptors
                return
            self._greet(sock)

    def _greet(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        client = _Client(sock, Session(peer_of(sock)), self._now)
        rights = self.access.rights(client.session.peer)
        if not rights:
            self._turn_away(client, NOT_PERMITTED, "only for root, the daemon's user and its groups")
            return
        why = self._make_room(client)
        if why:
            self._turn_away(client, TOO_MANY_CLIENTS, why)
            return
        self._clients.add(client)
        protocols = [OLDEST_PROTOCOL, PROTOCOL]
        self._reply(client, {"hello": "ctfw", "version": __version__, "protocols": protocols, "rights": rights})
        self._rearm(client)

    def _make_room(self, client: _Client) -> str:
        """Sees to a place for a newcomer; says why there is none."""
        uid = client.session.peer.uid
        same = [one for one in self._clients if one.session.peer.uid == uid]
        if uid != 0 and len(same) >= SHARE:
            return "" if self._evict(same) else f"{SHARE} clients of this user are connected already"
        if len(self._clients) < MAX_CLIENTS + (RESERVED if uid == 0 else 0):
            return ""
        others = [one for one in self._clients if uid == 0 or one.session.peer.uid != 0]
        return "" if self._evict(others) else f"{len(self._clients)} clients are connected already"

    def _evict(self, candidates: list[_Client]) -> bool:
        """Closes the one that has been idle longest, if any is."""
        idle = [client for client in candidates if client.is_idle(self._now)]
        if not idle:
            return False
        self.dropped += 1
        self._close(min(idle, key=lambda client: client.moved))
        return True

    def _turn_away(self, client: _Client, code: int, message: str) -> None:
        self.refused(client.session.peer, message)
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
        client.moved = self._now
        # The limit is the line's, not the buffer's: several short requests may come at once.
        newline = client.input.find(b"\n")
        if newline > MAX_LINE or (newline < 0 and len(client.input) > MAX_LINE):
            self._reply_error(client, Refused(LINE_TOO_LONG, f"a request is one line of at most {MAX_LINE} bytes"))
            client.closing = True

    def _serve(self, client: _Client, answer: Callable[[], object]) -> None:
        """Has the answer made, or a slice of it, and sends it when it is there."""
        client.work = None
        try:
            result = answer()
        except Refused as refused:
            self._reply_error(client, refused)
            return
        if isinstance(result, Generator):
            client.work = result
        elif isinstance(result, Later) and not result.is_known:
            client.waits = True
            result.tell = lambda answer: self._answer_late(client, answer)
        else:
            self._reply_result(client, result.answer if isinstance(result, Later) else result)
        if client.session.is_subscribed:
            self._streams.add(client)

    def _answer_late(self, client: _Client, answer: object) -> None:
        client.waits = False
        if client in self._clients:
            self._reply_result(client, answer)
            self._rearm(client)

    def _go_on(self, client: _Client, work: Generator[None, None, object]) -> object:
        try:
            self._guard("a longer answer", lambda: next(work))
        except StopIteration as end:
            return end.value
        return work

    def _answer(self, client: _Client, line: bytes) -> object:
        client.id = None
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Refused(PARSE_ERROR, f"not JSON: {error}") from error
        if not isinstance(request, dict) or not isinstance(request.get("id"), str | int | float | None):
            message = 'a request is an object: {"id": 1, "method": "status", "params": {}}'
            raise Refused(INVALID_REQUEST, message)
        client.id = request.get("id")
        name = request.get("method")
        method = self._methods.get(name) if isinstance(name, str) else None
        if method is None:
            raise Refused(NO_METHOD, f"no such method; there are {', '.join(sorted(self._methods))}")
        right = READ if name in self._reading else WRITE
        if right not in self.access.rights(client.session.peer):
            raise Refused(NOT_PERMITTED, f"{name} needs the right to {right}: be root, or in a group that has it")
        params = request.get("params", {})
        if not isinstance(params, dict):
            raise Refused(INVALID_PARAMS, "params is an object")
        return self._guard(f"method {name}", lambda: method(params, client.session))

    def _guard(self, what: str, call: Callable[[], object]) -> object:
        """The loop's guard for questions: a wrong answer must not end the firewall."""
        try:
            return call()
        except (Refused, StopIteration):
            raise
        except Exception as error:
            self._failed(f"control {what}", error)
            raise Refused(INTERNAL_ERROR, f"internal error: {type(error).__name__}: {error}") from error

    def _reply_result(self, client: _Client, result: object) -> None:
        if isinstance(result, Refused):
            self._reply_error(client, result)
        else:
            self._reply(client, {"id": client.id, "result": result})

    def _reply_error(self, client: _Client, refused: Refused) -> None:
        reply: dict[str, object] = {"code": refused.code, "message": str(refused)}
        if refused.data is not None:
            reply["data"] = refused.data
        self._reply(client, {"id": client.id, "error": reply})

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

    def _stream(self, client: _Client) -> None:
        """Sends what was pushed, when everything before has been taken."""
        if not client.session.is_subscribed:
            self._streams.discard(client)
        if client.output or client.closing:
            return
        client.output += client.session.take()
        if client.output:
            self._send(client)
            self._rearm(client)

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
        elif client.waits:
            events = 0
        elif b"\n" in client.input or client.work is not None:
            if client not in self._ready:
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
        self._streams.discard(client)
        client.session.is_open = False
        client.sock.close()
