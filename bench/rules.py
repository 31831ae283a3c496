"""What rules cost: loading them, and asking them about a packet, as their number grows.

``make bench-rules``, or ``python bench/rules.py [--packets N] [--json]`` with either build. Prints the time to load a
file, and nanoseconds per packet for the whole engine as in ``bench/engine.py``: of an established connection, which
must not pay for the length of the list, and of new ones. Compare figures of one run only: the machine's speed drifts.
"""

import argparse
import json
import random
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ctfw.engine
from ctfw import config
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.ruleset.ruleset import Ruleset

ROUNDS = 7
SECOND = 1_000_000_000
HEAD = "version: 1\npolicy: {input: drop, forward: drop, output: drop}\n"
REPLIES = "  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}\n"
LAST = "  - {name: dns, chain: forward, src: 192.168.1.0/24, proto: udp, dport: 53, state: NEW, verdict: accept}\n"
RULE = """  - name: rule {0}
    chain: forward
    in: lan0
    src: [192.168.{1}.0/24, $lan]
    dst: 10.{1}.{2}.0/24
    proto: tcp
    dport: [{3}, 443, 8000-8099]
    state: NEW
    verdict: accept
"""


def rule_file(count: int) -> str:
    """Replies first, as everybody has it, then rules that a DNS question only nearly matches, then one that it does."""
    rules = "".join(RULE.format(n, n % 256, n // 256, n % 60000 + 1) for n in range(count))
    return HEAD + "sets: {lan: [172.16.0.0/12, fd00::/8]}\nrules:\n" + REPLIES + rules + LAST


def prefix_files(directory: Path, count: int) -> str:
    """A rule file with a set of so many networks from a file beside it."""
    drawn = random.Random(1).sample(range(1 << 20), count)
    lines = [f"{n >> 12}.{n >> 4 & 255}.{(n & 15) << 4}.0/20\n" for n in drawn]
    (directory / "bad.txt").write_text("# generated\n" + "".join(lines))
    return HEAD + "sets: {bad: {file: bad.txt}}\nrules:\n  - {name: bad, src: $bad, verdict: drop}\n"


def udp(port: int, to_server: bool = True) -> bytes:
    ends = bytes([192, 168, 1, 2, 203, 0, 113, 2]) if to_server else bytes([203, 0, 113, 2, 192, 168, 1, 2])
    ports = (port, 53) if to_server else (53, port)
    body = struct.pack("!HHHH", *ports, 44, 0) + bytes(36)
    return struct.pack("!BBHHHBBH", 0x45, 0, 64, 1, 0, 64, 17, 0) + ends + body


def loading(directory: Path, text: str) -> tuple[float, Ruleset]:
    """Seconds of processor time to load the text, the fastest of three."""
    path = directory / "rules.yaml"
    path.write_text(text)
    times = []
    for _ in range(3):
        start = time.process_time()
        loaded = config.load(str(path))
        times.append(time.process_time() - start)
    return min(times), loaded.ruleset


def nothing(data: bytes, length: int, hook: int, indev: str, outdev: str, mark: int, check: bool, now: int) -> None: ...


def nanoseconds(handle: Callable[..., object], packets: list[bytes], count: int) -> float:
    """Per packet, of one round that goes over ``packets`` until ``count`` are through."""
    rounds = max(count // len(packets), 1)
    start = time.perf_counter_ns()
    for _ in range(rounds):
        for packet in packets:
            handle(packet, len(packet), FORWARD, "lan0", "wan0", 0, False, 1000 * SECOND)
    return (time.perf_counter_ns() - start) / (rounds * len(packets))


def judging(rulesets: list[Ruleset], opening: list[bytes], packets: list[bytes], count: int) -> list[float]:
    """Median nanoseconds per packet under each of the rule sets, measured in turn so that drift hits all alike."""
    found: list[list[float]] = [[] for _ in rulesets]
    for _ in range(ROUNDS):
        for figures, ruleset in zip(found, rulesets, strict=True):
            engine = Engine(ConnTrack(Settings({"max": 1_000_000})), ruleset)
            for packet in opening:
                engine.handle(packet, len(packet), FORWARD, "lan0", "wan0", 0, False, 1000 * SECOND)
            figures.append(nanoseconds(engine.handle, packets, count) - nanoseconds(nothing, packets, count))
    return [statistics.median(figures) for figures in found]


def lookup(ruleset: Ruleset, count: int) -> float:
    """Nanoseconds for one question to the set of the first rule."""
    src = ruleset.rules[0].src
    assert src is not None
    asked = [random.Random(n).randbytes(4) for n in range(1000)]
    figures = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(max(count // 1000, 1)):
            for address in asked:
                src.contains(address)
        figures.append((time.perf_counter_ns() - start) / (max(count // 1000, 1) * 1000))
    return statistics.median(figures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    compiled = not (ctfw.engine.__file__ or "").endswith(".py")
    parser.add_argument("--packets", type=int, default=200_000 if compiled else 20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = [10, 100, 1000, 10_000]
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        rulesets = []
        for size in sizes:
            seconds, ruleset = loading(directory, rule_file(size))
            figures[f"load {size} rules, ms"] = seconds * 1000
            rulesets.append(ruleset)
        seconds, large = loading(directory, prefix_files(directory, 100_000))
        figures["load 100000 prefixes, ms"] = seconds * 1000
    figures["lookup among 100000 prefixes, ns"] = lookup(large, arguments.packets)
    replies = [udp(4000), udp(4000, to_server=False)]
    flood = [udp(port) for port in range(1, 60000)]
    for size, value in zip(sizes, judging(rulesets, replies, replies, arguments.packets), strict=True):
        figures[f"established packet, {size} rules, ns"] = value
    for size, value in zip(sizes, judging(rulesets, [], flood, len(flood)), strict=True):
        figures[f"new packet, {size} rules, ns"] = value
    build = "compiled" if compiled else "interpreted"
    if arguments.json:
        print(json.dumps({"build": build, "python": sys.version.split()[0], "rules": figures}))
    else:
        print(f"rules, {build}, Python {sys.version.split()[0]}")
        for label, value in figures.items():
            print(f"  {label:<40}{value:10.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
