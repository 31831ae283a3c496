"""The file of the control socket: made before anything else, and gone when nobody listens.

Its mode is 0660, so it belongs to the daemon's user and group: who is neither does not get as far as being turned away.
Where other groups have rights too the mode is 0666, for a file has one group only; then the daemon itself turns away
who has none.
A file that a daemon left behind when it was killed is replaced; one that somebody listens at never is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Final

BACKLOG: Final = 64  # who connects while so many wait, waits


class ControlError(Exception):
    """The socket cannot be made."""


def listen(path: str, is_open: bool = False) -> tuple[socket.socket, int]:
    """Make the socket file, in the place of one that nobody listens at any more; the listener and the file's inode.

    ``is_open``: everybody may connect. Raises ControlError.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o111 if is_open else 0o117)  # the mode from the first moment on, not a moment later
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
        inode = os.stat(path).st_ino
    except OSError as error:
        raise ControlError(
            f"control socket: {path}: {error.strerror or error}; choose another with --socket"
        ) from error
    return listener, inode


def remove(path: str, inode: int) -> None:
    """Remove the socket file if it is still this one."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


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
