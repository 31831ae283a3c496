"""The kernel's side: a gateway whose conntrack labels every packet, and hands packet and label to us together.

    client ── AF_PACKET ──> lan0 [ gateway: conntrack, mark, NFQUEUE ] wan0 <── AF_PACKET ── server

Conntrack runs at PREROUTING with priority -200. The mangle table, at -150, writes what it decided for this very packet
(state, direction, status) into the packet's mark, and gives it to NFQUEUE: so INVALID packets are seen, too, and those
that no route would forward. Injection, label and verdict are in lock-step, one packet at a time; the verdict runs the
rest of the packet's way, helper and confirmation included, before it returns. Behind each side lie 16 bits of
addresses of either family, so that many conversations can be held at once without meeting in the table. The end hosts
are mute: nobody speaks but us.

The namespaces' /proc/net/nf_conntrack and nf_conntrack_expect are the kernel's records.
"""

import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from lab.net import CLIENT, CLIENT6, SERVER, SERVER6, Network

CLIENT_SIDE: Final = 0
SERVER_SIDE: Final = 1

STATES: Final = ("", "NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
_DIRECTIONS: Final = {0x10: "ORIGINAL", 0x20: "REPLY"}
_STATUS: Final = {0x100: "EXPECTED", 0x200: "SEEN_REPLY", 0x400: "ASSURED", 0x800: "CONFIRMED"}

UNTRACKED_PORT: Final = 9999  # UDP to it is NOTRACK
HELPERS: Final = {"ftp": ("tcp", 21), "irc": ("tcp", 6667), "tftp": ("udp", 69), "pptp": ("tcp", 1723)}

_QUEUE: Final = 7
_KNOBS: Final = "/proc/sys/net/netfilter/nf_conntrack_"
# struct nlmsghdr and nfgenmsg of IPCTNL_MSG_CT_DELETE without a tuple: forget everything.
_FORGET: Final = struct.pack("=IHHIIBBH", 20, 0x0102, 5, 1, 0, 0, 0, 0)


class Label:
    """What the kernel said about one packet. ``state`` is empty when the packet never came to the queue."""

    __slots__ = ("direction", "state", "status")

    def __init__(self, mark: int) -> None:
        self.state = STATES[mark & 15]
        self.direction = next((name for bit, name in _DIRECTIONS.items() if mark & bit), None)
        self.status = frozenset(name for bit, name in _STATUS.items() if mark & bit)


def addresses(number: int, ipv6: bool) -> tuple[bytes, bytes]:
    """The client's and the server's address of conversation ``number`` (below 65536)."""
    low = struct.pack("!H", number)
    if ipv6:
        return b"\xfd\x01" + bytes(12) + low, b"\xfd\x02" + bytes(12) + low
    return b"\x0a\x01" + low, b"\x0a\x02" + low


class Gateway:
    """The picture above, for as long as the ``with`` lasts."""

    def __enter__(self) -> "Gateway":
        self._net = Network()
        try:
            self._build()
        except BaseException:
            self._net.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.unbind()
        self._kernel.close()
        for near in self._sides:
            near.close()
        for file in (self._table, self._expectations, *self._knobs.values()):
            os.close(file)
        self._net.close()

    def _build(self) -> None:
        net = self._net
        gateway = net.gateway
        for host in (net.client, net.server):
            for tables in ("iptables", "ip6tables"):
                host.run(tables, "-w", "-t", "raw", "-A", "PREROUTING", "-j", "DROP")
                host.run(tables, "-w", "-P", "OUTPUT", "DROP")
        near = (("lan0", net.client, CLIENT, CLIENT6, 1), ("wan0", net.server, SERVER, SERVER6, 2))
        self._sides: list[socket.socket] = []
        self._heads: list[tuple[bytes, bytes]] = []
        for device, host, far, far6, number in near:
            with gateway, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as probe:
                probe.bind((device, 0))
                mac = probe.getsockname()[4]
            with host:
                side = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                side.bind(("eth0", 0))
                side.setblocking(False)
            host_mac = side.getsockname()[4]
            self._sides.append(side)
            self._heads.append((mac + host_mac + b"\x08\0", mac + host_mac + b"\x86\xdd"))
            for address, inside in ((far, f"10.{number}.0.0/16"), (far6, f"fd0{number}::/64")):
                link = ":".join(f"{byte:02x}" for byte in host_mac)
                neighbour = ("neigh", "replace", address, "lladdr", link, "dev", device, "nud", "permanent")
                gateway.run("ip", *neighbour)
                gateway.run("ip", "route", "add", inside, "via", address, "dev", device)
            gateway.set(**{f"ipv4__conf__{device}__rp_filter": 0})
        gateway.set(ipv4__conf__all__rp_filter=0)
        for tables in ("iptables", "ip6tables"):
            self._label(tables)
        from netfilterqueue import NetfilterQueue

        with gateway:  # it opens its socket when it is made
            self._queue: Any = NetfilterQueue()
            self._queue.bind(_QUEUE, self._answer, 1024)
            self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
            self._table = os.open("/proc/thread-self/net/nf_conntrack", os.O_RDONLY)
            self._expectations = os.open("/proc/thread-self/net/nf_conntrack_expect", os.O_RDONLY)
            self._knobs: dict[str, int] = {}
            self._defaults: dict[str, int] = {}
            for name in os.listdir(os.path.dirname(_KNOBS)):
                knob = name.removeprefix("nf_conntrack_")
                if knob != name and knob.startswith(("tcp", "udp", "icmp", "gre", "sctp", "generic", "checksum")):
                    self._knobs[knob] = os.open(_KNOBS + knob, os.O_RDWR)
                    self._defaults[knob] = int(os.pread(self._knobs[knob], 32, 0))
        self._values = dict(self._defaults)
        self._file = self._queue.get_fd()
        self._mark = 0
        self._decide: Callable[[bytes], bool] = lambda packet: True

    def _label(self, tables: str) -> None:
        def rule(*words: str) -> None:
            self._net.gateway.run(tables, "-w", *words)

        def mark(bit: int, *match: str) -> None:
            rule("-t", "mangle", "-A", "PREROUTING", "-m", "conntrack", *match, "-j", "MARK", "--or-mark", hex(bit))

        for number, state in enumerate(STATES[1:], 1):
            mark(number, "--ctstate", state)
        for bit, direction in _DIRECTIONS.items():
            mark(bit, "--ctstate", "NEW,ESTABLISHED,RELATED", "--ctdir", direction)
        for bit, status in _STATUS.items():
            mark(bit, "--ctstatus", status)
        rule("-t", "mangle", "-A", "PREROUTING", "-j", "NFQUEUE", "--queue-num", str(_QUEUE))
        to_port = ("-t", "raw", "-A", "PREROUTING", "-p")
        rule(*to_port, "udp", "--dport", str(UNTRACKED_PORT), "-j", "NOTRACK")
        for helper, (proto, port) in HELPERS.items():
            if helper not in ("irc", "pptp") or tables == "iptables":  # neither has IPv6
                rule(*to_port, proto, "--dport", str(port), "-j", "CT", "--helper", helper)

    def _answer(self, packet: Any) -> None:
        self._mark = packet.get_mark()
        if self._decide(packet.get_payload()):
            packet.accept()
        else:
            packet.drop()

    def send(self, side: int, data: bytes, decide: Callable[[bytes], bool], wait: float = 0.1) -> Label:
        """One packet through the kernel; ``decide`` gets it as it is queued and says whether it goes on."""
        self._await(decide)
        self._sides[side].send(self._heads[side][data[0] >> 4 == 6] + data)
        self._queue.run(block=False)
        until = time.monotonic() + wait
        while not self._mark and select.select([self._file], [], [], max(until - time.monotonic(), 0))[0]:
            self._queue.run(block=False)
        return Label(self._mark)

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """Starts a program on the gateway."""
        return self._net.gateway.start(command, **options)

    def _await(self, decide: Callable[[bytes], bool]) -> None:
        self._decide = decide
        self._mark = 0

    def drain(self) -> None:
        """Forgets what has come out of the gateway so far."""
        for side in self._sides:
            try:
                while True:
                    side.recv(1)
            except BlockingIOError:
                pass

    def comes_out(self, side: int, data: bytes, wait: float) -> bool:
        """True when ``data``, sent from ``side`` since ``drain``, has come out on the other side within ``wait``."""
        other = self._sides[1 - side]
        until = time.monotonic() + wait
        skip = 20 if data[0] >> 4 == 4 else 8  # behind what a router changes
        while True:
            if not select.select([other], [], [], max(until - time.monotonic(), 0))[0]:
                return False
            frame, sender = other.recvfrom(65535)
            if sender[2] != socket.PACKET_OUTGOING and frame[14 + skip : 14 + len(data)] == data[skip:]:
                return True

    def table(self) -> list[str]:
        """The lines of /proc/net/nf_conntrack."""
        return _lines(self._table)

    def expectations(self) -> list[str]:
        """The lines of /proc/net/nf_conntrack_expect."""
        return _lines(self._expectations)

    def set(self, values: Mapping[str, int]) -> None:
        """Sets the knobs (sysctl names without nf_conntrack_) to ``values``, all others to their defaults."""
        for name, value in {**self._defaults, **values}.items():
            if self._values[name] != value:
                os.pwrite(self._knobs[name], str(value).encode(), 0)
                self._values[name] = value

    def flush(self) -> None:
        """Forgets all connections, and with them their expectations."""
        self._kernel.send(_FORGET)
        (error,) = struct.unpack_from("=i", self._kernel.recv(256), 16)
        if error:
            raise OSError(-error, "cannot flush the kernel's table")


def _lines(file: int) -> list[str]:
    """All of a seq_file. It gives a page at most, of whole lines: much less than a page is the end."""
    found = b""
    while more := os.pread(file, 1 << 16, len(found)):
        found += more
        if len(more) < 3500:
            break
    return found.decode().splitlines()
