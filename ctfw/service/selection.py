"""Which connections somebody means: the filters of `conntrack -L`, asked of a Conn.

``list`` uses it, and whatever else speaks of some connections and not of all. The words are the options' names with
plain values, so that they travel over the control socket as they are; a value that cannot be meant is refused once,
when the selection is made, and a connection is then only compared.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Any, Final

from ctfw.conntrack import sctp, tcp
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import Tuple
from ctfw.conntrack.state import ASSURED, EXPECTED, OFFLOAD, SEEN_REPLY
from ctfw.packet import SCTP, TCP, is_port_protocol
from ctfw.packet_text import PROTO_NAMES
from ctfw.service.session import INVALID_PARAMS, Refused

_STATUS: Final = {"ASSURED": ASSURED, "SEEN_REPLY": SEEN_REPLY, "EXPECTED": EXPECTED, "OFFLOAD": OFFLOAD}
_STATES: Final[dict[int, tuple[str, ...]]] = {TCP: tcp.STATE_NAMES, SCTP: sctp.STATE_NAMES}
_UNREPLIED: Final = "UNREPLIED"
_FAMILIES: Final = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}

Test = Callable[[Conn, Tuple], bool]


class Selection:
    """The connections that agree with every given word.

    ``family`` ipv4|ipv6, ``proto`` name or number, ``src`` ``dst`` address or network of the original direction,
    ``reply_src`` ``reply_dst`` likewise of the reply, ``sport`` ``dport`` of the original direction, ``state`` the
    protocol's (ESTABLISHED), ``status`` ASSURED|SEEN_REPLY|EXPECTED|OFFLOAD|UNREPLIED, ``mark`` value or value/mask.
    Raises ValueError, with a sentence for people, for a word or a value that is none.
    """

    def __init__(self, words: Mapping[str, Any]) -> None:
        self._tests: list[Test] = []
        for name, value in words.items():
            if name not in _READERS:
                raise ValueError(f"no such filter: {name}")
            try:
                self._tests.append(_READERS[name](str(value)))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

    def has(self, conn: Conn) -> bool:
        """True when the connection is meant."""
        if not self._tests:
            return True
        original = Tuple(conn.key)
        return all(test(conn, original) for test in self._tests)


def selection_of(params: Mapping[str, Any]) -> Selection:
    """What a request of the control socket means by ``only``: all connections when it says nothing. Raises Refused."""
    words = params.get("only", {})
    if not isinstance(words, dict):
        raise Refused(INVALID_PARAMS, "only is an object")
    try:
        return Selection(words)
    except ValueError as error:
        raise Refused(INVALID_PARAMS, str(error)) from error


def _family(text: str) -> Test:
    if text not in _FAMILIES:
        raise ValueError(f"{text!r} is neither ipv4 nor ipv6")
    is_ipv4 = text == "ipv4"
    return lambda conn, original: original.is_ipv4 == is_ipv4


def _proto(text: str) -> Test:
    numbers = {name: number for number, name in PROTO_NAMES.items()}
    number = numbers.get(text.lower(), -1)
    if number < 0:
        number = _number(text, 255)
    return lambda conn, original: original.proto == number


def _network(text: str) -> tuple[int, int, int]:
    """Address size, network and mask as numbers."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network") from None
    return network.max_prefixlen // 8, int(network.network_address), int(network.netmask)


def _address(is_reply: bool, is_source: bool) -> Callable[[str], Test]:
    def read(text: str) -> Test:
        size, network, mask = _network(text)

        def test(conn: Conn, original: Tuple) -> bool:
            one = Tuple(conn.reply_key) if is_reply else original
            address = one.src if is_source else one.dst
            return len(address) == size and int.from_bytes(address, "big") & mask == network

        return test

    return read


def _port(is_source: bool) -> Callable[[str], Test]:
    def read(text: str) -> Test:
        number = _number(text, 65535)

        def test(conn: Conn, original: Tuple) -> bool:
            return is_port_protocol(original.proto) and (original.sport if is_source else original.dport) == number

        return test

    return read


def _state(text: str) -> Test:
    wanted = text.upper()
    if wanted not in {name for names in _STATES.values() for name in names}:
        raise ValueError(f"{text!r} is no protocol's state")

    def test(conn: Conn, original: Tuple) -> bool:
        names = _STATES.get(original.proto)
        return names is not None and names[conn.l4state] == wanted

    return test


def _status(text: str) -> Test:
    if text.upper() == _UNREPLIED:
        return lambda conn, original: not conn.status & SEEN_REPLY
    if text.upper() not in _STATUS:
        raise ValueError(f"{text!r} is none of {', '.join([*_STATUS, _UNREPLIED])}")
    bit = _STATUS[text.upper()]
    return lambda conn, original: bool(conn.status & bit)


def _mark(text: str) -> Test:
    value, slash, mask = text.partition("/")
    wanted, bits = _number(value, 0xFFFFFFFF), _number(mask, 0xFFFFFFFF) if slash else 0xFFFFFFFF
    return lambda conn, original: conn.mark & bits == wanted & bits


def _number(text: str, highest: int) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
    if not 0 <= number <= highest:
        raise ValueError(f"{text} is not between 0 and {highest}")
    return number


_READERS: Final[dict[str, Callable[[str], Test]]] = {
    "family": _family,
    "proto": _proto,
    "src": _address(False, True),
    "dst": _address(False, False),
    "reply_src": _address(True, True),
    "reply_dst": _address(True, False),
    "sport": _port(True),
    "dport": _port(False),
    "state": _state,
    "status": _status,
    "mark": _mark,
}
WORDS: Final = tuple(_READERS)
