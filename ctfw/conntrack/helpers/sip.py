"""SIP (RFC 3261) over UDP and TCP: its messages announce media streams (SDP, RFC 8866) and where a phone can be called.

Media: INVITE, UPDATE, ACK, PRACK and their provisional and successful answers may carry a session description. Each
audio, video or image stream in it (up to three) is expected as two UDP connections, RTP at the even port and RTCP at
the next, from the other end of the signalling to the announced address, which must be the sender's own. BYE, a new
INVITE, and the failure of the last one take all media back.

Calls: REGISTER announces where calls come in, the Contact. It is expected at once but inactive; the registrar's success
activates it for as long as it grants, its failure or no Contact of ours takes it back. Such an expectation is permanent
and the connections that fulfil it are themselves read as SIP.

A message that is SIP but lacks what is needed to follow it is dropped: the ends would agree on something we did not
see. Every packet with a payload lets the signalling connection live for an hour. docs/state-machine.md, "Helpers and
expectations".
"""

from typing import Final

from mypy_extensions import i64

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import ADDED, KNOWN, Expectation, Expectations, Policy
from ctfw.conntrack.helpers.addresses import read_ipv4, read_ipv6
from ctfw.conntrack.helpers.sip_text import (
    CR,
    LF,
    NONE,
    behind_digits,
    find_header,
    find_in_value,
    find_sdp_line,
    is_letter,
    read_number,
)
from ctfw.conntrack.settings import SECOND, SIP, Settings
from ctfw.conntrack.state import ESTABLISHED, EXPECTED
from ctfw.packet import AF_INET, BYTE, TCP, UDP, Packet

SIGNALLING: Final = Policy(SIP, "signalling", 1, 180 * SECOND)
AUDIO: Final = Policy(SIP, "audio", 4, 180 * SECOND)
VIDEO: Final = Policy(SIP, "video", 4, 180 * SECOND)
IMAGE: Final = Policy(SIP, "image", 2, 180 * SECOND)

_MASTER_LIFETIME: Final = 3600 * SECOND
_SHORTEST: Final = 11  # "SIP/2.0 200"
_ANSWER: Final = b"sip/2.0 "
_PORT: Final = 5060
_LEAST_PORT: Final = 1024
_MOST_STREAMS: Final = 3

# ``helper_data``: the sequence numbers of the last REGISTER and the last INVITE that were let through.
_REGISTERED: Final = 0
_INVITED: Final = 1

_SDP_ANSWERED: Final = (b"invite", b"update", b"prack")


class Message:
    """One SIP message and the connection that it is about: its text, as SDP is read, and in lower case."""

    def __init__(
        self,
        text: bytes,
        lower: bytes,
        conn: Conn,
        packet: Packet,
        expectations: Expectations,
        settings: Settings,
        now: i64,
    ) -> None:
        self.text = text
        self.lower = lower
        self.size: i64 = len(text)
        # The user's end, an @ or the end of the line, that was found last, and from where: many contacts can share it.
        self.user_from: i64 = 0
        self.user_end: i64 = -1
        self.conn = conn
        self.family: i64 = packet.family
        self.src = packet.src
        self.dst = packet.dst
        self.expectations = expectations
        self.limit: i64 = settings.expect_max
        self.now: i64 = now


class Contact:
    """An address in a Contact header: ``end`` is behind it and its port."""

    def __init__(self, address: bytes, port: i64, end: i64) -> None:
        self.address = address
        self.port: i64 = port
        self.end: i64 = end


def inspect(conn: Conn, packet: Packet, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """Reads one datagram or segment; 0, or the reason to drop it. A datagram may be the connection's first."""
    if packet.proto == TCP:
        if packet.state != ESTABLISHED:
            return 0
        offset: i64 = packet.data[packet.l4 + 12]
        at = packet.l4 + ((offset >> 4) << 2)
    else:
        at = packet.l4 + 8
    if at >= packet.end:
        return 0
    conn.expires = now + _MASTER_LIFETIME
    if packet.end - at < _SHORTEST:
        return 0
    text = packet.data[at : packet.end]
    lower = text.lower()
    if packet.proto != TCP:
        return _read(Message(text, lower, conn, packet, expectations, settings, now))
    start: i64 = 0
    while True:
        end = _message_end(lower, start)
        if end == NONE:
            return 0
        why = _read(Message(text[start:end], lower[start:end], conn, packet, expectations, settings, now))
        if why != 0:
            return why
        start = end


def _message_end(lower: bytes, start: i64) -> i64:
    """Where the message at ``start`` of a segment ends; NONE when it does not say so or is not whole."""
    size: i64 = len(lower)
    at = find_header(lower, start, b"content-length", b"l")
    if at == NONE:
        return NONE
    length = read_number(lower, at, size)
    if length == NONE or length > size - start:
        return NONE
    blank: i64 = lower.find(b"\r\n\r\n", behind_digits(lower, at))
    if blank < 0 or blank + 4 + length > size:
        return NONE
    return blank + 4 + length


def _read(message: Message) -> i64:
    """0, or the reason to drop the message."""
    lower = message.lower
    if lower.startswith(_ANSWER):
        return _read_answer(message)
    for method in (b"invite ", b"update ", b"ack ", b"prack ", b"bye ", b"register "):
        if not lower.startswith(method) or message.size <= len(method) or not is_letter(lower[len(method)]):
            continue
        at = find_header(lower, 0, b"cseq", b"")
        cseq = read_number(lower, at, message.size) if at != NONE else NONE
        if cseq == NONE:
            return reason.HELPER_PARTIAL
        if method == b"register ":
            return _register(message, cseq)
        if method == b"bye " or method == b"invite ":
            _forget_media(message)
        why = _read_session(message) if method != b"bye " else 0
        if why == 0 and method == b"invite ":
            _remember(message.conn, _INVITED, cseq)
        return why
    return 0


def _read_answer(message: Message) -> i64:
    lower = message.lower
    size = message.size
    if size < _SHORTEST:
        return 0
    code = read_number(lower, len(_ANSWER), size)
    at = find_header(lower, 0, b"cseq", b"")
    cseq = read_number(lower, at, size) if at != NONE else NONE
    if code == NONE or code == 0 or cseq == NONE:
        return reason.HELPER_PARTIAL
    method = behind_digits(lower, at) + 1
    for asked in _SDP_ANSWERED:
        if lower.startswith(asked, method):
            if 100 <= code <= 299:
                return _read_session(message)
            if _remembered(message.conn, _INVITED) == cseq:
                _forget_media(message)
            return 0
    if lower.startswith(b"register", method) and _remembered(message.conn, _REGISTERED) == cseq:
        return _registered(message, code)
    return 0


# Calls


def _register(message: Message, cseq: i64) -> i64:
    """A phone tells the registrar where it can be called."""
    conn = message.conn
    if conn.status & EXPECTED:
        return 0
    contact = _next_contact(message, None)
    if contact is None or contact.address != message.src or not _is_own_transport(message, contact.end):
        return 0
    expires = _contact_expires(message, contact.end, _expires_header(message))
    if expires == NONE:
        return reason.HELPER_PARTIAL
    if expires != 0:
        one = Expectation(
            conn, SIGNALLING, conn.key[0], message.dst, contact.address, _port_bytes(contact.port), message.now
        )
        one.permanent = True
        one.inactive = True
        one.assign = SIP
        why = message.expectations.require(one, message.limit, message.now)
        if why != 0:
            return why
    _remember(conn, _REGISTERED, cseq)
    return 0


def _registered(message: Message, code: i64) -> i64:
    """The registrar's answer: it grants the contact some time, or takes it back."""
    if 100 <= code <= 199:
        return 0
    if 200 <= code <= 299:
        default = _expires_header(message)
        contact = _next_contact(message, None)
        while contact is not None:
            if contact.address == message.dst and _is_own_transport(message, contact.end):
                expires = _contact_expires(message, contact.end, default)
                if expires == NONE:
                    return reason.HELPER_PARTIAL
                if expires == 0:
                    break
                if _activate(message, contact, expires):
                    return 0
            contact = _next_contact(message, contact)
    for one in message.expectations.of(message.conn):
        if one.policy is SIGNALLING:
            message.expectations.remove(one)
            break
    return 0


def _activate(message: Message, contact: Contact, expires: i64) -> bool:
    for one in message.expectations.of(message.conn):
        if (
            one.policy is SIGNALLING
            and one.dst == contact.address
            and one.dport == _port_bytes(contact.port)
            and not one.is_over(message.now)
        ):
            one.inactive = False
            one.expires = message.now + expires * SECOND
            return True
    return False


def _is_own_transport(message: Message, at: i64) -> bool:
    """False when the contact that ends at ``at`` is for another transport than the one it came by."""
    lower = message.lower
    limit = find_in_value(lower, at, message.size, b",")
    at = find_in_value(lower, at, limit if limit != NONE else message.size, b"transport=")
    if at == NONE:
        return True
    return lower.startswith(b"tcp" if message.conn.key[0] == TCP else b"udp", at + 10)


def _contact_expires(message: Message, at: i64, default: i64) -> i64:
    """The parameter ``expires`` of the contact that ends at ``at``; NONE when it is no number."""
    lower = message.lower
    limit = find_in_value(lower, at, message.size, b",")
    if limit == NONE:
        limit = message.size
    at = find_in_value(lower, at, limit, b"expires=")
    return default if at == NONE else read_number(lower, at + 8, limit)


def _expires_header(message: Message) -> i64:
    at = find_header(message.lower, 0, b"expires", b"")
    expires = read_number(message.lower, at, message.size) if at != NONE else 0
    return max(expires, 0)


# Media


def _read_session(message: Message) -> i64:
    """Expects the streams of a session description, when there is one."""
    start = find_sdp_line(message.lower, 0, b"v=", b"")
    if start == NONE or start >= message.size or not 48 <= message.text[start] <= 57:
        return 0
    text = message.text
    session = _connection_address(message, start)
    at = start
    streams = 0
    while streams < _MOST_STREAMS:
        at = find_sdp_line(message.lower, at, b"m=", b"")
        if at == NONE:
            break
        end = at
        while end < message.size and is_letter(text[end]):
            end += 1
        if end >= message.size or text[end] != 32:
            break
        policy = _policy(text[at : end + 1])
        if policy is None:
            at = behind_digits(text, end + 1)
            continue
        at = end + 1
        port = read_number(text, at, message.size)
        if port == NONE or port == 0:
            continue
        if port < _LEAST_PORT or port > 0xFFFF:
            return reason.HELPER_PARTIAL
        address = _connection_address(message, at)
        if address == b"":
            address = session
        if address == b"":
            return reason.HELPER_PARTIAL
        why = _expect_stream(message, address, port, policy)
        if why != 0:
            return why
        streams += 1
    return 0


def _policy(media: bytes) -> Policy | None:
    if media == b"audio ":
        return AUDIO
    if media == b"video ":
        return VIDEO
    return IMAGE if media == b"image " else None


def _expect_stream(message: Message, address: bytes, port: i64, policy: Policy) -> i64:
    """RTP and RTCP of one stream; the same description may come by several connections, of which the first counts."""
    if address != message.src:
        return 0
    expectations = message.expectations
    conn = message.conn
    zone = conn.key[5 + 2 * len(address) :]
    same = BYTE[UDP] + message.dst + address + b"\0\0" + _port_bytes(port) + zone  # from any port
    other = expectations.find_exactly(same, message.now)
    if other is not None and other.policy is policy and _is_elsewhere(other.master, conn):
        return 0
    even = port & 0xFFFE
    rtp = Expectation(conn, policy, UDP, message.dst, address, _port_bytes(even), message.now)
    rtcp = Expectation(conn, policy, UDP, message.dst, address, _port_bytes(even + 1), message.now)
    first = expectations.add(rtp, message.limit, message.now, known_elsewhere=True)
    if first != ADDED and first != KNOWN:
        return reason.HELPER_EXPECT_FULL
    second = expectations.add(rtcp, message.limit, message.now, known_elsewhere=True)
    if second == ADDED or second == KNOWN:
        return 0
    if first == ADDED:
        expectations.remove(rtp)
    return reason.HELPER_EXPECT_FULL


def _is_elsewhere(master: Conn, conn: Conn) -> bool:
    """True when ``master`` is another connection of the same transport."""
    return master is not conn and master.key[0] == conn.key[0]


def _forget_media(message: Message) -> None:
    for one in message.expectations.of(message.conn):
        if one.policy is not SIGNALLING:
            message.expectations.remove(one)


def _connection_address(message: Message, at: i64) -> bytes:
    """The address of the first c= line behind ``at`` and before the next m= line; empty when there is none."""
    at = find_sdp_line(message.lower, at, b"c=", b"m=")
    if at == NONE:
        return b""
    text = message.text
    words = b"IN IP4 " if message.family == AF_INET else b"IN IP6 "
    limit = message.size - len(words)
    while at < limit:
        if text[at] == CR or text[at] == LF:
            return b""
        if text[at] == 73 and text.startswith(words, at):  # 73: I
            at += len(words)
            if message.family == AF_INET:
                return read_ipv4(text, at, message.size)[0]
            return read_ipv6(text, at, message.size)[0]
        at += 1
    return b""


# Contacts


def _next_contact(message: Message, before: Contact | None) -> Contact | None:
    """The contact behind ``before``, or the first; None when no readable one is left."""
    lower = message.lower
    size = message.size
    at: i64 = 0
    if before is not None:
        # More of them may follow in the same header, after commas.
        at = before.end
        while True:
            comma = find_in_value(lower, at, size, b",")
            uri = find_in_value(lower, comma, size, b"sip:") if comma != NONE else NONE
            if uri == NONE:
                break
            found = _contact(message, uri + 4)
            if found is not None:
                return found
            at = uri + 4
    while True:
        at = find_header(lower, at, b"contact", b"m")
        if at == NONE:
            return None
        uri = find_in_value(lower, at, size, b"sip:")
        found = _contact(message, uri + 4) if uri != NONE else None
        if found is not None:
            return found


def _contact(message: Message, at: i64) -> Contact | None:
    """The contact whose URI goes on at ``at``, behind ``sip:``; None when it has no address or no valid port."""
    lower = message.lower
    size = message.size
    if not message.user_from <= at <= message.user_end:
        end = at
        while end < size and lower[end] != 64 and lower[end] != CR and lower[end] != LF:  # 64: @
            end += 1
        message.user_from = at
        message.user_end = end
    end = message.user_end
    if end < size and lower[end] == 64:
        at = end + 1
    address = b""
    if message.family == AF_INET:
        address, at = read_ipv4(lower, at, size)
    elif at < size and lower[at] == 91:  # 91: [
        address, at = read_ipv6(lower, at + 1, size)
        if at >= size or lower[at] != 93:  # 93: ]
            return None
        at += 1
    if address == b"" or at >= size:
        return None
    if lower[at] != 58:  # 58: a colon
        return Contact(address, _PORT, at)
    end = behind_digits(lower, at + 1)
    if end - at > 6 or end >= size:
        return None
    port = read_number(lower, at + 1, size)
    return Contact(address, port, end) if _LEAST_PORT <= port <= 0xFFFF else None


def _port_bytes(port: i64) -> bytes:
    return int(port).to_bytes(2, "big")


def _remember(conn: Conn, what: i64, cseq: i64) -> None:
    if conn.helper_data is None:
        conn.helper_data = [0, 0]
    conn.helper_data[what] = int(cseq)


def _remembered(conn: Conn, what: i64) -> i64:
    known = conn.helper_data
    return known[what] if known is not None else 0
