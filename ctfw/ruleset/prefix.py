"""By which part of an address something is counted: a limit per source, connections per network, who is banned.

``network`` keeps the address at its length and clears what lies behind the prefix, so IPv4 and IPv6 never meet in one
table. The defaults are what one subscriber has: an IPv4 address, an IPv6 network of 64 bits. Whoever limited single
IPv6 addresses would limit nobody.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.packet import AF_INET, BYTE, Packet

SOURCE: Final = 0
DESTINATION: Final = 1
PREFIX4: Final = 32
PREFIX6: Final = 64
_ZEROS: Final = bytes(16)


class Per:
    """Source or destination of a packet, up to a prefix length for each family."""

    def __init__(self, end: int = SOURCE, prefix4: int = PREFIX4, prefix6: int = PREFIX6) -> None:
        self.end: i64 = end
        self.prefix4: i64 = prefix4
        self.prefix6: i64 = prefix6

    def of(self, packet: Packet) -> bytes:
        """The packet's network; empty when it has no address."""
        address = packet.src if self.end == SOURCE else packet.dst
        if len(address) == 0:
            return address
        return network(address, self.prefix4 if packet.family == AF_INET else self.prefix6)

    def is_like(self, other: "Per | None") -> bool:
        """True when both count by the same."""
        return (
            other is not None
            and self.end == other.end
            and self.prefix4 == other.prefix4
            and self.prefix6 == other.prefix6
        )


def network(address: bytes, length: i64) -> bytes:
    """The address with everything behind its first ``length`` bits cleared."""
    whole = length >> 3
    size: i64 = len(address)
    if whole >= size:
        return address
    rest = length & 7
    if rest == 0:
        return address[:whole] + _ZEROS[: size - whole]
    kept: i64 = address[whole]
    return address[:whole] + BYTE[kept & (0xFF00 >> rest) & 0xFF] + _ZEROS[: size - whole - 1]
