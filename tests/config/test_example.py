"""rules.example.yaml decides what its comments promise: a home gateway, with a client at lan0 and a server at wan0."""

import struct
from pathlib import Path

import pytest

from ctfw import config
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import FORWARD, INPUT, OUTPUT
from ctfw.ruleset.verdict import ACCEPT, DROP

CLIENT, GATEWAY, SERVER, OUTSIDE = "192.168.1.2", "192.168.1.1", "203.0.113.2", "203.0.113.1"
WAY = {CLIENT: ("lan0", "wan0"), SERVER: ("wan0", "lan0")}
PATHS = {INPUT: ("lan0", ""), FORWARD: ("lan0", "wan0"), OUTPUT: ("", "wan0")}
SYN, SYN_ACK, ACK, PUSH_ACK = 2, 18, 16, 24


def ipv4(proto: int, src: str, dst: str, body: bytes) -> bytes:
    addresses = bytes(int(part) for address in (src, dst) for part in address.split("."))
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, proto, 0) + addresses + body


def tcp(
    src: str, sport: int, dst: str, dport: int, flags: int = SYN, seq: int = 0, ack: int = 0, data: bytes = b""
) -> bytes:
    head = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 64240, 0, 0)
    return ipv4(6, src, dst, head + data)


def udp(src: str, sport: int, dst: str, dport: int) -> bytes:
    return ipv4(17, src, dst, struct.pack("!HHHH", sport, dport, 12, 0) + b"data")


def ping(src: str, dst: str) -> bytes:
    return ipv4(1, src, dst, struct.pack("!BBHHH", 8, 0, 0, 1, 1))


class Gateway:
    def __init__(self) -> None:
        loaded = config.load(str(Path(__file__).parents[2] / "rules.example.yaml"))
        self.engine = Engine(ConnTrack(loaded.settings), loaded.ruleset)
        self.now = 0

    def sees(self, packet: bytes, hook: int = FORWARD, path: tuple[str, str] | None = None) -> tuple[int, str]:
        self.now += 1_000_000
        indev, outdev = path or PATHS[hook]
        judged = self.engine.handle(packet, len(packet), hook, indev, outdev, 0, False, self.now)
        return int(judged.verdict), judged.rule.name if judged.rule is not None else ""


@pytest.mark.parametrize(
    ("packet", "hook", "verdict", "rule"),
    [
        (ping(CLIENT, SERVER), FORWARD, ACCEPT, "lan ping"),
        (tcp(CLIENT, 40000, SERVER, 80), FORWARD, ACCEPT, "lan web"),
        (tcp(CLIENT, 40000, SERVER, 443), FORWARD, ACCEPT, "lan web"),
        (udp(CLIENT, 40000, SERVER, 53), FORWARD, ACCEPT, "lan names and time"),
        (udp(CLIENT, 40000, SERVER, 33434), FORWARD, ACCEPT, "lan traceroute"),
        (tcp(CLIENT, 40000, SERVER, 21), FORWARD, ACCEPT, "lan ftp"),
        (tcp(CLIENT, 40000, SERVER, 25), FORWARD, DROP, "lan spam"),
        (tcp(CLIENT, 40000, SERVER, 8081), FORWARD, DROP, "rest"),
        (tcp("10.9.9.9", 40000, SERVER, 80), FORWARD, DROP, "rest"),
        (tcp(CLIENT, 40000, GATEWAY, 22), INPUT, ACCEPT, "lan ssh"),
        (ping(CLIENT, GATEWAY), INPUT, ACCEPT, "lan ping gateway"),
        (udp("0.0.0.0", 68, "255.255.255.255", 67), INPUT, ACCEPT, "lan dhcp"),
        (udp(CLIENT, 40000, GATEWAY, 53), INPUT, ACCEPT, "lan dns"),
        (tcp(CLIENT, 40000, GATEWAY, 80), INPUT, DROP, "rest"),
        (tcp(OUTSIDE, 40000, SERVER, 443), OUTPUT, ACCEPT, "gateway out"),
        (tcp(CLIENT, 40000, SERVER, 80, flags=63), FORWARD, DROP, "invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_first_packet(packet: bytes, hook: int, verdict: int, rule: str) -> None:
    assert Gateway().sees(packet, hook) == (verdict, rule)


def test_nobody_connects_from_outside() -> None:
    gateway = Gateway()
    assert gateway.sees(tcp(SERVER, 40000, CLIENT, 80), FORWARD, ("wan0", "lan0")) == (DROP, "rest")
    assert gateway.sees(tcp(SERVER, 40000, OUTSIDE, 22), INPUT, ("wan0", "")) == (DROP, "rest")
    assert gateway.sees(ping(SERVER, OUTSIDE), INPUT, ("wan0", "")) == (DROP, "rest")


@pytest.mark.parametrize(
    ("speaker", "line", "opens"),
    [
        (SERVER, b"227 Entering Passive Mode (203,0,113,2,195,80)\r\n", (CLIENT, 50001, SERVER, 50000)),
        (CLIENT, b"PORT 192,168,1,2,195,80\r\n", (SERVER, 20, CLIENT, 50000)),
    ],
    ids=["passive", "active"],
)
def test_ftp_data_connection(speaker: str, line: bytes, opens: tuple[str, int, str, int]) -> None:
    gateway = Gateway()
    seq = {CLIENT: 100, SERVER: 900}

    def say(sender: str, flags: int, data: bytes = b"") -> tuple[int, str]:
        at = {CLIENT: (CLIENT, 40000, SERVER, 21), SERVER: (SERVER, 21, CLIENT, 40000)}[sender]
        ack = 0 if flags == SYN else seq[at[2]]
        packet = tcp(*at, flags, seq[sender], ack, data)
        seq[sender] += len(data) + (flags & SYN) // SYN
        return gateway.sees(packet, FORWARD, WAY[sender])

    assert say(CLIENT, SYN) == (ACCEPT, "lan ftp")
    assert say(SERVER, SYN_ACK) == (ACCEPT, "replies")
    assert say(CLIENT, ACK) == (ACCEPT, "replies")
    assert say(SERVER, PUSH_ACK, b"220 ready\r\n") == (ACCEPT, "replies")
    assert say(CLIENT, PUSH_ACK, b"USER anonymous\r\n") == (ACCEPT, "replies")
    assert Gateway().sees(tcp(*opens), FORWARD, WAY[opens[0]]) == (DROP, "rest")
    assert say(speaker, PUSH_ACK, line) == (ACCEPT, "replies")
    assert gateway.sees(tcp(*opens), FORWARD, WAY[opens[0]]) == (ACCEPT, "replies")
