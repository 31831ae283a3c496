"""What the cold side asks netfilter by netlink: a request, its answers, and the attributes in both.

The kernel answers within the call that asks, in some microseconds, so the loop may ask. What the messages of a
subsystem mean is known to who asks: the rules (hook/handed.py, hook/present.py), the connections (kernel_table.py).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from ctfw.nfqueue import attribute

ERROR: Final = 2
DONE: Final = 3
REQUEST: Final = 0x001
ACK: Final = 0x004
DUMP: Final = 0x300
NESTED: Final = 0x8000  # what is in this attribute are attributes
HEADER: Final = 20  # nlmsghdr and nfgenmsg
MOST_BYTES: Final = 1 << 16  # of one answer

_NETLINK_NETFILTER: Final = 12
_KIND: Final = 0x3FFF
_MESSAGE: Final = 16  # nlmsghdr


def opened(timeout: float = 1.0) -> socket.socket:
    """A socket to ask by; ``timeout`` as of sockets, 0 for one that never waits. Raises OSError."""
    asker = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    asker.settimeout(timeout)
    return asker


def request(kind: int, flags: int, family: int, body: bytes) -> bytes:
    """A message with these attributes, to be sent."""
    return struct.pack("=IHHIIBBH", HEADER + len(body), kind, REQUEST | flags, 0, 0, family, 0, 0) + body


def dump(asker: socket.socket, kind: int, family: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Asks for all there are: the kind and the attributes of each. Raises OSError."""
    asker.send(request(kind, DUMP, family, body))
    while True:
        answer = asker.recv(MOST_BYTES)
        at = 0
        while at + _MESSAGE <= len(answer):
            size, found = struct.unpack_from("=IH", answer, at)
            if found == ERROR:
                code = -int(struct.unpack_from("=i", answer, at + _MESSAGE)[0])
                raise OSError(code, os.strerror(code))
            if found == DONE or size < _MESSAGE:
                return
            yield found, answer[at + HEADER : at + size]
            at += size + 3 & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each, up to the first that is none."""
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & _KIND, data[at + 4 : at + size]
        at += size + 3 & ~3


def text_attribute(kind: int, text: str) -> bytes:
    """A name, as the kernel takes it."""
    return attribute(kind, text.encode("ascii") + b"\0")
