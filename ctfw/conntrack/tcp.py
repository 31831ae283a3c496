"""TCP as a middle-man sees it: which segments may come, what state they lead to, how long the connection then lives.

Semantics: docs/state-machine.md, "TCP", measured against the kernel; protocol: RFC 9293, RFC 7323 (scaling), RFC 2018
(SACK), RFC 5961 (challenge ACKs). The state is that of the middle-man, not of either end.

What a table can say is in TRANSITIONS: direction x kind of segment x state -> next state. What it cannot say is code
below: segments that are let through without effect because the two ends may know better than we do (IGNORE), the
windows, resets, and the time-out. ``track`` is the whole path of one segment, in the order that matters. Everything is
checked before anything is written; the exceptions are the kernel's: an ignored segment is remembered (``last_*``), and
so is a reset or FIN outside of the window.

All sequence numbers are modulo 2**32 and compare only through ``seq_after`` and ``seq_before``.
"""

from typing import Final

from mypy_extensions import i32, i64

from ctfw import reason
from ctfw.conntrack.conn import Conn, Side, TcpTrack
from ctfw.conntrack.settings import SECOND, Settings
from ctfw.conntrack.state import ASSURED, CONFIRMED, IGNORED, LIBERAL, LOOSE, SEEN_REPLY, STATE_UPDATED
from ctfw.packet import ORIGINAL, REPLY, Packet, read16, read32

NONE: Final = 0
SYN_SENT: Final = 1
SYN_RECV: Final = 2
ESTABLISHED: Final = 3
FIN_WAIT: Final = 4
CLOSE_WAIT: Final = 5
LAST_ACK: Final = 6
TIME_WAIT: Final = 7
CLOSE: Final = 8
SYN_SENT2: Final = 9
_INVALID: Final = 10
_IGNORE: Final = 11
STATE_NAMES: Final = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
    "SYN_SENT2",
)  # fmt: skip

# Places behind the states in Settings.tcp_timeouts.
_MAX_RETRANS: Final = 10
_UNACKNOWLEDGED: Final = 11

# Kinds of segment. A reset is one whatever else it carries, then SYN, FIN, ACK count in this order.
SYN: Final = 0
SYN_ACK: Final = 1
FIN: Final = 2
ACK: Final = 3
RST: Final = 4
BARE: Final = 5
KIND_NAMES: Final = ("syn", "synack", "fin", "ack", "rst", "none")
_NO_KIND: Final = -1

_ABBREVIATIONS: Final = ("NO", "SS", "SR", "ES", "FW", "CW", "LA", "TW", "CL", "S2", "IV", "IG")

# The next state by direction, kind and present state. IV: the segment is INVALID. IG: it passes and changes nothing.
TRANSITIONS: Final = (
    (  # ORIGINAL      NO SS SR ES FW CW LA TW CL S2
        ("syn",       "SS SS IG IG IG IG IG SS SS S2"),  # a SYN inside a connection: the server will answer it, not we
        ("synack",    "IV IV SR IV IV IV IV IV IV SR"),  # only in a simultaneous open does a client send one
        ("fin",       "IV IV FW FW LA LA LA TW CL IV"),
        ("ack",       "ES IV ES ES CW CW TW TW CL IV"),  # from NO: a connection that is older than we are
        ("rst",       "IV CL CL CL CL CL CL CL CL CL"),
        ("none",      "IV IV IV IV IV IV IV IV IV IV"),
    ),
    (  # REPLY
        ("syn",       "IV S2 IV IV IV IV IV SS IV S2"),  # SS: simultaneous open. TW: the server opens anew
        ("synack",    "IV SR IG IG IG IG IG IG IG SR"),  # again, late: the client knows whether it still wants it
        ("fin",       "IV IV FW FW LA LA LA TW CL IV"),
        ("ack",       "IV IG SR ES CW CW TW TW CL IG"),  # SS: may be the challenge to a SYN that hit an old connection
        ("rst",       "IV CL CL CL CL CL CL CL CL CL"),
        ("none",      "IV IV IV IV IV IV IV IV IV IV"),
    ),
)  # fmt: skip

_NEXT: Final = bytes(
    [_ABBREVIATIONS.index(cell) for direction in TRANSITIONS for _, row in direction for cell in row.split()]
)

# Flag bits of the header, and the combinations that occur (PSH, ECE, CWR and reserved bits do not count).
_FIN: Final = 0x01
_SYN: Final = 0x02
_RST: Final = 0x04
_ACK: Final = 0x10
_URG: Final = 0x20
_COUNTED: Final = 0x37
_VALID_FLAGS: Final = bytes(
    [
        1
        if flags
        in (
            _SYN,
            _SYN | _URG,
            _SYN | _ACK,
            _RST,
            _RST | _ACK,
            _FIN | _ACK,
            _FIN | _ACK | _URG,
            _ACK,
            _ACK | _URG,
        )
        else 0
        for flags in range(0x40)
    ]
)

# Side.flags, and from _CHALLENGE on TcpTrack.last_flags.
_WINDOW_SCALE: Final = 1
_SACK_PERMITTED: Final = 2
_CLOSED_FIRST: Final = 4
_LIBERAL: Final = 8
_UNACKED: Final = 16
_MAXACK_SET: Final = 32
_CHALLENGE: Final = 64
_SIMULTANEOUS: Final = 128

_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000
_LEAST_ACK_WINDOW: Final = 66000
MAX_SCALE: Final = 14
_WORTH_CUTTING: Final = 120 * SECOND  # a connection that lives shorter is left alone by what is outside of its window

# What ``track`` answers besides 0 (fine) and the reasons for INVALID.
REOPENED: Final = -1
DELETE: Final = -2
ASSURE: Final = -3

# What the window check answers besides 0 and the reasons.
_OUTSIDE: Final = -1


def seq_before(a: i64, b: i64) -> bool:
    """True when sequence number ``a`` comes before ``b``."""
    return (a - b) & _MASK >= _HALF


def seq_after(a: i64, b: i64) -> bool:
    """True when sequence number ``a`` comes after ``b``."""
    return (b - a) & _MASK >= _HALF


def segment_kind(flags: i64) -> i64:
    """SYN ... BARE, the row of TRANSITIONS for the flags byte of a segment."""
    if flags & _RST:
        return RST
    if flags & _SYN:
        return SYN_ACK if flags & _ACK else SYN
    if flags & _FIN:
        return FIN
    return ACK if flags & _ACK else BARE


def check_header(packet: Packet) -> i64:
    """The reason why a segment is INVALID whatever its connection, or 0."""
    at = packet.l4
    left = packet.end - at
    if left < 20 or len(packet.data) - at < 20:
        return reason.TCP_HEADER
    offset: i64 = packet.data[at + 12]
    header = (offset >> 4) << 2
    if header < 20 or header > left or at + header > len(packet.data):
        return reason.TCP_HEADER
    return 0


def check_flags(packet: Packet) -> i64:
    """The reason when the segment's flags are a combination that no TCP sends, or 0. After ``check_header``."""
    flags: i64 = packet.data[packet.l4 + 13]
    return 0 if _VALID_FLAGS[flags & _COUNTED] else reason.TCP_FLAGS


def open_track(conn: Conn, packet: Packet, settings: Settings) -> i64:
    """Gives a new connection its TCP part; the reason when this segment cannot open one, or 0."""
    data = packet.data
    at = packet.l4
    flags: i64 = data[at + 13]
    state: i64 = _NEXT[segment_kind(flags) * 10]
    if state == _INVALID or (state != SYN_SENT and not settings.tcp_loose and conn.track != LOOSE):
        return reason.TCP_NEW
    tcp = TcpTrack()
    side = tcp.original
    win = read16(data, at + 14)
    side.end = _segment_end(packet, flags)
    side.maxwin = win if win else 1
    if state == SYN_SENT:
        side.maxend = side.end
        _read_syn_options(packet, side)
    else:
        # Older than we are: nobody told us scale or window, so the windows of this connection bind nobody.
        side.maxend = (side.end + side.maxwin) & _MASK
        side.flags = _SACK_PERMITTED | _LIBERAL
        tcp.reply.flags = _SACK_PERMITTED | _LIBERAL
    conn.tcp = tcp
    conn.l4state = NONE
    return 0


def track(conn: Conn, tcp: TcpTrack, packet: Packet, direction: i64, now: i64, settings: Settings) -> i64:
    """Steps the connection by one segment that passed the two checks above.

    Returns 0 when the segment belongs to the connection, ASSURE when the connection is to be ASSURED from now on, and
    IGNORED when the segment only passes; a reason when the segment is INVALID; REOPENED when the connection is over and
    the segment opens another (the caller removes it and looks up again), DELETE when the segment belongs to the
    connection and ends it at once.
    SEEN_REPLY of the status must not yet count this segment. Sets ``conn.l4state`` and ``conn.expires``.
    """
    data = packet.data
    at = packet.l4
    flags: i64 = data[at + 13]
    kind = segment_kind(flags)
    seq = read32(data, at + 4)
    ack = read32(data, at + 8)
    old = conn.l4state
    new: i64 = _NEXT[(direction * 6 + kind) * 10 + old]
    sender = tcp.original if direction == ORIGINAL else tcp.reply
    receiver = tcp.reply if direction == ORIGINAL else tcp.original
    check_window = True

    if new == SYN_SENT and (old == TIME_WAIT or old == CLOSE):
        # A SYN on a finished connection opens another; on one that only seems finished the server will object.
        if (sender.flags | receiver.flags) & _CLOSED_FIRST or (tcp.last_kind == RST and tcp.last_dir == direction):
            return REOPENED
        new = _IGNORE
    if new == _IGNORE:
        if kind == SYN_ACK and tcp.last_kind == SYN and tcp.last_dir != direction and ack == tcp.last_end:
            # The server answers the SYN that we had only let through: both ends are in a new connection, follow them.
            old = SYN_SENT
            new = SYN_RECV
            receiver.end = tcp.last_end
            receiver.maxend = tcp.last_end
            receiver.maxwin = tcp.last_win if tcp.last_win else 1
            receiver.scale = i32(tcp.last_scale)
            tcp.last_flags &= ~_CHALLENGE
            receiver.flags = i32(tcp.last_flags)
            _clear(sender)
        else:
            _remember_ignored(tcp, packet, kind, direction, seq, ack, old, flags)
            return IGNORED
    elif new == _INVALID:
        return reason.TCP_STATE
    elif new == TIME_WAIT:
        if (
            old == LAST_ACK
            and kind == ACK
            and tcp.last_kind == SYN
            and tcp.last_dir != direction
            and tcp.last_flags & _CHALLENGE
        ):
            tcp.last_flags &= ~_CHALLENGE  # RFC 5961 section 4: the answer to a stale SYN, not the last ACK
            return IGNORED
    elif new == SYN_SENT2:
        tcp.last_flags |= _SIMULTANEOUS
    elif new == SYN_RECV:
        if direction == REPLY and kind == ACK and tcp.last_flags & _SIMULTANEOUS:
            new = ESTABLISHED
    elif new == CLOSE and kind == RST:
        if FIN_WAIT <= old <= CLOSE:
            check_window = False  # what we remember of the windows may be of the tuple's former user
        else:
            is_firm = old == ESTABLISHED and conn.status & ASSURED != 0
            judged = False
            if receiver.flags & _MAXACK_SET and tcp.last_kind != SYN:
                if seq == 0 and not is_firm:
                    judged = True  # most likely the answer to a SYN that was let through
                elif seq_before(seq, receiver.maxack) and not settings.tcp_ignore_invalid_rst:
                    return reason.TCP_RST_SEQ
                elif not is_firm or seq == receiver.maxack:
                    judged = True
                elif tcp.last_kind == ACK and tcp.last_dir == direction and seq == tcp.last_end:
                    judged = True  # data and a reset right behind it
                else:
                    new = old  # in the window but not exact: the receiver will challenge it (RFC 5961 section 3)
            if not judged:
                was_ignored = (
                    conn.status & SEEN_REPLY != 0 and tcp.last_kind == SYN and tcp.last_dir != direction
                ) or (conn.status & ASSURED == 0 and tcp.last_kind == ACK)
                if was_ignored and ack == tcp.last_end:
                    check_window = False
                elif old == SYN_SENT and tcp.last_kind == ACK and tcp.last_dir == REPLY and seq == tcp.last_ack:
                    check_window = False

    if check_window:
        answer = _check_window(conn, tcp, sender, receiver, packet, direction, kind, seq, ack, flags, settings)
        if answer == _OUTSIDE:
            return IGNORED
        if answer != 0:
            _remember_outside(conn, tcp, direction, kind, now, settings)
            return answer

    tcp.last_kind = kind
    tcp.last_dir = direction
    conn.l4state = new
    if new != old:
        conn.status |= STATE_UPDATED
    if new == FIN_WAIT and old != FIN_WAIT:
        sender.flags |= _CLOSED_FIRST

    timeout = _timeout(tcp, new, kind, settings)
    if conn.status & SEEN_REPLY == 0:
        if kind == RST:
            return DELETE
        if kind == SYN and old == SYN_SENT:
            return IGNORED  # sent again: does not live longer for it
        unacknowledged: i64 = settings.tcp_timeouts[_UNACKNOWLEDGED]
        if new == ESTABLISHED and timeout > unacknowledged:
            timeout = unacknowledged  # picked up, and nobody has answered yet
    conn.expires = now + timeout
    if (
        conn.status & (SEEN_REPLY | ASSURED) == SEEN_REPLY
        and new == ESTABLISHED
        and (old == SYN_RECV or old == ESTABLISHED)
    ):
        return ASSURE
    return 0


def loosen(conn: Conn, tcp: TcpTrack) -> None:
    """For a connection that has gone on without us since its state was noted: it is as one picked up in its middle.

    Its windows bind nobody, and one that was being opened counts as open: a rule accepted its first segment, and what
    comes next may be of any kind. What it does next shows whether it is still ASSURED.
    """
    if conn.l4state in (SYN_SENT, SYN_RECV, SYN_SENT2):
        conn.l4state = ESTABLISHED
    conn.status &= ~ASSURED
    for side in (tcp.original, tcp.reply):
        side.end = 0
        side.maxend = 0
        side.maxwin = 0
        side.maxack = 0
        side.flags = side.flags & ~(_MAXACK_SET | _UNACKED) | _LIBERAL
    tcp.last_kind = _NO_KIND
    tcp.last_flags = 0
    tcp.retrans = 0


def counted_end(tcp: TcpTrack, packet: Packet) -> i64:
    """Where the segment ends, when it is the last that its side has sent; -1 when it was only let through."""
    sender = tcp.original if packet.direction == ORIGINAL else tcp.reply
    end = _segment_end(packet, packet.data[packet.l4 + 13])
    return end if sender.end == end else -1


def extend(tcp: TcpTrack, direction: i64, end: i64, size: i64) -> i64:
    """The segment that ended at ``end`` is longer by ``size`` bytes than its first IP fragment; its new end, or -1.

    Only while its side has sent nothing behind it, and never beyond the window.
    """
    sender = tcp.original if direction == ORIGINAL else tcp.reply
    longer = (end + size) & _MASK
    if sender.end != end or seq_after(longer, sender.maxend):
        return -1
    sender.end = longer
    return longer


def lifetime(tcp: TcpTrack, state: i64, kind: i64, settings: Settings, is_answered: bool) -> i64:
    """Nanoseconds that the last segment, of ``kind``, gave a connection in ``state``; not for the packet's way."""
    timeout = _timeout(tcp, state, kind, settings)
    unacknowledged: i64 = settings.tcp_timeouts[_UNACKNOWLEDGED]
    return unacknowledged if not is_answered and state == ESTABLISHED and timeout > unacknowledged else timeout


def _timeout(tcp: TcpTrack, new: i64, kind: i64, settings: Settings) -> i64:
    """Nanoseconds that the connection lives after a segment that led to state ``new``."""
    timeouts = settings.tcp_timeouts
    normal: i64 = timeouts[new]
    retrans: i64 = timeouts[_MAX_RETRANS]
    unacknowledged: i64 = timeouts[_UNACKNOWLEDGED]
    if tcp.retrans >= settings.tcp_max_retrans and normal > retrans:
        return retrans
    if kind == RST:
        return timeouts[CLOSE]  # one that is not exact, too: measured, though it leaves the state as it is
    if (tcp.original.flags | tcp.reply.flags) & _UNACKED and normal > unacknowledged:
        return unacknowledged
    if tcp.last_win == 0 and normal > retrans:
        return retrans
    return normal


def _segment_end(packet: Packet, flags: i64) -> i64:
    offset: i64 = packet.data[packet.l4 + 12]
    end = read32(packet.data, packet.l4 + 4) + packet.end - packet.l4 - ((offset >> 4) << 2)
    if flags & _SYN:
        end += 1
    if flags & _FIN:
        end += 1
    return end & _MASK


def _clear(side: Side) -> None:
    side.end = 0
    side.maxend = 0
    side.maxwin = 0
    side.maxack = 0
    side.scale = 0
    side.flags &= _LIBERAL  # measured: who was picked up stays unjudged


def _remember_ignored(
    tcp: TcpTrack, packet: Packet, kind: i64, direction: i64, seq: i64, ack: i64, old: i64, flags: i64
) -> None:
    """Keeps of a segment that passes without effect what is needed to understand the answer to it."""
    tcp.last_kind = kind
    tcp.last_dir = direction
    tcp.last_seq = seq
    tcp.last_end = _segment_end(packet, flags)
    tcp.last_win = read16(packet.data, packet.l4 + 14)
    if kind == SYN and direction == ORIGINAL:
        seen = Side()
        _read_syn_options(packet, seen)
        tcp.last_flags = i64(seen.flags & (_WINDOW_SCALE | _SACK_PERMITTED))
        tcp.last_scale = i64(seen.scale) if seen.flags & _WINDOW_SCALE else 0
        if old == LAST_ACK:
            tcp.last_flags |= _CHALLENGE
    if old == SYN_SENT and kind == ACK and direction == REPLY:
        tcp.last_ack = ack


def _remember_outside(conn: Conn, tcp: TcpTrack, direction: i64, kind: i64, now: i64, settings: Settings) -> None:
    """A FIN or reset outside of the window: when both directions sent one, the connection is not kept for five days."""
    if conn.status & ASSURED == 0 or conn.status & CONFIRMED == 0 or (kind != FIN and kind != RST):
        return
    if tcp.last_dir != direction and (tcp.last_kind == FIN or tcp.last_kind == RST):
        unacknowledged: i64 = settings.tcp_timeouts[_UNACKNOWLEDGED]
        if conn.expires - now >= _WORTH_CUTTING and conn.expires - now > unacknowledged:
            conn.expires = now + unacknowledged
    else:
        tcp.last_kind = kind
        tcp.last_dir = direction


def _check_window(
    conn: Conn,
    tcp: TcpTrack,
    sender: Side,
    receiver: Side,
    packet: Packet,
    direction: i64,
    kind: i64,
    seq: i64,
    ack: i64,
    flags: i64,
    settings: Settings,
) -> i64:
    """Does the segment lie where the other side can accept it? 0 and the windows updated, _OUTSIDE, or a reason.

    docs/state-machine.md, "Windows". _OUTSIDE is for what a healthy connection does send, such as old data once more:
    it passes, and nothing is learnt from it.
    """
    data = packet.data
    raw_win = read16(data, packet.l4 + 14)
    win = raw_win
    end = _segment_end(packet, flags)
    sack = ack
    if receiver.flags & _SACK_PERMITTED:
        sack = _read_sack(packet, sack)
    state = conn.l4state

    if sender.maxwin == 0:
        _start_side(sender, receiver, packet, direction, flags, end, win, sack)
        if flags & _SYN and not flags & _ACK:
            return 0
    elif flags & _SYN and (state == SYN_SENT or state == SYN_RECV) and seq_after(end, sender.end):
        # The side started again with a higher number, as RFC 9293 section 3.4.3 allows.
        _start_side(sender, receiver, packet, direction, flags, end, win, sack)
        if direction == REPLY and not flags & _ACK:
            return 0

    if not flags & _ACK or (flags & _RST and ack == 0):
        ack = receiver.end  # no acknowledgement, or a broken one: judge the rest of the segment
        sack = ack
    if flags & _RST and seq == 0 and state == SYN_SENT:
        seq = sender.end
        end = seq

    is_liberal = sender.flags & _LIBERAL != 0 or settings.tcp_be_liberal or conn.track == LIBERAL
    ack_window = sender.maxwin if sender.maxwin > _LEAST_ACK_WINDOW else _LEAST_ACK_WINDOW
    is_ack_recent = seq_after(sack, receiver.end - ack_window - 1)
    is_in_receive_window = receiver.maxwin == 0 or seq_after(end, sender.end - receiver.maxwin - 1)
    if not seq_before(seq, sender.maxend + 1):
        overshoot = (end - sender.maxend + 1) & _MASK
        if (
            receiver.maxwin != 0
            and is_in_receive_window
            and is_ack_recent
            and overshoot <= receiver.maxwin
            and seq_before(sack, receiver.end + 1)
        ):
            # More than the window allows, by less than a window: some do send that; the receiver decides.
            sender.end = end
            sender.flags |= _UNACKED
            return 0 if is_liberal else _OUTSIDE
        return 0 if is_liberal else reason.TCP_SEQ_OVER
    if not seq_before(sack, receiver.end + 1):
        return 0 if is_liberal else reason.TCP_ACK_OVER
    if not is_in_receive_window or not is_ack_recent:
        return 0 if is_liberal else _OUTSIDE

    if not flags & _SYN:
        win <<= i64(sender.scale)
    seen_win = win + ((sack - ack) & _MASK)
    if sender.maxwin < seen_win:
        sender.maxwin = seen_win
    if seq_after(end, sender.end):
        sender.end = end
        sender.flags |= _UNACKED
    if flags & _ACK:
        if not sender.flags & _MAXACK_SET:
            sender.maxack = ack
            sender.flags |= _MAXACK_SET
        elif seq_after(ack, sender.maxack):
            sender.maxack = ack
    if receiver.maxwin != 0 and seq_after(end, sender.maxend):
        receiver.maxwin += (end - sender.maxend) & _MASK
    if seq_after(sack + win, receiver.maxend - 1):
        receiver.maxend = (sack + win + (1 if win == 0 else 0)) & _MASK
    if ack == receiver.end:
        receiver.flags &= ~_UNACKED

    if kind == ACK:
        if (
            tcp.last_dir == direction
            and tcp.last_seq == seq
            and tcp.last_ack == ack
            and tcp.last_end == end
            and tcp.last_win == raw_win
        ):
            tcp.retrans += 1
        else:
            tcp.last_dir = direction
            tcp.last_seq = seq
            tcp.last_ack = ack
            tcp.last_end = end
            tcp.last_win = raw_win
            tcp.retrans = 0
    return 0


def _start_side(
    sender: Side, receiver: Side, packet: Packet, direction: i64, flags: i64, end: i64, win: i64, sack: i64
) -> None:
    """The first segment that we see of a side (or the first of its second try)."""
    if flags & _SYN:
        sender.end = end
        sender.maxend = end
        sender.maxwin = win if win else 1
        _read_syn_options(packet, sender)
        if direction == REPLY and not sender.flags & receiver.flags & _WINDOW_SCALE:
            sender.scale = 0  # RFC 7323 section 2.2: both must offer it
            receiver.scale = 0
        return
    scaled = win << i64(sender.scale)
    sender.end = end
    sender.maxwin = scaled if scaled else 1
    sender.maxend = (end + sender.maxwin) & _MASK
    if receiver.maxwin == 0:
        receiver.end = sack
        receiver.maxend = sack
    elif sack == (receiver.end + 1) & _MASK:
        receiver.end = sack  # the answer to a keep-alive, whose one byte lies before what we know of


def _read_syn_options(packet: Packet, side: Side) -> None:
    """Scale and SACK-permitted of a SYN into ``side``. Without any option bytes the side stays as it is."""
    data = packet.data
    at = packet.l4 + 20
    offset: i64 = data[packet.l4 + 12]
    stop = packet.l4 + ((offset >> 4) << 2)
    if at == stop:
        return
    side.scale = 0
    side.flags &= _LIBERAL
    while at < stop:
        option: i64 = data[at]
        if option == 0:
            return
        if option == 1:
            at += 1
            continue
        if at + 2 > stop:
            return
        size: i64 = data[at + 1]
        if size < 2 or at + size > stop:
            return
        if option == 3 and size == 3:
            scale: i64 = data[at + 2]
            side.scale = i32(scale if scale <= MAX_SCALE else MAX_SCALE)
            side.flags |= _WINDOW_SCALE
        elif option == 4 and size == 2:
            side.flags |= _SACK_PERMITTED
        at += size


def let_go(track: TcpTrack) -> None:
    """Forgets what resets are held against: acknowledgements that we do not see will have moved it."""
    track.original.flags &= ~_MAXACK_SET
    track.reply.flags &= ~_MAXACK_SET


def _read_sack(packet: Packet, sack: i64) -> i64:
    """The highest right edge of the segment's SACK blocks, or ``sack`` when none lies behind it (RFC 2018)."""
    data = packet.data
    at = packet.l4 + 20
    offset: i64 = data[packet.l4 + 12]
    stop = packet.l4 + ((offset >> 4) << 2)
    while at < stop:
        option: i64 = data[at]
        if option == 0:
            return sack
        if option == 1:
            at += 1
            continue
        if at + 2 > stop:
            return sack
        size: i64 = data[at + 1]
        if size < 2 or at + size > stop:
            return sack
        if option == 5 and size >= 10 and (size - 2) & 7 == 0:
            edge = at + 6
            while edge < at + size:
                right = read32(data, edge)
                if seq_after(right, sack):
                    sack = right
                edge += 8
        at += size
    return sack
