"""SCTP as a middle-man sees it (RFC 9260): which chunks may come, what they lead to, whose verification tag they carry.

Semantics: docs/state-machine.md, "SCTP", measured against the kernel. An association is a pair of ports like a
connection of TCP, but a packet is a row of chunks, and each chunk is a step: TRANSITIONS says direction x chunk x state
-> next state. The chunks that stand in it are those that open and close an association; all others, data above all,
change nothing.

What the table cannot say is code below. Each end picks a tag in its INIT or INIT ACK, and every later packet to it
carries that tag (``vtags`` is indexed by the direction of the packets that carry it). So a packet with another tag is
not of this association, with exceptions by chunk (section 8.5.1): an INIT goes to an end that has no tag yet, an ABORT
or SHUTDOWN COMPLETE with the T bit comes from an end that has forgotten the association and so reflects the tag, and a
HEARTBEAT may come over a path on which the association was never opened. Two ends may also open at the same time, or
one may open again with a new tag while the other still lives in the old association.

An INVALID packet leaves the connection as it was, but for one case that is the kernel's: of several chunks, those in
front of the bad one have already stepped.
"""

from typing import Final

from mypy_extensions import i64

from ctfw import reason
from ctfw.conntrack.conn import Conn, SctpTrack
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import CONFIRMED, IGNORED, STATE_UPDATED
from ctfw.conntrack.table import Table
from ctfw.packet import ORIGINAL, Packet, read16, read32

NONE: Final = 0
CLOSED: Final = 1
COOKIE_WAIT: Final = 2
COOKIE_ECHOED: Final = 3
ESTABLISHED: Final = 4
SHUTDOWN_SENT: Final = 5
SHUTDOWN_RECD: Final = 6
SHUTDOWN_ACK_SENT: Final = 7
HEARTBEAT_SENT: Final = 8
_INVALID: Final = 9
STATE_NAMES: Final = (
    "NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT",
)  # fmt: skip

# Chunk types (RFC 9260 section 3.2).
DATA: Final = 0
INIT: Final = 1
INIT_ACK: Final = 2
SACK: Final = 3
HEARTBEAT: Final = 4
HEARTBEAT_ACK: Final = 5
ABORT: Final = 6
SHUTDOWN: Final = 7
SHUTDOWN_ACK: Final = 8
ERROR: Final = 9
COOKIE_ECHO: Final = 10
COOKIE_ACK: Final = 11
SHUTDOWN_COMPLETE: Final = 14
_TYPES: Final = 15  # types from here on are never in the table

_CHUNK_NUMBERS: Final = {
    "init": INIT, "init_ack": INIT_ACK, "abort": ABORT, "shutdown": SHUTDOWN, "shutdown_ack": SHUTDOWN_ACK,
    "error": ERROR, "cookie_echo": COOKIE_ECHO, "cookie_ack": COOKIE_ACK, "shutdown_complete": SHUTDOWN_COMPLETE,
    "heartbeat": HEARTBEAT, "heartbeat_ack": HEARTBEAT_ACK,
}  # fmt: skip

_ABBREVIATIONS: Final = ("NO", "CL", "CW", "CE", "ES", "SS", "SR", "SA", "HS", "IV")

# The next state by direction, chunk and present state. IV: the chunk is INVALID.
TRANSITIONS: Final = (
    (  # ORIGINAL                   NO CL CW CE ES SS SR SA HS
        ("init",                   "CL CL CW CE ES CL CL SA CW"),  # SS, SR: an end has died and opens again
        ("init_ack",               "CL CL CW CE ES SS SR SA CL"),
        ("abort",                  "CL CL CL CL CL CL CL CL CL"),
        ("shutdown",               "CL CL CW CE SS SS SR SA CL"),
        ("shutdown_ack",           "SA CL CW CE ES SA SA SA SA"),  # from NO: an association that is older than we are
        ("error",                  "CL CL CW CE ES SS SR SA CL"),
        ("cookie_echo",            "CL CL CE CE ES SS SR SA CL"),
        ("cookie_ack",             "CL CL CW ES ES SS SR SA CL"),
        ("shutdown_complete",      "CL CL CW CE ES SS SR CL CL"),
        ("heartbeat",              "HS CL CW CE ES SS SR SA HS"),  # from NO: another path of an association
        ("heartbeat_ack",          "CL CL CW CE ES SS SR SA HS"),
    ),
    (  # REPLY
        ("init",                   "IV CL CW CE ES SS SR SA IV"),
        ("init_ack",               "IV CW CW CE ES SS SR SA IV"),
        ("abort",                  "IV CL CL CL CL CL CL CL IV"),
        ("shutdown",               "IV CL CW CE SR SS SR SA IV"),
        ("shutdown_ack",           "IV CL CW CE ES SA SA SA IV"),
        ("error",                  "IV CL CW CL ES SS SR SA IV"),  # CE: the cookie came too late
        ("cookie_echo",            "IV CL CE CE ES SS SR SA IV"),  # CW: both ends have opened at once
        ("cookie_ack",             "IV CL CW ES ES SS SR SA IV"),
        ("shutdown_complete",      "IV CL CW CE ES SS SR CL IV"),
        ("heartbeat",              "IV CL CW CE ES SS SR SA HS"),
        ("heartbeat_ack",          "IV CL CW CE ES SS SR SA ES"),  # HS: the path works
    ),
)  # fmt: skip


def _flat_table() -> bytes:
    """TRANSITIONS as one row of bytes, indexed [direction][chunk type][state]; what does not stand in it stays."""
    cells = [state for _ in range(2 * _TYPES) for state in range(_INVALID)]
    for direction, rows in enumerate(TRANSITIONS):
        for name, row in rows:
            at = (direction * _TYPES + _CHUNK_NUMBERS[name]) * _INVALID
            cells[at : at + _INVALID] = [_ABBREVIATIONS.index(cell) for cell in row.split()]
    return bytes(cells)


_NEXT: Final = _flat_table()

_HEADER: Final = 12
_INIT_SIZE: Final = 20  # at least, as that of an INIT ACK
_T_BIT: Final = 1

# Sets of chunk types as bits.
_ALONE: Final = 1 << INIT | 1 << INIT_ACK | 1 << SHUTDOWN_COMPLETE
_FIRST: Final = 1 << COOKIE_ECHO | 1 << COOKIE_ACK
_NEVER_OPEN: Final = 1 << ABORT | 1 << SHUTDOWN_COMPLETE | 1 << COOKIE_ACK
_OWN_TAG_RULE: Final = (
    1 << INIT | 1 << SHUTDOWN_COMPLETE | 1 << COOKIE_ECHO | 1 << ABORT | 1 << SHUTDOWN_ACK | 1 << HEARTBEAT
    | 1 << HEARTBEAT_ACK
)  # fmt: skip
_MALFORMED: Final = -1

_NOBODY: Final = -1


def check(packet: Packet) -> i64:
    """The reason why a packet is INVALID whatever its association, or 0."""
    at = packet.l4 + _HEADER
    return reason.L4_TRUNCATED if at > packet.end or at > len(packet.data) else 0


def track(conn: Conn, packet: Packet, direction: i64, table: Table, now: i64, settings: Settings) -> i64:
    """Steps the association by each chunk of a packet that passed ``check``.

    Returns 0 when the packet belongs to the association, IGNORED when it does but must not make it live longer, or the
    reason why it is INVALID. Sets ``conn.l4state`` and ``conn.expires``, and ASSURED when ESTABLISHED is reached.
    """
    data = packet.data
    first = packet.l4 + _HEADER
    stop = packet.end if packet.end < len(data) else len(data)
    found = _chunk_types(data, first, stop)
    if found == _MALFORMED:
        return reason.SCTP_CHUNK
    vtag = read32(data, packet.l4 + 4)
    sctp = conn.l4
    if not isinstance(sctp, SctpTrack):
        if found & _NEVER_OPEN:
            return reason.SCTP_NEW
        sctp = SctpTrack()
        if not _open(sctp, data, first, stop, vtag):
            return reason.SCTP_NEW
        conn.l4 = sctp
        conn.l4state = NONE
    vtags = sctp.vtags
    other = 1 - direction
    if found & _OWN_TAG_RULE == 0 and vtag != vtags[direction]:
        return reason.SCTP_VTAG

    ignored = False
    state = conn.l4state
    at = first
    while at + 4 <= stop:
        kind: i64 = data[at]
        if kind == INIT:
            if vtag != 0:
                return reason.SCTP_VTAG
        elif kind == ABORT or kind == SHUTDOWN_COMPLETE:
            reflected = data[at + 1] & _T_BIT != 0
            if vtag != vtags[other if reflected else direction]:
                return reason.SCTP_VTAG
        elif kind == COOKIE_ECHO:
            if vtag != vtags[direction]:
                return reason.SCTP_VTAG
        elif kind == HEARTBEAT or kind == HEARTBEAT_ACK:
            if vtags[direction] == 0:
                vtags[direction] = vtag
            elif vtag == vtags[direction]:
                sctp.doubted = _NOBODY
            else:
                if found & 1 << DATA or ignored:
                    return reason.SCTP_VTAG
                if kind == HEARTBEAT:
                    # Maybe the end began anew, and we did not see it. If the other end answers, it was so.
                    sctp.doubted = direction
                    ignored = True
                    at += _step(data, at)
                    continue
                if sctp.doubted != other:
                    return reason.SCTP_VTAG
                sctp.doubted = _NOBODY
                vtags[direction] = vtag
                vtags[other] = 0

        old = state
        if kind < _TYPES:
            state = _NEXT[(direction * _TYPES + kind) * _INVALID + old]
            if state == _INVALID:
                return reason.SCTP_STATE
        if kind == INIT:
            if at + _INIT_SIZE > stop:
                return reason.SCTP_CHUNK
            asked = read32(data, at + 4)
            if asked != vtags[other]:  # else it is only sent again
                if sctp.opened[direction]:
                    sctp.opened[other] = 0
                sctp.opened[direction] = 1
                vtags[other] = asked
            if old == CLOSED and state == CLOSED and conn.status & CONFIRMED:
                ignored = True  # nobody answers: the entry does not live longer because somebody keeps asking
        elif kind == INIT_ACK:
            if at + _INIT_SIZE > stop:
                return reason.SCTP_CHUNK
            tag = read32(data, at + 4)
            known: i64 = vtags[other]
            if tag != known and ((known != 0 and not sctp.opened[other]) or (sctp.opened[0] and sctp.opened[1])):
                return reason.SCTP_VTAG  # an answer to an INIT of an older association, or one that lost the race
            vtags[other] = tag
        elif kind == COOKIE_ACK:
            sctp.opened[0] = 0
            sctp.opened[1] = 0
        conn.l4state = state
        if state != old:
            conn.status |= STATE_UPDATED
        if state == ESTABLISHED and old != ESTABLISHED:
            table.assure(conn)
        at += _step(data, at)

    if ignored:
        return IGNORED
    conn.expires = now + settings.sctp_timeouts[state]
    return 0


def _step(data: bytes, at: i64) -> i64:
    """From one chunk to the next: its length, padded to four bytes."""
    return (read16(data, at + 2) + 3) & ~3


def _chunk_types(data: bytes, at: i64, stop: i64) -> i64:
    """The types of all chunks as bits (only those below _TYPES); _MALFORMED when they cannot stand together so."""
    found: i64 = 0
    count: i64 = 0
    while at + 4 <= stop:
        kind: i64 = data[at]
        bit: i64 = 1 << kind if kind < _TYPES else 0
        found |= bit
        if count != 0 and (found & _ALONE or bit & _FIRST):
            return _MALFORMED
        step = _step(data, at)
        if step == 0:
            return _MALFORMED
        at += step
        count += 1
    return found if count != 0 else _MALFORMED


def _open(sctp: SctpTrack, data: bytes, at: i64, stop: i64, vtag: i64) -> bool:
    """Learns the tags from the first packet of an association; False when it cannot open one."""
    while at + 4 <= stop:
        kind: i64 = data[at]
        if kind >= _TYPES:
            return False
        state: i64 = _NEXT[kind * _INVALID]
        if state == NONE or state == _INVALID:
            return False
        if kind == INIT:
            if vtag != 0 or at + _INIT_SIZE > stop:
                return False
            sctp.vtags[1] = read32(data, at + 4)
            sctp.opened[0] = 1
        elif kind == HEARTBEAT:
            sctp.vtags[0] = vtag
        elif kind == SHUTDOWN_ACK:
            sctp.vtags[1] = vtag  # out of the blue: the answer will reflect the tag (section 8.4)
        at += _step(data, at)
    return True


assert ORIGINAL == 0  # _NEXT is indexed by direction
