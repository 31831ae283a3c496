"""What `ctfw top` shows, as lines of text: the connections in an order, with what each did since the last look.

Pure: it takes the connections as they were at two moments and gives rows, so that the screen (top.py) and the batch
mode print the same. Rates are per second between the two looks; of a connection that is new, since it began.
"""

from __future__ import annotations

import heapq
import socket
from collections.abc import Iterable
from typing import Final, NamedTuple

from ctfw.conntrack import sctp, tcp
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import Tuple
from ctfw.conntrack.state import OFFLOAD, SEEN_REPLY
from ctfw.packet import ICMP, ICMPV6, SCTP, TCP, is_port_protocol
from ctfw.packet_text import PROTO_NAMES

SECOND: Final = 1_000_000_000
HEADS: Final = ("SOURCE", "DESTINATION", "PROTO", "STATE", "TTL", "PACKETS", "BYTES", "RATE")
ORDERS: Final = ("source", "destination", "proto", "state", "ttl", "packets", "bytes", "rate", "age")
_LEAST: Final = (17, 17, 5, 11, 8, 9, 8, 9)
_NUMBERS: Final = 4  # from this column on to the right


class Row(NamedTuple):
    """One connection; ``rate`` in bytes a second, times in nanoseconds."""

    conn: Conn
    packets: int
    octets: int
    rate: float


class Looked:
    """The table as it was at one moment, ``at`` nanoseconds of any steady clock."""

    def __init__(self, conns: Iterable[Conn], at: int, before: Looked | None = None) -> None:
        self.at = at
        self.rows: list[Row] = []
        self.octets: dict[bytes, int] = {}
        known = before.octets if before is not None else {}
        passed = at - before.at if before is not None else 0
        for conn in conns:
            octets = int(conn.original_bytes + conn.reply_bytes)
            age = max(-int(conn.created), 1)
            past = known.get(conn.key, -1)
            if past < 0 or past > octets:
                rate = octets * SECOND / (min(age, passed) if passed else age)
            else:
                rate = (octets - past) * SECOND / max(passed, 1)
            self.octets[conn.key] = octets
            self.rows.append(Row(conn, conn.original_packets + conn.reply_packets, octets, rate))

    def first(self, count: int, order: str, backwards: bool) -> list[Row]:
        """The first ``count`` rows in this order; numbers begin with the greatest, words with A."""
        keys = {
            "source": lambda row: _place(row.conn.key),
            "destination": lambda row: _place(row.conn.reply_key),
            "proto": lambda row: row.conn.key[0],
            "state": lambda row: _state(row.conn),
            "ttl": lambda row: row.conn.expires,
            "packets": lambda row: row.packets,
            "bytes": lambda row: row.octets,
            "rate": lambda row: row.rate,
            "age": lambda row: -row.conn.created,
        }
        greatest = (order in ORDERS[4:]) != backwards
        pick = heapq.nlargest if greatest else heapq.nsmallest
        return pick(count, self.rows, key=keys[order])


def lines(rows: Iterable[Row]) -> list[str]:
    """The heading and one line for each row, in columns."""
    cells = [HEADS, *(_cells(row) for row in rows)]
    widths = [max(_LEAST[at], *(len(row[at]) for row in cells)) for at in range(len(HEADS))]
    return [
        " ".join(
            cell.rjust(width) if at >= _NUMBERS else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def short(number: float) -> str:
    """A number in four or five places: 999, 10.5k, 1.2M."""
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.1f}{unit}" if unit and number < 100 else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f}T"


def clock(nanoseconds: int) -> str:
    """A time to live as h:mm:ss, as iptstate has it."""
    seconds = max(nanoseconds, 0) // SECOND
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _cells(row: Row) -> tuple[str, ...]:
    conn = row.conn
    one = Tuple(conn.key)
    has_ports = is_port_protocol(one.proto)
    return (
        _end(one.src, one.sport if has_ports else -1),
        _end(one.dst, one.dport if has_ports else -1),
        PROTO_NAMES.get(one.proto, str(one.proto)),
        _state(conn),
        clock(conn.expires),
        short(row.packets),
        short(row.octets),
        short(row.rate) + "B/s",
    )


def _state(conn: Conn) -> str:
    if conn.status & OFFLOAD:
        return "OFFLOAD"
    proto = conn.key[0]
    if proto == TCP:
        return tcp.STATE_NAMES[conn.l4state]
    if proto == SCTP:
        return sctp.STATE_NAMES[conn.l4state]
    if proto in (ICMP, ICMPV6):
        return f"{Tuple(conn.key).dport >> 8}/{Tuple(conn.key).dport & 0xFF}"
    return "" if conn.status & SEEN_REPLY else "UNREPLIED"


def _end(address: bytes, port: int) -> str:
    if len(address) == 4:
        text = socket.inet_ntoa(address)
        return f"{text}:{port}" if port >= 0 else text
    text = socket.inet_ntop(socket.AF_INET6, address)
    return f"[{text}]:{port}" if port >= 0 else text


def _place(key: bytes) -> tuple[int, bytes]:
    """What an address column is sorted by: the first address of a key, IPv4 first."""
    one = Tuple(key)
    return len(one.src), one.src + one.sport.to_bytes(2, "big")
