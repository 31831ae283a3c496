"""GRE (RFC 2784): a pair of addresses, and for PPTP's enhanced GRE (version 1, RFC 2637) the two ends' call ids too.

A connection lives ``gre_timeout`` until it was answered, and then, ASSURED, ``gre_timeout_stream``. Both are the
connection's own from its first packet on, and stand in its record (docs/state-machine.md, "GRE and PPTP").

A packet of version 1 says only the call id of the end that it goes to. Which id the sending end has was said on the
PPTP connection, whose helper notes it here: ``Calls`` completes a packet's key by the sender's id, or leaves it zero
when nobody knows. So the two directions of a call get keys that are each other's inverse, and are one connection; of a
call whose control connection we have not read they are two, and neither is ever answered.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn, GreTrack
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.siblings import Siblings
from ctfw.conntrack.state import ASSURED, CONFIRMED, DYING, SEEN_REPLY
from ctfw.packet import Packet, address_size

# What ``track`` may answer besides 0: the connection is to be ASSURED from now on.
ASSURE: Final = -3

_NO_ID: Final = b"\0\0"


class Call:
    """One direction of a call: ``key`` is that of its packets without the sender's id, and ``sender`` that id.

    ``tunnel`` is the call's connection, once a packet has fulfilled the expectation.
    """

    __slots__ = ("key", "master", "sender", "tunnel")

    def __init__(self, key: bytes, sender: bytes, master: Conn) -> None:
        self.key = key
        self.sender = sender
        self.master = master
        self.tunnel: Conn | None = None

    def is_over(self, now: i64) -> bool:
        """True when the control connection is, or the tunnel: it expired, or the rules refused its first packet."""
        master = self.master
        if master.status & DYING != 0 or master.expires <= now:
            return True
        tunnel = self.tunnel
        return tunnel is not None and (tunnel.status & (CONFIRMED | DYING) != CONFIRMED or tunnel.expires <= now)


class Calls:
    """What PPTP connections have said about call ids. A master has at most one call, which is two directions.

    The older one counts when two masters announce the same id between the same two ends. Zones play no role in here:
    the packet's zone is added to its key later.
    """

    def __init__(self) -> None:
        self._by_key: dict[bytes, list[Call]] = {}
        self._by_master: dict[Conn, list[Call]] = {}
        self.count: i64 = 0
        self.siblings: Siblings | None = None

    def complete(self, key: bytes, now: i64) -> bytes:
        """``key`` of an enhanced GRE packet with the sender's call id filled in, if it is known."""
        several = self._by_key.get(key)
        if several is not None:
            for one in several:
                if not one.is_over(now):
                    at = 1 + 2 * address_size(key)
                    return key[:at] + one.sender + key[at + 2 :]
        return key

    def add(self, master: Conn, keys: list[bytes], now: i64) -> bool:
        """Notes both directions of a call of ``master`` by their full keys.

        False, and nothing added, when the master has another call already; when it has one of the two directions, that
        call is forgotten, too. The same call once more changes nothing, whatever it now says of the sender's id.
        """
        bare = [_without_sender(key) for key in keys]
        known = self._by_master.get(master)
        if known is not None and known[0].is_over(now):
            self.remove_master(master)
            known = None
        if known is not None:
            if known[0].key != bare[0]:
                return False
            if known[1].key != bare[1]:
                self.remove_master(master)
                return False
            return True
        self.note(master, keys)
        if self.siblings is not None:
            self.siblings.tell_call(master, keys)
        return True

    def note(self, master: Conn, keys: list[bytes]) -> None:
        """Notes both directions of a call of ``master``, of which none is known."""
        at = 1 + 2 * address_size(keys[0])
        calls = [Call(_without_sender(keys[i]), keys[i][at : at + 2], master) for i in range(2)]
        self._by_master[master] = calls
        for call in calls:
            self._by_key.setdefault(call.key, []).append(call)
        self.count += 2

    def all(self) -> list[list[Call]]:
        """Both directions of every call."""
        return list(self._by_master.values())

    def fulfil(self, master: Conn, tunnel: Conn) -> None:
        """The call of ``master`` has its connection: what is known of the call ends with it."""
        for call in self._by_master.get(master, []):
            call.tunnel = tunnel

    def remove_master(self, master: Conn) -> None:
        """Forgets the call of ``master``, here and wherever it was told."""
        if self.siblings is not None and master in self._by_master:
            self.siblings.forget_call(master)
        self.drop(master)

    def drop(self, master: Conn) -> None:
        """Forgets the call of ``master`` here."""
        calls = self._by_master.get(master)
        if calls is None:
            return
        del self._by_master[master]
        for call in calls:
            several = self._by_key[call.key]
            several.remove(call)
            if not several:
                del self._by_key[call.key]
        self.count -= 2

    def sweep(self, now: i64) -> list[Conn]:
        """Forgets the calls that are over; returns the control connections that are, with tunnels perhaps living on."""
        ended = []
        for master in list(self._by_master):
            if self._by_master[master][0].is_over(now):
                self.remove_master(master)
                if master.status & DYING != 0 or master.expires <= now:
                    ended.append(master)
        return ended


def is_enhanced(packet: Packet) -> bool:
    """True for a GRE packet whose key has a call id (ctfw.packet)."""
    at = packet.l4 + 8
    return at <= packet.end and at <= len(packet.data) and packet.data[packet.l4 + 1] & 7 == 1


def _without_sender(key: bytes) -> bytes:
    at = 1 + 2 * address_size(key)
    return key[:at] + _NO_ID + key[at + 2 : at + 4]


def track(conn: Conn, now: i64, settings: Settings) -> i64:
    """Refreshes the connection for one packet; 0 or ASSURE. SEEN_REPLY must not yet count this packet."""
    gre = conn.l4
    if not isinstance(gre, GreTrack):
        gre = GreTrack(settings.gre_timeout, settings.gre_timeout_stream)
        conn.l4 = gre
    if conn.status & SEEN_REPLY == 0:
        conn.expires = now + gre.timeout
        return 0
    conn.expires = now + gre.timeout_stream
    return ASSURE if conn.status & ASSURED == 0 else 0
