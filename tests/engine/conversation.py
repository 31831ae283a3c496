"""A small language for what passes a gateway, so that a test reads as the conversation that it is about.

A ``Gateway`` is a real engine, and its clock lies in our hand. Everything is accepted unless a packet is sent
``refused``: then the rules drop it. Each packet is answered with a ``Said``, which is asked whether it is what was to
come. A ``Tcp``, ``Udp`` or ``Ping`` is one conversation through a gateway::

    talk = Tcp()
    talk.client("syn").is_new()
    talk.server("syn ack").is_established()
    talk.client("ack").is_established()
    assert talk.entry == "432000 ESTABLISHED [ASSURED]"

Sequence numbers count from each side's first one, as in a capture that one reads: after the SYN it is 1. What a test
does not say is what a real end would send: it goes on where it stopped, and acknowledges all that got through.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

from engine import packets

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import expect_line
from ctfw.conntrack.settings import SECOND, Settings
from ctfw.conntrack.state import ASSURED, SEEN_REPLY, state_name
from ctfw.conntrack.tcp import STATE_NAMES
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine, Judgement
from ctfw.packet import DIRECTION_NAMES, FORWARD, OUTPUT, TCP, decode
from ctfw.packet_text import describe
from ctfw.reason import NAMES
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.verdict import ACCEPT, DROP

CLIENT, SERVER, ROUTER, STRANGER = "10.1.0.2", "10.2.0.2", "10.9.0.1", "10.3.0.3"
CLIENT6, SERVER6, ROUTER6 = "2001:db8:1::2", "2001:db8:2::2", "2001:db8:9::1"

ACCEPT_ALL = Ruleset([], {FORWARD: ACCEPT, OUTPUT: ACCEPT})
DROP_ALL = Ruleset([], {FORWARD: DROP})


class Said:
    """The engine's word on one packet. Each ``is_...`` fails unless it was that, and returns this again."""

    def __init__(self, judgement: Judgement, was_refused: bool) -> None:
        self.packet = judgement.packet
        self.verdict = int(judgement.verdict)
        self.state = state_name(judgement.state)
        self.direction = DIRECTION_NAMES[judgement.direction] if judgement.direction >= 0 else ""
        self.reason = NAMES[judgement.reason]
        self.conn = judgement.conn
        self._asked_rules = judgement.rule is not None
        self._was_refused = was_refused

    def is_new(self) -> "Said":
        return self._passed("NEW", "ORIGINAL")

    def is_established(self, direction: str = "") -> "Said":
        return self._passed("ESTABLISHED", direction or self.direction)

    def is_related(self, direction: str) -> "Said":
        return self._passed("RELATED", direction)

    def is_untracked(self) -> "Said":
        return self._passed("UNTRACKED", "")

    def is_invalid(self, reason: str) -> "Said":
        return self._passed("INVALID", "", reason)

    def is_dropped_unasked(self, reason: str) -> "Said":
        """Conntrack itself dropped it, no rule was asked."""
        assert (self.state, self.verdict, self._asked_rules, self.reason) == ("", DROP, False, reason), self
        return self

    def is_eaten(self, reason: str) -> "Said":
        """The rules accepted it, and the helper dropped it after them."""
        assert self.state and (self.verdict, self._asked_rules, self.reason) == (DROP, False, reason), self
        return self

    def _passed(self, state: str, direction: str, reason: str = "") -> "Said":
        assert (self.state, self.direction, self.reason) == (state, direction, reason), self
        assert self._asked_rules and self.verdict == (DROP if self._was_refused else ACCEPT), self
        return self

    def __str__(self) -> str:
        word = "accepted" if self.verdict == ACCEPT else "dropped"
        return f"{describe(self.packet)}: {word}, {self.state or 'no state'} {self.direction} {self.reason}"


class Gateway:
    """An engine and its clock. Keyword arguments are knobs of connection tracking, by their sysctl names."""

    def __init__(self, helpers: Mapping[str, Sequence[int]] | None = None, **knobs: int) -> None:
        self.tracker = ConnTrack(Settings(knobs, helpers))
        self.engine = Engine(self.tracker, ACCEPT_ALL)
        self.now = 1_000_000 * SECOND

    def sees(
        self,
        packet: bytes,
        *,
        refused: bool = False,
        check: bool = True,
        copied: int | None = None,
        hook: int = FORWARD,
    ) -> Said:
        """Hands one packet to the engine; of ``copied`` the kernel copied only so many bytes."""
        self.engine.ruleset = DROP_ALL if refused else ACCEPT_ALL
        data = packet[:copied]
        check = check and len(data) == len(packet)
        judgement = self.engine.handle(data, len(packet), hook, "lan0", "wan0", 0, check, self.now)
        return Said(judgement, refused)

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    def sweep(self) -> None:
        """As many ticks as it takes to go once round the table."""
        for _ in range(32):
            self.tracker.sweep(self.now)

    @property
    def conns(self) -> list[Conn]:
        """All connections in the table, expired ones included."""
        table = self.tracker.table
        return [conn for number in range(table.shards) for conn in table.shard(number)]

    @property
    def expected(self) -> list[str]:
        return [expect_line(one, self.now) for one in self.tracker.expectations()]

    def conn_of(self, packet: bytes) -> Conn | None:
        """The living connection of this packet, in either direction; looked for without the table's help."""
        key = decode(packet, len(packet)).key
        found = [conn for conn in self.conns if key in (conn.key, conn.reply_key) and conn.expires > self.now]
        return found[0] if found else None

    def entry_of(self, packet: bytes) -> str:
        """That connection in the words of ``conntrack -L``: seconds left, state and status; "" when there is none."""
        conn = self.conn_of(packet)
        if conn is None:
            return ""
        words = [str((conn.expires - self.now) // SECOND)]
        words += [STATE_NAMES[conn.l4state]] if conn.key[0] == TCP else []
        words += [] if conn.status & SEEN_REPLY else ["[UNREPLIED]"]
        words += ["[ASSURED]"] if conn.status & ASSURED else []
        return " ".join(words)


class Fields(TypedDict, total=False):
    """What a segment says if it is not what a real end would say."""

    seq: int
    ack: int
    win: int
    options: bytes


class _Side:
    """One end of a TCP conversation: where it is, and how far it has come."""

    def __init__(self, address: str, port: int, start: int, options: bytes) -> None:
        self.address = address
        self.port = port
        self.start = start
        self.options = options
        self.sent = 0


class Tcp:
    """A TCP conversation. Options given here stand in the SYN of that side, others in the segment they are given to."""

    def __init__(
        self,
        gateway: Gateway | None = None,
        client: str = CLIENT,
        server: str = SERVER,
        sport: int = 40000,
        dport: int = 80,
        *,
        client_start: int = 1_000_000,
        server_start: int = 5_000_000,
        client_options: bytes = b"",
        server_options: bytes = b"",
    ) -> None:
        self.gateway = gateway if gateway is not None else Gateway()
        self.sides = (
            _Side(client, sport, client_start, client_options),
            _Side(server, dport, server_start, server_options),
        )

    def client(self, flags: str, data: bytes = b"", refused: bool = False, **fields: Unpack[Fields]) -> Said:
        """The client sends a segment."""
        return self._send(0, flags, data, refused, **fields)

    def server(self, flags: str, data: bytes = b"", refused: bool = False, **fields: Unpack[Fields]) -> Said:
        return self._send(1, flags, data, refused, **fields)

    def opened(self) -> "Tcp":
        """Goes through the handshake."""
        self.client("syn").is_new()
        self.server("syn ack").is_established("REPLY")
        self.client("ack").is_established("ORIGINAL")
        return self

    def closed(self) -> "Tcp":
        """Closes an open connection, the client first."""
        self.client("fin ack").is_established()
        self.server("ack").is_established()
        self.server("fin ack").is_established()
        self.client("ack").is_established()
        return self

    def wait(self, seconds: float) -> None:
        self.gateway.wait(seconds)

    @property
    def entry(self) -> str:
        """See ``Gateway.entry_of``."""
        return self.gateway.entry_of(self.packet(0, "ack"))

    @property
    def conn(self) -> Conn:
        conn = self.gateway.conn_of(self.packet(0, "ack"))
        assert conn is not None, "no such connection"
        return conn

    def packet(self, direction: int, flags: str, data: bytes = b"", **fields: Unpack[Fields]) -> bytes:
        """The segment as bytes, not sent."""
        mine, other = self.sides[direction], self.sides[1 - direction]
        words = flags.split()
        return packets.tcp(
            mine.address,
            other.address,
            mine.port,
            other.port,
            flags,
            seq=mine.start + fields.get("seq", mine.sent),
            ack=other.start + fields.get("ack", other.sent) if "ack" in words else 0,
            win=fields.get("win", 64240),
            options=fields.get("options", mine.options if "syn" in words else b""),
            data=data,
        )

    def _send(self, direction: int, flags: str, data: bytes, refused: bool, **fields: Unpack[Fields]) -> Said:
        said = self.gateway.sees(self.packet(direction, flags, data, **fields), refused=refused)
        if "seq" not in fields and said.verdict == ACCEPT and said.state != "INVALID":
            self.sides[direction].sent += len(data) + ("syn" in flags) + ("fin" in flags)
        if said.state == "ESTABLISHED":
            assert said.direction == DIRECTION_NAMES[direction], said
        return said


class Udp:
    """A UDP conversation."""

    def __init__(
        self,
        gateway: Gateway | None = None,
        client: str = CLIENT,
        server: str = SERVER,
        sport: int = 40000,
        dport: int = 53,
    ) -> None:
        self.gateway = gateway if gateway is not None else Gateway()
        self.question = client, server, sport, dport
        self.answer = server, client, dport, sport

    def client(self, data: bytes = b"?", refused: bool = False) -> Said:
        return self.gateway.sees(packets.udp(*self.question, data), refused=refused)

    def server(self, data: bytes = b"!", refused: bool = False) -> Said:
        return self.gateway.sees(packets.udp(*self.answer, data), refused=refused)

    def wait(self, seconds: float) -> None:
        self.gateway.wait(seconds)

    @property
    def entry(self) -> str:
        """See ``Gateway.entry_of``."""
        return self.gateway.entry_of(packets.udp(*self.question))


class Ping:
    """An ICMP or ICMPv6 query and its answer; echo unless ``kinds`` says otherwise."""

    def __init__(
        self,
        gateway: Gateway | None = None,
        client: str = CLIENT,
        server: str = SERVER,
        kinds: tuple[int, int] | None = None,
        ident: int = 7,
    ) -> None:
        self.gateway = gateway if gateway is not None else Gateway()
        self.ends = client, server
        self.kinds = kinds or ((128, 129) if packets.is_ipv6(client) else (8, 0))
        self.ident = ident

    def client(self, code: int = 0, refused: bool = False) -> Said:
        return self.gateway.sees(self.packet(0, code), refused=refused)

    def server(self, code: int = 0, ident: int | None = None) -> Said:
        return self.gateway.sees(self.packet(1, code, ident))

    def wait(self, seconds: float) -> None:
        self.gateway.wait(seconds)

    @property
    def entry(self) -> str:
        """See ``Gateway.entry_of``."""
        return self.gateway.entry_of(self.packet(0))

    def packet(self, direction: int, code: int = 0, ident: int | None = None) -> bytes:
        """The message as bytes, not sent."""
        src, dst = self.ends[direction], self.ends[1 - direction]
        return packets.icmp(src, dst, self.kinds[direction], code, self.ident if ident is None else ident)
