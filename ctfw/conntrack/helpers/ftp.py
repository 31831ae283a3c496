"""FTP (RFC 959, RFC 2428): PORT, EPRT, and the answers to PASV and EPSV announce a data connection.

A line is read only where the segment starts behind a line end that was seen: the middle of a line could be anything
that somebody made the server echo. So the last two places behind a line end are remembered per direction, and the very
first line of a connection is never read. A line that begins like an announcement and then is none, or is cut by the end
of the segment, is not let through: the ends would agree on something that we did not see.

The announced address must be the announcer's own, or nothing is expected. docs/state-machine.md, "Helpers and
expectations".
"""

from typing import Final

from mypy_extensions import i64

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectation, Expectations, Policy
from ctfw.conntrack.helpers.addresses import read_ipv6
from ctfw.conntrack.settings import FTP, SECOND, Settings
from ctfw.conntrack.state import ESTABLISHED
from ctfw.conntrack.tcp import seq_before
from ctfw.packet import AF_INET, BYTE, ORIGINAL, TCP, Packet, read32

POLICY: Final = Policy(FTP, "", 1, 300 * SECOND)

# What a command makes of its argument.
_ADDRESS_PORT: Final = 0
_EXTENDED_PORT: Final = 1
_PASSIVE_ANSWER: Final = 2
_EXTENDED_ANSWER: Final = 3

_COMMANDS: Final = (
    ((b"port", b" ", _ADDRESS_PORT), (b"eprt", b" ", _EXTENDED_PORT)),
    ((b"227 ", b"", _PASSIVE_ANSWER), (b"229 ", b"(", _EXTENDED_ANSWER)),
)

_PARTIAL: Final = b"?"


def inspect(conn: Conn, packet: Packet, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """Reads one segment of a control connection; 0, or the reason to drop it."""
    if packet.state != ESTABLISHED:
        return 0
    offset: i64 = packet.data[packet.l4 + 12]
    at = packet.l4 + ((offset >> 4) << 2)
    if at >= packet.end:
        return 0
    seq = read32(packet.data, packet.l4 + 4)
    payload = packet.data[at : packet.end]
    answer: i64 = 0
    if _is_line_start(conn, packet.direction, seq):
        found = _announced(payload, packet)
        if found == _PARTIAL:
            return reason.HELPER_PARTIAL
        if found != b"":
            answer = _expect(conn, packet, found, expectations, settings, now)
    if len(payload) == packet.end - at and payload[len(payload) - 1] == 10:
        _remember_line_end(conn, packet.direction, (seq + len(payload)) & 0xFFFFFFFF)
    return answer


def _expect(conn: Conn, packet: Packet, found: bytes, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """``found`` is the announced address (empty: the sender's own) and the port."""
    src = packet.src
    address = found[: len(found) - 2]
    if len(address) == 4:
        address += src[4:]  # six numbers on an IPv6 connection say the address's first four bytes: measured
    if address != b"" and address != src:
        return 0
    one = Expectation(conn, POLICY, TCP, packet.dst, src, found[len(found) - 2 :], now)
    return expectations.require(one, settings.expect_max, now)


def _announced(payload: bytes, packet: Packet) -> bytes:
    """Address and port as bytes, the port alone, _PARTIAL, or nothing."""
    size = len(payload)
    for word, skip, form in _COMMANDS[packet.direction]:
        head = payload[: len(word)].lower()
        if size <= len(word):
            if word.startswith(head):
                return _PARTIAL
            continue
        if head != word:
            continue
        start = len(word)
        if skip != b"":
            start = payload.find(skip, start)
            if start < 0 or start == size - 1:
                return _PARTIAL
            start += 1
        return _argument(payload[start:], form, packet.family)
    return b""


def _argument(text: bytes, form: int, family: i64) -> bytes:
    if form == _ADDRESS_PORT:
        return _six_numbers(text, 13)
    if form == _PASSIVE_ANSWER:
        start = 0
        while start < len(text) and not 48 <= text[start] <= 57:
            start += 1
        return _six_numbers(text[start:], -1)
    if len(text) <= 3 or not 33 <= text[0] <= 126 or 48 <= text[0] <= 57 or text[2] != text[0]:
        return _PARTIAL
    if form == _EXTENDED_ANSWER:
        return _port(text, 3) if text[1] == text[0] else _PARTIAL
    if text[1] != (49 if family == AF_INET else 50):
        return _PARTIAL
    if family == AF_INET:
        end: i64 = text.find(BYTE[text[0]], 3)
        address = _four_numbers(text[3:end]) if end >= 0 else b""
    else:
        address, end = read_ipv6(text, 3, len(text), text[0])
    port = _port(text, end + 1)
    return _PARTIAL if address == b"" or port == _PARTIAL else address + port


def _six_numbers(text: bytes, terminator: int) -> bytes:
    """``h1,h2,h3,h4,p1,p2`` and the terminator (any, when negative) as six bytes. Numbers are not checked for range."""
    address: i64 = 0
    port: i64 = 0
    number: i64 = 0
    count = 0
    for byte in text:
        if 48 <= byte <= 57:
            number = (number * 10 + byte - 48) & 0xFFFFFFFF
            continue
        if count == 5:
            if byte == 44 or (terminator >= 0 and byte != terminator):
                return _PARTIAL
            port = ((port << 8) | number) & 0xFFFF
            return int(address).to_bytes(4, "big") + int(port).to_bytes(2, "big")
        if byte != 44:
            return _PARTIAL
        if count < 4:
            address = (address | number << (24 - 8 * count)) & 0xFFFFFFFF
        else:
            port = number & 0xFFFF
        number = 0
        count += 1
    return _PARTIAL


def _port(text: bytes, start: int) -> bytes:
    """The port between ``start`` and the next delimiter, which is the first byte of ``text``."""
    port: i64 = 0
    at = start
    while at < len(text):
        byte: i64 = text[at]
        if byte == text[0]:
            return _PARTIAL if port == 0 else int(port).to_bytes(2, "big")
        if not 48 <= byte <= 57:
            return _PARTIAL
        port = (port * 10 + byte - 48) & 0xFFFF
        at += 1
    return _PARTIAL


def _four_numbers(text: bytes) -> bytes:
    """``h1.h2.h3.h4`` as four bytes; empty when it is none. Numbers are not checked for range."""
    parts = text.split(b".")
    if len(parts) != 4:
        return b""
    address: i64 = 0
    for part in parts:
        number: i64 = 0
        for byte in part:
            if not 48 <= byte <= 57:
                return b""
            number = (number * 10 + byte - 48) & 0xFFFFFFFF
        address = ((address << 8) | number) & 0xFFFFFFFF
    return int(address).to_bytes(4, "big")


def _is_line_start(conn: Conn, direction: i64, seq: i64) -> bool:
    known = conn.helper_data
    if known is None:
        return False
    first = 3 * direction
    return (known[first] >= 1 and known[first + 1] == seq) or (known[first] == 2 and known[first + 2] == seq)


def _remember_line_end(conn: Conn, direction: i64, seq: i64) -> None:
    """Keeps the last two places behind a line end. Three numbers a direction: how many, and the two."""
    known = conn.helper_data
    if known is None:
        known = [0, 0, 0, 0, 0, 0]
        conn.helper_data = known
    first = 3 * direction
    if _is_line_start(conn, direction, seq):
        return
    if known[first] < 2:
        known[first] += 1
        known[first + known[first]] = seq
    else:
        oldest = first + (1 if seq_before(known[first + 1], known[first + 2]) else 2)
        if seq_before(known[oldest], seq):
            known[oldest] = seq


assert ORIGINAL == 0  # _COMMANDS is indexed by direction
