"""Whether the kernel answers what ctfw rejects: one question by netlink, which the daemon may ask at any time.

A rejected packet leaves ctfw accepted, to be answered and dropped by a chain of the hook. Were that chain gone, the
packet would pass. So the daemon asks for it, by a name that carries the bit of the mark, before it accepts anything so
and at intervals after that; without it, what is to be rejected is dropped. It runs no program for that, takes some ten
microseconds and needs CAP_NET_ADMIN alone.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from ctfw.service.hook.reject import answering_chain

TABLES: Final = ("ctfw", "ctfw_reject")

_NETLINK_NETFILTER: Final = 12
_GET_CHAIN: Final = 10 << 8 | 4
_NEW_CHAIN: Final = 10 << 8 | 3
_NLM_F_REQUEST: Final = 1
_NFPROTO_INET: Final = 1
_CHAIN_TABLE: Final = 1
_CHAIN_NAME: Final = 3


def is_answering(bit: int) -> bool:
    """True when a chain stands that answers packets with this bit of the mark; False too when that cannot be asked."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as asker:
            asker.settimeout(1)
            asker.bind((0, 0))
            return any(_has_chain(asker, table, answering_chain(bit)) for table in TABLES)
    except OSError:
        return False


def _has_chain(asker: socket.socket, table: str, chain: str) -> bool:
    names = _attribute(_CHAIN_TABLE, table) + _attribute(_CHAIN_NAME, chain)
    asker.send(struct.pack("=IHHIIBBH", 20 + len(names), _GET_CHAIN, _NLM_F_REQUEST, 0, 0, _NFPROTO_INET, 0, 0) + names)
    answer = asker.recv(65536)
    return len(answer) >= 6 and bool(struct.unpack_from("=H", answer, 4)[0] == _NEW_CHAIN)


def _attribute(kind: int, text: str) -> bytes:
    value = text.encode("ascii") + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
