"""What a packet costs among a million connections, through the queue, by what it costs among a thousand.

``make bench``, or ``python bench/crowd.py [--connections N] [--rounds N] [--json]`` with PYTHONPATH=bench:tests; it
needs root, if only that of a user namespace. Two gateways of ``lab.net``, each with its own ctfw, a hundred rules and
so many UDP connections that were answered; then both get the same datagrams in turn, each for a connection that a dice
picks. That is the worst that can happen to the processor's cache: no traffic of people asks for a million connections
in no order. Costs are processor time per packet, as in ``gateway``; ``million`` has the engine's part of it alone.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from candidates import Programs, compile_programs, firewall, serving
from gateway import DATAGRAMS, RATE, SIZE, expect
from report import Row, emit

from lab.net import SERVER, Network, why_not

FEW: Final = 1_000
FIRST: Final = "198.18.0.0"  # of the addresses behind which the crowd lives: RFC 2544, page 12
BEHIND: Final = f"{FIRST}/16"


class Gateway:
    """A gateway with so many connections."""

    def __init__(self, count: int, programs: Programs, directory: Path, stack: contextlib.ExitStack) -> None:
        net = stack.enter_context(Network())
        net.queue()
        net.gateway.run("ip", "route", "add", BEHIND, "via", SERVER)
        net.server.run("ip", "route", "add", "local", BEHIND, "dev", "lo")
        net.server.run("iptables", "-w", "-A", "OUTPUT", "-p", "icmp", "-j", "DROP")  # nobody listens there
        self._server = stack.enter_context(serving(net, firewall(directory, f"ctfw{count}", 2 * count)))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        mirror = net.server.start((programs.traffic, "mirror"), **pipes)
        self._crowd = net.client.start((programs.traffic, "crowd", FIRST, str(count), str(SIZE)), **pipes)
        for process in (mirror, self._crowd):
            stack.callback(process.wait)
            stack.callback(process.kill)
            expect(process, "ready")

    def cost(self) -> float:
        """Nanoseconds of processor time for a datagram."""
        self._server.wait_until_idle()
        packets, time = self._server.packets(), self._server.nanoseconds()
        assert self._crowd.stdin is not None
        self._crowd.stdin.write(f"{DATAGRAMS} {RATE}\n")
        self._crowd.stdin.flush()
        expect(self._crowd, "sent")
        self._server.wait_until_idle()
        return (self._server.nanoseconds() - time) / (self._server.packets() - packets)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    many = options.connections
    found: dict[int, list[float]] = {FEW: [], many: []}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctfw-bench-")))
        programs = compile_programs(directory)
        gateways = {count: Gateway(count, programs, directory, stack) for count in found}
        for turn in range(options.rounds + 1):
            for count, gateway in gateways.items():
                cost = gateway.cost()
                if turn:
                    found[count].append(cost)
    ratio = statistics.median(one / few for one, few in zip(found[many], found[FEW], strict=True))
    notes = {f"{count}: ns": statistics.median(costs) for count, costs in found.items()}
    what = f"a datagram among {many} connections, by {FEW}, through the queue"
    emit([Row(what, ratio, "x", 2.0, notes=notes)], f"{many} connections, real traffic")
    return 0


if __name__ == "__main__":
    sys.exit(main())
