"""PPTP (RFC 2637): a control connection on TCP agrees on call ids, the tunnel itself is enhanced GRE between its ends.

Client and server (PNS and PAC) first open a session, then a call in either direction; each end says its own call id
and repeats the other's. Once a call is agreed, GRE is expected both ways, once: the first packet of the call, from
whichever end, fulfils the one expectation and takes the other away. ``gre.Calls`` learns the ids along with it.

A message is only read where a segment starts with it, and counts only in the state where it can come: all others pass
without effect. No packet is ever dropped in here. One call a connection: a second one, before the first was hung up,
is not expected, and what was still expected of the first is not any more. IPv4 only, as the kernel's.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack import gre
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import ADDED, Expectation, Expectations, Policy
from ctfw.conntrack.settings import PPTP, SECOND, Settings
from ctfw.conntrack.state import ESTABLISHED
from ctfw.conntrack.table import Table
from ctfw.packet import AF_INET, BYTE, GRE, ORIGINAL, Packet, address_size, read16, read32

CALL_POLICY: Final = Policy(PPTP, "", 2, 300 * SECOND)

_HEADER: Final = 12  # length, type, cookie, message and a reserved field
_CONTROL: Final = 1
_COOKIE: Final = 0x1A2B3C4D

# Messages that we read, and the least bytes behind the header that each must have.
_START_REQUEST: Final = 1
_START_REPLY: Final = 2
_STOP_REQUEST: Final = 3
_STOP_REPLY: Final = 4
_OUT_CALL_REQUEST: Final = 7
_OUT_CALL_REPLY: Final = 8
_IN_CALL_REQUEST: Final = 9
_IN_CALL_REPLY: Final = 10
_IN_CALL_CONNECT: Final = 11
_CALL_CLEAR: Final = 12
_CALL_DISCONNECT: Final = 13
_LEAST: Final = (0, 144, 144, 4, 4, 0, 0, 156, 20, 208, 12, 16, 4, 136, 28, 12)

_OK: Final = 1  # the result code that says yes, in each answer

# The session's state and the call's; their order counts.
_NO_SESSION: Final = 0
_SESSION_ERROR: Final = 1
_SESSION_STOPPING: Final = 2
_SESSION_REQUESTED: Final = 3
_SESSION_OPEN: Final = 4
_NO_CALL: Final = 0
_OUT_REQUESTED: Final = 2
_OUT_OPEN: Final = 3
_IN_REQUESTED: Final = 4
_IN_ACCEPTED: Final = 5
_IN_OPEN: Final = 6
_CLEARING: Final = 7

# What ``conn.helper_data`` holds.
_SESSION: Final = 0
_CALL: Final = 1
_CLIENT_ID: Final = 2
_SERVER_ID: Final = 3


def inspect(
    conn: Conn, packet: Packet, expectations: Expectations, calls: gre.Calls, table: Table, settings: Settings, now: i64
) -> None:
    """Reads one segment of a control connection."""
    if packet.state != ESTABLISHED or packet.family != AF_INET:
        return
    data = packet.data
    offset: i64 = data[packet.l4 + 12]
    at = packet.l4 + ((offset >> 4) << 2)
    body = at + _HEADER
    stop = packet.end if packet.end < len(data) else len(data)
    if body > stop or read16(data, at + 2) != _CONTROL or read32(data, at + 4) != _COOKIE:
        return
    message = read16(data, at + 8)
    if message >= len(_LEAST) or body + _LEAST[message] > stop:
        return
    known = conn.helper_data
    if known is None:
        known = [_NO_SESSION, _NO_CALL, 0, 0]
        conn.helper_data = known
    if packet.direction == ORIGINAL:
        _from_client(known, data, body, message)
    elif _from_server(known, data, body, message):
        _expect_call(conn, known, expectations, calls, settings, now)
    elif message == _CALL_DISCONNECT:
        end_call(conn, expectations, calls, table, now)


def _from_client(known: list[int], data: bytes, at: i64, message: i64) -> None:
    if message == _START_REQUEST:
        if known[_SESSION] == _NO_SESSION:
            known[_SESSION] = _SESSION_REQUESTED
    elif message == _STOP_REQUEST:
        known[_SESSION] = _SESSION_STOPPING
    elif message == _OUT_CALL_REQUEST:
        if known[_SESSION] == _SESSION_OPEN:
            known[_CALL] = _OUT_REQUESTED
            known[_CLIENT_ID] = read16(data, at)
    elif message == _IN_CALL_REPLY:
        if known[_CALL] == _IN_REQUESTED or known[_CALL] == _IN_ACCEPTED:
            if known[_SERVER_ID] == read16(data, at + 2):
                if data[at + 4] == _OK:
                    known[_CALL] = _IN_ACCEPTED
                    known[_CLIENT_ID] = read16(data, at)
                else:
                    known[_CALL] = _NO_CALL
    elif message == _CALL_CLEAR:
        if known[_SESSION] == _SESSION_OPEN:
            known[_CALL] = _CLEARING


def _from_server(known: list[int], data: bytes, at: i64, message: i64) -> bool:
    """True when a call is agreed."""
    if message == _START_REPLY:
        if known[_SESSION] >= _SESSION_REQUESTED:
            known[_SESSION] = _SESSION_OPEN if data[at + 2] == _OK else _SESSION_ERROR
    elif message == _STOP_REPLY:
        if known[_SESSION] <= _SESSION_STOPPING:
            known[_SESSION] = _NO_SESSION if data[at] == _OK else _SESSION_ERROR
    elif message == _OUT_CALL_REPLY:
        if known[_SESSION] == _SESSION_OPEN and (known[_CALL] == _OUT_REQUESTED or known[_CALL] == _OUT_OPEN):
            if known[_CLIENT_ID] == read16(data, at + 2):
                if data[at + 4] == _OK:
                    known[_CALL] = _OUT_OPEN
                    known[_SERVER_ID] = read16(data, at)
                    return True
                known[_CALL] = _NO_CALL
    elif message == _IN_CALL_REQUEST:
        if known[_SESSION] == _SESSION_OPEN:
            known[_CALL] = _IN_REQUESTED
            known[_SERVER_ID] = read16(data, at)
    elif message == _IN_CALL_CONNECT:
        if known[_SESSION] == _SESSION_OPEN and (known[_CALL] == _IN_ACCEPTED or known[_CALL] == _IN_OPEN):
            if known[_CLIENT_ID] == read16(data, at):
                known[_CALL] = _IN_OPEN
                return True
    elif message == _CALL_DISCONNECT:
        known[_CALL] = _NO_CALL
    return False


def _call_keys(conn: Conn, known: list[int]) -> list[bytes]:
    """The keys of the call's packets, from the client and from the server."""
    client = int(known[_CLIENT_ID]).to_bytes(2, "big")
    server = int(known[_SERVER_ID]).to_bytes(2, "big")
    at = 1 + 2 * address_size(conn.key)
    zone = conn.key[at + 4 :]
    return [
        BYTE[GRE] + conn.key[1:at] + client + server + zone,
        BYTE[GRE] + conn.reply_key[1:at] + server + client + zone,
    ]


def _expect_call(
    conn: Conn, known: list[int], expectations: Expectations, calls: gre.Calls, settings: Settings, now: i64
) -> None:
    size = address_size(conn.key)
    at = 1 + 2 * size
    keys = _call_keys(conn, known)
    added: list[Expectation] = []
    for key in keys:
        one = Expectation(conn, CALL_POLICY, GRE, key[1 : 1 + size], key[1 + size : at], key[at + 2 : at + 4], now)
        one.sport = key[at : at + 2]
        if expectations.add(one, settings.expect_max, now) != ADDED:
            break
        added.append(one)
    if len(added) == 2 and calls.add(conn, keys, now):
        return
    for one in added:
        expectations.remove(one)


def tunnels(conn: Conn, table: Table, now: i64) -> list[Conn]:
    """The connection of a control connection's call: none before its first packet, two while nobody has answered."""
    found: list[Conn] = []
    known = conn.helper_data
    for key in _call_keys(conn, known) if known is not None else []:
        tunnel = table.find(key, now)
        if tunnel is not None and tunnel not in found:
            found.append(tunnel)
    return found


def end_call(conn: Conn, expectations: Expectations, calls: gre.Calls, table: Table, now: i64) -> None:
    """Forgets the call of a control connection, what is expected of it, and its tunnel: it was hung up, or is over."""
    calls.remove_master(conn)
    known = conn.helper_data
    if known is None:
        return
    keys = _call_keys(conn, known)
    if calls.siblings is not None:
        calls.siblings.end_call(keys)
    for key in keys:
        tunnel = table.find(key, now)
        if tunnel is not None:
            table.remove(tunnel, now)
            continue
        other = expectations.find_exactly(key, now)
        if other is not None:
            expectations.remove(other)
