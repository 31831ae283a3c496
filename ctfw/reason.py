"""Why a packet is INVALID, or why it was dropped before or after the rules.

One number per reason, so that the packet's way can carry and count it without text; NAMES is what rules, logs, metrics
and JSON show (stable: people match on them), TEXTS is the sentence for people. This module knows nothing else.
"""

from typing import Final

NONE: Final = 0

# Headers that cannot be read.
NOT_IP: Final = 1
IP_HEADER: Final = 2
IP_LENGTH: Final = 3
IPV6_EXTENSIONS: Final = 4
FRAGMENT: Final = 5
L4_TRUNCATED: Final = 6

# Transport headers that lie.
CHECKSUM: Final = 7
TCP_HEADER: Final = 8
TCP_FLAGS: Final = 9
UDP_LENGTH: Final = 10
ICMP_TYPE: Final = 11
GRE_PROTOCOL: Final = 12

# Headers that are fine, in a place where they cannot be.
TCP_NEW: Final = 13
TCP_STATE: Final = 14
TCP_SEQ_OVER: Final = 15
TCP_ACK_OVER: Final = 16
TCP_RST_SEQ: Final = 17
ICMP_NEW: Final = 18
ICMP_NO_INVERSE: Final = 19
ICMP_ERROR_QUOTE: Final = 20
ICMP_ERROR_UNKNOWN: Final = 21
ICMP_ERROR_ADDRESS: Final = 22
SCTP_CHUNK: Final = 23
SCTP_VTAG: Final = 24
SCTP_STATE: Final = 25
SCTP_NEW: Final = 26

# Not INVALID (but for the last): dropped by connection tracking itself, with no rule asked (or after a rule accepted).
TABLE_FULL: Final = 27
HELPER_PARTIAL: Final = 28
HELPER_EXPECT_FULL: Final = 29
CLASH: Final = 30
FRAGMENT_OVERLAP: Final = 31
SOURCE_FULL: Final = 32
KILLED: Final = 33

_ALL: Final = (
    ("", ""),
    ("not-ip", "neither IPv4 nor IPv6"),
    ("ip-header", "the IP header is shorter than allowed or longer than the packet"),
    ("ip-length", "the IP header's length does not fit the packet"),
    ("ipv6-extensions", "the chain of IPv6 extension headers cannot be followed to a protocol"),
    ("fragment", "a later fragment of a datagram whose first one has not been seen"),
    ("l4-truncated", "the packet ends inside the transport header"),
    ("checksum", "the transport checksum is wrong"),
    ("tcp-header", "the TCP header is shorter than 20 bytes or longer than the segment"),
    ("tcp-flags", "a combination of TCP flags that no TCP sends"),
    ("udp-length", "the UDP length is below 8 or beyond the packet"),
    ("icmp-type", "an ICMP type that is not assigned"),
    ("gre-protocol", "enhanced GRE (version 1) that does not carry PPP"),
    ("tcp-new", "no connection, and this segment cannot open one"),
    ("tcp-state", "this kind of segment cannot come in the connection's state"),
    ("tcp-seq-over", "the sequence number lies beyond the receiver's window"),
    ("tcp-ack-over", "acknowledges data that was never sent"),
    ("tcp-rst-seq", "a reset below the highest acknowledged sequence number"),
    ("icmp-new", "no connection, and this ICMP type cannot open one"),
    ("icmp-no-inverse", "an ICMP type that has no answer, so no connection can be made of it"),
    ("icmp-error-quote", "the packet quoted in the ICMP error cannot be read"),
    ("icmp-error-unknown", "the packet quoted in the ICMP error belongs to no connection"),
    ("icmp-error-address", "the ICMP error goes to somebody who is not part of the connection it quotes"),
    ("sctp-chunk", "SCTP chunks that cannot stand together or are malformed"),
    ("sctp-vtag", "the SCTP verification tag is not the association's"),
    ("sctp-state", "this SCTP chunk cannot come in the association's state"),
    ("sctp-new", "no association, and this SCTP chunk cannot open one"),
    ("table-full", "the table of connections is full and none could be dropped for this one"),
    ("helper-partial", "a helper's command is cut by the end of the segment"),
    ("expect-full", "the table of expectations is full"),
    ("clash", "another connection already has this tuple"),
    ("fragment-overlap", "a fragment that overlaps another one of its datagram, or lies beyond its end"),
    ("source-full", "the source has as many connections in the table as one source may have"),
    ("killed", "the packet's connection was killed, and its ends have not stopped yet"),
)

NAMES: Final = tuple([name for name, _ in _ALL])
TEXTS: Final = tuple([text for _, text in _ALL])
COUNT: Final = len(_ALL)
