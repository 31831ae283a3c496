"""What the engine alone costs: nanoseconds per packet for decode, tracking and rules, without queue or kernel.

``make bench-quick``, or ``python bench/engine.py [--packets N] [--json]`` with either build. Each figure is the median
of seven rounds; a round drives ``Engine.handle`` from a plain loop, whose own cost is measured with a call that does
nothing and subtracted. Compare figures of one run only: the machine's speed drifts.
"""

import argparse
import json
import statistics
import struct
import sys
import time
from collections.abc import Callable

import ctfw.engine
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ESTABLISHED, NEW, RELATED
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import NumberSet
from ctfw.ruleset.verdict import ACCEPT

CLIENT, SERVER = bytes([192, 168, 1, 2]), bytes([203, 0, 113, 2])
ROUNDS = 7
SECOND = 1_000_000_000


def ipv4(proto: int, src: bytes, dst: bytes, payload: bytes) -> bytes:
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, proto, 0, src, dst) + payload


def tcp(to_server: bool, flags: int, seq: int, ack: int, size: int = 0, port: int = 40000) -> bytes:
    src, dst, sport, dport = (CLIENT, SERVER, port, 443) if to_server else (SERVER, CLIENT, 443, port)
    return ipv4(6, src, dst, struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 64240, 0, 0) + bytes(size))


def udp(to_server: bool, port: int = 40000) -> bytes:
    src, dst, sport, dport = (CLIENT, SERVER, port, 53) if to_server else (SERVER, CLIENT, 53, port)
    return ipv4(17, src, dst, struct.pack("!HHHH", sport, dport, 8 + 36, 0) + bytes(36))


def new_engine(rules: int) -> Engine:
    """Replies first, as everybody has it, then rules that do not match, then one that does."""
    chain = 1 << FORWARD
    misses = [
        Rule(f"miss {i}", "", ACCEPT, chain, NEW, protos=NumberSet([(6, 6)]), dport=NumberSet([(i + 1, i + 1)]))
        for i in range(rules)
    ]
    replies = Rule("replies", "", ACCEPT, chain, ESTABLISHED | RELATED)
    return Engine(ConnTrack(Settings()), Ruleset([replies, *misses, Rule("rest", "", ACCEPT, chain, NEW)], {}))


def nothing(data: bytes, length: int, hook: int, indev: str, outdev: str, mark: int, check: bool, now: int) -> None: ...


def nanoseconds(handle: Callable[..., object], packets: list[bytes], count: int, now: int) -> float:
    """Per packet, of one round that goes over ``packets`` until ``count`` are through."""
    rounds = max(count // max(len(packets), 1), 1)
    start = time.perf_counter_ns()
    for _ in range(rounds):
        for packet in packets:
            handle(packet, len(packet), FORWARD, "lan0", "wan0", 0, False, now)
    return (time.perf_counter_ns() - start) / (rounds * max(len(packets), 1))


def measure(packets: list[bytes], opening: list[bytes], rules: int, count: int) -> float:
    """Median nanoseconds per packet of an engine that has already seen ``opening``."""
    now = 1000 * SECOND
    found = []
    for _ in range(ROUNDS):
        engine = new_engine(rules)
        nanoseconds(engine.handle, opening, len(opening), now)
        found.append(nanoseconds(engine.handle, packets, count, now) - nanoseconds(nothing, packets, count, now))
    return statistics.median(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    compiled = not (ctfw.engine.__file__ or "").endswith(".py")
    parser.add_argument("--packets", type=int, default=400_000 if compiled else 40_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    count = arguments.packets

    handshake = [tcp(True, 0x02, 999, 0), tcp(False, 0x12, 4999, 1000), tcp(True, 0x10, 1000, 5000)]
    stream = [tcp(True, 0x18, 1000, 5000, 100), tcp(False, 0x10, 5000, 1100)]
    lives = [
        packet
        for port in range(1024, 1024 + 4096)
        for packet in (
            tcp(True, 0x02, 999, 0, port=port),
            tcp(False, 0x12, 4999, 1000, port=port),
            tcp(True, 0x10, 1000, 5000, port=port),
            tcp(True, 0x11, 1000, 5000, port=port),
            tcp(False, 0x11, 5000, 1001, port=port),
            tcp(True, 0x10, 1001, 5001, port=port),
        )
    ]
    flood = [udp(True, port) for port in range(1, 60000)]
    figures = {
        "established udp, 100 rules": measure([udp(True), udp(False)], [udp(True), udp(False)], 100, count),
        "established tcp, 100 rules": measure(stream, handshake, 100, count),
        "tcp from syn to last ack, 10 rules": measure(lives, [], 10, len(lives)),
        "new udp, 10 rules": measure(flood, [], 10, len(flood)),
        "new udp, 100 rules": measure(flood, [], 100, len(flood)),
    }
    build = "compiled" if compiled else "interpreted"
    if arguments.json:
        print(json.dumps({"build": build, "python": sys.version.split()[0], "nanoseconds": figures}))
    else:
        print(f"engine alone, {build}, Python {sys.version.split()[0]}: ns per packet (median of {ROUNDS})")
        for name, value in figures.items():
            print(f"  {name:<36}{value:8.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
