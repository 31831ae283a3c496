"""A connection as the kernel prints it: /proc/net/nf_conntrack, ``conntrack -L``, ``-E``, and as a dictionary.

Formats: docs/state-machine.md, "Reading a connection". For people and programs that ask; the packet's way never comes
here.
"""

import socket
from typing import Any

from ctfw.conntrack import sctp, tcp
from ctfw.conntrack.conn import Conn, GreTrack
from ctfw.conntrack.events import CAUSE_NAMES, DESTROY, KIND_NAMES, UPDATE, Event
from ctfw.conntrack.expect import Expectation
from ctfw.conntrack.settings import HELPER_NAMES, SECOND
from ctfw.conntrack.state import ASSURED, OFFLOAD, SEEN_REPLY, STATE_UPDATED, UPDATED
from ctfw.packet import GRE, ICMP, ICMPV6, SCTP, TCP, UDP, address_size, is_port_protocol

_IPV6_KEY = 37  # bytes that a key of IPv6 has at least
_inet_ntoa = socket.inet_ntoa
_STATE_NOTED = STATE_UPDATED & ~UPDATED
_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 58: "icmpv6", 132: "sctp", 136: "udplite"}


class Tuple:
    """One direction of a connection, taken apart for printing."""

    def __init__(self, key: bytes) -> None:
        size = address_size(key)
        parts = key[1 + 2 * size :]
        self.proto = key[0]
        self.is_ipv4 = size == 4
        self.src = key[1 : 1 + size]
        self.dst = key[1 + size : 1 + 2 * size]
        self.sport = int.from_bytes(parts[:2], "big")
        self.dport = int.from_bytes(parts[2:4], "big")
        self.zone = int.from_bytes(parts[4:], "big")


def _address(address: bytes, full: bool) -> str:
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    if full:
        return ":".join(f"{address[i]:02x}{address[i + 1]:02x}" for i in range(0, 16, 2))
    return socket.inet_ntop(socket.AF_INET6, address)


def _tuple_text(key: bytes, full: bool) -> str:
    # By index and not by a Tuple: listing a large table is mostly this.
    proto = key[0]
    if len(key) < _IPV6_KEY:
        at = 9
        text = f"src={_inet_ntoa(key[1:5])} dst={_inet_ntoa(key[5:9])} "
    else:
        at = 33
        text = f"src={_address(key[1:17], full)} dst={_address(key[17:33], full)} "
    if proto == TCP or proto == UDP:
        return f"{text}sport={key[at] << 8 | key[at + 1]} dport={key[at + 2] << 8 | key[at + 3]} "
    if proto in (ICMP, ICMPV6):
        return f"{text}type={key[at + 2]} code={key[at + 3]} id={key[at] << 8 | key[at + 1]} "
    if is_port_protocol(proto):
        return f"{text}sport={key[at] << 8 | key[at + 1]} dport={key[at + 2] << 8 | key[at + 3]} "
    if proto == GRE:
        return f"{text}srckey=0x{key[at] << 8 | key[at + 1]:x} dstkey=0x{key[at + 2] << 8 | key[at + 3]:x} "
    return text


def _zone(key: bytes) -> int:
    return int.from_bytes(key[13:] if len(key) < _IPV6_KEY else key[37:], "big")


def _state_text(proto: int, l4state: int) -> str:
    if proto == TCP:
        return tcp.STATE_NAMES[l4state] + " "
    if proto == SCTP:
        return sctp.STATE_NAMES[l4state] + " "
    return ""


def _gre_text(conn: Conn) -> str:
    gre = conn.l4
    if not isinstance(gre, GreTrack):
        return ""
    return f"timeout={gre.timeout // SECOND}, stream_timeout={gre.timeout_stream // SECOND} "


def seconds_left(conn: Conn, now: int) -> int:
    """Whole seconds until the connection expires; 0 when it has."""
    return max(conn.expires - now, 0) // SECOND


def _trust(conn: Conn) -> str:
    if conn.status & OFFLOAD:
        return "[OFFLOAD] "
    return "[ASSURED] " if conn.status & ASSURED else ""


def _body(conn: Conn, now: int, full: bool, acct: bool) -> str:
    original, reply = "", ""
    if acct:
        original = f"packets={conn.original_packets} bytes={conn.original_bytes} "
        reply = f"packets={conn.reply_packets} bytes={conn.reply_bytes} "
    return (
        f"{seconds_left(conn, now)} {_state_text(conn.key[0], conn.l4state)}{_gre_text(conn) if full else ''}"
        f"{_tuple_text(conn.key, full)}{original}{'' if conn.status & SEEN_REPLY else '[UNREPLIED] '}"
        f"{_tuple_text(conn.reply_key, full)}{reply}{_trust(conn)}mark={conn.mark} "
    )


def proc_line(conn: Conn, now: int, acct: bool = False) -> str:
    """The connection as a line of /proc/net/nf_conntrack; with packets and bytes when ``acct`` is set."""
    proto = conn.key[0]
    family = "ipv4     2" if address_size(conn.key) == 4 else "ipv6     10"
    name = _NAMES.get(proto, "unknown")
    return f"{family} {name:<8} {proto} {_body(conn, now, True, acct)}zone={_zone(conn.key)} use=2"


def conntrack_line(conn: Conn, now: int, acct: bool = False) -> str:
    """The connection as ``conntrack -L`` prints it; with packets and bytes when ``acct`` is set."""
    proto = conn.key[0]
    zone = _zone(conn.key)
    extras = (f"zone={zone} " if zone else "") + (f"helper={HELPER_NAMES[conn.helper]} " if conn.helper else "")
    return f"{_NAMES.get(proto, 'unknown'):<8} {proto} {_body(conn, now, False, acct)}{extras}use=1"


def event_line(event: Event, acct: bool = False) -> str:
    """The event as ``conntrack -E`` prints it; DESTROY with packets and bytes when ``acct`` is set."""
    conn, status = event.conn, event.status
    proto = conn.key[0]
    is_end = event.kind == DESTROY
    left = event.left // SECOND
    timeout = f"{left} " if left > 0 or not is_end else ""
    state = _state_text(proto, event.l4state) if event.kind != UPDATE or status & _STATE_NOTED else ""
    original, reply = "", ""
    if acct and is_end:
        original = f"packets={conn.original_packets} bytes={conn.original_bytes} "
        reply = f"packets={conn.reply_packets} bytes={conn.reply_bytes} "
    zone = _zone(conn.key)
    return (
        f"{f'[{KIND_NAMES[event.kind]}]':>9} {_NAMES.get(proto, 'unknown'):<8} {proto} {timeout}{state}"
        f"{_tuple_text(conn.key, False)}{original}{'' if status & SEEN_REPLY else '[UNREPLIED] '}"
        f"{_tuple_text(conn.reply_key, False)}{reply}{'[ASSURED] ' if status & ASSURED else ''}"
        f"{f'mark={conn.mark} ' if conn.mark else ''}{f'zone={zone} ' if zone else ''}"
        f"{f'helper={HELPER_NAMES[conn.helper]} ' if conn.helper and not is_end else ''}"
    ).rstrip()


def _tuple_dict(key: bytes) -> dict[str, Any]:
    one = Tuple(key)
    found: dict[str, Any] = {"src": _address(one.src, False), "dst": _address(one.dst, False)}
    if is_port_protocol(one.proto):
        found |= {"sport": one.sport, "dport": one.dport}
    elif one.proto in (ICMP, ICMPV6):
        found |= {"type": one.dport >> 8, "code": one.dport & 0xFF, "id": one.sport}
    elif one.proto == GRE:
        found |= {"srckey": one.sport, "dstkey": one.dport}
    return found


def as_dict(conn: Conn, now: int, acct: bool = False) -> dict[str, Any]:
    """The connection as plain data, for JSON: seconds for ``timeout``, the kernel's words for the rest."""
    proto = conn.key[0]
    found: dict[str, Any] = {
        "family": "ipv4" if address_size(conn.key) == 4 else "ipv6",
        "proto": _NAMES.get(proto, str(proto)),
        "protonum": proto,
        "timeout": seconds_left(conn, now),
        "state": _state_text(proto, conn.l4state).strip() or None,
        "original": _tuple_dict(conn.key),
        "reply": _tuple_dict(conn.reply_key),
        "unreplied": not conn.status & SEEN_REPLY,
        "assured": bool(conn.status & ASSURED),
        "offload": bool(conn.status & OFFLOAD),
        "mark": conn.mark,
        "zone": _zone(conn.key),
    }
    if acct:
        found["original"] |= {"packets": conn.original_packets, "bytes": conn.original_bytes}
        found["reply"] |= {"packets": conn.reply_packets, "bytes": conn.reply_bytes}
    return found


def event_dict(event: Event, acct: bool = False) -> dict[str, Any]:
    """The event as plain data, for JSON: the connection as it was then, ``event`` and, at its end, ``cause``."""
    conn = event.conn
    found = {"event": KIND_NAMES[event.kind], **as_dict(conn, event.time, acct)}
    found["timeout"] = max(event.left, 0) // SECOND
    found["state"] = _state_text(conn.key[0], event.l4state).strip() or None
    found["unreplied"] = not event.status & SEEN_REPLY
    found["assured"] = bool(event.status & ASSURED)
    if event.kind == DESTROY:
        found["cause"] = CAUSE_NAMES[event.cause]
    return found


def expect_line(one: Expectation, now: int) -> str:
    """The expectation as a line of /proc/net/nf_conntrack_expect."""
    family = 2 if len(one.dst) == 4 else 10
    key = bytes([one.proto]) + (one.src or bytes(len(one.dst))) + one.dst + (one.sport or b"\0\0") + one.dport
    flags = ",".join(["PERMANENT"] * one.permanent + ["INACTIVE"] * one.inactive)
    return (
        f"{max(one.expires - now, 0) // SECOND} l3proto = {family} proto={one.proto} {_tuple_text(key, True)}"
        f"{flags}{' ' * bool(flags)}{one.policy.full_name()}"
    )
