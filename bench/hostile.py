"""What senders can do to the engine's speed: a SYN flood from a million sources, and packets of any bytes.

Part of ``make bench``; ``python bench/hostile.py [--json]`` with PYTHONPATH=bench:tests. Engine alone, so that nothing
hides the difference: through the queue every packet costs some microseconds more, whoever sent it.

The flood meets a full table, so that every one of its packets drops another connection early; it is held against a
packet that opens a connection while there is room. Hostile packets are measured kind by kind, and the worst kind is
held against the mean over ordinary traffic: established and opening, UDP and TCP, in equal parts.
"""

import random
import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from engine import new_engine
from report import Row, emit
from timing import ACK, NOW, PSH_ACK, SYN, SYN_ACK, in_turn, ipv4, once, tcp, udp

from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ESTABLISHED
from ctfw.engine import Engine
from ctfw.packet import FORWARD

MAX: Final = 65536
SOURCES: Final = 1_000_000
KEPT: Final = 1000  # established connections that have to live through the flood
RULES: Final = 100
_SAMPLE: Final = 50_000


def source(number: int) -> bytes:
    return struct.pack("!I", 0x0B000000 + number)


def syn(number: int) -> bytes:
    return tcp(True, SYN, 999, 0, port=1024 + number % 60000, client=source(number))


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def established(engine: Engine) -> list[bytes]:
    """Opens KEPT TCP connections; what their clients send next."""
    answers = []
    for port in range(2000, 2000 + KEPT):
        once(
            engine.handle,
            [
                tcp(True, SYN, 999, 0, port=port),
                tcp(False, SYN_ACK, 4999, 1000, port=port),
                tcp(True, ACK, 1000, 5000, port=port),
                tcp(False, PSH_ACK, 5000, 1000, 10, port=port),
            ],
        )
        answers.append(tcp(True, ACK, 1000, 5010, port=port))
    return answers


def flood() -> list[Row]:
    """A million SYNs, each from a source of its own, against a table of MAX."""
    begun = resident()
    engine = new_engine(RULES, Settings({"max": MAX}))
    answers = established(engine)
    count = 0
    while count < 4 * MAX:  # fills the table, and whatever fills with it
        once(engine.handle, [syn(number) for number in range(count, count + 4096)])
        count += 4096
    before = resident()
    while count < SOURCES:
        once(engine.handle, [syn(number) for number in range(count, min(count + 4096, SOURCES))])
        count += 4096
    grown = resident() - before

    kept = sum(
        engine.handle(packet, len(packet), FORWARD, "lan0", "wan0", 0, False, NOW).state == ESTABLISHED
        for packet in answers
    )

    return [
        Row("entries after a flood from a million sources", len(engine.tracker.table), "", MAX),
        Row("memory that the flood then took, by the full table's", grown / (before - begun), "x", 0.25),
        Row("established connections that kept their verdict", kept / KEPT, "", 1.0, least=True),
    ]


def empty() -> tuple[Callable[..., object], Sequence[bytes]]:
    """Room for all: what opening a connection costs."""
    return new_engine(RULES, Settings({"max": 4 * MAX})).handle, [syn(number) for number in range(_SAMPLE)]


def full() -> tuple[Callable[..., object], Sequence[bytes]]:
    """No room: each one has to drop another."""
    engine = new_engine(RULES, Settings({"max": MAX}))
    once(engine.handle, [syn(number) for number in range(MAX)])
    return engine.handle, [syn(number) for number in range(MAX, MAX + _SAMPLE)]


def kinds() -> dict[str, list[bytes]]:
    """Packets that nobody honest sends, by what is wrong with them."""
    drawn = random.Random(1)
    options = bytes([5, 34]) + drawn.randbytes(32) + bytes([1] * 6)  # four SACK blocks
    sack = struct.pack("!HHIIBBHHH", 40000, 443, 1000, 5000, 0xF0, ACK, 64240, 0, 0) + options
    nops = struct.pack("!HHIIBBHHH", 40000, 443, 1000, 5000, 0xF0, ACK, 64240, 0, 0) + bytes([1] * 40)
    client, server = bytes([192, 168, 1, 2]), bytes([203, 0, 113, 2])
    long = struct.pack("!IHBB", 0x60000000, 1400, 0, 64) + bytes(32) + bytes([0, 0, 1, 4, 0, 0, 0, 0]) * 175
    quote = bytes([3, 1, 0, 0, 0, 0, 0, 0])
    return {
        "random bytes": [drawn.randbytes(drawn.randrange(0, 200)) for _ in range(4096)],
        "random behind an IPv4 header": [
            ipv4(drawn.randrange(256), client, server, drawn.randbytes(60)) for _ in range(4096)
        ],
        "random TCP of a known connection": [
            ipv4(6, client, server, struct.pack("!HH", 40000, 443) + drawn.randbytes(40)) for _ in range(4096)
        ],
        "as many SACK blocks as fit": [ipv4(6, client, server, sack)],
        "40 bytes of options, each of one": [ipv4(6, client, server, nops)],
        "175 IPv6 extension headers": [long],
        "later fragments of nothing": [
            ipv4(17, client, server, bytes(32))[:4]
            + struct.pack("!HH", number, 100)
            + ipv4(17, client, server, bytes(32))[8:]
            for number in range(4096)
        ],
        "first fragments of nothing": [
            ipv4(17, client, server, bytes(32))[:4]
            + struct.pack("!HH", number, 0x2000)
            + udp(True, 1024 + number)[8:52]
            for number in range(4096)
        ],
        "ICMP errors about nothing": [
            ipv4(1, server, client, quote + udp(True, port)) for port in range(1024, 1024 + 4096)
        ],
        "ICMP errors that quote errors": [
            ipv4(1, server, client, quote + ipv4(1, client, server, quote + udp(True, port)))
            for port in range(1024, 1024 + 4096)
        ],
    }


def attacked(packets: list[bytes]) -> tuple[Callable[..., object], Sequence[bytes]]:
    """An engine that knows one TCP connection, which the packets may try to spoil."""
    engine = new_engine(RULES)
    once(engine.handle, [tcp(True, SYN, 999, 0), tcp(False, SYN_ACK, 4999, 1000), tcp(True, ACK, 1000, 5000)])
    return engine.handle, packets


def ordinary() -> list[bytes]:
    """A fourth each: established UDP and TCP, and what opens them."""
    return [
        packet
        for port in range(1024, 1024 + 2048)
        for packet in (
            udp(True, port),
            tcp(True, SYN, 999, 0, port=port + 10000),
            udp(False, port),
            tcp(False, SYN_ACK, 4999, 1000, port=port + 10000),
        )
    ]


def hostile() -> list[Row]:
    """The cost of each kind by that of ordinary packets."""
    those = kinds()
    common, *costs = in_turn([partial(attacked, packets) for packets in (ordinary(), *those.values())], 16_384)
    worst = max(costs)
    notes = {name: cost for name, cost in zip(those, costs, strict=True)}
    return [
        Row("an ordinary packet", common, "ns"),
        Row("the worst kind of packet, by an ordinary one", worst / common, "x", 3.0, notes=notes),
    ]


def main() -> int:
    normal, dropping = in_turn([empty, full], 0)
    rows = flood()
    notes = {"opening a connection, ns": normal, "with early drop, ns": dropping}
    rows.append(Row("a SYN of the flood, by one with room in the table", dropping / normal, "x", 2.0, notes=notes))
    rows += hostile()
    emit(rows, "hostile senders: engine alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
