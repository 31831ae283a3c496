"""The text of SIP and SDP: where a header or a line starts, what stands in it, and which number.

What is found must be what the kernel finds, so its oddities are kept, as measured. Lines end with CR, LF or both; a
line that starts with a blank continues the one before; the line behind an empty one is only seen when the empty one
ended with CR LF. ``lower`` is always the text in lower case: names know no case. All offsets go forward, and NONE is
the answer of every search that finds nothing.
"""

from typing import Final

from mypy_extensions import i64

NONE: Final = -1
CR: Final = 13
LF: Final = 10


def find_header(lower: bytes, at: i64, name: bytes, short: bytes) -> i64:
    """The offset of the value of the first header ``name`` (or ``short``) in a line that starts behind ``at``."""
    size: i64 = len(lower)
    while at < size:
        if lower[at] != CR and lower[at] != LF:
            at += 1
            continue
        at = _line_start(lower, at, size)
        if at == NONE:
            return NONE
        if lower.startswith(name, at):
            at += len(name)
        elif short != b"" and at + 1 < size and lower.startswith(short, at) and not is_letter(lower[at + 1]):
            at += 1
        else:
            at += 1
            continue
        at = _skip_blanks(lower, at, size)
        if at == NONE or at >= size or lower[at] != 58 or at + 1 >= size:  # 58: a colon
            return NONE
        return _skip_blanks(lower, at + 1, size)
    return NONE


def find_sdp_line(lower: bytes, at: i64, name: bytes, until: bytes) -> i64:
    """The offset behind ``name`` in the first line with it behind ``at``, before one that starts with ``until``."""
    size: i64 = len(lower)
    while at < size:
        if lower[at] != CR and lower[at] != LF:
            at += 1
            continue
        at = _line_start(lower, at, size)
        if at == NONE or (until != b"" and lower.startswith(until, at)):
            return NONE
        if lower.startswith(name, at):
            return at + len(name)
        at += 1
    return NONE


def _line_start(lower: bytes, at: i64, size: i64) -> i64:
    """The offset behind the line end at ``at``; NONE when nothing is there."""
    after = at + 1
    if after < size and lower[at] == CR and lower[after] == LF:
        after += 1
    return after if after < size else NONE


def _continuation(lower: bytes, at: i64, size: i64) -> i64:
    """Behind the line end at ``at`` and the blanks that continue the line; NONE when the line is over."""
    at = _line_start(lower, at, size)
    if at == NONE or (lower[at] != 32 and lower[at] != 9):
        return NONE
    while at < size and (lower[at] == 32 or lower[at] == 9):
        at += 1
    return at


def _skip_blanks(lower: bytes, at: i64, size: i64) -> i64:
    """Behind the blanks, with at most one line end among them; NONE when the line is over."""
    while at < size and (lower[at] == 32 or lower[at] == 9):
        at += 1
    if at < size and (lower[at] == CR or lower[at] == LF):
        return _continuation(lower, at, size)
    return at


def find_in_value(lower: bytes, at: i64, limit: i64, word: bytes) -> i64:
    """The offset of ``word`` in the header value at ``at``; not at its very end, nor where a line is continued."""
    limit -= len(word)
    first: i64 = word[0]
    while at < limit:
        byte: i64 = lower[at]
        if byte == CR or byte == LF:
            at = _continuation(lower, at, limit)
            if at == NONE:
                return NONE
        elif byte == first and lower.startswith(word, at):
            return at
        at += 1
    return NONE


def read_number(text: bytes, at: i64, limit: i64) -> i64:
    """The decimal number at ``at``; NONE when there is none or it does not fit into 32 bits."""
    number: i64 = 0
    end = at
    while end < limit and 48 <= text[end] <= 57:
        number = number * 10 + text[end] - 48
        end += 1
        if number > 0xFFFFFFFF or end - at > 11:
            return NONE
    return number if end > at else NONE


def behind_digits(text: bytes, at: i64) -> i64:
    size: i64 = len(text)
    while at < size and 48 <= text[at] <= 57:
        at += 1
    return at


def is_letter(byte: i64) -> bool:
    """True for a letter of Latin-1, as the kernel sees it."""
    return 97 <= byte <= 122 or 65 <= byte <= 90 or (byte >= 0xC0 and byte != 0xD7 and byte != 0xF7)
