"""Connection tracking as the packet's way sees it: ``track`` before the rules, ``confirm`` after they accepted.

The life of a connection: the first packet of an unknown tuple gets a connection that is in no table yet. If the rules
accept the packet, ``confirm`` runs the helper and puts it in; if not, nothing remains, and the next packet is first
again. For a known connection the protocol's state machine has already stepped when the rules are asked: dropping the
packet does not undo that. The first reply sets SEEN_REPLY only after the protocol has looked, so that it still sees
itself as the first. All this is the kernel's order (docs/state-machine.md, "The way of a packet").

``track`` writes state, direction and reason on the packet. State 0 means that conntrack itself drops it: no rule is
asked. Holds no clock: ``now`` is nanoseconds of any steady clock, the same for all calls.
"""

from mypy_extensions import i64

from ctfw import reason
from ctfw.checksum import is_checksum_good
from ctfw.conntrack import generic, gre, icmp, sctp, tcp, udp
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.events import DELETED, KILLED, REOPENED, RESET, UPDATE
from ctfw.conntrack.events import NEW as NEW_CONNECTION
from ctfw.conntrack.expect import ADDED, Expectation, Expectations
from ctfw.conntrack.helpers.inspect import inspect
from ctfw.conntrack.helpers.pptp import end_call, tunnels
from ctfw.conntrack.killed import Killed
from ctfw.conntrack.settings import PPTP, Settings
from ctfw.conntrack.siblings import Siblings
from ctfw.conntrack.state import (
    CONFIRMED,
    DYING,
    ESTABLISHED,
    EXPECTED,
    IGNORED,
    INVALID,
    NEW,
    RELATED,
    SEEN_REPLY,
    STATE_UPDATED,
    UNTRACKED,
    UPDATED,
)
from ctfw.conntrack.table import MOST_FREED, Table
from ctfw.packet import (
    GRE,
    ICMP,
    ICMPV6,
    NO_DIRECTION,
    ORIGINAL,
    REPLY,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Packet,
    address_size,
    inverse,
)


class Stats:
    """What happened, under the names of ``conntrack -S`` (and ``expired``, which that does not count)."""

    def __init__(self) -> None:
        self.found: i64 = 0
        self.invalid: i64 = 0
        self.insert: i64 = 0
        self.insert_failed: i64 = 0
        self.drop: i64 = 0
        self.early_drop: i64 = 0
        self.error: i64 = 0
        self.search_restart: i64 = 0
        self.expired: i64 = 0
        self.expect_new: i64 = 0
        self.expect_create: i64 = 0

    def as_dict(self) -> dict[str, int]:
        return {
            "found": self.found, "invalid": self.invalid, "insert": self.insert, "insert_failed": self.insert_failed,
            "drop": self.drop, "early_drop": self.early_drop, "error": self.error,
            "search_restart": self.search_restart, "expired": self.expired, "expect_new": self.expect_new,
            "expect_create": self.expect_create,
        }  # fmt: skip


class ConnTrack:
    """The engine's memory. ``secret``: see ctfw.conntrack.table.

    ``zoned`` says that the settings have zones: then the caller writes the zone of each packet to ``zone`` before
    ``track`` (two bytes, b"" for zone 0). An argument would cost every packet of those who have none.
    """

    def __init__(self, settings: Settings, secret: bytes = bytes(range(256))) -> None:
        self.settings = settings
        self.stats = Stats()
        self.table = Table(secret)
        self.table.count_sources(settings.per_source != 0)
        self.killed = Killed(secret)
        self._expectations = Expectations()
        self._calls = gre.Calls()
        self.siblings: Siblings | None = None
        self.zoned: bool = len(settings.zones) != 0
        self.zone: bytes = b""
        self.leniency: i64 = (
            0  # what a rule asks for in case the packet opens a connection: LOOSE, LIBERAL of ``state``
        )

    def track(self, packet: Packet, check: bool, now: i64) -> Conn | None:
        """Says what the packet is: writes its state, direction and reason, and returns its connection if it has one.

        ``check``: its checksum is still to be verified. The connection of a NEW packet is unconfirmed until
        ``confirm``. Never raises, whatever the bytes. When there are zones, ``zone`` says which one the packet is in.
        """
        if packet.reason != 0:
            return self._invalid(packet, packet.reason)
        proto = packet.proto
        must_check = check and self.settings.checksum
        if proto == ICMP or proto == ICMPV6:
            if must_check and not is_checksum_good(packet):
                return self._invalid(packet, reason.CHECKSUM)
            kind = icmp.classify(packet)
            if kind == icmp.UNTRACK:
                packet.state = UNTRACKED
                return None
            if kind == icmp.ERROR:
                return self._track_error(packet, now)
            if kind != icmp.QUERY:
                return self._invalid(packet, kind)
        elif proto == GRE and self._calls.count and gre.is_enhanced(packet):
            packet.key = self._calls.complete(packet.key, now)
        if self.zoned:
            packet.key = packet.key + self.zone
        conn = self._resolve(packet, now)
        if conn is None:
            return None
        answer = self._step(conn, packet, must_check, now)
        if answer == tcp.REOPENED:
            # The tuple's former connection is over. What is found now is unconfirmed, so it cannot happen again.
            self.stats.search_restart += 1
            self.remove(conn, now, REOPENED)
            conn = self._resolve(packet, now)
            if conn is None:
                return None
            answer = self._step(conn, packet, must_check, now)
        if answer > 0:
            return self._invalid(packet, answer)
        if answer == tcp.ASSURE:
            self.table.assure(conn)
        elif answer == tcp.DELETE:
            self.table.remove(conn, now, RESET)
        if packet.direction == REPLY:
            if conn.status & SEEN_REPLY == 0:
                conn.status |= SEEN_REPLY | UPDATED
            if answer != IGNORED:
                conn.reply_packets += 1
                conn.reply_bytes += packet.length
        elif answer != IGNORED:
            conn.original_packets += 1
            conn.original_bytes += packet.length
        return conn

    def confirm(self, packet: Packet, conn: Conn, now: i64) -> i64:
        """For a packet that the rules accepted: runs the helper, then puts a new connection into the table.

        Returns 0, or the reason why the packet must be dropped after all.
        """
        if conn.helper != 0 and packet.proto == conn.key[0]:
            answer = inspect(conn, packet, self._expectations, self._calls, self.table, self.settings, now)
            self.stats.expect_create = self._expectations.created
            if answer != 0:
                self.stats.drop += 1
                if conn.status & CONFIRMED == 0:
                    self._expectations.remove_master(conn)  # it may have announced something before it failed
                return answer
        if conn.status & (CONFIRMED | DYING) == 0:
            if not self.table.insert(conn, now):
                self.stats.insert_failed += 1
                self.stats.drop += 1
                self._expectations.remove_master(conn)
                return reason.CLASH
            self.stats.insert += 1
            self._tell(NEW_CONNECTION, conn, now)
        elif conn.status & UPDATED != 0:
            self._tell(UPDATE, conn, now)
        return 0

    def own_error(self, packet: Packet) -> None:
        """For an ICMP error of this machine itself that quotes an unknown packet: it is RELATED after all.

        The machine refused that packet before any queue saw it: its time to live was over, or there was no route. The
        kernel hands the refused packet's connection on to the error that it sends, without a look at the table.
        """
        packet.state = RELATED
        packet.direction = REPLY
        packet.reason = 0
        self.stats.invalid -= 1

    def counted_end(self, conn: Conn, packet: Packet) -> i64:
        """Where the TCP segment ends that ``packet`` is the first fragment of; -1 when there is nothing to extend."""
        track = conn.tcp
        return tcp.counted_end(track, packet) if track is not None and packet.proto == TCP else -1

    def extend(self, conn: Conn, packet: Packet, end: i64, size: i64) -> i64:
        """A later fragment brought ``size`` more bytes of a packet of ``conn``; ``end`` and answer as in ``tcp``."""
        if packet.direction == ORIGINAL:
            conn.original_bytes += size
        else:
            conn.reply_bytes += size
        track = conn.tcp
        return tcp.extend(track, packet.direction, end, size) if track is not None and end >= 0 else -1

    def sweep(self, now: i64) -> bool:
        """One bounded step of freeing what has expired; to be called about ten times a second.

        True: there may be more to free, so call again soon.
        """
        freed: i64 = self.table.sweep(now)
        self.stats.expired += freed
        if self.killed.count:
            self.killed.sweep(now)
        if self._expectations.count:
            self._expectations.sweep(now)
        if self._calls.count:
            for master in self._calls.sweep(now):
                end_call(master, self._expectations, self._calls, self.table, now)
        return freed >= MOST_FREED

    def expectations(self) -> list[Expectation]:
        """The expectations of living masters, expired ones included."""
        return self._expectations.all()

    def calls(self) -> list[list[gre.Call]]:
        """Both directions of every PPTP call that is known."""
        return self._calls.all()

    def restore_expectation(self, one: Expectation, now: i64) -> bool:
        """Adds what was expected in an earlier life; False when there is no place for it."""
        return self._expectations.add(one, self.settings.expect_max, now) == ADDED

    def restore_call(self, master: Conn, keys: list[bytes], tunnel: Conn | None, now: i64) -> None:
        """Adds a call that was known in an earlier life; ``keys`` with the senders' ids, ``tunnel`` its connection."""
        if self._calls.add(master, keys, now) and tunnel is not None:
            self._calls.fulfil(master, tunnel)

    def remove(self, conn: Conn, now: i64, cause: i64 = DELETED) -> None:
        """Takes one connection out, and with it what it expects and, when it is PPTP's, the call's tunnel."""
        self.table.remove(conn, now, cause)
        if conn.helper == PPTP:
            end_call(conn, self._expectations, self._calls, self.table, now)
        self._expectations.remove_master(conn)

    def kill(self, conn: Conn, tell: bool, now: i64) -> list[Conn]:
        """Takes one connection out and drops its packets until its ends stop; ``tell``: TCP's are reset.

        Returns what was taken out: a PPTP call's tunnel goes with its control connection.
        """
        cut = tunnels(conn, self.table, now) if conn.helper == PPTP else []
        cut.append(conn)
        for one in cut:
            self.remove(one, now, KILLED)
            self.killed.add(one, tell, now, self.settings.max)
        return cut

    def flush(self, now: i64 = 0) -> None:
        """Forgets every connection and expectation, and what was killed."""
        self.table.clear(now)
        self.killed.clear()
        self._expectations.clear()
        self._calls = gre.Calls()
        self._calls.siblings = self.siblings

    def join(self, siblings: Siblings) -> None:
        """From now on this tracker is one of several that share the traffic."""
        self.siblings = siblings
        self._expectations.siblings = siblings
        self._calls.siblings = siblings

    def reconfigure(self, settings: Settings) -> None:
        """New settings from the next packet on. What a connection was given by the old ones it keeps."""
        self.settings = settings
        self.table.count_sources(settings.per_source != 0)
        self.zoned = len(settings.zones) != 0
        self.zone = b""

    def _tell(self, kind: i64, conn: Conn, now: i64) -> None:
        """What was noted on the connection since the last packet that was accepted is told to who listens, and done."""
        events = self.table.events
        if events is not None and conn.status & DYING == 0:
            events.add(kind, conn, 0, now)
        conn.status &= ~STATE_UPDATED

    def _invalid(self, packet: Packet, why: i64) -> Conn | None:
        packet.state = INVALID
        packet.direction = NO_DIRECTION
        packet.reason = why
        self.stats.invalid += 1
        return None

    def _refuse(self, packet: Packet, why: i64) -> Conn | None:
        """No room for the packet's connection, or it was killed: dropped before the rules."""
        packet.state = 0
        packet.reason = why
        self.stats.drop += 1
        return None

    def _resolve(self, packet: Packet, now: i64) -> Conn | None:
        """The packet's connection, known or new; writes state and direction. None: INVALID, or no room (state 0)."""
        conn = self.table.find(packet.key, now)
        if conn is None:
            return self._create(packet, now)
        if conn.reply_key == packet.key:  # asked first: who talks to himself from one port to the same answers himself
            packet.direction = REPLY
            packet.state = ESTABLISHED
        else:
            packet.direction = ORIGINAL
            if conn.status & SEEN_REPLY:
                packet.state = ESTABLISHED
            else:
                packet.state = RELATED if conn.status & EXPECTED else NEW
        return conn

    def _create(self, packet: Packet, now: i64) -> Conn | None:
        reply_key = inverse(packet.key)
        if reply_key == b"":
            return self._invalid(packet, reason.ICMP_NO_INVERSE)
        if self.killed.count != 0 and self.killed.meets(packet, now):
            return self._refuse(packet, reason.KILLED)
        settings = self.settings
        if settings.per_source != 0 and self.table.count_of_source(packet.key) >= settings.per_source:
            return self._refuse(packet, reason.SOURCE_FULL)
        siblings = self.siblings
        entries: i64 = len(self.table)
        if siblings is not None and settings.max != 0:
            entries += siblings.elsewhere(entries + 1)  # with the one to come: others may be adding theirs just now
        if settings.max != 0 and entries >= settings.max:
            if self.table.early_drop(now) is None:
                return self._refuse(packet, reason.TABLE_FULL)
            self.stats.early_drop += 1
        conn = Conn(packet.key, reply_key, now)
        conn.track = self.leniency
        packet.direction = ORIGINAL
        packet.state = NEW
        expected = self._expectations.take(packet.key, now) if self._expectations.count else None
        master: Conn | None = None
        if expected is not None:
            master = expected.master
            conn.helper = expected.assign
        elif siblings is not None:
            master = siblings.take(packet.key, now)
            conn.helper = siblings.assigned
        if master is not None:
            conn.status = EXPECTED
            conn.master = master
            conn.mark = master.mark
            packet.state = RELATED
            self.stats.expect_new += 1
            if packet.proto == GRE:
                self._calls.fulfil(master, conn)
                other = self._expectations.find_exactly(reply_key, now)  # the call's other direction, now known
                if other is not None:
                    self._expectations.remove(other)
        elif settings.helpers and (packet.proto == TCP or packet.proto == UDP):
            conn.helper = settings.helpers.get((packet.proto, packet.dport), 0)
        return conn

    def _step(self, conn: Conn, packet: Packet, must_check: bool, now: i64) -> i64:
        """The protocol's judgement of the packet: 0, ASSURE, DELETE, REOPENED, or the reason why it is INVALID."""
        proto = packet.proto
        settings = self.settings
        if proto == TCP:
            answer = tcp.check_header(packet)
            if answer != 0:
                return answer
            if must_check and not is_checksum_good(packet):
                return reason.CHECKSUM
            answer = tcp.check_flags(packet)
            if answer != 0:
                return answer
            track = conn.tcp
            if track is None:
                answer = tcp.open_track(conn, packet, settings)
                track = conn.tcp
                if track is None:
                    return answer
            return tcp.track(conn, track, packet, packet.direction, now, settings)
        if proto == UDP or proto == UDPLITE:
            answer = udp.check(packet)
            if answer != 0:
                return answer
            if must_check and not is_checksum_good(packet):
                return reason.CHECKSUM
            return udp.track(conn, proto == UDPLITE, now, settings)
        if proto == ICMP or proto == ICMPV6:
            kind: i64 = packet.data[packet.l4]
            if conn.status & CONFIRMED == 0 and not icmp.is_query(proto, kind):
                return reason.ICMP_NEW
            conn.expires = now + (settings.icmp_timeout if proto == ICMP else settings.icmpv6_timeout)
            return 0
        if proto == SCTP:
            answer = sctp.check(packet)
            if answer != 0:
                return answer
            if must_check and not is_checksum_good(packet):
                return reason.CHECKSUM
            return sctp.track(conn, packet, packet.direction, self.table, now, settings)
        if proto == GRE:
            return gre.track(conn, now, settings)
        generic.track(conn, now, settings)
        return 0

    def _track_error(self, packet: Packet, now: i64) -> Conn | None:
        """An ICMP error belongs to the connection of the packet that it quotes, and must go to that packet's sender."""
        quoted = icmp.quoted_key(packet)
        if quoted == b"":
            return self._invalid(packet, reason.ICMP_ERROR_QUOTE)
        if quoted[0] == GRE and self._calls.count:
            quoted = self._calls.complete(quoted, now)
        key = inverse(quoted + self.zone)
        if key == b"":
            return self._invalid(packet, reason.ICMP_ERROR_QUOTE)
        conn = self.table.find(key, now)
        if conn is None and self.siblings is not None:
            conn = self.siblings.find(key, now)
        if conn is None:
            return self._invalid(packet, reason.ICMP_ERROR_UNKNOWN)
        size = address_size(key)
        if key[1 + size : 1 + 2 * size] != packet.dst:
            return self._invalid(packet, reason.ICMP_ERROR_ADDRESS)
        packet.state = RELATED
        packet.direction = REPLY if conn.reply_key == key else ORIGINAL
        return conn
