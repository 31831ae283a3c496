"""The kernel's queue, hot side: read packets, have them judged, write the verdicts, count every loss.

Owns the netlink messages of NFQUEUE (linux/netfilter/nfnetlink_queue.h) on a socket that is already bound and
configured (service/kernel_queue.py does that), and the rule that every packet read is answered exactly once, whatever
happens in between.

The way of one ``process``: read what waits, one message per packet and up to BATCH by one call, until the socket is
empty or the budget is used up; each packet goes to ``engine.handle`` and its verdict joins the pending ones; these are
sent after each read. So a busy gateway pays one read and one send for many packets, and an idle one waits for none.

Why a batch verdict can stand for all: the kernel numbers the packets of a queue in the order in which it sends them,
and a batch verdict answers every waiting packet up to its number. So a run of equal verdicts (that
set the same mark, if any) is one message with the number of its last packet, and one that differs just begins the next
run. This holds only while verdicts leave in
the order of the packets: a send that fails is repeated before anything else is read, and nothing is ever overtaken. A
message whose number cannot be read would be covered by the next run, whatever that says; before a packet that follows
one, everything older is therefore answered with the failure policy.

Losses: the numbers also tell what got lost on the way to us. A gap is a packet that the kernel numbered and could not
put into the socket (it dropped that one itself). Packets beyond the queue's length are never numbered; only
/proc/net/netfilter/nfnetlink_queue knows of them.

Clock: read once per ``process``, here and nowhere below. This module knows nothing of rules, logs or files; whoever
wants to see the packets sets ``record``, ``telling`` (those that say something about their connection) or ``log``. It
holds the only ``except Exception`` on the way of a packet.
"""

import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

from ctfw.engine import Engine, Judgement
from ctfw.packet import OUTPUT, POSTROUTING, TCP
from ctfw.receive import HEAD, Receiver
from ctfw.ruleset.verdict import ACCEPT, DROP

FIRST: Final = 2  # packets of each direction of a connection that tell something about it
BATCH: Final = 64  # packets per read and verdicts per send; beyond that a call is a percent of what its packets cost
MAX_NAMES: Final = 4096
NEAR: Final = 256  # interfaces below this index are found without a dictionary

PACKET_MESSAGE: Final = 3 << 8  # NFNL_SUBSYS_QUEUE, NFQNL_MSG_PACKET
CONFIG_MESSAGE: Final = 3 << 8 | 2
BATCH_MESSAGE: Final = 3 << 8 | 3
ERROR_MESSAGE: Final = 2  # NLMSG_ERROR

_REQUEST: Final = 1  # NLM_F_REQUEST
_VERDICT_SIZE: Final = 32
_HEADER: Final = 16  # struct nlmsghdr
_ATTRIBUTES: Final = 20  # behind nlmsghdr and nfgenmsg

_NFQA_PACKET_HDR: Final = 1
_NFQA_VERDICT_HDR: Final = 2
_NFQA_MARK: Final = 3
_NFQA_INDEV: Final = 5
_NFQA_OUTDEV: Final = 6
_NFQA_HWADDR: Final = 9
_NFQA_PAYLOAD: Final = 10
_NFQA_CAP_LEN: Final = 13
_NFQA_SKB_INFO: Final = 14

# NFQA_SKB_INFO: the checksum is still to be filled in; larger than the MTU, to be cut later; nobody verified it yet.
CSUM_NOT_READY: Final = 1
GSO: Final = 2
CSUM_NOT_VERIFIED: Final = 4

# What the record calls it.
VERIFIED: Final = "verified"
UNVERIFIED: Final = "unverified"
PARTIAL: Final = "partial"

# Netlink's own header fields are in the order of the host, everything of NFQUEUE in that of the network.
_LOW: Final[i64] = 0 if sys.byteorder == "little" else 1
_HIGH: Final[i64] = 1 - _LOW
_LOW_HALF: Final[i64] = 2 * _LOW
_HIGH_HALF: Final[i64] = 2 * _HIGH

# data, length, now, hook, indev, outdev, mark, checksum
Record = Callable[[bytes, int, int, int, str, str, int, str], None]
# judgement, indev, outdev, mark, now
Log = Callable[[Judgement, str, str, int, int], None]


class Message:
    """What one packet message says. Reused: valid until the next ``read``."""

    __slots__ = ("hook", "id", "indev", "info", "length", "mac", "mark", "outdev", "payload", "payload_end")

    def __init__(self) -> None:
        self.id: i64 = -1
        self.hook: i64 = 0
        self.mark: i64 = 0
        self.indev: i64 = 0
        self.outdev: i64 = 0
        self.info: i64 = 0
        self.mac: i64 = 0
        self.payload: i64 = 0
        self.payload_end: i64 = 0
        self.length: i64 = 0

    def read(self, data: bytes, at: i64, end: i64) -> bool:
        """Read the message data[at:end], header included. False when malformed; ``id`` is -1 if it has none."""
        self.id = -1
        self.hook = 0
        self.mark = 0
        self.indev = 0
        self.outdev = 0
        self.info = 0
        self.mac = 0
        self.payload = 0
        self.payload_end = 0
        captured: i64 = 0
        at += _ATTRIBUTES
        while at + 4 <= end:
            size: i64 = _host16(data, at)
            kind: i64 = _host16(data, at + 2) & 0x3FFF
            if size < 4 or at + size > end:
                return False
            if kind == _NFQA_PAYLOAD:
                self.payload = at + 4
                self.payload_end = at + size
            elif kind == _NFQA_PACKET_HDR:
                if size < 11:
                    return False
                self.id = _net32(data, at + 4)
                self.hook = data[at + 10]
            elif size == 8:
                value = _net32(data, at + 4)
                if kind == _NFQA_INDEV:
                    self.indev = value
                elif kind == _NFQA_OUTDEV:
                    self.outdev = value
                elif kind == _NFQA_MARK:
                    self.mark = value
                elif kind == _NFQA_CAP_LEN:
                    captured = value
                elif kind == _NFQA_SKB_INFO:
                    self.info = value
            elif kind == _NFQA_HWADDR and size == 16 and data[at + 4] == 0 and data[at + 5] == 6:
                self.mac = at + 8
            at += (size + 3) & ~3
        self.length = self.payload_end - self.payload
        if captured > self.length:
            self.length = captured
        return self.id >= 0 and self.hook <= POSTROUTING


class Queue:
    """One bound queue. ``process`` whenever its socket is readable; the counters only ever grow.

    ``received`` packets were read and ``answered`` ones have left as verdicts; the difference is ``pending``.
    ``error_verdict`` is for packets that we could not judge: our own exception, or a malformed message.
    """

    def __init__(self, sock: socket.socket, number: int, engine: Engine, error_verdict: int, buffer: int) -> None:
        self.engine: Engine = engine
        self.error_verdict: i64 = error_verdict
        self.record: Record | None = None
        self.telling: Record | None = None
        self.log: Log | None = None
        self.ledger: memoryview | None = None  # its first number is kept at ``received``, for a daemon after this one
        self.last_error: Exception | None = None  # for whoever logs it; set back by them

        self.received: i64 = 0
        self.answered: i64 = 0
        self.pending: i64 = 0
        self.lost: i64 = 0  # numbered by the kernel, never seen here
        self.errors: i64 = 0  # exceptions while judging
        self.malformed: i64 = 0
        self.uncheckable: i64 = 0  # nobody verified the checksum, and the copy was cut
        self.overruns: i64 = 0  # ENOBUFS from recv, once per congestion and not per packet
        self.refused: i64 = 0  # error messages from the kernel, mostly verdicts for packets that are gone
        self.refused_errno: i64 = 0
        self.retries: i64 = 0  # sends that failed and were repeated
        self.rejects: bool = False  # the kernel's rules behind the queue answer packets that carry our mark
        self.blocked: bool = False  # the last send failed; process begins with its repetition
        self.idle: bool = False  # the last process left the socket empty
        self.now: i64 = 0  # when the last ``process_one`` had read something

        # A socket's own methods do the same by way of arguments in tuples and a time-out: 500 instructions more a call.
        self._read_file: Callable[[int, int], bytes] = os.read
        self._write_file: Callable[[int, bytes], int] = os.write
        self._file: int = sock.fileno()
        self._sock = sock
        self._buffer: int = buffer
        self._receiver = Receiver(sock, buffer, BATCH)
        self._message: Message = Message()
        self._last_id: i64 = 0
        self._unidentified: bool = False
        self._names: dict[int, str] = {}
        self._near: list[str] = []
        self._outbox: list[bytes] = []
        self._run_open: bool = False
        self._run_verdict: i64 = 0
        self._run_mark: i64 = -1
        self._run_id: i64 = 0
        self._number: int = number
        self._drop_head: bytes = _verdict_head(number, DROP)
        self._accept_head: bytes = _verdict_head(number, ACCEPT)
        self.refresh_names()

    def process(self, budget: int) -> int:
        """Read, judge and answer up to ``budget`` packets; how many were read. Raises OSError if the socket is gone."""
        self.idle = False
        if self.pending and not self.flush():
            return 0
        now: i64 = time.monotonic_ns()
        done: i64 = 0
        while done < budget:
            try:
                got: i64 = self._receiver.read(budget - done)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1
                done += 1
                continue
            if got == 0:
                self.idle = True
                break
            self._read(got, now)
            if self.ledger is not None:
                self.ledger[0] = self.received
            done += got
            if not self.flush():
                break
            if got < BATCH and done < budget:
                # The read has seen the socket empty. To look again at once costs more than to ask who is ready.
                self.idle = True
                break
        return done

    def process_one(self, wait: bool) -> int:
        """As ``process`` with a budget of one, at less cost than that of a batch; does not learn whether more wait.

        ``wait``: for a packet, as long as the socket has its readers wait. 0 is then that nothing came.
        """
        self.idle = False
        if self.pending and not self.flush():
            return 0
        try:
            if wait:
                data = self._read_file(self._file, self._buffer)
            else:
                data = self._sock.recv(self._buffer, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                self.idle = True
                return 0
            if error.errno != errno.ENOBUFS:
                raise
            self.overruns += 1
            self.now = time.monotonic_ns()
            return 1
        self.now = time.monotonic_ns()
        self._datagram(data, 0, len(data), self.now)
        if self.ledger is not None:
            self.ledger[0] = self.received
        self.flush()
        return 1

    def _read(self, count: i64, now: i64) -> None:
        """Goes through the datagrams of the last read."""
        receiver = self._receiver
        heads = receiver.heads
        sizes = receiver.sizes
        i: i64 = 0
        while i < count:
            size: i64 = sizes[i]
            if size <= HEAD:
                self._datagram(heads, i * HEAD, i * HEAD + size, now)
            else:
                self._datagram(receiver.whole(i, size), 0, size, now)
            i += 1

    def flush(self) -> bool:
        """Send the pending verdicts. False: the kernel has no memory for them now, they stay pending."""
        if self._run_open:
            self._close_run()
        if not self._outbox:
            return True
        try:
            self._write_file(self._file, self._outbox[0] if len(self._outbox) == 1 else b"".join(self._outbox))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
                raise
            self.retries += 1
            self.blocked = True
            return False
        self.blocked = False
        self.answered += self.pending
        self.pending = 0
        self._outbox.clear()
        return True

    def resume(self, last: int, fresh: list[bytes]) -> None:
        """Go on with a queue that others read before us.

        ``last`` is the number up to which its packets are none of ours, -1 if nobody knows; ``fresh`` are messages
        after it that were read already.
        """
        self._last_id = last
        now: i64 = time.monotonic_ns()
        for data in fresh:
            self._datagram(data, 0, len(data), now)
        self.flush()

    def refresh_names(self) -> None:
        """Ask the kernel for the names of the interfaces again: they can be renamed."""
        self._names = dict(socket.if_nameindex())
        self._near = [self._names.get(index, "") for index in range(NEAR)]

    def _datagram(self, data: bytes, at: i64, total: i64, now: i64) -> None:
        """The messages in data[at:total]."""
        while total - at >= _HEADER:
            size: i64 = _host16(data, at + _LOW_HALF) | _host16(data, at + _HIGH_HALF) << 16
            kind: i64 = _host16(data, at + 4)
            if size < _HEADER or size > total - at:
                # Cut on its way or nonsense; what is left of it may still say which packet it was.
                if kind == PACKET_MESSAGE:
                    self._packet(data, at, total, False, now)
                else:
                    self._unreadable()
                return
            if kind == PACKET_MESSAGE:
                self._packet(data, at, at + size, True, now)
            elif kind == ERROR_MESSAGE:
                self._refusal(data, at, size)
            at += (size + 3) & ~3
        if at < total:
            self._unreadable()

    def _packet(self, data: bytes, at: i64, end: i64, whole: bool, now: i64) -> None:
        message = self._message
        readable = message.read(data, at, end) and whole
        if message.id < 0:
            self._unreadable()
            return
        self._follow(message.id)
        self.received += 1
        verdict: i64 = self.error_verdict
        mark: i64 = -1
        if readable:
            try:
                payload = data[message.payload : message.payload_end]
                indev = self._name(message.indev)
                outdev = self._name(message.outdev)
                # The sum of a packet of our own is not checked (nor does the kernel): it was just made.
                trusted = message.info & CSUM_NOT_VERIFIED == 0 or message.hook == OUTPUT
                partial = message.info & (CSUM_NOT_READY | GSO) != 0
                cut = message.length > len(payload)
                check = not (trusted or partial or cut)
                if cut and not trusted and not partial:
                    self.uncheckable += 1
                mac = b""
                if message.mac != 0 and self.engine.ruleset.asks_mac:
                    mac = data[message.mac : message.mac + 6]
                judgement = self.engine.handle(
                    payload, message.length, message.hook, indev, outdev, message.mark, check, now, mac
                )
                verdict = judgement.verdict
                if judgement.reject != 0 and self.rejects:
                    verdict = ACCEPT
                if verdict == ACCEPT:
                    mark = judgement.mark
                if self.record is not None:
                    word = PARTIAL if partial else VERIFIED if trusted else UNVERIFIED
                    self.record(payload, message.length, now, message.hook, indev, outdev, message.mark, word)
                if self.telling is not None and is_telling(judgement, payload):
                    word = PARTIAL if partial else VERIFIED if trusted else UNVERIFIED
                    self.telling(payload, message.length, now, message.hook, indev, outdev, message.mark, word)
                if self.log is not None and (judgement.log or judgement.logs):
                    self.log(judgement, indev, outdev, message.mark, now)
            except Exception as error:
                # Without this a bug of ours would leave the packet, and the connection behind it, waiting for ever.
                self.errors += 1
                self.last_error = error
        else:
            self.malformed += 1
        self._answer(message.id, verdict, mark)

    def _unreadable(self) -> None:
        """Something came that may have been a packet, but which one cannot be told; see _follow."""
        self.malformed += 1
        self._unidentified = True

    def _follow(self, packet_id: i64) -> None:
        """Count what the kernel numbered since the last packet, and settle what came in between and has no number."""
        before = self._last_id
        gap: i64 = (packet_id - before - 1) & 0xFFFFFFFF
        self._last_id = packet_id
        if self._unidentified:
            self._unidentified = False
            if self._run_open:
                self._close_run()
            self._outbox.append(self._batch((packet_id - 1) & 0xFFFFFFFF, self.error_verdict, -1))
        if 0 < gap < 0x80000000 and before >= 0:
            self.lost += gap

    def _answer(self, packet_id: i64, verdict: i64, mark: i64) -> None:
        if self._run_open and (verdict != self._run_verdict or mark != self._run_mark):
            self._close_run()
        self._run_open = True
        self._run_verdict = verdict
        self._run_mark = mark
        self._run_id = packet_id
        self.pending += 1

    def _close_run(self) -> None:
        self._run_open = False
        self._outbox.append(self._batch(self._run_id, self._run_verdict, self._run_mark))

    def _batch(self, packet_id: i64, verdict: i64, mark: i64) -> bytes:
        """The verdict for every packet up to this one that still waits; ``mark`` -1: they keep the one they have."""
        if mark >= 0:
            return _marking_verdict(self._number, verdict, packet_id, mark)
        head = self._accept_head if verdict == ACCEPT else self._drop_head
        return head + int(packet_id).to_bytes(4, "big")

    def _refusal(self, data: bytes, at: i64, size: i64) -> None:
        if size < _HEADER + 4:
            self.malformed += 1
            return
        code: i64 = _host16(data, at + _HEADER + _LOW_HALF) | _host16(data, at + _HEADER + _HIGH_HALF) << 16
        if code != 0:  # 0 is an acknowledgement
            self.refused += 1
            self.refused_errno = 0x100000000 - code

    def _name(self, index: i64) -> str:
        """The interface's name; "" for none, and for one that went away while its packet waited."""
        if index < NEAR:
            near = self._near[index]
            if near or index == 0:
                return near
        name = self._names.get(index)
        if name is None:
            unknown = {one: "" for one, known in self._names.items() if not known}
            self.refresh_names()
            name = self._names.get(index, "")
            if len(unknown) < MAX_NAMES:
                unknown[index] = name
            self._names = {**unknown, **self._names}
        return name


def is_telling(judgement: Judgement, data: bytes) -> bool:
    """True for what begins or ends a connection, is dropped, has none, or has one that a helper reads."""
    conn = judgement.conn
    if conn is None or judgement.verdict == DROP or conn.helper != 0:
        return True
    if conn.original_packets <= FIRST and conn.reply_packets <= FIRST:
        return True
    packet = judgement.packet
    return packet.proto == TCP and packet.l4 + 13 < len(data) and data[packet.l4 + 13] & 7 != 0


def _host16(data: bytes, at: i64) -> i64:
    low: i64 = data[at + _LOW]
    high: i64 = data[at + _HIGH]
    return low | high << 8


def _net32(data: bytes, at: i64) -> i64:
    first: i64 = data[at]
    second: i64 = data[at + 1]
    third: i64 = data[at + 2]
    fourth: i64 = data[at + 3]
    return first << 24 | second << 16 | third << 8 | fourth


def _verdict_head(number: int, verdict: int) -> bytes:
    """A batch verdict up to the packet's number, which comes next. It says nothing of marks, so packets keep theirs."""
    head = (12).to_bytes(2, sys.byteorder) + _NFQA_VERDICT_HDR.to_bytes(2, sys.byteorder)
    return message_header(BATCH_MESSAGE, _REQUEST, _VERDICT_SIZE, number) + head + verdict.to_bytes(4, "big")


def _marking_verdict(number: int, verdict: int, packet_id: int, mark: int) -> bytes:
    """A batch verdict that sets the mark as well."""
    body = attribute(_NFQA_VERDICT_HDR, verdict.to_bytes(4, "big") + packet_id.to_bytes(4, "big"))
    body += attribute(_NFQA_MARK, mark.to_bytes(4, "big"))
    return message_header(BATCH_MESSAGE, _REQUEST, _ATTRIBUTES + len(body), number) + body


def message_header(kind: int, flags: int, size: int, number: int) -> bytes:
    """nlmsghdr and nfgenmsg of a request to the queue ``number``; ``size`` is that of the whole message."""
    order: Final = sys.byteorder
    header = size.to_bytes(4, order) + kind.to_bytes(2, order) + flags.to_bytes(2, order) + bytes(8)
    return header + b"\0\0" + number.to_bytes(2, "big")


def attribute(kind: int, body: bytes) -> bytes:
    """A netlink attribute with its padding."""
    head = (4 + len(body)).to_bytes(2, sys.byteorder) + kind.to_bytes(2, sys.byteorder)
    return head + body + bytes(-len(body) & 3)
