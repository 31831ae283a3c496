"""One connection: what the table holds, and no more than the packet's way needs.

Life: made by the tracker for a packet of an unknown tuple (unconfirmed, in no table), confirmed when that packet was
accepted, then found by either of its two keys until it expires or is killed. ``expires`` is a point in time, written
once per packet; nothing ticks.

The last two attributes thread the connection into the table's list of the unassured; only ``table`` touches them. A
connection refers to its master, never the other way round, so there are no cycles but that list, and the table undoes
its links when a connection leaves: Python's cycle collector never has to look at connections.
"""

from mypy_extensions import i32, i64, mypyc_attr

from ctfw.conntrack.state import ASSURED, CONFIRMED


@mypyc_attr(acyclic=True)
class Side:
    """What one end of a TCP connection has shown: RFC 9293's windows, as seen from the middle.

    ``end`` is the highest sequence number sent (+1), ``maxend`` the highest that the other side's window allows,
    ``maxwin`` the largest window this side announced, ``maxack`` the highest acknowledgement it sent.
    """

    __slots__ = ("end", "flags", "maxack", "maxend", "maxwin", "scale")

    def __init__(self) -> None:
        self.end: i64 = 0
        self.maxend: i64 = 0
        self.maxwin: i64 = 0
        self.maxack: i64 = 0
        self.scale: i32 = 0  # two of them in the place of one: a side is 64 bytes, and not 80
        self.flags: i32 = 0


@mypyc_attr(acyclic=True)
class TcpTrack:
    """Both sides of a TCP connection and the last packet that counted; written by ``tcp`` alone."""

    __slots__ = (
        "last_ack", "last_dir", "last_end", "last_flags", "last_kind", "last_scale", "last_seq", "last_win",
        "original", "reply", "retrans",
    )  # fmt: skip

    def __init__(self) -> None:
        self.original = Side()
        self.reply = Side()
        self.last_kind: i64 = -1
        self.last_dir: i64 = 0
        self.last_seq: i64 = 0
        self.last_ack: i64 = 0
        self.last_end: i64 = 0
        self.last_win: i64 = 0
        self.last_scale: i64 = 0
        self.last_flags: i64 = 0
        self.retrans: i64 = 0


@mypyc_attr(acyclic=True)
class SctpTrack:
    """The verification tags of an SCTP association and who has tried to open it; written by ``sctp`` alone.

    ``vtags`` and ``opened`` (1 when an INIT was seen) are indexed by the direction of the packets. ``doubted`` is the
    direction of a heartbeat whose tag was wrong, or -1.
    """

    __slots__ = ("doubted", "opened", "vtags")

    def __init__(self) -> None:
        self.vtags: list[int] = [0, 0]
        self.opened: list[int] = [0, 0]
        self.doubted: i64 = -1


@mypyc_attr(acyclic=True)
class GreTrack:
    """The timeouts of a GRE connection, in nanoseconds: what was set when it began."""

    __slots__ = ("timeout", "timeout_stream")

    def __init__(self, timeout: i64, timeout_stream: i64) -> None:
        self.timeout: i64 = timeout
        self.timeout_stream: i64 = timeout_stream


@mypyc_attr(acyclic=True)
class Conn:
    """A connection. ``key`` and ``reply_key`` are its two tuples (ctfw.packet), ``status`` bits of ``state``.

    ``l4state`` is the protocol's own state (TCP: SYN_SENT ...), and ``tcp`` or ``l4`` what else it must remember;
    ``created`` and ``expires`` are nanoseconds of the caller's clock; ``mark`` starts as its master's. ``generation``
    is that of the rules that last accepted it, ``track`` (LOOSE, LIBERAL of ``state``) what a rule asked for before it
    was tracked. ``judged_original`` and ``judged_reply`` are a note of the rules (``ruleset.memory``), 0 for none.
    Packets and bytes are counted in each direction, whether or not the ``acct`` knob shows them: it costs no more than
    a nanosecond.
    """

    __slots__ = (
        "created", "expires", "generation", "helper", "helper_data", "judged_original", "judged_reply", "key", "l4",
        "l4state", "mark", "master", "next", "original_bytes", "original_packets", "previous", "reply_bytes",
        "reply_key", "reply_packets", "status", "tcp", "track",
    )  # fmt: skip

    def __init__(self, key: bytes, reply_key: bytes, now: i64) -> None:
        self.key = key
        self.reply_key = reply_key
        self.status: i64 = 0
        self.created: i64 = now
        self.expires: i64 = now
        self.l4state: i64 = 0
        self.mark: i64 = 0
        self.generation: i64 = 0
        self.helper: i64 = 0
        self.track: i64 = 0
        self.judged_original: i64 = 0
        self.judged_reply: i64 = 0
        self.original_packets: i64 = 0
        self.original_bytes: i64 = 0
        self.reply_packets: i64 = 0
        self.reply_bytes: i64 = 0
        self.tcp: TcpTrack | None = None
        self.l4: SctpTrack | GreTrack | None = None
        self.helper_data: list[int] | None = None
        self.master: Conn | None = None
        self.previous: Conn | None = None
        self.next: Conn | None = None

    def is_assured(self) -> bool:
        return self.status & ASSURED != 0

    def is_confirmed(self) -> bool:
        return self.status & CONFIRMED != 0
