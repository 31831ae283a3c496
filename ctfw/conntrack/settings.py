"""Every knob of connection tracking, under the name that its sysctl has in /proc/sys/net/netfilter/nf_conntrack_*.

Values come in as whole numbers (time-outs in seconds) and are held as the packet's way needs them: nanoseconds, one
attribute or one list index away. Defaults are those of kernel 6.18 (CONNTRACK.md section 4), but for ``max``: 65536.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from mypy_extensions import i64

SECOND: Final = 1_000_000_000

DEFAULTS: Final[dict[str, int]] = {
    "max": 65536,
    "expect_max": 4096,
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
HELPERS: Final[dict[str, tuple[str, int]]] = {"ftp": ("tcp", 21), "irc": ("tcp", 6667), "tftp": ("udp", 69)}
HELPER_NAMES: Final = ("", "ftp", "irc", "tftp")
FTP: Final = 1
IRC: Final = 2
TFTP: Final = 3

# Order of the list ``tcp_timeouts``: the states of ctfw.conntrack.tcp, then the two that depend on what was seen.
_TCP: Final = (
    "", "tcp_timeout_syn_sent", "tcp_timeout_syn_recv", "tcp_timeout_established", "tcp_timeout_fin_wait",
    "tcp_timeout_close_wait", "tcp_timeout_last_ack", "tcp_timeout_time_wait", "tcp_timeout_close",
    "tcp_timeout_syn_sent", "tcp_timeout_max_retrans", "tcp_timeout_unacknowledged",
)  # fmt: skip


class Settings:
    """The knobs as the engine reads them. ``values`` overrides DEFAULTS; ``helpers`` says which ports each one serves.

    Raises ValueError for a name that is not a knob or a helper: the caller checks the user's text, not this class.
    """

    def __init__(
        self, values: Mapping[str, int] | None = None, helpers: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        merged = dict(DEFAULTS)
        for name, value in (values or {}).items():
            if name not in DEFAULTS:
                raise ValueError("no such setting: " + name)
            merged[name] = value
        self.values: dict[str, int] = merged
        self.max: i64 = merged["max"]
        self.expect_max: i64 = merged["expect_max"]
        self.checksum: bool = merged["checksum"] != 0
        self.acct: bool = merged["acct"] != 0
        self.tcp_loose: bool = merged["tcp_loose"] != 0
        self.tcp_be_liberal: bool = merged["tcp_be_liberal"] != 0
        self.tcp_max_retrans: i64 = merged["tcp_max_retrans"]
        self.tcp_ignore_invalid_rst: bool = merged["tcp_ignore_invalid_rst"] != 0
        self.tcp_timeouts: list[int] = [merged[name] * SECOND if name else 0 for name in _TCP]
        self.udp_timeout: i64 = merged["udp_timeout"] * SECOND
        self.udp_timeout_stream: i64 = merged["udp_timeout_stream"] * SECOND
        self.icmp_timeout: i64 = merged["icmp_timeout"] * SECOND
        self.icmpv6_timeout: i64 = merged["icmpv6_timeout"] * SECOND
        self.gre_timeout: i64 = merged["gre_timeout"] * SECOND
        self.gre_timeout_stream: i64 = merged["gre_timeout_stream"] * SECOND
        self.generic_timeout: i64 = merged["generic_timeout"] * SECOND
        # One byte of protocol and two of port -> helper.
        self.helpers: dict[tuple[int, int], int] = {}
        for name, ports in (helpers or {}).items():
            if name not in HELPERS:
                raise ValueError("no such helper: " + name)
            for port in ports:
                self.helpers[6 if HELPERS[name][0] == "tcp" else 17, port] = HELPER_NAMES.index(name)
