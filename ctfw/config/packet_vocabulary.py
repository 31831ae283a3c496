"""The words in which a packet can be described: tables, that packet_words reads by and docs/packets.md is held against.

A word is a TCP flag, a kind of SCTP chunk, a word that stands alone, or one that takes a number.
"""

from dataclasses import dataclass
from typing import Final

from ctfw.packet import GRE, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE
from ctfw.packet_text import CHUNK_NAMES

MAX_LENGTH: Final = 65000  # bytes behind the transport header: with every header, an IP packet can hold it

FLAGS: Final = {
    "fin": 0x01, "syn": 0x02, "rst": 0x04, "psh": 0x08, "ack": 0x10, "urg": 0x20, "ece": 0x40, "cwr": 0x80,
}  # fmt: skip

_BYTE, _SHORT, _LONG = 0xFF, 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class Word:
    """A word with a number behind it, for some protocols (none named: for all)."""

    name: str
    high: int
    meaning: str
    protos: tuple[int, ...] = ()
    low: int = 0


# Words that take a number. The same name may mean something else in another protocol.
WORDS: Final = (
    Word(
        "len", MAX_LENGTH, "bytes behind the transport header (of another protocol, and of a fragment: the IP header)"
    ),
    Word("ttl", _BYTE, "TTL or hop limit; 64 unless said"),
    Word("dscp", 63, "differentiated services code point"),
    Word("mark", _LONG, "the mark that the packet comes with; nothing of it is in the packet"),
    Word("ipid", _LONG, "identification of the IP packet, which its fragments share; in IPv4 up to 65535"),
    Word("fragment", 65528, "this is a fragment, and not the first: where it begins in its datagram, a multiple of 8"),
    Word("seq", _LONG, "sequence number; goes on where the sender stopped unless said", (TCP,)),
    Word("ack", _LONG, "acknowledgement number; all that was sent to the sender unless said", (TCP,)),
    Word("win", _SHORT, "window as it stands in the header; 64240 unless said", (TCP,)),
    Word("mss", _SHORT, "option: maximum segment size", (TCP,)),
    Word("wscale", _BYTE, "option: window scale", (TCP,)),
    Word("type", _BYTE, "type, by number or name; echo-request unless said", (ICMP, ICMPV6)),
    Word("code", _BYTE, "code; what the name of the type says, else 0", (ICMP, ICMPV6)),
    Word("id", _SHORT, "identifier of a query; 1 unless said", (ICMP, ICMPV6)),
    Word("seq", _SHORT, "sequence number of a query; 1 unless said", (ICMP, ICMPV6)),
    Word("mtu", _LONG, "the MTU that an error asks for", (ICMP, ICMPV6)),
    Word("vtag", _LONG, "verification tag; the one that the receiver has picked unless said", (SCTP,)),
    Word("itag", _LONG, "the tag that an init or init-ack picks", (SCTP,), 1),
    Word("coverage", _SHORT, "bytes that the checksum covers; 0 is all of them", (UDPLITE,)),
    Word("call", _SHORT, "enhanced GRE, as of PPTP: the call of the receiver", (GRE,)),
    Word("key", _LONG, "GRE with a key", (GRE,)),
)

# Words that stand alone, beside the TCP flags and the SCTP chunks: name -> (protocols, meaning).
PLAIN: Final[dict[str, tuple[tuple[int, ...], str]]] = {
    "null": ((TCP,), "no TCP flag at all"),
    "sackok": ((TCP,), "option: selective acknowledgements are permitted"),
    "more": ((), "the first fragment of a datagram, or one in its middle"),
    "df": ((), "IPv4: do not fragment"),
    "badsum": ((TCP, UDP, UDPLITE, ICMP, ICMPV6, SCTP), "a transport checksum that is wrong"),
    "nosum": ((UDP,), "no checksum"),
}

CHUNKS: Final = {name: number for number, name in CHUNK_NAMES.items()}
