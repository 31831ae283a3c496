"""How workers reach each other: a pair of sockets for each two of them, and a page of memory that all share.

The page holds, for each sender and receiver, how many messages went that way. Only the sender writes its number, right
after the message is on its way; the receiver compares it with how many it has read. So to find out, ahead of every
packet, that nobody has said anything takes a look into memory and no system call, and whoever sees a packet that
somebody else's verdict has caused sees the messages too that were sent before that verdict.

Beside it the page has two figures of each worker: its connections and its expectations.

Made once, ahead of the forks, for all (``make``); each worker then closes what is not its own. Nothing here waits but
``receive``, for as long as it is told.
"""

from __future__ import annotations

import mmap
import select
import socket
import time
from collections.abc import Callable
from typing import Final

LONGEST: Final = 1 << 16
_FIGURES: Final = 2


def make(size: int) -> list[Channel]:
    """The ends for workers 0 to ``size`` - 1."""
    page = memoryview(mmap.mmap(-1, size * (size + _FIGURES) * 8)).cast("Q")
    ends: list[dict[int, socket.socket]] = [{} for _ in range(size)]
    for one in range(size):
        for other in range(one + 1, size):
            kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
            ends[one][other], ends[other][one] = socket.socketpair(socket.AF_UNIX, kind)
    return [Channel(number, size, page, ends[number]) for number in range(size)]


class Channel:
    """Worker ``number``'s end. ``places`` of the page say how much was sent to it, ``read`` how much it has read."""

    def __init__(self, number: int, size: int, page: memoryview[int], peers: dict[int, socket.socket]) -> None:
        self.others = list(peers)
        self.page = page
        self._peers = peers
        self._sent = {other: number * size + other for other in peers}  # places in the page
        self.places = [other * size + number for other in peers]
        self.read = [0] * len(peers)
        self._figures = size * size + number * _FIGURES
        self._their_figures = [size * size + other * _FIGURES for other in peers]
        self._poll = select.poll()
        for sock in peers.values():
            self._poll.register(sock, select.POLLIN)

    def sockets(self) -> list[socket.socket]:
        return list(self._peers.values())

    def close(self) -> None:
        """Gives this end up in this process; the one whose it is has it open still."""
        for sock in self._peers.values():
            sock.close()

    def is_behind(self) -> bool:
        page = self.page
        for at, place in enumerate(self.places):
            if page[place] != self.read[at]:
                return True
        return False

    def send(self, to: int, message: bytes) -> bool:
        try:
            self._peers[to].send(message)
        except OSError:  # no room, or nobody there any more
            return False
        self.page[self._sent[to]] += 1
        return True

    def receive(self, deliver: Callable[[bytes], None], wait: int = 0) -> None:
        if wait and not self.is_behind():
            self._poll.poll(-(-wait // 1_000_000))
        for at, sock in enumerate(self._peers.values()):
            while True:
                try:
                    message = sock.recv(LONGEST)
                except OSError:
                    break
                if not message:
                    break  # that worker is gone, and so will be the whole service in a moment
                self.read[at] += 1
                deliver(message)

    def clock(self) -> int:
        return time.monotonic_ns()

    def figures(self, place: int, own: int) -> int:
        page = self.page
        page[self._figures + place] = own
        return sum([page[theirs + place] for theirs in self._their_figures])
