"""The other end of the control socket, for the command line: one connection, one question at a time.

Knows the protocol of service/control.py and nothing of what the methods mean. Every way in which a question can fail
has its own exception, because each has its own exit code.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

from ctfw.service.control import DEFAULT_PATH, PROTOCOL
from ctfw.service.session import NOT_PERMITTED

TIMEOUT: Final = 30.0  # seconds; a daemon that takes longer is stuck
MAX_ANSWER: Final = 4 << 20


class ClientError(Exception):
    """The daemon answered with an error; ``data`` is what it said beyond the message."""

    def __init__(self, message: str, data: object = None) -> None:
        super().__init__(message)
        self.data = data


class NotRunning(ClientError):
    """Nobody listens at the socket, or nobody answers there."""


class NotPermitted(ClientError):
    """The socket is not for this user."""


def socket_path(given: str | None) -> str:
    """The socket to use: the one given, else CTFW_SOCKET, else the usual one."""
    return given or os.environ.get("CTFW_SOCKET") or DEFAULT_PATH


class Client:
    """A connection to the daemon; use it in a ``with``."""

    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._id = 0
        self._events: deque[dict[str, Any]] = deque()  # that came before the answer to a question
        try:
            # With Python's own timeout a busy daemon's full backlog would be an error at once instead of a wait.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(timeout), 0))
            self._sock.connect(path)
            self._sock.settimeout(timeout)
            self._file = self._sock.makefile("rb")
            hello = self._read()
        except PermissionError as error:
            self._sock.close()
            raise NotPermitted(f"{path}: not permitted; be root or a member of the daemon's group") from error
        except (FileNotFoundError, ConnectionError, NotADirectoryError) as error:
            self._sock.close()
            raise NotRunning(f"{path}: the daemon is not running ({error.strerror})") from error
        except OSError as error:
            self._sock.close()
            raise NotRunning(f"{path}: the daemon does not answer ({error})") from error
        except ClientError:
            self._sock.close()
            raise
        try:
            oldest, newest = hello["protocols"]
            self.version = str(hello.get("version", ""))
            self.rights = frozenset[str](hello.get("rights", ()))
        except (KeyError, TypeError, ValueError):
            self._sock.close()
            raise self._stranger() from None
        if not oldest <= PROTOCOL <= newest:
            self._sock.close()
            raise ClientError(f"{path}: the daemon speaks protocols {oldest} to {newest}, this program {PROTOCOL}")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._sock.close()

    def call(self, method: str, /, **params: object) -> Any:
        """The method's result. Raises ClientError for an error, NotRunning when the daemon goes away."""
        self._id += 1
        request = {"id": self._id, "method": method, "params": params}
        try:
            self._sock.sendall(json.dumps(request).encode() + b"\n")
            while "event" in (answer := self._read()):
                self._events.append(answer)
            return answer["result"]
        except OSError as error:
            raise NotRunning(f"{self.path}: the daemon went away ({error})") from error

    def events(self, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """What the daemon sends of its own accord after a method that asked for it; ends when it goes away.

        Raises TimeoutError when nothing comes for ``timeout`` seconds.
        """
        self._sock.settimeout(timeout)
        while True:
            try:
                yield self._events.popleft() if self._events else self._read()
            except TimeoutError:
                raise
            except (NotRunning, OSError):
                return

    def pages(self, method: str, /, **params: object) -> Iterator[Any]:
        """The entries of a method that answers in pages."""
        for entries in self.lists(method, **params):
            yield from entries

    def lists(self, method: str, /, **params: object) -> Iterator[list[Any]]:
        """The same page by page."""
        answer = self.call(method, **params)
        while True:
            yield answer["entries"]
            if not answer["more"]:
                return
            answer = self.call(method, **params, next=True)

    def _read(self) -> dict[str, Any]:
        line = self._file.readline(MAX_ANSWER)
        if not line.endswith(b"\n"):
            raise NotRunning(f"{self.path}: the daemon closed the connection")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise self._stranger() from None
        if not isinstance(answer, dict):
            raise self._stranger()
        error = answer.get("error")
        if error is not None:
            kind = NotPermitted if error["code"] == NOT_PERMITTED else ClientError
            raise kind(
                f"{self.path}: {error['message']}" if kind is NotPermitted else error["message"], error.get("data")
            )
        return answer

    def _stranger(self) -> ClientError:
        return ClientError(f"{self.path}: it is not ctfw that answers there")
