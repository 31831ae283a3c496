"""Which connections are handed to the kernel, and what ctfw keeps of them. Opt-in: a rule with ``offload``.

A rule wishes, by accepting a packet; the wish is the connection's (TO_OFFLOAD) and comes true when the connection is
open in both directions: TCP in ESTABLISHED, UDP as a stream, both ASSURED, and without a helper, who must read on. From
then on each packet of it that still comes leaves with a bit of the mark, which the hook's rules save to the kernel's
own connection; what the kernel knows by that bit passes the queue by, but for TCP's SYN, FIN and RST, which take the
bit away again. So the end of a connection, and whatever else is unusual, is followed here as ever.

Its data was not seen, so from the first marked packet on no window binds anybody in it. How long it lives, the shell
asks the kernel (``service.offload``), which takes what is ``fresh`` from here. Only forwarded packets are marked.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack import tcp
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import ASSURED, LIBERAL, OFFLOAD, TO_OFFLOAD
from ctfw.packet import TCP, UDP, Packet
from ctfw.ruleset.rule import Rule

MOST_FRESH: Final = 1024  # between two looks of the shell; more wait for their next packet


def wish(conn: Conn, rule: Rule) -> None:
    """The connection is to be offloaded if ``rule``, which accepted it, says so; and not otherwise."""
    if rule.offload:
        conn.status |= TO_OFFLOAD
    else:
        conn.status &= ~TO_OFFLOAD


class Offload:
    """``on``: somebody takes care of what is marked. ``fresh``: connections that were marked since they last looked."""

    def __init__(self) -> None:
        self.on: bool = False
        self.fresh: list[Conn] = []

    def mark(self, rule: Rule, conn: Conn, packet: Packet, mark: i64, bit: i64) -> i64:
        """The mark with which an accepted, forwarded packet of ``conn`` leaves; ``mark`` is what it has so far."""
        if rule.offload:
            conn.status |= TO_OFFLOAD
        if conn.status & TO_OFFLOAD == 0:
            return mark
        if not self.on or not _is_open(conn, packet):
            conn.status &= ~OFFLOAD
            return mark
        if conn.status & OFFLOAD == 0:
            if len(self.fresh) >= MOST_FRESH:
                return mark
            conn.status |= OFFLOAD
            self.fresh.append(conn)
        conn.track = LIBERAL
        track = conn.tcp
        if track is not None:
            tcp.let_go(track)
        return mark | bit


def _is_open(conn: Conn, packet: Packet) -> bool:
    """True for a packet of an open connection that need not be watched; not for an ICMP error about it."""
    if conn.status & ASSURED == 0 or conn.helper != 0 or packet.proto != conn.key[0]:
        return False
    if packet.proto == TCP:
        return conn.l4state == tcp.ESTABLISHED and packet.data[packet.l4 + 13] & 7 == 0
    return packet.proto == UDP
