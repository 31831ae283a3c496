"""Why connection tracking says what it says about a packet, in numbers.

For people who ask about one packet; the packet's way decides without this file, and a test holds both against each
other. It reads the connection as it was before the packet (a copy: what the window check would write, it writes here)
and tells the figures that were compared. Nothing is told where the reason's own sentence says all there is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ctfw import reason
from ctfw.checksum import crc32c
from ctfw.conntrack import sctp, tcp
from ctfw.conntrack.conn import Conn, SctpTrack
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import LIBERAL
from ctfw.conntrack.tcp import seq_after, seq_before
from ctfw.packet import (
    AF_INET,
    DIRECTION_NAMES,
    ICMP,
    ORIGINAL,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Packet,
    decode,
    read16,
    read32,
)
from ctfw.packet_text import CHUNK_NAMES, address_text, chunk_types, ends_text
from ctfw.tools.rehearsal import clone

_MASK: Final = 0xFFFFFFFF
_FLAGS: Final = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
_SUM_AT: Final = {TCP: 16, UDP: 6, UDPLITE: 6, ICMP: 2, 58: 2}
_TOTAL_AT: Final = {4: 2, 6: 4}


@dataclass
class Check:
    """An inequality that the window check asks about: its terms in words and in numbers, and whether it holds."""

    what: str
    numbers: str
    holds: bool


@dataclass
class Arithmetic:
    """`facts` are named groups of figures, `checks` the inequalities in the order in which they are asked."""

    facts: dict[str, dict[str, int | str]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """One line for each group and each check."""
        found = [f"{what}: " + " ".join(f"{k}={v}" for k, v in facts.items()) for what, facts in self.facts.items()]
        return found + [f"{'holds' if one.holds else 'FAILS'}: {one.what}: {one.numbers}" for one in self.checks]


def reckon(packet: Packet, why: int, before: Conn | None, settings: Settings, fullness: tuple[int, int]) -> Arithmetic:
    """The figures behind ``why`` (0: none, then those of a TCP window that held) for a decoded packet.

    ``before`` is its connection as it was, ``fullness`` how many connections there are, in all and of its source.
    """
    told = Arithmetic()
    if why in (reason.IP_LENGTH, reason.IP_HEADER):
        _lengths(packet, told)
    elif why == reason.CHECKSUM:
        _checksum(packet, told)
    elif why in (reason.UDP_LENGTH, reason.TCP_HEADER):
        _transport_length(packet, told)
    elif why in (reason.TCP_FLAGS, reason.TCP_NEW):
        told.facts["the segment"] = {"flags": _flag_names(packet)}
        if why == reason.TCP_NEW:
            told.facts["opens a connection"] = {
                "always": "syn", "with tcp_loose": "ack", "tcp_loose": int(settings.tcp_loose),
            }  # fmt: skip
    elif why == reason.TCP_STATE and before is not None:
        _tcp_state(packet, before, told)
    elif why in (0, reason.TCP_SEQ_OVER, reason.TCP_ACK_OVER, reason.TCP_RST_SEQ):
        if packet.proto == TCP and before is not None and (why or _is_judged_by_window(packet, before)):
            _window(packet, before, settings, told, why == reason.TCP_RST_SEQ)
    elif why in (reason.SCTP_VTAG, reason.SCTP_STATE, reason.SCTP_CHUNK, reason.SCTP_NEW):
        _sctp(packet, before, told)
    elif why in (reason.ICMP_ERROR_UNKNOWN, reason.ICMP_ERROR_ADDRESS):
        _icmp_error(packet, told)
    elif why == reason.TABLE_FULL:
        told.facts["the table"] = {"connections": fullness[0], "max": int(settings.max)}
    elif why == reason.SOURCE_FULL:
        told.facts["the source"] = {"connections": fullness[1], "per_source": int(settings.per_source)}
    return told


def _lengths(packet: Packet, told: Arithmetic) -> None:
    version = packet.data[0] >> 4
    header = (packet.data[0] & 15) * 4 if version == 4 else 40
    length = read16(packet.data, _TOTAL_AT[version]) + (40 if version == 6 else 0)
    told.facts["the IP header says"] = {"header": header, "length": length}
    told.facts["the packet has"] = {"length": packet.length}


def _transport_length(packet: Packet, told: Arithmetic) -> None:
    told.facts["behind the IP header"] = {"bytes": packet.end - packet.l4}
    at = packet.l4
    if packet.proto == TCP and len(packet.data) > at + 12:
        told.facts["the TCP header says"] = {"header": (packet.data[at + 12] >> 4) * 4}
    elif packet.proto != TCP and len(packet.data) >= at + 6:
        word = "coverage" if packet.proto == UDPLITE else "length"
        told.facts["its own header says"] = {word: read16(packet.data, at + 4)}


def _checksum(packet: Packet, told: Arithmetic) -> None:
    data, at, end = packet.data, packet.l4, packet.end
    if packet.proto == SCTP:
        right = crc32c(data[at : at + 8] + bytes(4) + data[at + 12 : end], 0, end - at, _MASK) ^ _MASK
        carried = int.from_bytes(data[at + 8 : at + 12], "little")
        told.facts["the checksum"] = {"carried": f"{carried:#010x}", "right": f"{right:#010x}"}
        return
    where = at + _SUM_AT.get(packet.proto, 2)
    covered = end
    if packet.proto == UDPLITE and read16(data, at + 4):
        covered = at + read16(data, at + 4)
    body = data[at:where] + b"\0\0" + data[where + 2 : covered]
    if packet.proto != ICMP or packet.family != AF_INET:
        body = packet.src + packet.dst + int(end - at).to_bytes(4, "big") + int(packet.proto).to_bytes(4, "big") + body
    body += bytes(len(body) % 2)
    total = sum(read16(body, i) for i in range(0, len(body), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    told.facts["the checksum"] = {"carried": f"{read16(data, where):#06x}", "right": f"{total ^ 0xFFFF:#06x}"}


def _tcp_state(packet: Packet, before: Conn, told: Arithmetic) -> None:
    direction = _direction(packet, before)
    kind = tcp.segment_kind(packet.data[packet.l4 + 13])
    column = before.l4state
    possible = [name for name, row in tcp.TRANSITIONS[direction] if row.split()[column] != "IV"]
    told.facts["the segment"] = {"kind": tcp.KIND_NAMES[kind], "direction": DIRECTION_NAMES[direction]}
    told.facts["the connection"] = {"state": tcp.STATE_NAMES[column], "takes": ",".join(possible) or "nothing"}


def _is_judged_by_window(packet: Packet, before: Conn) -> bool:
    """True for data, acknowledgements and FINs, but where the state lets them pass without a look at the windows."""
    if before.tcp is None or packet.fragment or len(packet.data) < packet.l4 + 20:
        return False
    kind = tcp.segment_kind(packet.data[packet.l4 + 13])
    if kind not in (tcp.ACK, tcp.FIN):
        return False
    return tcp.TRANSITIONS[_direction(packet, before)][kind][1].split()[before.l4state] != "IG"


def _window(packet: Packet, before: Conn, settings: Settings, told: Arithmetic, is_reset: bool) -> None:
    """What ``tcp._check_window`` compares, in its order and with its own helpers, on a copy of the connection."""
    conn = clone(before, {})
    track = conn.tcp
    if track is None or len(packet.data) < packet.l4 + 20:
        return
    direction = _direction(packet, conn)
    sender = track.original if direction == ORIGINAL else track.reply
    receiver = track.reply if direction == ORIGINAL else track.original
    data, at = packet.data, packet.l4
    flags = data[at + 13]
    seq, ack = read32(data, at + 4), read32(data, at + 8)
    win, end = read16(data, at + 14), tcp._segment_end(packet, flags)
    told.facts["the segment"] = {"seq": seq, "end": end, "ack": ack, "win": win, "flags": _flag_names(packet)}
    if is_reset:
        told.facts["the receiver"] = _side(receiver)
        numbers = f"{seq} >= {receiver.maxack}"
        told.checks.append(Check("seq >= the receiver's maxack", numbers, not seq_before(seq, receiver.maxack)))
        return
    sack = tcp._read_sack(packet, ack) if receiver.flags & tcp._SACK_PERMITTED else ack
    syn, has_ack = flags & tcp._SYN != 0, flags & tcp._ACK != 0
    if sender.maxwin == 0 or (
        syn and conn.l4state in (tcp.SYN_SENT, tcp.SYN_RECV) and seq_after(end, sender.end)
    ):  # its first segment, or it started again
        tcp._start_side(sender, receiver, packet, direction, flags, end, win, sack)
    told.facts["the sender"] = _side(sender)
    told.facts["the receiver"] = _side(receiver)
    if not has_ack or (flags & tcp._RST and ack == 0):
        ack = sack = receiver.end
    if flags & tcp._RST and seq == 0 and conn.l4state == tcp.SYN_SENT:
        seq = end = sender.end
    if sack != ack:
        told.facts["the segment"]["sack"] = sack
    if sender.flags & tcp._LIBERAL or settings.tcp_be_liberal or conn.track == LIBERAL:
        told.facts["windows"] = {"liberal": "yes: these inequalities bind nobody"}
    ack_window = max(sender.maxwin, tcp._LEAST_ACK_WINDOW)
    oldest_end, oldest_ack = (sender.end - receiver.maxwin) & _MASK, (receiver.end - ack_window) & _MASK
    is_in_window = seq_before(seq, sender.maxend + 1)
    if not is_in_window:
        beyond = (end - sender.maxend + 1) & _MASK
        told.facts["beyond the window"] = {"by": beyond, "passes unjudged up to": int(receiver.maxwin)}
    told.checks += [
        Check("seq <= the sender's maxend", f"{seq} <= {sender.maxend}", is_in_window),
        Check("ack <= the receiver's end", f"{sack} <= {receiver.end}", seq_before(sack, receiver.end + 1)),
        Check(
            "end >= the sender's end - the receiver's maxwin",
            f"{end} >= {sender.end} - {receiver.maxwin} = {oldest_end}" if receiver.maxwin else "no window seen yet",
            receiver.maxwin == 0 or seq_after(end, oldest_end - 1),
        ),
        Check(
            f"ack >= the receiver's end - the larger of the sender's maxwin and {tcp._LEAST_ACK_WINDOW}",
            f"{sack} >= {receiver.end} - {ack_window} = {oldest_ack}",
            seq_after(sack, oldest_ack - 1),
        ),
    ]


def _side(side: Any) -> dict[str, int | str]:
    return {"end": int(side.end), "maxend": int(side.maxend), "maxwin": int(side.maxwin), "scale": int(side.scale)}


def _sctp(packet: Packet, before: Conn | None, told: Arithmetic) -> None:
    if len(packet.data) < packet.l4 + 12:
        return
    chunks = ",".join(CHUNK_NAMES.get(kind, str(kind)) for kind in chunk_types(packet))
    told.facts["the packet"] = {"vtag": read32(packet.data, packet.l4 + 4), "chunks": chunks or "none"}
    track = before.l4 if before is not None else None
    if before is not None and isinstance(track, SctpTrack):
        direction = _direction(packet, before)
        state = sctp.STATE_NAMES[before.l4state]
        told.facts["the association"] = {
            "state": state, "vtag": track.vtags[direction], "direction": DIRECTION_NAMES[direction],
        }  # fmt: skip


def _icmp_error(packet: Packet, told: Arithmetic) -> None:
    quoted = decode(packet.data[packet.l4 + 8 :], 1 << 20)
    if quoted.family:
        told.facts["the error"] = {"goes to": address_text(packet.dst)}
        told.facts["it quotes"] = {"packet": ends_text(quoted)}


def _direction(packet: Packet, conn: Conn) -> int:
    size = len(packet.key)
    return 0 if conn.key[:size] == packet.key else 1


def _flag_names(packet: Packet) -> str:
    if len(packet.data) < packet.l4 + 14:
        return "?"
    flags = packet.data[packet.l4 + 13]
    return ",".join(name for bit, name in enumerate(_FLAGS) if flags >> bit & 1) or "none"
