"""How the engine is timed: packets made by hand, driven through ``Engine.handle`` from a plain loop.

Times are processor time of this process, so that others at work on the machine spoil less, and medians of rounds. What
the loop itself costs is measured with a call that does nothing, and subtracted. The cyclic collector is off, as it is
in the daemon. Compare figures of one run only: the machine's speed drifts.
"""

import gc
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

from ctfw.packet import FORWARD

ROUNDS: Final = 7
SECOND: Final = 1_000_000_000
NOW: Final = 1000 * SECOND
CLIENT, SERVER = bytes([192, 168, 1, 2]), bytes([203, 0, 113, 2])
SYN, SYN_ACK, ACK, FIN_ACK, PSH_ACK = 0x02, 0x12, 0x10, 0x11, 0x18


gc.disable()


def ipv4(proto: int, src: bytes, dst: bytes, payload: bytes) -> bytes:
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, proto, 0, src, dst) + payload


def tcp(
    to_server: bool, flags: int, seq: int, ack: int, size: int = 0, port: int = 40000, client: bytes = CLIENT
) -> bytes:
    src, dst, sport, dport = (client, SERVER, port, 443) if to_server else (SERVER, client, 443, port)
    return ipv4(6, src, dst, struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 64240, 0, 0) + bytes(size))


def udp(to_server: bool, port: int = 40000, client: bytes = CLIENT) -> bytes:
    src, dst, sport, dport = (client, SERVER, port, 53) if to_server else (SERVER, client, 53, port)
    return ipv4(17, src, dst, struct.pack("!HHHH", sport, dport, 8 + 36, 0) + bytes(36))


def nothing(data: bytes, length: int, hook: int, indev: str, outdev: str, mark: int, check: bool, now: int) -> None: ...


def once(handle: Callable[..., object], packets: Sequence[bytes], count: int = 0, now: int = NOW) -> float:
    """Nanoseconds per packet, of going over ``packets`` until ``count`` are through, or just once."""
    rounds = max(count // len(packets), 1)
    begun = time.process_time_ns()
    for _ in range(rounds):
        for packet in packets:
            handle(packet, len(packet), FORWARD, "lan0", "wan0", 0, False, now)
    return (time.process_time_ns() - begun) / (rounds * len(packets))


def in_turn(
    starts: Sequence[Callable[[], tuple[Callable[..., object], Sequence[bytes]]]], count: int, rounds: int = ROUNDS
) -> list[float]:
    """Median nanoseconds per packet of each start, measured in turn so that drift hits all alike.

    A start makes an engine anew and says what to drive: its ``handle`` and the packets.
    """
    found: list[list[float]] = [[] for _ in starts]
    for _ in range(rounds):
        for figures, start in zip(found, starts, strict=True):
            handle, packets = start()
            figures.append(once(handle, packets, count) - once(nothing, packets, count))
    return [statistics.median(figures) for figures in found]
