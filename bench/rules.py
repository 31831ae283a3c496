"""What rules cost: loading them, and asking them about a packet, as their number grows.

``make bench-quick``, or ``python bench/rules.py [--packets N] [--json]`` with either build and PYTHONPATH=bench:tests.
The time to load a file, and nanoseconds per packet for the whole engine: of an established connection, which must not
pay for the length of the list, and of new ones. How it is timed: ``timing``.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from report import Row, build, emit
from timing import ROUNDS, in_turn, once, udp

from ctfw import config
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.ruleset.ruleset import Ruleset

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


def start(
    ruleset: Ruleset, opening: Sequence[bytes], packets: Sequence[bytes]
) -> tuple[Callable[..., object], Sequence[bytes]]:
    """An engine with these rules that has already seen ``opening``, and what to drive through it."""
    engine = Engine(ConnTrack(Settings({"max": 1_000_000})), ruleset)
    if opening:
        once(engine.handle, opening)
    return engine.handle, packets


def lookup(ruleset: Ruleset, count: int) -> float:
    """Nanoseconds for one question to the set of the first rule."""
    src = ruleset.rules[0].src
    assert src is not None
    asked = [random.Random(n).randbytes(4) for n in range(1000)]
    figures = []
    for _ in range(ROUNDS):
        start = time.process_time_ns()
        for _ in range(max(count // 1000, 1)):
            for address in asked:
                src.contains(address)
        figures.append((time.process_time_ns() - start) / (max(count // 1000, 1) * 1000))
    return statistics.median(figures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--packets", type=int, default=100_000 if build() == "compiled" else 10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = [10, 100, 1000, 10_000]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        rulesets = []
        for size in sizes:
            seconds, ruleset = loading(directory, rule_file(size))
            rows.append(Row(f"load {size} rules", seconds * 1000, "ms"))
            rulesets.append(ruleset)
        seconds, large = loading(directory, prefix_files(directory, 100_000))
        rows.append(Row("load 100000 prefixes", seconds * 1000, "ms"))
    rows.append(Row("lookup among 100000 prefixes", lookup(large, arguments.packets), "ns"))
    replies = [udp(True), udp(False)]
    flood = [udp(True, port) for port in range(1, 60000)]
    known = in_turn([partial(start, ruleset, replies, replies) for ruleset in rulesets], arguments.packets)
    new = in_turn([partial(start, ruleset, [], flood) for ruleset in rulesets], 0)
    for what, figures in (("established packet", known), ("new packet", new)):
        rows += [Row(f"{what}, {size} rules", value, "ns") for size, value in zip(sizes, figures, strict=True)]
    emit(rows, f"rules, {build()}: loading them, and processor time per packet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
