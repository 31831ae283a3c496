"""IRC's Direct Client-to-Client (CTCP DCC): a client tells another, through the server, where to connect to it.

``PRIVMSG somebody :\\1DCC SEND file 3232235777 5000\\1``. Who will come is not said, so any source is expected. IPv4
only, because the protocol writes the address as one decimal number. Read only from the client, only at the start of a
segment, and only with the line end in sight. docs/state-machine.md, "Helpers and expectations".
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectation, Expectations, Policy
from ctfw.conntrack.settings import IRC, SECOND, Settings
from ctfw.conntrack.state import ESTABLISHED
from ctfw.packet import AF_INET, ORIGINAL, TCP, Packet

POLICY: Final = Policy(IRC, "", 8, 300 * SECOND)
_LONGEST: Final = 4095
_OFFERS: Final = (b"SEND ", b"CHAT ", b"MOVE ", b"TSEND ", b"SCHAT ")

# Least bytes behind the place where ``PRIVMSG x `` and where `` :\1DCC CHAT t AAAAAAAA P\1\n`` are looked for, and
# behind a byte of the word before the numbers.
_LEAST_COMMAND: Final = 10
_LEAST_OFFER: Final = 26
_LEAST_NUMBERS: Final = 12


def inspect(conn: Conn, packet: Packet, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """Reads one segment; 0, or the reason to drop it."""
    if packet.direction != ORIGINAL or packet.state != ESTABLISHED or packet.family != AF_INET:
        return 0
    offset: i64 = packet.data[packet.l4 + 12]
    at = packet.l4 + ((offset >> 4) << 2)
    if at >= packet.end:
        return 0
    text = packet.data[at : packet.end][:_LONGEST]
    size: i64 = len(text)
    start: i64 = 0
    while start < size - _LEAST_COMMAND and text[start] in b" \r\n":
        start += 1
    if start < size - _LEAST_COMMAND:
        if text[start : start + 8].lower() != b"privmsg ":
            return 0
        start += 8
    while True:
        start = text.find(b" :", start)
        if start < 0 or start >= size - _LEAST_OFFER or not text.startswith(b"\1DCC ", start + 2):
            return 0
        start += 7
        for offer in _OFFERS:
            if text.startswith(offer, start):
                address, port = _numbers(text, start + len(offer))
                if port == 0 or int(address).to_bytes(4, "big") != packet.src:
                    return 0
                one = Expectation(conn, POLICY, TCP, b"", packet.src, int(port).to_bytes(2, "big"), now)
                return expectations.require(one, settings.expect_max, now)


def _numbers(text: bytes, start: i64) -> tuple[i64, i64]:
    """Address and port behind the word at ``start``; (0, 0) when they are not there."""
    size: i64 = len(text)
    blank: i64 = text.find(b" ", start)
    if blank < 0 or blank > size - _LEAST_NUMBERS or text.find(b"\n", blank) < 0:
        return 0, 0
    at = blank + 1
    address: i64 = 0
    while at < size and 48 <= text[at] <= 57:
        address = (address * 10 + text[at] - 48) & 0xFFFFFFFF
        at += 1
    while at < size and text[at] == 32:
        at += 1
    port: i64 = 0
    while at < size and 48 <= text[at] <= 57:
        port = (port * 10 + text[at] - 48) & 0xFFFF
        at += 1
    return address, port
