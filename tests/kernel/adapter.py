"""The project's engine in the form that a packet-by-packet comparison with the kernel asks for.

``Engine.packet(raw, now) -> (state, direction)``, ``Engine.verdict(accept)``, ``Engine.table() -> lines``. There are no
rules here: whoever compares decides what is accepted. Two things that the compared kernel has and a packet does not
show are taken over: UDP to port 9999 is untracked, and FTP, IRC, TFTP and PPTP helpers serve their usual ports.
``follow_sysctls`` makes it follow the knobs of the gateway namespace that its process has made.
"""

import ctypes
import glob
import os
import time
from collections.abc import Mapping

from ctfw.conntrack import record
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.events import Events
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ASSURED, CONFIRMED, EXPECTED, SEEN_REPLY, state_name
from ctfw.conntrack.tracker import ConnTrack
from ctfw.packet import DIRECTION_NAMES, UDP, Packet, decode

_HELPERS = {"ftp": [21], "irc": [6667], "tftp": [69], "pptp": [1723]}
_NOTRACK_PORT = 9999
_ROUND = 32  # sweeps that go once round the table
_KNOBS = ("checksum", "tcp_loose", "tcp_be_liberal", "udp_timeout")
_STATUS = {"EXPECTED": EXPECTED, "SEEN_REPLY": SEEN_REPLY, "ASSURED": ASSURED, "CONFIRMED": CONFIRMED}


class Knobs:
    """The sysctls of one network namespace, read through descriptors that were opened in it."""

    def __init__(self, namespace: str) -> None:
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
        self._values: Mapping[str, int] = {}
        self._knobs: Knobs | None = None
        self._follow = follow_sysctls

    def packet(self, raw: bytes, now: float) -> tuple[str, str | None]:
        """State and direction of one packet at ``now``, in seconds."""
        self._follow_kernel()
        self._now = int(now * 1e9)
        packet = decode(raw, len(raw))
        self._packet, self._conn = packet, None
        if packet.proto == UDP and packet.dport == _NOTRACK_PORT:
            return "UNTRACKED", None
        self._conn = self._tracker.track(packet, True, self._now)
        return state_name(packet.state), DIRECTION_NAMES[packet.direction] if packet.direction >= 0 else None

    def status(self) -> frozenset[str]:
        """The status bits of that packet's connection, before the verdict."""
        if self._conn is None:
            return frozenset()
        return frozenset(name for name, bit in _STATUS.items() if self._conn.status & bit)

    def verdict(self, accept: bool) -> bool:
        """What the rules say to that packet; False when it goes no further, be it for a helper."""
        if not accept:
            return False
        if self._conn is None or self._packet is None:
            return True
        return self._tracker.confirm(self._packet, self._conn, self._now) == 0

    def table(self, now: float | None = None) -> list[str]:
        """What stands in /proc/net/nf_conntrack for the living connections; like reading that, it frees the expired."""
        when = self._now if now is None else int(now * 1e9)
        table = self._tracker.table
        for _ in range(_ROUND):
            self._tracker.sweep(when)
        return [
            record.proc_line(conn, when)
            for number in range(table.shards)
            for conn in table.shard(number)
            if conn.expires > when and conn.status & CONFIRMED
        ]

    def expectations(self, now: float) -> list[str]:
        """What stands in /proc/net/nf_conntrack_expect."""
        when = int(now * 1e9)
        return [record.expect_line(one, when) for one in self._tracker.expectations() if one.expires > when]

    def set(self, values: Mapping[str, int]) -> None:
        """New knobs from the next packet on; those that ``values`` does not name get their defaults."""
        self._values = values
        self._tracker.reconfigure(Settings({**values, "max": 0}, _HELPERS))

    def listen(self) -> None:
        """From now on keeps what happens to connections, for ``told``."""
        self._tracker.table.events = Events(1 << 20)

    def told(self) -> list[str]:
        """What has happened since the last call, as ``conntrack -E`` prints it."""
        events = self._tracker.table.events
        return [record.event_line(event) for event in events.take(1 << 20)] if events is not None else []

    def flush(self) -> None:
        self._tracker.flush(time.monotonic_ns())

    def _follow_kernel(self) -> None:
        """Takes over the knobs of the gateway whose process this is (its namespace is named after the process)."""
        if self._follow and self._knobs is None:
            found = glob.glob(f"/run/netns/*{os.getpid()}g")
            if found:
                self._knobs = Knobs(found[0])
        if self._knobs is not None:
            values = self._knobs.read()
            if values != self._values:
                self.set(values)
