"""What a million connections cost: memory for each, time per packet, and the longest pause that they make.

Part of ``make bench``; ``python bench/million.py [--connections N] [--json]`` with PYTHONPATH=bench:tests. Engine
alone, as nothing of this depends on the queue. Each table is filled in a process of its own, whose resident memory then
tells what a connection takes, its place in the dictionaries and the allocator's share included.

A pause is the processor time of one step between two packets: a packet itself (the dictionaries grow while a table
fills), one sweep over connections that all expired, one page of a listing, one young garbage collection, one step of
putting the table on record.
"""

import argparse
import gc
import json
import os
import random
import statistics
import struct
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from engine import new_engine
from report import Row, emit
from timing import ACK, SECOND, SYN, SYN_ACK, once, tcp, udp

from ctfw.config import Stored
from ctfw.conntrack.settings import Settings
from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.service.methods import Methods
from ctfw.service.saving import Saving
from ctfw.service.session import Session

FEW: Final = 1_000
RULES: Final = 100
_STEP: Final = 4096
_SAMPLE: Final = 50_000
_ROUNDS: Final = 5
_DAY: Final = 86400


def client(number: int) -> bytes:
    return struct.pack("!I", 0x0B000000 + (number >> 4))


def opening(proto: str, number: int) -> list[bytes]:
    """What brings connection ``number`` to ESTABLISHED."""
    whom, port = client(number), 1024 + (number & 15)
    if proto == "udp":
        return [udp(True, port, whom), udp(False, port, whom)]
    return [
        tcp(True, SYN, 999, 0, 0, port, whom),
        tcp(False, SYN_ACK, 4999, 1000, 0, port, whom),
        tcp(True, ACK, 1000, 5000, 0, port, whom),
    ]


def following(proto: str, number: int) -> bytes:
    whom, port = client(number), 1024 + (number & 15)
    return udp(True, port, whom) if proto == "udp" else tcp(True, ACK, 1000, 5000, 0, port, whom)


def fill(proto: str, count: int) -> Engine:
    """An engine with so many connections, each of them in lasting traffic."""
    timeouts = {"udp_timeout": _DAY, "udp_timeout_stream": _DAY}
    engine = new_engine(RULES, Settings({"max": 2 * count, **timeouts}))
    for begin in range(0, count, _STEP):
        once(engine.handle, [p for n in range(begin, min(begin + _STEP, count)) for p in opening(proto, n)])
    return engine


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def apart(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What ``work`` finds, in a process that starts as a copy of this one and ends with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as answer:
        found = answer.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError("a part of the benchmark failed")
    return cast(dict[str, float], json.loads(found))


def memory(proto: str, count: int) -> dict[str, float]:
    before = resident()
    engine = fill(proto, count)
    return {"bytes": (resident() - before) / len(engine.tracker.table)}


def cost(proto: str, count: int) -> dict[str, float]:
    """Nanoseconds per packet of flows in no order, with FEW and with ``count`` in the table.

    Both read equally many packets, so that the ratio shows the table and not the packets' own way into the cache.
    """
    drawn = random.Random(1)
    engines = {size: fill(proto, size) for size in (FEW, count)}
    packets = {size: [following(proto, drawn.randrange(size)) for _ in range(_SAMPLE)] for size in engines}
    gc.freeze()
    found: dict[int, list[float]] = {size: [] for size in engines}
    for _ in range(_ROUNDS):
        for size, engine in engines.items():
            found[size].append(once(engine.handle, packets[size]))
    return {str(size): statistics.median(figures) for size, figures in found.items()}


def longest(steps: Callable[[], Any], until: Callable[[Any], bool]) -> float:
    """Milliseconds of the longest step, taken until one of them answers what ``until`` waits for."""
    most = 0
    while True:
        begun = time.thread_time_ns()
        answer = steps()
        most = max(most, time.thread_time_ns() - begun)
        if until(answer):
            return most / 1e6


def pauses(proto: str, count: int) -> dict[str, float]:
    """The longest pause of each kind, in milliseconds."""
    engine = new_engine(RULES, Settings({"max": 2 * count, "udp_timeout": _DAY}))
    now = time.monotonic_ns()  # the listing's own clock
    gc.freeze()
    found = {"packet": 0.0, "collection": 0.0}
    for begin in range(0, count, _STEP):
        packets = iter([p for n in range(begin, min(begin + _STEP, count)) for p in opening(proto, n)])

        def one(packets: Any = packets) -> bool:
            packet = next(packets, None)
            if packet is None:
                return True
            engine.handle(packet, len(packet), FORWARD, "lan0", "wan0", 0, False, now)
            return False

        found["packet"] = max(found["packet"], longest(one, bool))
        found["collection"] = max(found["collection"], longest(lambda: gc.collect(0), lambda _: True))
    nobody = cast(Any, None)
    methods = Methods(engine, nobody, nobody, dict, nobody, nobody)
    session, first = Session(nobody), [True]

    def page() -> bool:
        answer = methods.list_connections({} if first else {"next": True}, session)
        first.clear()
        return not answer["more"]

    found["page of a listing"] = longest(page, bool)
    found["snapshot"] = snapshot(engine)
    later = now + 10 * _DAY * SECOND
    table = engine.tracker.table
    found["sweep"] = longest(lambda: engine.tracker.sweep(later), lambda _: len(table) == 0)
    return found


def snapshot(engine: Engine) -> float:
    """The longest step of putting the whole table on record, four times: what was there before goes first."""
    logs = [os.memfd_create(f"log-{number}") for number in range(2)]
    saving = Saving(engine, logs, 0, b"a boot", Stored)
    saving.begin(time.monotonic_ns())
    most = longest(lambda: saving.step(time.monotonic_ns()), lambda _: saving.complete >= 3)
    for log in logs:
        os.close(log)
    return most


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    count = parser.parse_args().connections
    rows = []
    for proto in ("udp", "tcp"):
        held = apart(partial(memory, proto, count))
        rows.append(Row(f"resident memory of an IPv4 connection, {proto}", held["bytes"], "bytes", 640))
    for proto in ("udp", "tcp"):
        took = apart(partial(cost, proto, count))
        ratio = took[str(count)] / took[str(FEW)]
        notes = {f"{FEW}: ns": took[str(FEW)], f"{count}: ns": took[str(count)]}
        what = f"engine alone: a packet among {count} connections, by {FEW}, {proto}"
        rows.append(Row(what, ratio, "x", notes=notes))
    waits = apart(partial(pauses, "udp", count))
    rows += [Row(f"longest pause: {name}", value, "ms", 5.0) for name, value in waits.items()]
    emit(rows, f"{count} connections")
    return 0


if __name__ == "__main__":
    sys.exit(main())
