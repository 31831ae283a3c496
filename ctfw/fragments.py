"""Fragments that the kernel did not join: each later one gets what the first one of its datagram got.

A gateway's kernel joins fragments before any queue when connection tracking or a rule asks it to, and ctfw's hook does
(docs: deviations). This file is for the others: only the first fragment shows ports, so the verdict on it is remembered
for the rest. A later fragment that comes without or before its first is INVALID: it is never let through unjudged, and
the sender sends again. So is one that overlaps what was seen or lies beyond the datagram's end (RFC 5722, RFC 1858),
and with it all that follow of its datagram: an overlap is how one shows the firewall another packet than the host. What
comes by another interface, or in another chain, is not of the datagram; nor is what comes after a reload that forgets
or judges anew what older rules accepted.

Not joined to a whole, because a packet that waits in the queue for its rest would wait at the sender's mercy. What that
costs: the checksum of a fragmented packet is not verified, and a helper reads its first fragment only.

Everything a stranger can make grow is bounded: MOST datagrams (the oldest gives way) of at most PIECES gaps each, for
the kernel's own 30 seconds (IPv4, ipfrag_time) or 60 (IPv6, RFC 8200 section 4.5).
"""

from typing import Final

from mypy_extensions import i64

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.packet import AF_INET, BYTE, Packet
from ctfw.ruleset.rule import Rule

MOST: Final = 1024
PIECES: Final = 64
_IPV4_LIFETIME: Final = 30_000_000_000
_IPV6_LIFETIME: Final = 60_000_000_000
_LARGEST: Final = 65535


class Datagram:
    """A datagram of which the first fragment was judged: the judgement, and which bytes have been seen."""

    def __init__(
        self,
        verdict: i64,
        state: i64,
        direction: i64,
        rule: Rule | None,
        conn: Conn | None,
        expires: i64,
        mark: i64 = -1,
        generation: i64 = 0,
        end: i64 = -1,
    ) -> None:
        self.verdict: i64 = verdict
        self.state: i64 = state
        self.direction: i64 = direction
        self.rule = rule
        self.conn = conn
        self.expires: i64 = expires
        self.mark: i64 = mark  # that the first one left with, -1: the one it came with
        self.generation: i64 = generation  # of the rules that judged it
        self.end: i64 = end  # where its TCP segment ends so far, -1: nothing of the window hangs on it
        self.size: i64 = -1  # known with the last fragment
        self.is_broken: bool = False
        self.firsts: list[int] = []  # sorted, with gaps between them
        self.lasts: list[int] = []

    def cover(self, first: i64, last: i64) -> bool:
        """Marks bytes ``first`` to ``last`` (not included) as seen; False when some were, or that are too many gaps."""
        at = len(self.firsts)
        while at > 0 and self.firsts[at - 1] > first:
            at -= 1
        if at > 0 and self.lasts[at - 1] > first:
            return False
        if at < len(self.firsts) and self.firsts[at] < last:
            return False
        if at > 0 and self.lasts[at - 1] == first:
            self.lasts[at - 1] = last
            if at < len(self.firsts) and self.firsts[at] == last:
                self.lasts[at - 1] = self.lasts[at]
                del self.firsts[at]
                del self.lasts[at]
            return True
        if at < len(self.firsts) and self.firsts[at] == last:
            self.firsts[at] = first
            return True
        self.firsts.insert(at, first)
        self.lasts.insert(at, last)
        return len(self.firsts) <= PIECES


class Fragments:
    """The datagrams whose later fragments may still come."""

    def __init__(self) -> None:
        self._datagrams: dict[bytes, Datagram] = {}

    def __len__(self) -> int:
        return len(self._datagrams)

    def begin(self, packet: Packet, where: bytes, datagram: Datagram, now: i64) -> None:
        """Remembers what the first fragment of a datagram was judged to be.

        ``where`` names hook and interface: what comes in elsewhere does not belong to it. The time to live and the
        bytes seen are set here.
        """
        name = _name(packet) + where
        known = self._datagrams.get(name)
        if known is not None and known.expires > now:
            # A second first fragment overlaps the first one; nobody honest sends it with other content.
            known.is_broken = True
            return
        if len(self._datagrams) >= MOST:
            del self._datagrams[next(iter(self._datagrams))]
        lifetime: i64 = _IPV4_LIFETIME if packet.family == AF_INET else _IPV6_LIFETIME
        datagram.expires = now + lifetime
        datagram.cover(0, payload_size(packet))
        self._datagrams.pop(name, None)  # so that it goes to the end: the oldest gives way first
        self._datagrams[name] = datagram

    def follow(self, packet: Packet, where: bytes, now: i64, floor: i64) -> Datagram | None:
        """The judged datagram that this later fragment belongs to; None, with the packet's reason set, when INVALID.

        ``floor`` is the oldest generation of rules whose judgements still hold.
        """
        name = _name(packet) + where
        datagram = self._datagrams.get(name)
        if datagram is None or datagram.expires <= now or datagram.generation < floor:
            packet.reason = reason.FRAGMENT
            return None
        last = packet.fragment + payload_size(packet)
        if (
            datagram.is_broken
            or last > _LARGEST
            or (datagram.size >= 0 and (last > datagram.size or not packet.more))
            or (not packet.more and datagram.lasts[len(datagram.lasts) - 1] > last)
            or not datagram.cover(packet.fragment, last)
        ):
            datagram.is_broken = True
            packet.reason = reason.FRAGMENT_OVERLAP
            return None
        if not packet.more:
            datagram.size = last
        if datagram.size >= 0 and len(datagram.lasts) == 1 and datagram.lasts[0] == datagram.size:
            del self._datagrams[name]
        return datagram


def place(hook: i64, indev: str) -> bytes:
    """Where a fragment was met, as ``begin`` and ``follow`` want it."""
    return BYTE[hook] + indev.encode("utf-8", "surrogateescape")


def payload_size(packet: Packet) -> i64:
    """Bytes of the datagram that this fragment carries."""
    start = packet.l4 if packet.family == AF_INET else packet.identity + 4
    return packet.end - start


def _name(packet: Packet) -> bytes:
    """What the fragments of one datagram share: addresses, identification, and in IPv4 the protocol."""
    data = packet.data
    if packet.family == AF_INET:
        return data[12:20] + data[4:6] + data[9:10]
    return data[8:40] + data[packet.identity : packet.identity + 4]
