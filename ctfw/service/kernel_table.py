"""The kernel's own table of connections, by netlink (ctnetlink): is this one in it, and what may its mark say?

Only for connections that were handed to the kernel (``offload``). The kernel answers within the call, some
microseconds each, so the loop may ask a few at a time. It finds a connection by either of its two tuples as it knows
them, before and after its translation; ours are those of the middle. One of the two agrees unless both ends are
translated, which is why the hook offloads no such connection. Needs CAP_NET_ADMIN. The one thing that is written to
that table is a mark with bits cleared.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ctfw.nfqueue import attribute
from ctfw.packet import address_size
from ctfw.service.netlink import ACK, ERROR, HEADER, MOST_BYTES, NESTED, attributes, dump, opened, request

_NEW: Final = 1 << 8 | 0
_GET: Final = 1 << 8 | 1

_TUPLE_ORIG: Final = 1
_TIMEOUT: Final = 7
_MARK: Final = 8
_COUNTERS_ORIG: Final = 9
_COUNTERS_REPLY: Final = 10
_TUPLE_REPLY: Final = 2
_MARK_MASK: Final = 21
_TUPLE_IP: Final = 1
_TUPLE_PROTO: Final = 2


@dataclass(frozen=True)
class Entry:
    """``key`` is the kernel's original tuple in our form; ``left`` seconds; packets and bytes are 0 without acct."""

    key: bytes
    reply_key: bytes
    mark: int
    left: int
    original: tuple[int, int]
    reply: tuple[int, int]


class KernelTable:
    """A socket to ask by. The constructor raises OSError where there is no ctnetlink."""

    def __init__(self) -> None:
        self._sock = opened(0)

    def close(self) -> None:
        self._sock.close()

    def find(self, key: bytes, reply_key: bytes) -> Entry | None:
        """The entry that has one of the two tuples; None when there is none. Raises OSError when it cannot be asked."""
        for one in (key, reply_key):
            kind, body = self._ask(_GET, 0, one, _tuple(_TUPLE_ORIG, one))
            if kind == _NEW:
                return _entry(body)
            code = -int(struct.unpack_from("=i", body)[0])
            if code != errno.ENOENT:
                raise OSError(code, os.strerror(code))
        return None

    def clear(self, entry: Entry, bits: int) -> bool:
        """Takes these bits from the mark; False when the entry is gone. Raises OSError when that is refused."""
        body = _tuple(_TUPLE_ORIG, entry.key)
        body += attribute(_MARK, bytes(4)) + attribute(_MARK_MASK, struct.pack(">I", bits))
        _, answer = self._ask(_NEW, ACK, entry.key, body)
        code = -int(struct.unpack_from("=i", answer)[0])
        if code not in (0, errno.ENOENT):
            raise OSError(code, os.strerror(code))
        return code == 0

    def marked(self, bits: int) -> Iterator[Entry]:
        """Every entry whose mark has all of these bits. Walks the whole table: for the start only. Raises OSError."""
        value = struct.pack(">I", bits)
        body = attribute(_MARK, value) + attribute(_MARK_MASK, value)
        with opened() as asker:
            for _, found in dump(asker, _GET, socket.AF_UNSPEC, body):
                entry = _entry(found)
                if entry.mark & bits == bits:  # older kernels do not filter
                    yield entry

    def _ask(self, kind: int, flags: int, key: bytes, body: bytes) -> tuple[int, bytes]:
        family = socket.AF_INET if address_size(key) == 4 else socket.AF_INET6
        self._sock.send(request(kind, flags, family, body))
        while True:
            data = self._sock.recv(MOST_BYTES)
            answer: int = struct.unpack_from("=4xH", data)[0]
            if answer == ERROR:
                return answer, data[16:]
            if answer == _NEW:
                if flags & ACK == 0:
                    return answer, data[HEADER:]


def _tuple(kind: int, key: bytes) -> bytes:
    size = address_size(key)
    ports = 1 + 2 * size
    first = 1 if size == 4 else 3  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
    addresses = attribute(first, key[1 : 1 + size]) + attribute(first + 1, key[1 + size : ports])
    proto = attribute(1, key[:1]) + attribute(2, key[ports : ports + 2]) + attribute(3, key[ports + 2 : ports + 4])
    both = attribute(_TUPLE_IP | NESTED, addresses) + attribute(_TUPLE_PROTO | NESTED, proto)
    return attribute(kind | NESTED, both)


def _entry(body: bytes) -> Entry:
    found = dict(attributes(body))
    return Entry(
        _key(found.get(_TUPLE_ORIG, b"")),
        _key(found.get(_TUPLE_REPLY, b"")),
        int.from_bytes(found.get(_MARK, b""), "big"),
        int.from_bytes(found.get(_TIMEOUT, b""), "big"),
        _counters(found.get(_COUNTERS_ORIG, b"")),
        _counters(found.get(_COUNTERS_REPLY, b"")),
    )


def _key(data: bytes) -> bytes:
    """A tuple as ctfw.packet writes keys."""
    both = dict(attributes(data))
    addresses, proto = (dict(attributes(both.get(part, b""))) for part in (_TUPLE_IP, _TUPLE_PROTO))
    first = 1 if 1 in addresses else 3
    ends = addresses.get(first, b"") + addresses.get(first + 1, b"")
    return proto.get(1, b"\0") + ends + proto.get(2, b"\0\0") + proto.get(3, b"\0\0")


def _counters(data: bytes) -> tuple[int, int]:
    found = dict(attributes(data))
    return int.from_bytes(found.get(1, b""), "big"), int.from_bytes(found.get(2, b""), "big")
