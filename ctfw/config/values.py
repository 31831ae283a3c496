"""One scalar's text -> its value: addresses, ports, protocols, durations, rates, names.

Each function takes text, already without spaces at its ends, and returns plain data or raises Wrong with a message and,
where the right form can be guessed, a hint. Sets are inclusive intervals: `(first, last)`, of bytes (4 or 16) for
addresses, of int for ports, protocols and ICMP types (`type << 8 | code`).

Digits are ASCII digits, decimal, without sign or leading zeros' surprises: int() alone would take '1_000', ' ٣' and
'+5'. Addresses go through inet_pton, which is strict and ten times faster than the ipaddress module.
"""

import re
import socket
from collections.abc import Mapping

from ctfw.config.names import ICMP, ICMPV6, PROTOCOLS, SERVICES
from ctfw.config.problems import clean, did_you_mean, listing, quote

SECOND_NS = 1_000_000_000
MAX_NAME = 64
MAX_INTERFACE = 15  # IFNAMSIZ - 1

Interval = tuple[int, int]
AddressInterval = tuple[bytes, bytes]

_NUMBER = re.compile(r"[0-9]{1,10}")
_DURATION = re.compile(r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")
_RATE = re.compile(r"([0-9]{1,7}) ?/ ?([a-z]+)")
_NUMBER_RANGE = re.compile(r"([0-9]{1,10}) ?- ?([0-9]{1,10})")
_WORDS_RANGE = re.compile(r"([a-z0-9]+)[-:]([a-z0-9]+)")
_ADDRESS = re.compile(r"[0-9]{1,3}\.[0-9.]+|[0-9a-fA-F]*:[0-9a-fA-F:.]+")
_MASK = re.compile(r"[0-9]{1,3}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_INTERFACE = re.compile(r"[^\s/:!$+*]+\+?|\+")
_SIZE = re.compile(r"([0-9]{1,10}) ?([A-Za-z]*)")
_SIZES = {"": 0, "b": 0, "bytes": 0, "k": 10, "kib": 10, "m": 20, "mib": 20, "g": 30, "gib": 30}
_UNITS = {"second": 1, "sec": 1, "s": 1, "minute": 60, "min": 60, "hour": 3600, "day": 86400}
_SWITCH = {"true": 1, "yes": 1, "on": 1, "1": 1, "false": 0, "no": 0, "off": 0, "0": 0}


class Wrong(ValueError):
    """The text does not say what its key wants."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def number(text: str, low: int, high: int) -> int:
    wanted = f"a number from {low} to {high}" if low < high else f"the one value is {low}"
    if _NUMBER.fullmatch(text) is None:
        raise Wrong(f"{quote(text)} is not a number", wanted)
    value = int(text)
    if not low <= value <= high:
        raise Wrong(f"{value} is out of range", wanted)
    return value


def switch(text: str) -> int:
    value = _SWITCH.get(text.lower())
    if value is None:
        raise Wrong(f"{quote(text)} is neither on nor off", "write on or off")
    return value


def choice(text: str, known: Mapping[str, int]) -> int:
    """The value of one of a few words, whatever its case."""
    for form in (text, text.lower(), text.upper()):
        if form in known:
            return known[form]
    raise Wrong(f"{quote(text)} is not known here", did_you_mean(text, known) or f"one of: {listing(known)}")


def duration(text: str, low: int, high: int) -> int:
    """Seconds, from `90`, `90s`, `5d` or `2h30m`."""
    if _NUMBER.fullmatch(text) is not None:
        seconds = int(text)
    else:
        parts = _DURATION.fullmatch(text)
        if parts is None or not text:
            raise Wrong(f"{quote(text)} is not a duration", "seconds, or days to seconds as in 5d, 2h30m, 90s")
        days, hours, minutes, rest = (int(part or 0) for part in parts.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not low <= seconds <= high:
        raise Wrong(f"{quote(text)} is out of range", f"from {low} to {high} seconds")
    return seconds


def size(text: str, low: int, high: int) -> int:
    """Bytes, from `128 bytes`, `64 KiB` or `16 MiB`."""
    match = _SIZE.fullmatch(text)
    unit = _SIZES.get(match[2].lower()) if match is not None else None
    if match is None or unit is None:
        raise Wrong(f"{quote(text)} is not a size", "a number of bytes, KiB, MiB or GiB, as in 16 MiB")
    value = int(match[1]) << unit
    if not low <= value <= high:
        raise Wrong(f"{quote(text)} is out of range", f"from {_show_size(low)} to {_show_size(high)}")
    return value


def _show_size(value: int) -> str:
    for unit, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if value >> unit << unit == value:
            return f"{value >> unit} {name}"
    return f"{value} bytes"


def rate(text: str) -> int:
    """`5/minute` -> nanoseconds between two."""
    match = _RATE.fullmatch(text)
    if match is None or match[2] not in _UNITS or int(match[1]) == 0:
        raise Wrong(f"{quote(text)} is not a rate", "a number per second, minute, hour or day, as in 5/minute")
    return _UNITS[match[2]] * SECOND_NS // int(match[1])


def name(text: str, what: str = "name") -> str:
    """Text for people: short and without anything that could steer a terminal or split a log line."""
    if not text:
        raise Wrong(f"the {what} is empty")
    if len(text) > MAX_NAME:
        raise Wrong(f"the {what} is longer than {MAX_NAME} characters")
    if _CONTROL.search(text) is not None:
        raise Wrong(f"the {what} holds control characters")
    return text


def interface(text: str) -> str:
    """A device's name; `+` at its end stands for any ending, as in iptables."""
    if _INTERFACE.fullmatch(text) is not None and text not in (".", ".."):
        if _CONTROL.search(text) is None and len(text.rstrip("+").encode("utf-8")) <= MAX_INTERFACE:
            return text
    hint = f"at most {MAX_INTERFACE} bytes, no spaces, '/' or ':'"
    if "*" in text:
        hint = f"the wildcard is '+' at the end: {quote(text.replace('*', '+'))}"
    elif "+" in text[:-1]:
        hint = "the wildcard '+' stands at the end only"
    raise Wrong(f"{quote(text)} is not an interface name", hint)


def port(text: str) -> Interval:
    """A port, a range of ports or a service name."""
    if _NUMBER.fullmatch(text) is not None:
        value = _port_number(text)
        return value, value
    known = SERVICES.get(text.lower())
    if known is not None:
        return known, known
    limits = _NUMBER_RANGE.fullmatch(text)
    if limits is not None:
        low, high = _port_number(limits[1]), _port_number(limits[2])
        if low > high:
            raise Wrong(f"{quote(text)} is a reversed range", f"did you mean {high}-{low}?")
        return low, high
    if "," in text:
        raise Wrong(f"{quote(text)} is not a port", f"write a list: [{_comma_list(text)}]")
    words = _WORDS_RANGE.fullmatch(text)
    if words is not None and ":" in text:
        raise Wrong(f"{quote(text)} is not a port", f"a range is written {quote(words[1] + '-' + words[2])}")
    hint = did_you_mean(text, SERVICES) or "a number from 0 to 65535, a range as 8000-8099, or a service as ssh"
    raise Wrong(f"{quote(text)} is not a port", hint)


def proto(text: str) -> Interval:
    """An IP protocol by name or number."""
    value = PROTOCOLS.get(text) or PROTOCOLS.get(text.lower())
    if value is None:
        if _NUMBER.fullmatch(text) is None:
            hint = did_you_mean(text, PROTOCOLS) or "tcp, udp, icmp, icmpv6, sctp, gre and others, or a number"
            if "," in text or "/" in text:
                hint = f"write a list: [{_comma_list(text.replace('/', ','))}]"
            raise Wrong(f"{quote(text)} is not a protocol", hint)
        value = number(text, 0, 255)
    return value, value


def icmp_type(text: str) -> Interval:
    return _icmp(text, ICMP, ICMPV6, "icmp")


def icmpv6_type(text: str) -> Interval:
    return _icmp(text, ICMPV6, ICMP, "icmpv6")


def address(text: str) -> AddressInterval:
    """An address, a network in CIDR form or a range `first-last`, IPv4 or IPv6."""
    base, slash, mask = text.partition("/")
    if slash:
        return _network(text, base.rstrip(), mask.lstrip())
    if "-" in text:
        return _address_range(text)
    packed = _packed(text)
    return packed, packed


def show_address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _port_number(text: str) -> int:
    value = int(text)
    if value > 65535:
        raise Wrong(f"port {value} is out of range", "ports are numbers from 0 to 65535")
    return value


def _comma_list(text: str) -> str:
    return clean(", ".join(part.strip() for part in text[:200].split(",")))


def _icmp(text: str, table: Mapping[str, tuple[int, int | None]], other: Mapping[str, object], what: str) -> Interval:
    named = table.get(text.lower())
    if named is not None:
        kind, code = named
    else:
        first, slash, second = text.partition("/")
        if _NUMBER.fullmatch(first) is None or (slash and _NUMBER.fullmatch(second) is None):
            hint = did_you_mean(text, table) or "a name as echo-request, a number, or type/code as 3/4"
            if text.lower() in other:
                hint = f"it is one of {'icmpv6' if what == 'icmp' else 'icmp'}: use that key"
            raise Wrong(f"{quote(text)} is not an {what} type", hint)
        kind, code = number(first, 0, 255), (number(second, 0, 255) if slash else None)
    return (kind << 8, kind << 8 | 255) if code is None else (kind << 8 | code, kind << 8 | code)


def _packed(text: str) -> bytes:
    if _ADDRESS.fullmatch(text) is not None:
        try:
            return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
        except OSError:
            pass
    raise Wrong(f"{quote(text)} is not an address", _address_hint(text))


def _address_hint(text: str) -> str:
    if "%" in text:
        return "leave out the zone, and name the interface with 'in' or 'out'"
    if "," in text:
        return f"write a list: [{_comma_list(text)}]"
    if re.fullmatch(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", text):
        return "this is a MAC address; rules see IP packets only"
    if re.search(r"(?:^|\.)0[0-9]", text) and ":" not in text:
        return "numbers are decimal: leave out the leading zeros"
    if re.fullmatch(r"[0-9.]+", text):
        return "an IPv4 address is four numbers from 0 to 255"
    if re.fullmatch(r"[A-Za-z_][\w.-]*", text):
        return f"names are not looked up; a set is written ${text}" if len(text) <= 40 else "names are not looked up"
    return "an IPv4 or IPv6 address, a network as 192.168.1.0/24, a range as 10.0.0.5-10.0.0.9, or a set as $lan"


def _network(text: str, base: str, mask: str) -> AddressInterval:
    packed = _packed(base)
    bits = len(packed) * 8
    if _MASK.fullmatch(mask) is None:
        raise Wrong(f"{quote(text)} is not a network", _mask_hint(base, mask))
    length = int(mask)
    if length > bits:
        raise Wrong(f"prefix length {length} is out of range", f"from 0 to {bits}")
    host = (1 << (bits - length)) - 1
    value = int.from_bytes(packed, "big")
    if value & host:
        network = show_address((value & ~host).to_bytes(bits // 8, "big"))
        raise Wrong(
            f"{quote(text)} has host bits set",
            f"the network is {network}/{length}; the one address is {show_address(packed)}",
        )
    return packed, (value | host).to_bytes(bits // 8, "big")


def _mask_hint(base: str, mask: str) -> str:
    try:
        bits = int.from_bytes(socket.inet_pton(socket.AF_INET, mask), "big")
    except (OSError, ValueError):
        return "the prefix length is a number, as in 192.168.1.0/24"
    length = bits.bit_count()
    if bits == (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
        return f"write {base}/{length}"
    return "the mask has holes; write the networks one by one"


def _address_range(text: str) -> AddressInterval:
    left, _, right = (part.strip() for part in text.partition("-"))
    first, last = _packed(left), _packed(right)
    if len(first) != len(last):
        raise Wrong(f"{quote(text)} mixes IPv4 and IPv6", "a range stays in one family")
    if first > last:
        raise Wrong(f"{quote(text)} is a reversed range", f"did you mean {right}-{left}?")
    return first, last
