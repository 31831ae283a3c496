"""Connections on their way to a program that prints them: packed in the daemon, put together again by who asked.

A line of text takes far longer to make than the bytes that it is made of, and the loop's time belongs to packets: so
``list`` and ``top`` have the daemon hand out these, and make the lines themselves. A record has what a line can show,
with times relative to the moment of packing, and belongs to this version of both sides: other programs ask for lines
or objects.
"""

from __future__ import annotations

import struct
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Final

from ctfw.conntrack.conn import Conn, GreTrack
from ctfw.conntrack.state import DYING
from ctfw.conntrack.tracker import ConnTrack
from ctfw.service.pages import LOOK, SLICE
from ctfw.service.selection import Selection

MOST: Final = 4096  # records of one page: half of what a client may leave unread

# Size of a key, whether packets are shown, helper, protocol's state, status, mark, generation; left and age in
# nanoseconds; packets and bytes of both directions; GRE's time-outs. The two keys follow.
_RECORD: Final = struct.Struct("!BBBBIIIqqQQQQqq")


def packed(tracker: ConnTrack, selection: Selection) -> Iterator[list[str]]:
    """The living connections that are meant, in pages that took no longer than SLICE; a page is one text, or none."""
    table = tracker.table
    acct = tracker.settings.acct
    parts: list[bytes] = []
    now = time.monotonic_ns()
    until = now + SLICE
    looked = 0
    for number in range(table.shards):
        for conn in table.shard(number):
            looked += 1
            if looked % LOOK == 0:
                now = time.monotonic_ns()
                if now > until or len(parts) >= MOST:
                    yield [b64encode(b"".join(parts)).decode("ascii")] if parts else []
                    parts = []
                    now = time.monotonic_ns()
                    until = now + SLICE
            if conn.expires > now and not conn.status & DYING and selection.has(conn):
                parts.append(_pack(conn, acct, now))
    if parts:
        yield [b64encode(b"".join(parts)).decode("ascii")]


def unpacked(page: str) -> Iterator[tuple[Conn, bool]]:
    """The connections of a page, and whether packets and bytes are to be shown (the knob ``acct``).

    Their clock began when the page was packed: ``expires`` is what was left then.
    """
    data = b64decode(page)
    at = 0
    while at < len(data):
        (
            size, acct, helper, l4state, status, mark, generation, left, age,
            packets, octets, back_packets, back_octets, timeout, timeout_stream,
        ) = _RECORD.unpack_from(data, at)  # fmt: skip
        at += _RECORD.size
        conn = Conn(data[at : at + size], data[at + size : at + 2 * size], -age)
        at += 2 * size
        conn.helper, conn.l4state, conn.status, conn.mark, conn.generation = helper, l4state, status, mark, generation
        conn.expires = left
        conn.original_packets, conn.original_bytes = packets, octets
        conn.reply_packets, conn.reply_bytes = back_packets, back_octets
        if timeout:
            conn.l4 = GreTrack(timeout, timeout_stream)
        yield conn, bool(acct)


def _pack(conn: Conn, acct: bool, now: int) -> bytes:
    gre = conn.l4
    times = (gre.timeout, gre.timeout_stream) if isinstance(gre, GreTrack) else (0, 0)
    head = _RECORD.pack(
        len(conn.key), acct, conn.helper, conn.l4state, conn.status, conn.mark, conn.generation, conn.expires - now,
        now - conn.created, conn.original_packets, conn.original_bytes, conn.reply_packets, conn.reply_bytes, *times,
    )  # fmt: skip
    return head + conn.key + conn.reply_key
