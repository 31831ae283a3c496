"""A rehearsal: a tracker of our own with copies of all that one packet can meet, so that judging it leaves no trace.

What a packet can meet in a table of any size is little: the connection of its own tuple, or of the packet that an ICMP
error quotes; what is expected there, and by that connection; the call that a PPTP tunnel belongs to; how full the table
is, and which connection would have to make room. Each is found by its key, so the live table may be as large as it
likes, and copied with everything that hangs on it. The live one is only read: not even what has expired is removed.

This file knows the inside of the tracker; nobody else in tools/ does.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, TypeVar

from ctfw.conntrack import gre, icmp
from ctfw.conntrack.conn import Conn, GreTrack
from ctfw.conntrack.expect import Expectation
from ctfw.conntrack.tracker import ConnTrack
from ctfw.fragments import Datagram
from ctfw.packet import GRE, ICMP, ICMPV6, Packet, address_size, inverse

T = TypeVar("T")


def met_key(tracker: ConnTrack, packet: Packet, indev: str, now: int) -> bytes:
    """The key by which the packet finds its connection, or the one that it speaks about; empty when it has none."""
    zone = tracker.settings.zones.get(indev, b"")
    if packet.reason != 0 or packet.key == b"":
        return b""
    if packet.proto in (ICMP, ICMPV6) and icmp.classify(packet) == icmp.ERROR:
        quoted = icmp.quoted_key(packet)
        if quoted == b"":
            return b""
        return inverse((tracker._calls.complete(quoted, now) if quoted[0] == GRE else quoted) + zone)
    if packet.proto == GRE and gre.is_enhanced(packet):
        return tracker._calls.complete(packet.key, now) + zone
    return packet.key + zone


def met(tracker: ConnTrack, packet: Packet, indev: str, now: int) -> Conn | None:
    """The living connection that the packet would meet: the live one, to be read only."""
    return _peek(tracker, met_key(tracker, packet, indev, now), now)


def rehearse(tracker: ConnTrack, packet: Packet, indev: str, now: int) -> ConnTrack:
    """A tracker that judges ``packet`` (which must be decoded again for it) as ``tracker`` would."""
    copies: dict[int, object] = {}
    trial = ConnTrack(tracker.settings)
    key = met_key(tracker, packet, indev, now)
    if key == b"":
        return trial
    known = _peek(tracker, key, now)
    if known is not None:
        _insert(trial, clone(known, copies))
    oldest = tracker.table._oldest
    if oldest is not None and oldest is not known:
        _insert(trial, clone(oldest, copies))
    trial.table._count = len(tracker.table)
    if tracker.settings.per_source:
        trial.table._by_source[_source(key)] = tracker.table.count_of_source(key)
    _copy_expectations(tracker, trial, key, known, copies)
    _copy_calls(tracker, trial, packet.key, known, copies)
    return trial


def clone(one: T, copies: dict[int, object]) -> T:
    """A copy of a connection, and of everything that hangs on it. ``copies``: those made so far, by identity."""
    done = copies.get(id(one))
    if done is not None:
        return done  # type: ignore[return-value]  # by construction
    copy = _blank(one)
    copies[id(one)] = copy
    kind: Any = type(one)
    for name in (*_attributes(kind), *getattr(one, "__dict__", ())):
        value = getattr(one, name)
        if isinstance(value, list):
            value = list(value)
        elif name in ("previous", "next"):
            value = None  # the table threads its own list
        elif name not in ("policy", "rule") and type(value).__module__.startswith("ctfw."):
            value = clone(value, copies)
        setattr(copy, name, value)
    return copy  # type: ignore[return-value]  # _blank makes one of its kind


def _blank(one: object) -> object:
    """Another one of its class, to be filled in. Compiled classes are only made by their constructors."""
    if isinstance(one, Conn):
        return Conn(one.key, one.reply_key, 0)
    if isinstance(one, Expectation):
        return Expectation(one.master, one.policy, one.proto, one.src, one.dst, one.dport, 0)
    if isinstance(one, gre.Call):
        return gre.Call(one.key, one.sender, one.master)
    if isinstance(one, Datagram):
        return Datagram(one.verdict, one.state, one.direction, one.rule, one.conn, one.expires)
    if isinstance(one, GreTrack):
        return GreTrack(one.timeout, one.timeout_stream)
    return type(one)()


def clone_datagram(one: Datagram) -> Datagram:
    """A copy of what is known of a fragmented datagram."""
    return clone(one, {})


@cache
def _attributes(kind: Any) -> list[str]:
    """What an object of this class has room for: its slots, or the attributes that mypyc made of them."""
    found = [name for name in dir(kind) if not name.startswith("__") and inspect.isdatadescriptor(getattr(kind, name))]
    return [name for name in found if not isinstance(getattr(kind, name), property)]


def _peek(tracker: ConnTrack, key: bytes, now: int) -> Conn | None:
    """What ``Table.find`` would find, without removing what has expired."""
    conn = tracker.table._shard(key).get(key) if key else None
    return conn if conn is not None and conn.expires > now else None


def _insert(trial: ConnTrack, conn: Conn) -> None:
    """Puts a copy in as it is: it is confirmed already."""
    table = trial.table
    table._shard(conn.key)[conn.key] = conn
    table._shard(conn.reply_key)[conn.reply_key] = conn
    if not conn.is_assured():
        table._link(conn)


def _copy_expectations(
    tracker: ConnTrack, trial: ConnTrack, key: bytes, known: Conn | None, copies: dict[int, object]
) -> None:
    size = address_size(key)
    target = key[0:1] + key[1 + size : 1 + 2 * size] + key[3 + 2 * size :]
    live = tracker._expectations
    wanted: list[Expectation] = list(live._by_target.get(target, []))
    for one in live.of(known)[::-1] if known is not None else []:
        # Whatever lies at the same target may stand in the way of what this connection announces next.
        wanted += [other for other in live._by_target.get(_target(one), []) if other not in wanted]
    for one in wanted:
        copy = clone(one, copies)
        trial._expectations._by_target.setdefault(_target(one), []).append(copy)
        trial._expectations._by_master.setdefault(copy.master, []).append(copy)
    trial._expectations.count = live.count


def _target(one: Expectation) -> bytes:
    key = one.master.key
    return bytes([one.proto]) + one.dst + one.dport + key[5 + 2 * address_size(key) :]


def _copy_calls(
    tracker: ConnTrack, trial: ConnTrack, key: bytes, known: Conn | None, copies: dict[int, object]
) -> None:
    live = tracker._calls
    masters = dict.fromkeys([one.master for one in live._by_key.get(key, [])] + ([known] if known is not None else []))
    for master in masters:
        for one in live._by_master.get(master, []):
            copy = clone(one, copies)
            trial._calls._by_key.setdefault(copy.key, []).append(copy)
            trial._calls._by_master.setdefault(copy.master, []).append(copy)
    trial._calls.count = live.count


def _source(key: bytes) -> bytes:
    return key[1:9] if len(key) > 20 else key[1:5]
