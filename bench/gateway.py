"""What a packet costs on a gateway: ctfw, the do-nothing C loops and the kernel alone, with real traffic, in turn.

``make bench``, or ``python bench/gateway.py [--rounds N] [--only PART] [--json]`` with PYTHONPATH=bench:tests; it needs
root, if only that of a user namespace. Every candidate has a client, a gateway and a server of its own (``lab.net``)
and stays up; a round lets each of them have the same traffic, one after the other, so that whatever else slows the
machine down hits all alike. Figures are medians over the rounds.

Costs are processor time per packet, not packets a second: on a machine with few cores the ends and the gateway compete.
They are taken under two loads. RATE is one that every candidate keeps up with; the queue is short then, and its packets
still in the processor's cache. As fast as they can the datagrams come faster than most candidates take them: these work
on a queue that is full, and throw away what does not fit, while one that keeps up has another, easier load.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from candidates import BATCH, Candidate, Programs, Server, c_loop, compile_programs, firewall, serving
from report import Row, emit

from lab.net import SERVER, Network, why_not

PORT: Final = 5000
FLOWS: Final = 64
SIZE: Final = 64 - 28  # of the payload: a datagram of 64 bytes
DATAGRAMS: Final = 150_000  # a round
RATE: Final = 150_000  # a second
SECONDS: Final = "1.5"
PINGS: Final = 5_000

KERNEL: Final = "kernel alone"
SINGLE: Final = "C, one verdict a packet"
BATCHED: Final = "C, batched"
GSO: Final = "C, GSO and batched"
CTFW: Final = "ctfw"
Figures = dict[str, list[float]]


class Stage:
    """A candidate with a network of its own and the ends of the traffic."""

    def __init__(self, candidate: Candidate, programs: Programs, stack: contextlib.ExitStack) -> None:
        self.name = candidate.name
        self._programs = programs
        self._net = stack.enter_context(Network())
        if candidate.command:
            self._net.queue()
        else:
            for rule in ("-P FORWARD DROP", "-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED,RELATED -j ACCEPT"):
                self._net.gateway.run("iptables", "-w", *rule.split())
        self.server: Server = stack.enter_context(serving(self._net, candidate))
        self._start(stack, self._net.server.start, "echo", str(PORT), str(FLOWS))
        self._load = self._start(stack, self._net.client.start, "load", SERVER, str(PORT), str(FLOWS), str(SIZE))

    def _start(
        self, stack: contextlib.ExitStack, start: Callable[..., "subprocess.Popen[str]"], *arguments: str
    ) -> "subprocess.Popen[str]":
        process = start((self._programs.traffic, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stack.callback(process.wait)
        stack.callback(process.kill)
        expect(process, "ready")
        return process

    def cost(self, rate: int) -> float:
        """Microseconds of processor time for a datagram, of so many a second; 0: as fast as they can go."""
        self.server.wait_until_idle()
        packets, time = self.server.packets(), self.server.nanoseconds()
        assert self._load.stdin is not None
        self._load.stdin.write(f"{DATAGRAMS} {rate}\n")
        self._load.stdin.flush()
        expect(self._load, "sent")
        self.server.wait_until_idle()
        return (self.server.nanoseconds() - time) / (self.server.packets() - packets) / 1000

    def client(self, *arguments: str) -> list[float]:
        """The figures that a client's run prints."""
        mode, *rest = arguments
        return [
            float(word) for word in self._net.client.run(self._programs.traffic, mode, SERVER, str(PORT), *rest).split()
        ]


def expect(process: "subprocess.Popen[str]", word: str) -> None:
    """Waits for the traffic program to say this. Raises RuntimeError when it says something else."""
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if said != word:
        raise RuntimeError(f"traffic said {said!r} instead of {word!r}")


def in_turn(stages: Sequence[Stage], names: Sequence[str], rounds: int, measure: Callable[[Stage], float]) -> Figures:
    """What each of the named stages shows, round after round; the first round is for warming up and not counted."""
    found: Figures = {name: [] for name in names}
    for turn in range(rounds + 1):
        for stage in stages:
            if stage.name in names:
                figure = measure(stage)
                if turn:
                    found[stage.name].append(figure)
    return found


def ratio(figures: Figures, name: str, other: str) -> float:
    """The median over the rounds of one's figure by the other's."""
    return statistics.median(one / two for one, two in zip(figures[name], figures[other], strict=True))


def medians(figures: Figures, factor: float = 1.0) -> dict[str, float]:
    return {name: statistics.median(values) * factor for name, values in figures.items()}


def cpu(stages: Sequence[Stage], rounds: int) -> list[Row]:
    rows = []
    for load, rate in ((f"{RATE} a second", RATE), ("flat out", 0)):
        found = in_turn(stages, (SINGLE, BATCHED, CTFW), rounds, partial(Stage.cost, rate=rate))
        rows += [
            Row(f"a 64-byte datagram, {load}", medians(found)[CTFW], "us", notes=medians(found)),
            Row(f"a datagram, {load}, by {SINGLE}", ratio(found, CTFW, SINGLE), "x", 1.0),
            Row(f"a datagram, {load}, by {BATCHED}", ratio(found, CTFW, BATCHED), "x", 1.25),
        ]
    return rows


def stream(stages: Sequence[Stage], rounds: int) -> list[Row]:
    found = in_turn(stages, (KERNEL, GSO, CTFW), rounds, lambda stage: stage.client("stream", SECONDS)[0])
    shown = medians(found, 1e-9)
    return [
        Row("one TCP stream", shown[CTFW], "Gbit/s", notes=shown),
        Row(f"one TCP stream, by {KERNEL}", ratio(found, CTFW, KERNEL), "x", 0.85, least=True),
        Row(f"one TCP stream, by {GSO}", ratio(found, CTFW, GSO), "x", 0.95, least=True),
    ]


def connections(stages: Sequence[Stage], rounds: int) -> list[Row]:
    found = in_turn(stages, (KERNEL, SINGLE, CTFW), rounds, lambda stage: stage.client("connect", SECONDS)[0])
    return [
        Row("new TCP connections a second", medians(found)[CTFW], notes=medians(found)),
        Row(f"new TCP connections, by {SINGLE}", ratio(found, CTFW, SINGLE), "x", 1.0, least=True),
    ]


def round_trips(stages: Sequence[Stage], rounds: int) -> list[Row]:
    names = (KERNEL, SINGLE, CTFW)
    pairs: dict[str, list[list[float]]] = {name: [] for name in names}

    def both(stage: Stage) -> float:
        pairs[stage.name].append(stage.client("ping", str(PINGS)))
        return 0.0

    in_turn(stages, names, rounds, both)
    rows = []
    for at, name in enumerate(("p50", "p99")):
        found = {who: [pair[at] / 1000 for pair in those[1:]] for who, those in pairs.items()}
        middle = medians(found)
        # On a busy machine C may seem to add nothing; the ratio is then meaningless, and must not look met.
        added = {who: max(middle[who] - middle[KERNEL], 0.1) for who in (SINGLE, CTFW)}
        rows.append(Row(f"round trip, {name}", middle[CTFW], "us", notes=middle))
        rows.append(Row(f"round trip, {name}: added, by what C adds", added[CTFW] / added[SINGLE], "x", 1.3))
    return rows


PARTS: Final = {"cpu": cpu, "stream": stream, "connections": connections, "roundtrip": round_trips}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", action="append", choices=PARTS, help="of the four parts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctfw-bench-")))
        programs = compile_programs(directory)
        candidates = [
            Candidate(KERNEL, ()),
            c_loop(programs, SINGLE, 1, gso=False),
            c_loop(programs, BATCHED, BATCH, gso=False),
            c_loop(programs, GSO, BATCH, gso=True),
            firewall(directory),
        ]
        stages = [Stage(candidate, programs, stack) for candidate in candidates]
        for name in options.only or PARTS:
            rows += PARTS[name](stages, options.rounds)
    emit(rows, "gateway: real traffic through NFQUEUE, medians in turn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
