"""What systemd wants to hear from the daemon (sd_notify(3)), and what it shall keep; silent when systemd does not ask.

The protocol is one datagram to the socket named in NOTIFY_SOCKET. It is spoken here rather than through a library:
a service of Type=notify whose start-up depended on an optional package would never come up without it.

A notification that cannot be delivered now is lost, and the next one is not. Only for those of a start that nobody
repeats (what to keep, what to forget, the first READY) a socket that is full is waited for, a while in all: without
systemd's own setting ten messages fill it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Final

PATIENCE: Final = 1.0  # seconds, in the whole life of a Notifier
_REST: Final = 0.001


class Notifier:
    """``watchdog_ns`` is how long systemd waits for a sign of life, 0 when it does not wait."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.watchdog_ns = 0
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._sock: socket.socket | None = None
        self._patience = PATIENCE
        self._was_ready = False
        if not self._address:
            return
        if self._address.startswith("@"):  # the abstract namespace
            self._address = "\0" + self._address[1:]
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            usec = environment.get("WATCHDOG_USEC", "0")
            self.watchdog_ns = int(usec) * 1000 if usec.isdecimal() else 0

    @property
    def is_heard(self) -> bool:
        """True when there is somebody who asked to be notified."""
        return self._sock is not None

    def ready(self, status: str) -> None:
        """Started, or done with a reload."""
        self._send(f"READY=1\nSTATUS={status}", matters=not self._was_ready)
        self._was_ready = True

    def reloading(self, now: int) -> None:
        """A reload begins, at ``now`` on the monotonic clock."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now // 1000}\nSTATUS=reloading the rules")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def extend(self, seconds: int) -> None:
        """What is under way, a start or a stop, may take so much longer from now on than the unit says."""
        self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}")

    def alive(self) -> None:
        """Feed the watchdog. Only for one who has seen the packets move."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def keep(self, name: str, descriptor: int) -> None:
        """Have systemd keep a descriptor for whoever comes after us (FileDescriptorStoreMax= of the unit permitting).

        FDPOLL=0: else systemd would poll it, and drop it silently at its first error, which a queue's socket has
        whenever it overflows.
        """
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptor, matters=True)

    def drop(self, name: str) -> None:
        """Have systemd forget a descriptor that it keeps."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}", matters=True)

    def _send(self, state: str, descriptor: int = -1, matters: bool = False) -> None:
        if self._sock is None:
            return
        # Not socket.send_fds: in Python 3.11 it forgets the address.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))] if descriptor >= 0 else []
        with contextlib.suppress(OSError):  # systemd is restarting or busy; there is nobody else to tell
            while True:
                try:
                    self._sock.sendmsg([state.encode()], rights, 0, self._address)
                    return
                except BlockingIOError:
                    if not matters or self._patience <= 0:
                        return
                    time.sleep(_REST)
                    self._patience -= _REST
