"""A connection, an expectation, a PPTP call as bytes, and back: the one place that knows which attributes they have.

For what outlives the process (service/snapshot.py says when and where to, and proves that the bytes are those that were
written). Points in time become durations: ``left`` to live and ``age``, in nanoseconds, seen from the moment of
writing. Other connections (a master, a tunnel) become keys. What follows from something else is left out: the reply key
is the inverse of the key, and the rules find anew what they remember of a connection.

An attribute that changes its name or its meaning is changed here, in the two functions of its part, and FORMAT goes up
by one: a daemon of another format does not read it, and says so. The same holds for the numbers behind names: states,
helpers, bits of the status.

Reading trusts nothing: whatever the bytes, the result is a connection that the engine can work with, or ValueError.
"""

import struct
from typing import Final

from mypy_extensions import i64

from ctfw.conntrack import sctp, tcp
from ctfw.conntrack.conn import Conn, GreTrack, SctpTrack, Side, TcpTrack
from ctfw.conntrack.expect import Expectation, Policy
from ctfw.conntrack.gre import Call
from ctfw.conntrack.helpers import amanda, ftp, irc, netbios_ns, pptp, sane, sip, snmp, tftp
from ctfw.conntrack.settings import FTP, HELPER_NAMES, PPTP, SANE, SIP
from ctfw.conntrack.state import ASSURED, EXPECTED, LIBERAL, SEEN_REPLY
from ctfw.packet import SCTP, TCP, address_size, inverse

FORMAT: Final = 1

_KEYS: Final = (13, 15, 37, 39)  # lengths: IPv4 and IPv6, without and with a zone
_STATUS: Final = EXPECTED | SEEN_REPLY | ASSURED  # the rest is the table's to set
_HELPER_DATA: Final = {FTP: 6, SIP: 2, SANE: 1, PPTP: 4}  # how many numbers each helper remembers
_LEAST_TIME: Final = -(1 << 62)
_MOST_TIME: Final = 1 << 62

_NO_PART: Final = 0
_TCP_PART: Final = 1
_SCTP_PART: Final = 2
_GRE_PART: Final = 3
_NO_NUMBERS: Final = 255

_HEAD: Final = struct.Struct("<HBBBB")  # size of it all, length of the key, part, numbers, length of the master's key
_CONN: Final = struct.Struct("<IbBBIqqqQQQQ")
_SIDE: Final = struct.Struct("<IIIIBB")
_TCP: Final = struct.Struct("<bBIIIIBHI")
_SCTP: Final = struct.Struct("<IIBBb")
_GRE: Final = struct.Struct("<qq")
_EXPECTATION: Final = struct.Struct("<BBBBBBBBqBB")
_CALL: Final = struct.Struct("<BBBB")


def conn_to_bytes(conn: Conn, now: i64) -> bytes:
    """The connection as it is at ``now``."""
    part = _NO_PART
    body = b""
    track, other = conn.tcp, conn.l4
    if track is not None:
        part = _TCP_PART
        body = _tcp_to_bytes(track)
    elif isinstance(other, SctpTrack):
        part = _SCTP_PART
        body = _SCTP.pack(other.vtags[0], other.vtags[1], other.opened[0], other.opened[1], other.doubted)
    elif isinstance(other, GreTrack):
        part = _GRE_PART
        body = _GRE.pack(other.timeout, other.timeout_stream)
    numbers = conn.helper_data
    count = _NO_NUMBERS
    if numbers is not None:
        count = len(numbers)
        body += struct.pack(f"<{count}q", *numbers)
    master = conn.master
    master_key = master.key if master is not None else b""
    fixed = _CONN.pack(
        conn.status & _STATUS,
        conn.l4state,
        conn.helper,
        conn.track,
        conn.mark,
        conn.generation,
        now - conn.created,
        conn.expires - now,
        conn.original_packets,
        conn.original_bytes,
        conn.reply_packets,
        conn.reply_bytes,
    )
    size = _HEAD.size + len(conn.key) + len(fixed) + len(body) + len(master_key)
    return _HEAD.pack(size, len(conn.key), part, count, len(master_key)) + conn.key + fixed + body + master_key


def conn_size(data: bytes, at: i64) -> int:
    """How many bytes the connection at ``at`` takes. Raises ValueError when they are not there."""
    if at + _HEAD.size > len(data):
        raise ValueError("a connection ends early")
    size: i64 = data[at] | data[at + 1] << 8
    if size < _HEAD.size + _CONN.size or at + size > len(data):
        raise ValueError("a connection ends early")
    return size


def conn_key(data: bytes, at: i64) -> bytes:
    """The key of the connection at ``at``."""
    begin = at + _HEAD.size
    return data[begin : begin + data[at + 2]]


def conn_of_bytes(data: bytes, at: i64, now: i64) -> tuple[Conn, bytes]:
    """The connection at ``at``, as if written at ``now``, and its master's key or b"". Raises ValueError."""
    try:
        return _conn_of_bytes(data, at, now)
    except struct.error as error:
        raise ValueError(str(error)) from None


def _conn_of_bytes(data: bytes, at: i64, now: i64) -> tuple[Conn, bytes]:
    end = at + conn_size(data, at)
    _size, key_size, part, count, master_size = _HEAD.unpack_from(data, at)
    at += _HEAD.size
    key = data[at : at + key_size]
    reply_key = _checked_inverse(key)
    at += key_size
    conn = Conn(key, reply_key, now)
    (
        status, l4state, helper, track, mark, generation, age, left,
        original_packets, original_bytes, reply_packets, reply_bytes,
    ) = _CONN.unpack_from(data, at)  # fmt: skip
    at += _CONN.size
    _check(0 <= helper < len(HELPER_NAMES), "helper")
    _check(0 <= track <= LIBERAL, "track")
    _check(_LEAST_TIME < left < _MOST_TIME and _LEAST_TIME < age < _MOST_TIME, "time")
    _check(-1 <= generation < _MOST_TIME, "generation")
    conn.status = status & _STATUS
    conn.l4state = l4state
    conn.helper = helper
    conn.track = track
    conn.mark = mark
    conn.generation = generation
    conn.created = now - age
    conn.expires = now + left
    conn.original_packets = original_packets & (_MOST_TIME - 1)
    conn.original_bytes = original_bytes & (_MOST_TIME - 1)
    conn.reply_packets = reply_packets & (_MOST_TIME - 1)
    conn.reply_bytes = reply_bytes & (_MOST_TIME - 1)
    proto: i64 = key[0]
    states = len(tcp.STATE_NAMES) if proto == TCP else len(sctp.STATE_NAMES) if proto == SCTP else 1
    _check(0 <= l4state < states, "state")
    if part == _TCP_PART:
        _check(proto == TCP, "protocol")
        conn.tcp = _tcp_of_bytes(data, at)
        at += 2 * _SIDE.size + _TCP.size
    elif part == _SCTP_PART:
        _check(proto == SCTP, "protocol")
        sctp_track = SctpTrack()
        vtag, reply_vtag, opened, reply_opened, doubted = _SCTP.unpack_from(data, at)
        _check(-1 <= doubted <= 1, "direction")
        sctp_track.vtags = [vtag, reply_vtag]
        sctp_track.opened = [opened, reply_opened]
        sctp_track.doubted = doubted
        conn.l4 = sctp_track
        at += _SCTP.size
    elif part == _GRE_PART:
        timeout, timeout_stream = _GRE.unpack_from(data, at)
        _check(0 <= timeout < _MOST_TIME and 0 <= timeout_stream < _MOST_TIME, "timeout")
        conn.l4 = GreTrack(timeout, timeout_stream)
        at += _GRE.size
    if count != _NO_NUMBERS:
        _check(_HELPER_DATA.get(helper, -1) == count, "helper's numbers")
        numbers = list(struct.unpack_from(f"<{count}q", data, at))
        for number in numbers:
            _check(-1 <= number <= 0xFFFFFFFF, "helper's numbers")
        if helper == PPTP:
            _check(0 <= numbers[2] <= 0xFFFF and 0 <= numbers[3] <= 0xFFFF, "call")
        conn.helper_data = numbers
        at += 8 * count
    _check(at + master_size == end, "length")
    return conn, data[at:end]


def _tcp_to_bytes(track: TcpTrack) -> bytes:
    last = _TCP.pack(
        track.last_kind,
        track.last_dir,
        track.last_seq,
        track.last_ack,
        track.last_end,
        track.last_win,
        track.last_scale,
        track.last_flags,
        track.retrans,
    )
    return _side_to_bytes(track.original) + _side_to_bytes(track.reply) + last


def _tcp_of_bytes(data: bytes, at: i64) -> TcpTrack:
    track = TcpTrack()
    _fill_side(track.original, data, at)
    _fill_side(track.reply, data, at + _SIDE.size)
    kind, direction, seq, ack, end, win, scale, flags, retrans = _TCP.unpack_from(data, at + 2 * _SIDE.size)
    _check(-1 <= kind < len(tcp.KIND_NAMES) and 0 <= direction <= 1 and scale <= tcp.MAX_SCALE, "last segment")
    track.last_kind = kind
    track.last_dir = direction
    track.last_seq = seq
    track.last_ack = ack
    track.last_end = end
    track.last_win = win
    track.last_scale = scale
    track.last_flags = flags
    track.retrans = retrans
    return track


def _side_to_bytes(side: Side) -> bytes:
    return _SIDE.pack(side.end, side.maxend, side.maxwin & 0xFFFFFFFF, side.maxack, side.scale, side.flags)


def _fill_side(side: Side, data: bytes, at: i64) -> None:
    end, maxend, maxwin, maxack, scale, flags = _SIDE.unpack_from(data, at)
    _check(scale <= tcp.MAX_SCALE, "window scale")
    side.end = end
    side.maxend = maxend
    side.maxwin = maxwin
    side.maxack = maxack
    side.scale = scale
    side.flags = flags


def policies() -> dict[str, Policy]:
    """Every class of expectations there is, by its full name."""
    classes = [
        amanda.POLICY, ftp.POLICY, irc.POLICY, netbios_ns.POLICY, pptp.CALL_POLICY, sane.POLICY, sip.SIGNALLING,
        sip.AUDIO, sip.VIDEO, sip.IMAGE, snmp.POLICY, tftp.POLICY,
    ]  # fmt: skip
    return {policy.full_name(): policy for policy in classes}


def expectation_to_bytes(one: Expectation, now: i64) -> bytes:
    """The expectation as it is at ``now``, its length before it."""
    name = one.policy.full_name().encode()
    head = _EXPECTATION.pack(
        len(one.master.key),
        len(name),
        one.proto,
        len(one.src),
        one.prefix,
        len(one.sport),
        len(one.dst),
        one.assign,
        one.expires - now,
        one.permanent,
        one.inactive,
    )
    body = head + one.master.key + name + one.src + one.sport + one.dst + one.dport
    return len(body).to_bytes(2, "little") + body


class ReadExpectation:
    """An expectation that was read; its master is still to be found by its key."""

    def __init__(self, master_key: bytes, policy: Policy) -> None:
        self.master_key = master_key
        self.policy = policy
        self.proto: i64 = 0
        self.src = b""
        self.prefix: i64 = 0
        self.sport = b""
        self.dst = b""
        self.dport = b""
        self.expires: i64 = 0
        self.permanent: bool = False
        self.inactive: bool = False
        self.assign: i64 = 0

    def of(self, master: Conn, now: i64) -> Expectation:
        """The expectation of ``master``."""
        one = Expectation(master, self.policy, self.proto, self.src, self.dst, self.dport, now)
        one.prefix = self.prefix
        one.sport = self.sport
        one.expires = self.expires
        one.permanent = self.permanent
        one.inactive = self.inactive
        one.assign = self.assign
        return one


def expectations_of_bytes(data: bytes, now: i64) -> list[ReadExpectation]:
    """What expectation_to_bytes made of several, one behind the other. Raises ValueError."""
    found = []
    classes = policies()
    at: i64 = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        body = data[at + 2 : at + 2 + size]
        _check(len(body) == size and size >= _EXPECTATION.size, "expectation")
        found.append(_expectation_of_bytes(body, classes, now))
        at += 2 + size
    return found


def _expectation_of_bytes(body: bytes, classes: dict[str, Policy], now: i64) -> ReadExpectation:
    (
        master_size, name_size, proto, src_size, prefix, sport_size, dst_size, assign, left, permanent, inactive,
    ) = _EXPECTATION.unpack_from(body)  # fmt: skip
    at = _EXPECTATION.size
    ends = []
    for size in (master_size, name_size, src_size, sport_size, dst_size, 2):
        at += size
        ends.append(at)
    _check(at == len(body), "expectation")
    master_key = body[_EXPECTATION.size : ends[0]]
    _checked_inverse(master_key)
    policy = classes.get(body[ends[0] : ends[1]].decode("latin-1"))
    if policy is None:
        raise ValueError("class of expectations")
    _check(src_size in (0, 4, 16) and prefix <= 8 * src_size, "source")
    _check(dst_size == address_size(master_key) and src_size in (0, dst_size), "destination")
    _check(sport_size in (0, 2) and assign < len(HELPER_NAMES), "expectation")
    _check(_LEAST_TIME < left < _MOST_TIME, "time")
    read = ReadExpectation(master_key, policy)
    read.proto = proto
    read.src = body[ends[1] : ends[2]]
    read.prefix = prefix
    read.sport = body[ends[2] : ends[3]]
    read.dst = body[ends[3] : ends[4]]
    read.dport = body[ends[4] : ends[5]]
    read.expires = now + left
    read.permanent = permanent != 0
    read.inactive = inactive != 0
    read.assign = assign
    return read


def call_to_bytes(directions: list[Call]) -> bytes:
    """A PPTP call: both directions as ``Calls`` has them."""
    first, second = directions
    tunnel = first.tunnel
    tunnel_key = tunnel.key if tunnel is not None else b""
    keys = [full_call_key(call) for call in (first, second)]
    head = _CALL.pack(len(first.master.key), len(keys[0]), len(keys[1]), len(tunnel_key))
    return head + first.master.key + keys[0] + keys[1] + tunnel_key


def full_call_key(call: Call) -> bytes:
    """The key of the call's packets with the sender's id filled in."""
    at = 1 + 2 * address_size(call.key)
    return call.key[:at] + call.sender + call.key[at + 2 :]


class ReadCall:
    """A call that was read: its control connection's key, its two directions, its tunnel's key or b""."""

    def __init__(self, master_key: bytes, keys: list[bytes], tunnel_key: bytes) -> None:
        self.master_key = master_key
        self.keys = keys
        self.tunnel_key = tunnel_key


def calls_of_bytes(data: bytes) -> list[ReadCall]:
    """What call_to_bytes made of several, one behind the other. Raises ValueError."""
    found = []
    at: i64 = 0
    while at < len(data):
        _check(at + _CALL.size <= len(data), "call")
        parts = []
        sizes = _CALL.unpack_from(data, at)
        at += _CALL.size
        for size in sizes:
            parts.append(data[at : at + size])
            at += size
        _check(at <= len(data), "call")
        master_key, first, second, tunnel_key = parts
        for key in (master_key, first, second):
            _checked_inverse(key)
        if tunnel_key:
            _checked_inverse(tunnel_key)
        found.append(ReadCall(master_key, [first, second], tunnel_key))
    return found


def _checked_inverse(key: bytes) -> bytes:
    """The inverse of a key that is one."""
    reply_key = inverse(key) if len(key) in _KEYS else b""
    _check(reply_key != b"", "key")
    return reply_key


def _check(is_good: bool, what: str) -> None:
    if not is_good:
        raise ValueError(what)
