"""A rule file and an engine under it, with the clock in our hand: what a packet gets, and who decided."""

from typing import Any

from engine import packets

from ctfw import config
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine, Judgement
from ctfw.packet import FORWARD

SECOND = 1_000_000_000
CLIENT, SERVER, OTHER = "192.168.1.2", "203.0.113.2", "198.51.100.7"
HEAD = "version: 1\npolicy: {input: drop, forward: drop, output: drop}\n"


class Gateway:
    """`rules` is YAML behind the head of a rule file. lan0 is the client's side, wan0 everybody else's."""

    def __init__(self, rules: str) -> None:
        loaded = config.load("rules.yaml", HEAD + rules)
        self.engine = Engine(ConnTrack(loaded.settings), loaded.ruleset)
        self.now = SECOND

    def reload(self, rules: str) -> None:
        ruleset = config.load("rules.yaml", HEAD + rules).ruleset
        ruleset.succeed(self.engine.ruleset, self.now)
        self.engine.ruleset = ruleset

    def judge(self, data: bytes, hook: int = FORWARD, mark: int = 0, mac: bytes = b"", way: str = "") -> Judgement:
        self.now += 1000
        from_lan = way == "out" or (not way and data[12:16] == packets.packed(CLIENT))
        indev, outdev = ("lan0", "wan0") if from_lan else ("wan0", "lan0")
        return self.engine.handle(data, len(data), hook, indev, outdev, mark, False, self.now, mac)

    def says(self, data: bytes, **about: Any) -> str:
        """`verdict: rule`, the rule left out when there is none."""
        judgement = self.judge(data, **about)
        return f"{judgement.word()}: {judgement.rule.name}" if judgement.rule is not None else judgement.word()

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)
        self.engine.ruleset.tick(self.now, self.now)

    @property
    def connections(self) -> int:
        return len(self.engine.tracker.table)


def syn(sport: int = 40000, dport: int = 443, src: str = CLIENT, dst: str = SERVER) -> bytes:
    return packets.tcp(src, dst, sport, dport, "syn", seq=1)


def handshake(sport: int = 40000, dport: int = 443) -> list[bytes]:
    return [
        syn(sport, dport),
        packets.tcp(SERVER, CLIENT, dport, sport, "syn ack", seq=100, ack=2),
        packets.tcp(CLIENT, SERVER, sport, dport, "ack", seq=2, ack=101),
    ]


def ack(sport: int = 40000, dport: int = 443, seq: int = 2, at: int = 101) -> bytes:
    return packets.tcp(CLIENT, SERVER, sport, dport, "ack", seq=seq, ack=at)


def answer(sport: int = 40000, dport: int = 443, seq: int = 101, at: int = 2) -> bytes:
    return packets.tcp(SERVER, CLIENT, dport, sport, "ack", seq=seq, ack=at)


def query(sport: int = 40000, dport: int = 53, src: str = CLIENT, dst: str = SERVER) -> bytes:
    return packets.udp(src, dst, sport, dport, b"question")


def reply(sport: int = 40000, dport: int = 53) -> bytes:
    return packets.udp(SERVER, CLIENT, dport, sport, b"answer")
