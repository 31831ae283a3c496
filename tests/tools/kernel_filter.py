"""The kernel as the judge of an iptables rule set: random packets through it, one at a time, and its verdict of each.

    TUN device ──> [ queue 1 ── filter table under test ── queue 2 ] ──> TUN device, the gateway itself
    raw socket ──┘   (mangle)                              (security)

A namespace with a TUN device for every interface that the rules name. Queue 1, ahead of the filter table, shows what
comes to it: hook, interfaces, mark, state (it is one queue for each), and the packet as it is there. Queue 2, behind
it, sees what it let through. Writing to a TUN device and answering a queue are both done when the call returns, so
"nothing in queue 2" needs no waiting. Answers of the gateway itself are dropped before conntrack sees them: packets of
OUTPUT come from a raw socket, with a bit of the mark that the raw table asks for.
"""

import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from random import Random
from subprocess import CalledProcessError
from types import TracebackType
from typing import Any, Final

from kernel import packets

from lab.net import Namespace

DEVICES: Final = ("eth0", "eth1")
ADDRESSES: Final = {
    "eth0": ("203.0.113.1/24", "2001:db8:1::1/64"),
    "eth1": ("192.168.1.1/24", "fd00:1::1/64"),
}
BROADCASTS: Final = ("192.168.1.255", "203.0.113.255")
GROUPS: Final = ("224.0.0.251", "239.255.255.250", "ff02::fb", "ff02::f")

_OURS: Final = 0x00800000  # a bit of the mark
_TUNSETIFF: Final = 0x400454CA
_TUN_NO_PI: Final = 0x1001
_STATES: Final = {"NEW": 1, "ESTABLISHED": 2, "RELATED": 4, "INVALID": 8, "UNTRACKED": 16}  # as in the engine
_BEFORE: Final = 100  # queue numbers: ahead of the table, plus the state
_AFTER: Final = 99
_NETWORK: Final = re.compile(r"(?<![\w.:])((?:\d{1,3}\.){3}\d{1,3}|[0-9a-f]*:[0-9a-f:]+)(?:/(\d{1,3}))?(?![\w.:])")


class Arrived:
    """A packet as the filter table gets it, and what became of it."""

    def __init__(self, packet: Any, data: bytes, state: int) -> None:
        self.data = data
        self.state = state
        self.hook = int(packet.hook)
        self.indev = _name(packet.indev)
        self.outdev = _name(packet.outdev)
        self.mark = int(packet.get_mark())
        self.accepted = False


def _name(index: int) -> str:
    return socket.if_indextoname(index) if index else ""


class Filter:
    """The picture above, for as long as the ``with`` lasts, with these rules (what iptables-save prints) in it."""

    def __init__(self, saves: dict[int, str], devices: Iterable[str]) -> None:
        self._saves = saves
        self.devices = list(dict.fromkeys([*DEVICES, *devices]))

    def __enter__(self) -> "Filter":
        self._files: list[Any] = []
        self._queues: list[Any] = []
        self._space = Namespace()
        try:
            self._build()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for queue in self._queues:
            queue.unbind()
        for file in self._files:
            file.close()
        self._space.close()

    def _build(self) -> None:
        space = self._space
        space.set(ipv6__conf__default__accept_dad=0, ipv6__conf__default__accept_ra=0)
        space.run("ip", "link", "set", "lo", "up")
        space.set(ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0, ipv4__ip_forward=1)
        space.set(ipv6__conf__all__forwarding=1, ipv4__icmp_echo_ignore_broadcasts=0)
        self._tuns: dict[str, int] = {}
        for device in self.devices:
            with space:
                file = open(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK), "r+b", buffering=0)  # noqa: SIM115 - until the end
                fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _TUN_NO_PI))
            self._tuns[device] = file.fileno()
            self._files.append(file)
            space.run("ip", "link", "set", device, "up", "multicast", "on", "txqueuelen", "10000")
            for address in ADDRESSES.get(device, ()):
                space.run(
                    "ip", "address", "add", address, "dev", device, *(["nodad"] if ":" in address else ["brd", "+"])
                )
        for which in ("-4", "-6"):
            space.run("ip", which, "route", "add", "default", "dev", "eth0")
        for family, program in ((4, "iptables"), (6, "ip6tables")):
            if family in self._saves:
                with space:
                    space.run(f"{program}-restore", "-w", input=self._saves[family])
            rules = [f"-t raw -I OUTPUT -m mark ! --mark {_OURS:#x}/{_OURS:#x} -j DROP"]
            rules.append(f"-t mangle -A OUTPUT -j MARK --set-xmark 0/{_OURS:#x}")
            for chain in ("INPUT", "FORWARD", "OUTPUT"):
                for state, bit in _STATES.items():
                    queue = f"-m conntrack --ctstate {state} -j NFQUEUE --queue-num {_BEFORE + bit}"
                    rules.append(f"-t mangle -A {chain} {queue}")
                rules.append(f"-t security -A {chain} -j NFQUEUE --queue-num {_AFTER}")
            for rule in rules:
                space.run(program, "-w", *rule.split())
        from netfilterqueue import NetfilterQueue

        with space:
            answers = {_BEFORE + bit: partial(self._before, bit) for bit in _STATES.values()} | {_AFTER: self._after}
            for number, answer in answers.items():
                made = NetfilterQueue()
                made.bind(number, answer, 1024)
                self._queues.append(made)
            self._raw = {
                4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
                6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
            }
            for raw in self._raw.values():
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _OURS)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            self._files += self._raw.values()
            for device in DEVICES:
                index = socket.if_nametoindex(device)
                for group in GROUPS:
                    kind = socket.AF_INET6 if ":" in group else socket.AF_INET
                    member = socket.socket(kind, socket.SOCK_DGRAM)
                    packed = socket.inet_pton(kind, group)
                    if kind == socket.AF_INET6:
                        member.setsockopt(
                            socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed + struct.pack("@I", index)
                        )
                    else:
                        member.setsockopt(
                            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, packed + bytes(4) + struct.pack("@I", index)
                        )
                    self._files.append(member)
        self._seen: Arrived | None = None
        self._ours = b""

    def route(self, address: str, device: str) -> None:
        """Packets to this address leave by that device."""
        family = "-6" if ":" in address else "-4"
        with suppress(CalledProcessError):  # an address that cannot be routed at all
            self._space.run("ip", family, "route", "replace", address, "dev", device)

    def send(self, device: str, data: bytes, out: bool) -> Arrived | None:
        """Let a packet come by this device, or (`out`) leave by it. None when it never came to the filter table."""
        self._seen = None
        if out:
            version = data[0] >> 4
            raw = self._raw[version]
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
            at = (16, 4) if version == 4 else (24, 16)
            to = socket.inet_ntop(socket.AF_INET if version == 4 else socket.AF_INET6, data[at[0] : sum(at)])
            with suppress(OSError):
                raw.sendto(data, (to, 0))
        else:
            try:
                os.write(self._tuns[device], data)
            except OSError:
                return None
        with self._space:  # the names of interfaces are those in here
            for _ in range(2):
                for queue in self._queues:
                    queue.run(block=False)
        for file in self._tuns.values():
            try:
                while os.read(file, 65536):
                    pass
            except BlockingIOError:
                pass
        return self._seen

    def _before(self, state: int, packet: Any) -> None:
        arrived = Arrived(packet, packet.get_payload(), state)
        if self._seen is None and "lo" not in (arrived.indev, arrived.outdev):
            self._seen = arrived
            packet.accept()
        else:  # loopback, or a copy of a broadcast
            packet.drop()

    def _after(self, packet: Any) -> None:
        if self._seen is not None:
            self._seen.accepted = True
        packet.accept()


class Edges:
    """Random packets whose addresses, ports and types lie at the edges of what the rules name."""

    def __init__(self, text: str, family: int, rng: Random) -> None:
        self.rng = rng
        self.family = family
        self.addresses = _addresses(text, family)
        numbers = {int(n) for n in re.findall(r"(?<=[ ,:])\d{1,5}(?=[ ,:]|$)", text, re.MULTILINE)}
        self.ports = sorted({p for n in numbers for p in (n - 1, n, n + 1) if 0 < p < 65536} | {1024, 40000})
        types = {int(n) for n in re.findall(r"--icmp(?:v6)?-type (\d+)", text)}
        self.types = sorted(types | {0, 3, 8, 11, 128, 129, 133, 135, 1, 2})
        self.live: list[bytes] = []  # packets that were let through
        self.lines = [line for line in text.split("\n") if line.startswith("-A")]
        self._counted = [rng.choice(self.addresses) for _ in range(4)]

    def packet(self) -> bytes:
        rng = self.rng
        if self.live and rng.random() < 0.3:
            return self._about(rng.choice(self.live[-rng.choice((1, 2, 30)) :]))
        if rng.random() < 0.1:  # the same few addresses, for what counts
            src, dst = rng.sample(self._counted, 2)
            return self._header(packets.ip(src, dst, 50, bytes(100)), 0, 64)
        if rng.random() < 0.5:
            return self._meant()
        return self._packet(self._address(), self._address())

    def _meant(self) -> bytes:
        """A packet that one to three lines of the rules are about."""
        rng = self.rng
        said = " ".join(rng.choices(self.lines, k=rng.choice((1, 2, 3))))

        def pick(pattern: str, otherwise: int, most: int = 65535) -> int:
            found = [int(n, 0) for n in re.findall(pattern, said)]
            return rng.choice(found) % (most + 1) if found and rng.random() < 0.85 else otherwise

        def end(option: str) -> bytes:
            named = _addresses(" ".join(re.findall(rf"{option} (\S+)", said)), self.family, False)
            return rng.choice(named) if named and rng.random() < 0.85 else self._address()

        src, dst = end("-s"), end("-d")
        sport = pick(r"sports? \D?(?:\S*[,:])?(\d+)", 40000)
        dport = pick(r"dports? \D?(?:\S*[,:])?(\d+)", rng.choice(self.ports))
        proto = rng.choice(re.findall(r"-p (\S+)", said) or ["tcp", "udp"])
        if proto == "udp":
            built = packets.udp(src, sport, dst, dport)
        elif "icmp" in proto:
            built = packets.icmp(src, dst, pick(r"-type (\d+)", rng.choice(self.types), 255), data=bytes(20))
        elif proto in ("tcp", "sctp"):
            built = packets.tcp(src, sport, dst, dport, "S", rng.getrandbits(32))
        else:
            built = packets.ip(src, dst, {"esp": 50, "ah": 51, "igmp": 2}.get(proto, 89), bytes(rng.choice((40, 100))))
        return self._header(built, pick(r"--dscp (\w+)", 0, 63), pick(r"(?:ttl|hl)-eq (\d+)", 64, 255))

    def _address(self) -> bytes:
        if self.rng.random() < 0.15:
            return self.rng.randbytes(4) if self.family == 4 else b"\x20\x01" + self.rng.randbytes(14)
        return self.rng.choice(self.addresses)

    def _packet(self, src: bytes, dst: bytes) -> bytes:
        rng = self.rng
        kind = rng.random()
        sport, dport = rng.choice([40000, rng.choice(self.ports)]), rng.choice(self.ports)
        if kind < 0.35:
            flags = rng.choice(["S", "S", "S", "SA", "A", "FPU", "", "SR", "SF", "FP", "R", "FA", "PA", "SE"])
            built = packets.tcp(src, sport, dst, dport, flags, rng.getrandbits(32), data=bytes(rng.choice([0, 0, 100])))
        elif kind < 0.65:
            built = packets.udp(src, sport, dst, dport, bytes(rng.choice([1, 50, 70, 72, 100, 1000])))
        elif kind < 0.85:
            code = rng.choice([0, 0, 0, 1, 4])
            number = rng.choice([0, 3, 8, 8, *self.types]) if self.family == 4 else rng.choice([128, 128, *self.types])
            built = packets.icmp(src, dst, number, code, data=bytes(20))
        elif kind < 0.9:
            built = packets.sctp(src, sport, dst, dport, 0, b"\1\0\0\x14" + bytes([1] * 16))
        else:
            built = packets.ip(src, dst, rng.choice([2, 4, 50, 51, 89, 112, 255]), bytes(40))
        return self._header(built)

    def _header(self, data: bytes, service: int = -1, hops: int = 0) -> bytes:
        """With a hop limit and a service class, random ones unless given."""
        rng = self.rng
        changed = bytearray(data)
        hops = hops or rng.choice([64, 64, 255, 255, 1, 2, 5, 6, 10, 11, 12])
        word = (service if service >= 0 else rng.choice([0, 0, 0, 10, 46, 8])) << 2
        if self.family == 6:
            changed[7] = hops
            changed[0], changed[1] = 0x60 | word >> 4, (word & 15) << 4
            return bytes(changed)
        changed[8], changed[1] = hops, word
        changed[10:12] = b"\0\0"
        changed[10:12] = struct.pack("!H", packets.checksum(bytes(changed[:20])))
        return bytes(changed)

    def _about(self, data: bytes) -> bytes:
        """An answer to a packet, an error about it, or its like again."""
        size = 4 if self.family == 4 else 16
        at, rest = (12, 20) if self.family == 4 else (8, 40)
        src, dst = data[at : at + size], data[at + size : at + 2 * size]
        what = self.rng.random()
        proto = data[9] if self.family == 4 else data[6]
        if what < 0.3:
            return data
        if what < 0.6:
            kind = (3, 1) if self.family == 4 else (1, 4)
            return packets.icmp(self._address(), src, *kind, data=data[:100])
        sport, dport = struct.unpack("!HH", data[rest : rest + 4])
        if proto == packets.TCP:
            seq = struct.unpack("!I", data[rest + 4 : rest + 8])[0]
            return packets.tcp(dst, dport, src, sport, self.rng.choice(["SA", "RA", "A"]), 7, seq + 1)
        if proto == packets.UDP:
            return packets.udp(dst, dport, src, sport)
        answer = {8: 0, 128: 129}.get(sport >> 8, 0)
        return packets.icmp(dst, src, answer, 0, data=bytes(20))


def _addresses(text: str, family: int, others: bool = True) -> list[bytes]:
    """The edges of every network in the text, and (`others`) the gateway's own addresses and groups."""
    size = 4 if family == 4 else 16
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    found: set[int] = set()
    own = " ".join(address for pair in ADDRESSES.values() for address in pair)
    groups = " ".join((*GROUPS, *BROADCASTS, "255.255.255.255"))
    for base, length in _NETWORK.findall(f"{text} {own} {groups}" if others else text):
        try:
            low = int.from_bytes(socket.inet_pton(kind, base), "big")
        except OSError:
            continue
        bits = size * 8
        host = (1 << (bits - min(int(length or bits), bits))) - 1
        found |= {low, low & ~host, low | host, (low & ~host) - 1, (low | host) + 1, (low & ~host) + host // 2}
    return [number.to_bytes(size, "big") for number in sorted(found) if 0 < number < 1 << (size * 8)]
