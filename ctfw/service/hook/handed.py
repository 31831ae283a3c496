"""What the hook's rules have handed over so far, asked of the kernel by netlink; the daemon may ask at any time.

The rule that queues has a counter, in nft's words and in those of iptables-nft, whose rules are nft's too. Nobody else
counts a packet that passes unjudged: not the queue when it is full and lets it pass, not the kernel when nobody listens
and the rule says bypass. So this counter, held against what was judged, is the only figure there is.

Asked is for ctfw's own chains alone, never for a whole table, so the cost does not grow with what others have: some ten
microseconds a chain. It runs no program and needs CAP_NET_ADMIN alone. The rules of iptables-legacy cannot be asked for
so; there the answer is that there are none, and `ctfw hook status`, which root runs, counts them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service.netlink import attributes, dump, opened, text_attribute

_NAMES: Final = tuple(HOOK_NAMES[hook] for hook in (INPUT, FORWARD, OUTPUT))
_INET, _IPV4, _IPV6 = 1, 2, 10  # NFPROTO_*

# Family, table, chain: of the back end nft, and of iptables-nft (service/hook/iptables.py says which stands where).
PLACES: Final = (
    *((_INET, "ctfw", name) for name in _NAMES),
    *(
        (family, table, f"CTFW-{name.upper()}")
        for family in (_IPV4, _IPV6)
        for table, name in (("security", "input"), ("security", "forward"), ("mangle", "output"))
    ),
)

_GET_RULE: Final = 10 << 8 | 7
_NEW_RULE: Final = 10 << 8 | 6

_RULE_TABLE: Final = 1
_RULE_CHAIN: Final = 2
_RULE_EXPRESSIONS: Final = 4
_EXPR_NAME: Final = 1
_EXPR_DATA: Final = 2
_COUNTER_PACKETS: Final = 2
_QUEUE_NUMBER: Final = 1
_QUEUE_TOTAL: Final = 2
_QUEUE_FLAGS: Final = 3
_TARGET_NAME: Final = 1
_TARGET_INFO: Final = 3
_BYPASS: Final = 1


@dataclass(frozen=True)
class Handed:
    """One rule that queues: packets since it was made, queues ``first`` to ``last``, whether it lets pass alone."""

    packets: int
    first: int
    last: int
    bypass: bool


def handed_over(queue: int) -> list[Handed]:
    """The hook's rules that hand packets to this queue; none where there are none. Raises OSError: it cannot be asked.

    A family whose chain is missing has no rule in the answer: its packets are not queued either.
    """
    return [rule for rule in _all() if rule.first <= queue <= rule.last]


def queues() -> set[int]:
    """Every queue that the hook's rules hand packets to. Raises OSError: it cannot be asked."""
    return {number for rule in _all() for number in range(rule.first, rule.last + 1)}


def _all() -> list[Handed]:
    with opened() as asker:
        return [rule for place in PLACES for rule in _rules(asker, *place)]


def _rules(asker: socket.socket, family: int, table: str, chain: str) -> Iterator[Handed]:
    """Those of one chain that queue."""
    names = text_attribute(_RULE_TABLE, table) + text_attribute(_RULE_CHAIN, chain)
    for kind, rule in dump(asker, _GET_RULE, family, names):
        if kind == _NEW_RULE:
            yield from _queueing(rule)


def _queueing(rule: bytes) -> Iterator[Handed]:
    """The rule, if it queues."""
    packets = 0
    for kind, value in attributes(rule):
        if kind != _RULE_EXPRESSIONS:
            continue
        for _, expression in attributes(value):
            parts = dict(attributes(expression))
            name, data = parts.get(_EXPR_NAME, b""), dict(attributes(parts.get(_EXPR_DATA, b"")))
            if name == b"counter\0":
                packets = int.from_bytes(data.get(_COUNTER_PACKETS, b""), "big")
            elif name == b"queue\0":
                first, total, flags = (
                    int.from_bytes(data.get(part, b""), "big") for part in (_QUEUE_NUMBER, _QUEUE_TOTAL, _QUEUE_FLAGS)
                )
                yield Handed(packets, first, first + max(total, 1) - 1, flags & _BYPASS != 0)
            elif name == b"target\0" and data.get(_TARGET_NAME, b"").rstrip(b"\0") == b"NFQUEUE":
                # struct xt_NFQ_info, whose later revisions are longer: number, how many, flags.
                first, total, flags = struct.unpack_from("=HHH", data.get(_TARGET_INFO, b"") + bytes(6))
                yield Handed(packets, first, first + max(total, 1) - 1, flags & _BYPASS != 0)
