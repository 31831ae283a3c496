"""Every knob of connection tracking, under the name that its sysctl has in /proc/sys/net/netfilter/nf_conntrack_*.

Values come in as whole numbers (time-outs in seconds) and are held as the packet's way needs them: nanoseconds, one
attribute or one list index away. Defaults are those of kernel 6.18 (docs/state-machine.md, "Knobs"), but for ``max``:
65536. ``per_source`` is ctfw's own: how many connections one source may have in the table (0: no limit).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from mypy_extensions import i64

SECOND: Final = 1_000_000_000

DEFAULTS: Final[dict[str, int]] = {
    "max": 65536,
    "expect_max": 4096,
    "per_source": 0,
    "checksum": 1,
    "acct": 0,
    "tcp_loose": 1,
    "tcp_be_liberal": 0,
    "tcp_max_retrans": 3,
    "tcp_ignore_invalid_rst": 0,
    "tcp_timeout_syn_sent": 120,
    "tcp_timeout_syn_recv": 60,
    "tcp_timeout_established": 432000,
    "tcp_timeout_fin_wait": 120,
    "tcp_timeout_close_wait": 60,
    "tcp_timeout_last_ack": 30,
    "tcp_timeout_time_wait": 120,
    "tcp_timeout_close": 10,
    "tcp_timeout_max_retrans": 300,
    "tcp_timeout_unacknowledged": 300,
    "udp_timeout": 30,
    "udp_timeout_stream": 120,
    "icmp_timeout": 30,
    "icmpv6_timeout": 30,
    "gre_timeout": 30,
    "gre_timeout_stream": 180,
    "generic_timeout": 600,
    "sctp_timeout_closed": 10,
    "sctp_timeout_cookie_wait": 3,
    "sctp_timeout_cookie_echoed": 3,
    "sctp_timeout_established": 210,
    "sctp_timeout_shutdown_sent": 3,
    "sctp_timeout_shutdown_recd": 3,
    "sctp_timeout_shutdown_ack_sent": 3,
    "sctp_timeout_heartbeat_sent": 30,
}

# Each helper with its protocol and the port that it usually serves. None is attached unless the settings say so.
HELPERS: Final[dict[str, tuple[str, int]]] = {
    "ftp": ("tcp", 21),
    "irc": ("tcp", 6667),
    "tftp": ("udp", 69),
    "sip": ("udp and tcp", 5060),
    "amanda": ("udp", 10080),
    "sane": ("tcp", 6566),
    "netbios-ns": ("udp", 137),
    "snmp": ("udp", 161),
    "pptp": ("tcp", 1723),
}
HELPER_NAMES: Final = ("", *HELPERS)
FTP: Final = 1
IRC: Final = 2
TFTP: Final = 3
SIP: Final = 4
AMANDA: Final = 5
SANE: Final = 6
NETBIOS_NS: Final = 7
SNMP: Final = 8
PPTP: Final = 9

# Helpers that the kernel has and ctfw has not, each with the reason: the end of the sentence "... is not supported:".
UNSUPPORTED: Final[dict[str, str]] = {
    "h323": "its messages are ASN.1 in a chain of three connections, and a parser of that breadth has no place in the "
    "way of every packet; let the gatekeeper or an H.323 proxy carry the media, or accept its ports by a rule",
}

# Order of the list ``tcp_timeouts``: the states of ctfw.conntrack.tcp, then the two that depend on what was seen.
# No knob is that of SYN_SENT2.
_TCP: Final = (
    "", "tcp_timeout_syn_sent", "tcp_timeout_syn_recv", "tcp_timeout_established", "tcp_timeout_fin_wait",
    "tcp_timeout_close_wait", "tcp_timeout_last_ack", "tcp_timeout_time_wait", "tcp_timeout_close",
    "", "tcp_timeout_max_retrans", "tcp_timeout_unacknowledged",
)  # fmt: skip

_SYN_SENT2: Final = 120 * SECOND

# Order of the list ``sctp_timeouts``: the states of ctfw.conntrack.sctp.
_SCTP: Final = (
    "", "closed", "cookie_wait", "cookie_echoed", "established", "shutdown_sent", "shutdown_recd",
    "shutdown_ack_sent", "heartbeat_sent",
)  # fmt: skip


class Settings:
    """The knobs as the engine reads them. ``values`` overrides DEFAULTS; ``helpers`` says which ports each one serves.

    ``zones`` puts what comes in by an interface into a zone of its own (1 to 65535, all else is zone 0): what is in one
    zone is unknown in the others. ``networks`` are those that this machine may broadcast to, for the helpers whose
    answers come from a whole network: (an own IPv4 address, its network's broadcast address, prefix length). Without
    it these helpers expect nothing.

    Raises ValueError for a name that is not a knob or a helper: the caller checks the user's text, not this class.
    """

    def __init__(
        self,
        values: Mapping[str, int] | None = None,
        helpers: Mapping[str, Sequence[int]] | None = None,
        networks: Sequence[tuple[bytes, bytes, int]] = (),
        zones: Mapping[str, int] | None = None,
    ) -> None:
        merged = dict(DEFAULTS)
        for name, value in (values or {}).items():
            if name not in DEFAULTS:
                raise ValueError("no such setting: " + name)
            merged[name] = value
        self.values: dict[str, int] = merged
        self.max: i64 = merged["max"]
        self.expect_max: i64 = merged["expect_max"]
        self.per_source: i64 = merged["per_source"]
        self.checksum: bool = merged["checksum"] != 0
        self.acct: bool = merged["acct"] != 0
        self.tcp_loose: bool = merged["tcp_loose"] != 0
        self.tcp_be_liberal: bool = merged["tcp_be_liberal"] != 0
        self.tcp_max_retrans: i64 = merged["tcp_max_retrans"]
        self.tcp_ignore_invalid_rst: bool = merged["tcp_ignore_invalid_rst"] != 0
        self.tcp_timeouts: list[int] = [merged[name] * SECOND if name else _SYN_SENT2 for name in _TCP]
        self.udp_timeout: i64 = merged["udp_timeout"] * SECOND
        self.udp_timeout_stream: i64 = merged["udp_timeout_stream"] * SECOND
        self.icmp_timeout: i64 = merged["icmp_timeout"] * SECOND
        self.icmpv6_timeout: i64 = merged["icmpv6_timeout"] * SECOND
        self.gre_timeout: i64 = merged["gre_timeout"] * SECOND
        self.gre_timeout_stream: i64 = merged["gre_timeout_stream"] * SECOND
        self.generic_timeout: i64 = merged["generic_timeout"] * SECOND
        self.sctp_timeouts: list[int] = [merged["sctp_timeout_" + name] * SECOND if name else 0 for name in _SCTP]
        # Interface -> zone as a connection's key has it.
        self.zones: dict[str, bytes] = {name: zone.to_bytes(2, "big") for name, zone in (zones or {}).items() if zone}
        # Protocol and port -> helper.
        self.helpers: dict[tuple[int, int], int] = {}
        for name, ports in (helpers or {}).items():
            if name in UNSUPPORTED:
                raise ValueError("helper " + name + " is not supported: " + UNSUPPORTED[name])
            if name not in HELPERS:
                raise ValueError("no such helper: " + name)
            for port in ports:
                for proto in helper_protocols(name):
                    self.helpers[proto, port] = HELPER_NAMES.index(name)
        # An own address and the broadcast address of its network, put together -> the network's prefix length.
        self.broadcasts: dict[bytes, int] = {}
        self.set_networks(networks)

    def set_networks(self, networks: Sequence[tuple[bytes, bytes, int]]) -> None:
        """Takes over the networks that this machine may broadcast to now; see the class."""
        self.broadcasts = {own + broadcast: prefix for own, broadcast, prefix in networks}


def helper_protocols(name: str) -> tuple[int, ...]:
    """The protocol numbers of a helper's connections: 6 (TCP), 17 (UDP) or both."""
    words = HELPERS[name][0].split()
    return tuple([number for word, number in (("tcp", 6), ("udp", 17)) if word in words])
