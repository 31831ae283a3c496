"""What the engine alone costs: nanoseconds per packet for decode, tracking and rules, without queue or kernel.

``make bench-quick``, or ``python bench/engine.py [--packets N] [--json]`` with either build and PYTHONPATH=bench:tests.
The established flows pass a hundred rules before one matches; what opens connections meets ten or a hundred. How it is
timed: ``timing``.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from report import Row, build, emit
from timing import ACK, FIN_ACK, PSH_ACK, SYN, SYN_ACK, in_turn, once, tcp, udp

from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ANY, ESTABLISHED, NEW, RELATED
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import AddressSet, InterfaceSet, NumberSet
from ctfw.ruleset.verdict import ACCEPT, DROP

# Nanoseconds that a packet may take, compiled; interpreted within about ten times that.
UDP_TARGET: Final = 150.0
TCP_TARGET: Final = 250.0
INTERPRETED: Final = 10.0

Start = Callable[[], tuple[Callable[..., object], Sequence[bytes]]]


def new_engine(rules: int, settings: Settings | None = None) -> Engine:
    """Rules that ask for no state and match nothing here, then one for replies and one for what is new."""
    chain = 1 << FORWARD
    lan = InterfaceSet(["lan0"])
    ahead = [
        Rule(
            f"ahead {i}", "", DROP, chain, ANY,
            protos=NumberSet([(6, 6), (17, 17)]), dport=NumberSet([(100 + i, 100 + i), (6000, 6063)]),
            src=AddressSet([(bytes([10, i, 0, 0]), bytes([10, i, 255, 255]))]), indev=lan,
        )
        for i in range(rules)
    ]  # fmt: skip
    last = [Rule("replies", "", ACCEPT, chain, ESTABLISHED | RELATED), Rule("new", "", ACCEPT, chain, NEW)]
    return Engine(ConnTrack(settings or Settings()), Ruleset([*ahead, *last], {}))


def start(
    rules: int, opening: Sequence[bytes], packets: Sequence[bytes]
) -> tuple[Callable[..., object], Sequence[bytes]]:
    """An engine that has already seen ``opening``, and what to drive through it."""
    engine = new_engine(rules)
    if opening:
        once(engine.handle, opening)
    return engine.handle, packets


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    compiled = build() == "compiled"
    parser.add_argument("--packets", type=int, default=200_000 if compiled else 20_000)
    parser.add_argument("--json", action="store_true")
    count = parser.parse_args().packets

    handshake = [tcp(True, SYN, 999, 0), tcp(False, SYN_ACK, 4999, 1000), tcp(True, ACK, 1000, 5000)]
    stream = [tcp(True, PSH_ACK, 1000, 5000, 100), tcp(False, ACK, 5000, 1100)]
    question = [udp(True), udp(False)]
    lives = [
        packet
        for port in range(1024, 1024 + 4096)
        for packet in (
            tcp(True, SYN, 999, 0, port=port),
            tcp(False, SYN_ACK, 4999, 1000, port=port),
            tcp(True, ACK, 1000, 5000, port=port),
            tcp(True, FIN_ACK, 1000, 5000, port=port),
            tcp(False, FIN_ACK, 5000, 1001, port=port),
            tcp(True, ACK, 1001, 5001, port=port),
        )
    ]
    flood = [udp(True, port) for port in range(1, 60000)]
    parts: dict[str, tuple[Start, int]] = {
        "established udp, 100 rules ahead": (partial(start, 100, question, question), count),
        "established tcp, 100 rules ahead": (partial(start, 100, handshake, stream), count),
        "tcp from syn to last ack, 10 rules": (partial(start, 10, [], lives), 0),
        "new udp, 10 rules": (partial(start, 10, [], flood), 0),
        "new udp, 100 rules": (partial(start, 100, [], flood), 0),
    }
    allowed = 1.0 if compiled else INTERPRETED
    targets = [UDP_TARGET * allowed, TCP_TARGET * allowed]
    rows = [
        Row(f"{name}, {build()}", in_turn([begin], size)[0], "ns", targets.pop(0) if targets else None)
        for name, (begin, size) in parts.items()
    ]
    emit(rows, f"engine alone, {build()}: processor time per packet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
