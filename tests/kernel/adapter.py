"""The project's engine in the form that a packet-by-packet comparison with the kernel asks for.

``Engine.packet(raw, now) -> (state, direction)``, ``Engine.verdict(accept)``, ``Engine.table() -> lines``. There are no
rules here: whoever compares decides what is accepted. Two things that the compared kernel has and a packet does not
show are taken over: UDP to port 9999 is untracked, and FTP, IRC and TFTP helpers serve their usual ports. When
``sysctl`` names the namespace's /proc/sys/net/netfilter, its knobs are followed.
"""

import glob
import os

from ctfw.conntrack import record
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import CONFIRMED, state_name
from ctfw.conntrack.tracker import ConnTrack
from ctfw.packet import DIRECTION_NAMES, UDP, Packet, decode

_HELPERS = {"ftp": [21], "irc": [6667], "tftp": [69]}
_NOTRACK_PORT = 9999
_KNOBS = ("checksum", "tcp_loose", "tcp_be_liberal", "udp_timeout")


class Knobs:
    """The sysctls of one network namespace, read through descriptors that were opened in it."""

    def __init__(self, namespace: str) -> None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(namespace, os.O_RDONLY)
        try:
            if libc.setns(there, 0x40000000):
                raise OSError(ctypes.get_errno(), "setns", namespace)
            where = "/proc/sys/net/netfilter/nf_conntrack_"
            self._files = {name: os.open(where + name, os.O_RDONLY) for name in _KNOBS}
        finally:
            libc.setns(here, 0x40000000)
            os.close(here)
            os.close(there)

    def read(self) -> dict[str, int]:
        return {name: int(os.pread(file, 32, 0)) for name, file in self._files.items()}


class Engine:
    """The tracker alone, driven one packet at a time."""

    def __init__(self, follow_sysctls: bool = True) -> None:
        self._tracker = ConnTrack(Settings({"max": 0}, _HELPERS))
        self._packet: Packet | None = None
        self._conn: Conn | None = None
        self._now = 0
        self._values: dict[str, int] = {}
        self._knobs: Knobs | None = None
        self._follow = follow_sysctls

    def packet(self, raw: bytes, now: float) -> tuple[str, str | None]:
        self._follow_kernel()
        self._now = int(now * 1e9)
        packet = decode(raw, len(raw))
        self._packet, self._conn = packet, None
        if packet.proto == UDP and packet.dport == _NOTRACK_PORT:
            return "UNTRACKED", None
        self._conn = self._tracker.track(packet, True, self._now)
        return state_name(packet.state), DIRECTION_NAMES[packet.direction] if packet.direction >= 0 else None

    def verdict(self, accept: bool) -> None:
        if accept and self._conn is not None and self._packet is not None:
            self._tracker.confirm(self._packet, self._conn, self._now)

    def table(self) -> list[str]:
        table = self._tracker.table
        return [
            record.proc_line(conn, self._now)
            for number in range(table.shards)
            for conn in table.shard(number)
            if conn.expires > self._now and conn.status & CONFIRMED
        ]

    def flush(self) -> None:
        self._tracker.flush()

    def _follow_kernel(self) -> None:
        """Takes over the knobs of the gateway whose process this is (its namespace is named after the process)."""
        if self._follow and self._knobs is None:
            found = glob.glob(f"/run/netns/*{os.getpid()}g")
            if found:
                self._knobs = Knobs(found[0])
        if self._knobs is not None:
            values = self._knobs.read()
            if values != self._values:
                self._values = values
                self._tracker.reconfigure(Settings(values | {"max": 0}, _HELPERS))
