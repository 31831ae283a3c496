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
from ctfw.service.netlink import MOST_BYTES, opened, request, text_attribute

TABLES: Final = ("ctfw", "ctfw_reject")

_GET_CHAIN: Final = 10 << 8 | 4
_NEW_CHAIN: Final = 10 << 8 | 3
_NFPROTO_INET: Final = 1
_CHAIN_TABLE: Final = 1
_CHAIN_NAME: Final = 3


def is_answering(bit: int) -> bool:
    """True when a chain stands that answers packets with this bit of the mark; False too when that cannot be asked."""
    try:
        with opened() as asker:
            return any(_has_chain(asker, table, answering_chain(bit)) for table in TABLES)
    except OSError:
        return False


def _has_chain(asker: socket.socket, table: str, chain: str) -> bool:
    names = text_attribute(_CHAIN_TABLE, table) + text_attribute(_CHAIN_NAME, chain)
    asker.send(request(_GET_CHAIN, 0, _NFPROTO_INET, names))
    answer = asker.recv(MOST_BYTES)
    return len(answer) >= 6 and bool(struct.unpack_from("=H", answer, 4)[0] == _NEW_CHAIN)
