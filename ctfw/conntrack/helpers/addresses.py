"""Addresses written in a helper's protocol: how far one reaches in the text and which it is, as the kernel reads it.

An address ends before the first byte that cannot belong to it. Beyond the usual text forms (RFC 4291 section 2.2) any
number of leading zeros is taken. Measured.
"""

from mypy_extensions import i64

from ctfw.packet import BYTE

_DOT = 46
_COLON = 58


def read_ipv4(text: bytes, at: i64, limit: i64, delimiter: i64 = -1) -> tuple[bytes, i64]:
    """The dotted address at ``at`` and the offset behind it; (b"", at) when there is none before ``limit``.

    A hexadecimal letter or a fifth number behind it makes it none. With ``delimiter`` (a byte's value), so does
    anything else but that, a colon, a NUL or the end.
    """
    address = b""
    start = at
    while True:
        number: i64 = 0
        first = at
        while at < limit and 48 <= text[at] <= 57 and text[at] != delimiter:
            number = number * 10 + text[at] - 48
            if number > 255:
                return b"", start
            at += 1
        if at == first:
            return b"", start
        address += BYTE[number]
        if len(address) == 4:
            break
        if at >= limit or text[at] != _DOT or delimiter == _DOT:
            return b"", start
        at += 1
    if at < limit:
        after: i64 = text[at]
        if after != delimiter and after != 0 and after != _COLON:
            if delimiter >= 0 or after == _DOT or _hex_value(after) >= 0:
                return b"", start
    return address, at


def read_ipv6(text: bytes, at: i64, limit: i64, delimiter: i64 = -1) -> tuple[bytes, i64]:
    """The IPv6 address at ``at``, as ``read_ipv4``."""
    start = at
    head = b""
    gap: i64 = -1  # how many bytes stand before the rest of "::", whose first word is written at once
    if at + 1 < limit and text[at] == _COLON and delimiter != _COLON:
        if text[at + 1] != _COLON:
            return b"", start
        head = b"\0\0"
        gap = 2
        at += 2
    while True:
        word: i64 = 0
        first = at
        while at < limit:
            digit = _hex_value(text[at])
            if digit < 0 or text[at] == delimiter:
                break
            if word > 0xFFF or len(head) == 16:
                return b"", start
            word = (word << 4) | digit
            at += 1
        after: i64 = text[at] if at < limit else 0
        ends = after == 0 or after == delimiter
        if at == first:
            # Only "::" may stand at the end.
            if gap != len(head) or not (ends or _may_follow(after, delimiter)):
                return b"", start
            if gap < 16:
                head += b"\0\0"
            break
        if after == _DOT and not ends:
            if len(head) != 12 and (gap < 0 or len(head) >= 12):
                return b"", start
            tail, at = read_ipv4(text, first, limit, delimiter)
            if tail == b"":
                return b"", start
            head += tail
            break
        head += BYTE[word >> 8] + BYTE[word & 0xFF]
        if after == _COLON and not ends:
            if len(head) >= 16:
                return b"", start
            at += 1
            if gap < 0 and at < limit and text[at] == _COLON and delimiter != _COLON:
                head += b"\0\0"
                gap = len(head)
                at += 1
            continue
        if not (ends or _may_follow(after, delimiter)) or (gap < 0 and len(head) < 16):
            return b"", start
        break
    if gap >= 0:
        head = head[:gap] + bytes(16 - len(head)) + head[gap:]
    return head, at


def _may_follow(byte: i64, delimiter: i64) -> bool:
    """True when ``byte``, no hexadecimal digit, may stand behind an address for which no delimiter was agreed."""
    return delimiter < 0 and byte != _DOT and byte != _COLON


def _hex_value(byte: i64) -> i64:
    if 48 <= byte <= 57:
        return byte - 48
    if 97 <= byte <= 102:
        return byte - 87
    if 65 <= byte <= 70:
        return byte - 55
    return -1
