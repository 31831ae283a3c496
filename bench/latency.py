"""What delays a packet: round trips at a steady pace through the gateway while people and programs ask ctfw for things.

``python bench/latency.py [--only CASE] [--json]`` with PYTHONPATH=bench:tests, as root if only that of a user
namespace; part of ``make bench``. Each case (disturbances.py) has a daemon of its own and ROUNDS rounds: in each the
probe sends datagrams at a steady pace that the server answers, and the case does its worst meanwhile.

Two figures of each case have a target. A packet waits for at most one turn of the daemon's loop, so the longest turn is
the longest delay, whenever the packet came; without the time in which the kernel let others run (turns.py). And the
longest round trip of the probe, which is two packets, as the clock on the wall has it. Both are those of the best
round, for what ctfw does, it does in every round, and what else happens on the machine it does not: a host that gives
its virtual machines less than they think takes a tenth of a second from a loop that only counts, and the clock of the
processor's time does not know. The first case, in which nobody asks anything, shows how much that is.
"""

import argparse
import contextlib
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from candidates import Programs, compile_programs
from disturbances import CASES, CROWD, Case, hostile
from probed import Gateway
from report import Row, emit

from lab.net import why_not

ROUNDS: Final = 3
LIMIT: Final = 10.0  # milliseconds


def measure(case: Case, programs: Programs) -> dict[str, float]:
    """The figures of the best round, in milliseconds, for the longest turn and for the longest round trip each."""
    print(f"latency: {case.name}", file=sys.stderr, flush=True)
    with contextlib.ExitStack() as stack:
        gateway = Gateway(case.rules, programs, stack, case.beside, case.pipes)
        case.prepare(gateway)
        if case.disturb is hostile:
            for _ in range(CROWD):
                idle = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                idle.connect(gateway.socket)
        turns, rounds = [], []
        gateway.longest_turn()
        with disturbed(case, gateway):
            for _ in range(ROUNDS):
                rounds.append(gateway.probe(case.seconds))
                turns.append(gateway.longest_turn())
        middle, rare, longest, lost = min(rounds, key=lambda one: one[2])
        worst = max(turns)
        return {"turn": min(turns), "worst": worst, "longest": longest, "p50": middle, "p99.9": rare, "lost": lost}


@contextlib.contextmanager
def disturbed(case: Case, gateway: Gateway) -> Iterator[None]:
    """The case at its work, for as long as the `with` lasts. Raises what one of the crowd raised."""
    over = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        while not over.is_set():
            try:
                case.disturb(gateway)
            except BaseException as error:
                failures.append(error)
                return

    crowd = [threading.Thread(target=work) for _ in range(case.crowd)]
    for one in crowd:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in crowd:
            one.join()
    if failures:
        raise failures[0]


def rows(found: Sequence[tuple[Case, dict[str, float]]]) -> list[Row]:
    found_rows = []
    for case, figures in found:
        notes = {name: figures[name] for name in ("p50", "p99.9", "lost")}
        found_rows.append(
            Row(f"{case.name}: longest turn", figures["turn"], "ms", LIMIT, notes={"worst round": figures["worst"]})
        )
        found_rows.append(Row(f"{case.name}: round trip", figures["longest"], "ms", 2 * LIMIT, notes=notes))
    return found_rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="cases with this word")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    wanted = [case for case in CASES if not options.only or any(word in case.name for word in options.only)]
    with tempfile.TemporaryDirectory(prefix="ctfw-bench-") as directory:
        programs = compile_programs(Path(directory))
        emit(rows([(case, measure(case, programs)) for case in wanted]), "latency: the longest round trip while ...")
    return 0


if __name__ == "__main__":
    sys.exit(main())
