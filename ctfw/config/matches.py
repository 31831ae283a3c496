"""One scalar's text -> its value, for the matches that only firewalls know: flags, marks, MAC addresses, time windows.

As in `values`: plain data comes back, or Wrong is raised with a message and, where the right form can be guessed, a
hint. Sets of numbers are inclusive intervals; what matches bit by bit is `(value, mask)`.
"""

import re
from collections.abc import Callable
from datetime import tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ctfw.config import values
from ctfw.config.names import DAYS, DSCP, TCP_FLAGS
from ctfw.config.problems import clean, did_you_mean, listing, quote
from ctfw.config.values import Wrong

MAX_LENGTH = (1 << 31) - 1
MAX_COUNT = (1 << 62) - 1
MAX_SECONDS = 366 * 86400 * 10

Interval = tuple[int, int]

_HEX = re.compile(r"0[xX]([0-9a-fA-F]{1,8})|([0-9]{1,10})")
_MAC = re.compile(r"(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")
_SIZE = re.compile(r"([0-9]{1,18})([kKMGT]?)")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})")
_UNITS = {"": 0, "k": 10, "K": 10, "M": 20, "G": 30, "T": 40}
_SYN = (TCP_FLAGS["syn"], TCP_FLAGS["syn"] | TCP_FLAGS["ack"] | TCP_FLAGS["rst"] | TCP_FLAGS["fin"])


def hops(text: str) -> Interval:
    """TTL or hop limit: a number or a range."""
    return _range(text, lambda one: values.number(one, 0, 255), "a hop limit", "a number from 0 to 255, or 1-5")


def length(text: str) -> Interval:
    """The packet's length in bytes: a number, a range, or one that is open at an end."""
    return _range(text, lambda one: values.number(one, 0, MAX_LENGTH), "a length", "bytes, as 100, 0-99 or 1500-")


def dscp(text: str) -> Interval:
    """A differentiated services code point by name or number."""
    value = DSCP.get(text.lower())
    if value is None:
        if re.fullmatch("[0-9]{1,3}", text) is None:
            hint = did_you_mean(text, DSCP) or "a name as ef, af21 or cs1, or a number from 0 to 63"
            raise Wrong(f"{quote(text)} is not a DSCP", hint)
        value = values.number(text, 0, 63)
    return value, value


def mac(text: str) -> Interval:
    """A MAC address, as one number."""
    if _MAC.fullmatch(text) is None:
        raise Wrong(f"{quote(text)} is not a MAC address", "six pairs of hex digits: 52:54:00:12:34:56")
    value = int(text.replace(":", "").replace("-", ""), 16)
    return value, value


def seconds(text: str) -> Interval:
    """How old: `1h-` is at least an hour, `-10m` at most ten minutes."""
    return _span(text, lambda one: values.duration(one, 0, MAX_SECONDS), MAX_COUNT, "1h-, -10m or 1m-1h")


def packets(text: str) -> Interval:
    """How many: `10-` is at least ten."""
    return _span(text, lambda one: values.number(one, 0, 10**10 - 1), MAX_COUNT, "10-, -100 or 10-100")


def octets(text: str) -> Interval:
    """How many bytes: `1M-` is at least a mebibyte."""
    return _span(text, _size, MAX_COUNT, "1M-, -100k or 1M-1G")


def mark(text: str) -> tuple[int, int]:
    """`0x10`, or `0x10/0xf0` for the bits of a mask."""
    first, slash, second = text.partition("/")
    value = _number(first, text)
    bits = _number(second, text) if slash else 0xFFFFFFFF
    if value & ~bits:
        fixed = f"{value & bits:#x}/{bits:#x}"
        raise Wrong(f"{quote(text)} has bits outside of its mask", f"it can never match; did you mean {fixed}?")
    return value, bits


def mark_bit(text: str) -> int:
    """A mark of one bit, with three free bits below it."""
    value = _number(text, text)
    if value.bit_count() != 1 or value < 8:
        raise Wrong(f"{quote(text)} is not one bit of a mark", "a power of two from 0x8 to 0x80000000, as 0x40000000")
    return value


def tcp_flags(text: str) -> tuple[int, int]:
    """`syn` is what opens a connection; `syn,ack` says which are set, `syn/syn,ack` also which of them are not."""
    first, slash, second = text.partition("/")
    wanted = _flags(first)
    if not slash:
        if wanted == TCP_FLAGS["syn"]:
            return _SYN
        return (wanted, wanted) if wanted else (0, 0xFF)
    mask = _flags(second)
    if wanted & ~mask:
        raise Wrong(f"{quote(text)} wants flags outside of its mask", "SET/OUT OF, as in syn/syn,ack,rst,fin")
    return wanted, mask


def days(text: str) -> int:
    """`mon`, `mon-fri` -> a mask, bit 0 is Monday."""
    first, dash, last = (part.strip().lower() for part in text.partition("-"))
    begin = _day(first, text)
    end = _day(last, text) if dash else begin
    mask = 1 << begin
    while begin != end:
        begin = (begin + 1) % 7
        mask |= 1 << begin
    return mask


def hours(text: str) -> Interval:
    """`08:00-18:30` -> seconds of the day; the end may lie before the beginning, which is over midnight."""
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not dash:
        raise Wrong(f"{quote(text)} is not a time of day", "from-to, as in 08:00-18:00 or 22:00-06:00")
    begin, end = _clock(first, text), _clock(last, text)
    if begin == end or begin == 86400:
        raise Wrong(f"{quote(text)} is no time at all", "all day is 00:00-24:00")
    return begin, end


def timezone(text: str) -> tzinfo | None:
    """A name of the time zone database; None for `local`."""
    if text.lower() == "local":
        return None
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = "a name as Europe/Berlin, UTC or local; the package tzdata holds them"
        raise Wrong(f"{quote(text)} is not a time zone", known) from None


def _range(text: str, read: Callable[[str], int], what: str, hint: str) -> Interval:
    first, dash, last = (part.strip() for part in text.partition("-"))
    try:
        low = read(first)
        if not dash:
            return low, low
        high = read(last) if last else MAX_LENGTH
    except Wrong as wrong:
        if "out of range" in wrong.message:
            raise
        raise Wrong(f"{quote(text)} is not {what}", hint) from None
    if low > high:
        raise Wrong(f"{quote(text)} is a reversed range", f"did you mean {clean(last)}-{clean(first)}?")
    return low, high


def _span(text: str, read: Callable[[str], int], highest: int, forms: str) -> Interval:
    first, dash, last = (part.strip() for part in text.partition("-"))
    if not dash:
        read(first)
        raise Wrong(f"{quote(text)} is not a range", f"write {clean(first)}- for at least, -{clean(first)} for at most")
    if not first and not last:
        raise Wrong(f"{quote(text)} is not a range", f"as in {forms}")
    low, high = read(first) if first else 0, read(last) if last else highest
    if low > high:
        raise Wrong(f"{quote(text)} is a reversed range", f"did you mean {clean(last)}-{clean(first)}?")
    return low, high


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Wrong(f"{quote(text)} is not a number of bytes", "a number, with k, M, G or T for 1024, 1024 k, …")
    value = int(match[1]) << _UNITS[match[2]]
    if value > MAX_COUNT:
        raise Wrong(f"{quote(text)} is out of range", "less than 2^62 bytes")
    return value


def _number(text: str, whole: str) -> int:
    match = _HEX.fullmatch(text.strip())
    if match is None:
        raise Wrong(f"{quote(whole)} is not a mark", "a number as 0x10, or value/mask as 0x10/0xf0")
    value = int(match[1], 16) if match[1] else int(match[2])
    if value > 0xFFFFFFFF:
        raise Wrong(f"{quote(whole)} is out of range", "marks have 32 bits")
    return value


def _flags(text: str) -> int:
    result = 0
    for word in text.split(",")[:16]:
        name = word.strip().lower()
        if name not in TCP_FLAGS and name not in ("all", "none"):
            hint = did_you_mean(name, TCP_FLAGS) or f"one of {listing([*TCP_FLAGS, 'all', 'none'])}"
            raise Wrong(f"{quote(word.strip())} is not a TCP flag", hint)
        result |= 0xFF if name == "all" else TCP_FLAGS.get(name, 0)
    return result


def _day(text: str, whole: str) -> int:
    for number, name in enumerate(DAYS):
        if len(text) >= 2 and name.startswith(text):
            return number
    raise Wrong(f"{quote(whole)} is not a day", "mon, tue, wed, thu, fri, sat, sun, or a range as mon-fri")


def _clock(text: str, whole: str) -> int:
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise Wrong(f"{quote(whole)} is not a time of day", "from-to, as in 08:00-18:00 or 22:00-06:00")
    result = int(match[1]) * 3600 + int(match[2]) * 60
    if int(match[2]) > 59 or result > 86400:
        raise Wrong(f"{quote(text)} is not a time of day", "from 00:00 to 24:00")
    return result
