"""Where a packet would come from and go to, by the kernel's routing: chain and interfaces of a pair of addresses.

A connection does not remember how it came. Who wants to ask the rules about one that no packet is at hand of needs its
chain and interfaces, and the routing table knows them wherever both ways are the same one. Asked by RTM_GETROUTE, which
needs no rights and answers within the call, some microseconds an address; answers are kept for one use of this class,
up to MOST addresses.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from ctfw.packet import FORWARD, INPUT, OUTPUT

MOST: Final = 4096
UNKNOWN: Final = ("", False)

_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
_NLM_F_REQUEST: Final = 1
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTN_LOCAL: Final = 2


class Routes:
    """Use it in a ``with``. Nothing raises for an address that has no route: its interface is ""."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sock.setblocking(False)
        self._names = dict(socket.if_nameindex())
        self._known: dict[bytes, tuple[str, bool]] = {}

    def __enter__(self) -> Routes:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def place(self, src: bytes, dst: bytes) -> tuple[int, str, str]:
        """Chain, interface in and interface out of a packet from ``src`` to ``dst``, as it is queued."""
        near, from_here = self._find(src)
        far, to_here = self._find(dst)
        if from_here:
            return OUTPUT, "", far
        if to_here:
            return INPUT, near, ""
        return FORWARD, near, far

    def _find(self, address: bytes) -> tuple[str, bool]:
        """By which interface the address is reached, and whether it is one of ours."""
        found = self._known.get(address)
        if found is None:
            if len(self._known) >= MOST:
                self._known.clear()
            try:
                found = self._ask(address)
            except OSError:
                found = UNKNOWN
            self._known[address] = found
        return found

    def _ask(self, address: bytes) -> tuple[str, bool]:
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        body = struct.pack("=BBBBBBBBI", family, len(address) * 8, 0, 0, 0, 0, 0, 0, 0)
        body += struct.pack("=HH", 4 + len(address), _RTA_DST) + address
        self._sock.send(struct.pack("=IHHII", 16 + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 0, 0) + body)
        answer = self._sock.recv(4096)
        size, kind = struct.unpack_from("=IH", answer)
        if kind != _RTM_NEWROUTE:
            return UNKNOWN
        is_local = answer[23] == _RTN_LOCAL
        at = 28
        while at + 8 <= size:
            length, name = struct.unpack_from("=HH", answer, at)
            if name == _RTA_OIF:
                return self._names.get(struct.unpack_from("=I", answer, at + 4)[0], ""), is_local
            at += max(length + 3 & ~3, 4)
        return "", is_local
