"""NetBIOS name service (RFC 1002): a name is asked for by broadcast, and anybody in the network may answer.

Only what this machine itself sends counts: a packet from an own address to the broadcast address of that address's
network (``settings.broadcasts``; nobody else can send one, the kernel drops foreign packets with an own source). What
is expected are answers from the helper's port anywhere in the network to the asking address and port, any number of
them, for as long as the question is fresh: the connection itself lives no longer either.

Deviation: the kernel knows a local packet by its socket and the network by the interface that it leaves through. So a
program that sends to a broadcast address from an address of another network gets an expectation there and none here.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import Expectation, Expectations, Policy
from ctfw.conntrack.settings import NETBIOS_NS, SECOND, Settings
from ctfw.packet import AF_INET, ORIGINAL, UDP, Packet

POLICY: Final = Policy(NETBIOS_NS, "", 1, 3 * SECOND)
_SERVICE: Final = b"\0\x89"  # port 137


def inspect(conn: Conn, packet: Packet, expectations: Expectations, settings: Settings, now: i64) -> i64:
    """Reads one datagram; always 0."""
    expect_answers(conn, packet, POLICY, _SERVICE, expectations, settings, now)
    return 0


def expect_answers(
    conn: Conn,
    packet: Packet,
    policy: Policy,
    service: bytes,
    expectations: Expectations,
    settings: Settings,
    now: i64,
) -> None:
    """Expects the answers of a whole network from port ``service`` when the packet is a broadcast of our own."""
    if packet.direction != ORIGINAL or packet.family != AF_INET:
        return
    prefix = settings.broadcasts.get(packet.data[12:20])
    if prefix is None:
        return
    one = Expectation(conn, policy, UDP, packet.dst, packet.src, conn.reply_key[11:13], now)
    one.prefix = prefix
    one.sport = service
    one.permanent = True
    expectations.add(one, settings.expect_max, now)
    conn.expires = now + policy.lifetime
