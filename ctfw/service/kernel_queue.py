"""The kernel's queue, cold side: bind it or take it over, configure it, say clearly why that failed, read its figures.

The NetfilterQueue package opens and binds the queue, in its constructor and in ``bind``, so both happen in the network
namespace of this process. From then on the descriptor is ours: everything is configured by our own messages on a
duplicate of it, and the package never reads a packet.

Order, and why: the queue is bound in the mode that copies nothing, in which the kernel gives us no packet yet. So the
package, which waits for acknowledgements on the same socket, cannot take packets away from us; flags and length are set
and acknowledged; the last message switches copying on, and the first packet has number 1. The queue belongs to the
socket and lives until its last descriptor is closed, whereupon the kernel drops what still waits in it. So ours must be
the only one in this process: the package's is turned into one of /dev/null.

Taking over: systemd may have kept the descriptor of our predecessor's socket (handover.py), with the queue and the
packets that came since. Whatever the predecessor read and did not judge would wait for ever, and nobody knows what
that was. Therefore ``settle`` sends everything that waits once more to the hook that it came from (NF_REPEAT), up to
the last number that the kernel has given; messages up to that number are copies of such packets and not looked at,
those beyond it are the first of ours. The batch verdict of that is harmless when nothing waits (ENOENT).

Sizes: the copy range is the largest MTU (the loopback's apart, it is never queued), at least 1600, because a checksum
can be verified only over the whole packet. The receive buffer holds a full queue of such copies, so that a burst ends
at the queue's length, where the failure policy has a word, and not in the socket, where the packet is just gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import warnings
from typing import IO, Final

from ctfw.nfqueue import (
    BATCH_MESSAGE,
    CONFIG_MESSAGE,
    ERROR_MESSAGE,
    PACKET_MESSAGE,
    Message,
    attribute,
    message_header,
)

PROC: Final = "/proc/net/netfilter/nfnetlink_queue"
MAXLEN: Final = 8192
MIN_RANGE: Final = 1600
MAX_RANGE: Final = 0xFFFF - 4  # what one netlink attribute holds
MAX_RECEIVE_BUFFER: Final = 128 << 20
_HEADROOM: Final = 1024  # headers and attributes beside the payload
_PACKET_OVERHEAD: Final = 2048  # what the kernel accounts for a message beyond its bytes, roughly

_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_NFQA_CFG_PARAMS: Final = 2
_NFQA_CFG_QUEUE_MAXLEN: Final = 3
_NFQA_CFG_MASK: Final = 4
_NFQA_CFG_FLAGS: Final = 5
_COPY_NONE: Final = 0
_COPY_PACKET: Final = 2
_NFQA_VERDICT_HDR: Final = 2
_NF_REPEAT: Final = 4
_NETLINK_NETFILTER: Final = 12
SILENCE: Final = 5_000_000  # nanoseconds; the kernel rounds it up to its ticks
_ANSWER: Final = 5.0  # seconds; the kernel answers before our send returns
# Two bounds that together stand behind every number there is, wherever the kernel's counter is.
_EVERY_NUMBER: Final = (0x7FFFFFFF, 0xFFFFFFFF)
_FAIL_OPEN: Final = 1
_GSO: Final = 4

_SO_RCVBUFFORCE: Final = 33
_SOL_NETLINK: Final = 270
_NETLINK_NO_ENOBUFS: Final = 5
_SIOCGIFMTU: Final = 0x8921


class QueueError(Exception):
    """The queue cannot be had. ``denied``: for want of rights."""

    def __init__(self, message: str, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied


class KernelQueue:
    """A bound and configured queue. ``sock`` is the caller's to read and write; ``notes`` are lines for the log.

    A read that does not say MSG_DONTWAIT waits for SILENCE.
    """

    def __init__(
        self,
        number: int,
        *,
        gso: bool,
        fail_open: bool,
        copy_range: int = 0,
        maxlen: int = MAXLEN,
        kept: socket.socket | None = None,
    ) -> None:
        """``kept``: a socket that may hold the queue already; QueueError if it does not, and it is closed."""
        self.number = number
        self.maxlen = maxlen
        self.copy_range = min(copy_range or largest_mtu(), MAX_RANGE)
        self.buffer = self.copy_range + _HEADROOM
        self.gso = gso
        self.fail_open = fail_open
        self.adopted = kept is not None
        self.notes: list[str] = []
        self._is_flowing = False
        self._last = -1  # the number of the last message that was put aside
        self._proc: IO[str] | None = None
        self._dropped = [0, 0]  # from the queue, and on the way into the socket
        self.sock = kept if kept is not None else _bind(number)
        self.sock.settimeout(_ANSWER)
        try:
            if kept is not None and (kept.family, kept.proto) != (socket.AF_NETLINK, _NETLINK_NETFILTER):
                raise OSError(errno.EINVAL, "not a netfilter socket")
            self._size_socket()
            # Losses are counted by the packets' numbers. Without this option the kernel would also refuse every
            # packet after an overrun until the socket is empty.
            self.sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            if self.adopted:
                self._drain()  # else there is no room for answers
                self.sock.settimeout(_ANSWER)
            self._command(_NFQA_CFG_QUEUE_MAXLEN, struct.pack(">I", maxlen))
            self.set_flags(gso=gso, fail_open=fail_open)
            self._command(_NFQA_CFG_PARAMS, struct.pack(">IB", self.copy_range, _COPY_PACKET), acknowledge=False)
            self._let_flow()
        except OSError as error:
            self.sock.close()
            raise QueueError(f"queue {number}: cannot be configured: {error.strerror or error}") from error
        with contextlib.suppress(OSError):
            self._proc = open(PROC, encoding="ascii")  # noqa: SIM115 - kept: later we may not be allowed to

    def settle(self) -> tuple[int, list[bytes]]:
        """Has everything come again that waits in an adopted queue; to be called when packets can be judged.

        Returns the last number that the kernel had given before, -1 when that cannot be told, and the messages after it
        that were read here. Raises OSError.
        """
        self._drain()
        last = self._last_given()
        if last < 0:
            # The file is not ours to read. Something that comes just now, and only that, may be judged twice.
            last = self._last
        bounds = (last,) if last >= 0 else _EVERY_NUMBER
        for bound in bounds:
            verdict = attribute(_NFQA_VERDICT_HDR, struct.pack(">II", _NF_REPEAT, bound))
            self._request(BATCH_MESSAGE, verdict, _NLM_F_ACK)
        fresh: list[bytes] = []
        message = Message()
        answers = 0
        while answers < len(bounds):
            try:
                data = self.sock.recv(self.buffer)
            except BlockingIOError:  # no room for the answer, but the verdict was obeyed before send returned
                break
            kind, code = struct.unpack_from("=4xH10xi", data)
            if kind == ERROR_MESSAGE:
                answers += 1
                if code not in (0, -errno.ENOENT):
                    raise OSError(-code, os.strerror(-code))
            elif message.read(data, 0, len(data)) and (last < 0 or 0 < (message.id - last) & 0xFFFFFFFF < 0x80000000):
                fresh.append(data)
        self._let_flow()
        return last, fresh

    def set_flags(self, *, gso: bool, fail_open: bool) -> None:
        """GSO: big packets come whole. FAIL_OPEN: what finds the queue full passes unjudged."""
        flags = (_GSO if gso else 0) | (_FAIL_OPEN if fail_open else 0)
        body = attribute(_NFQA_CFG_FLAGS, struct.pack(">I", flags))
        mask = attribute(_NFQA_CFG_MASK, struct.pack(">I", _GSO | _FAIL_OPEN))
        # Once packets flow an answer would come among them; the loop counts it should it be a refusal.
        self._send(body + mask, acknowledge=not self._is_flowing)
        self.gso = gso
        self.fail_open = fail_open

    def figures(self) -> dict[str, int] | None:
        """What the kernel says of this queue: waiting, queue_dropped, socket_dropped, numbered (the last number given).

        None if it may not be read. Numbers begin anew after 32 bits. The kernel's counts of what it dropped do so too,
        which a flood makes them do within hours; these here go on, if they are looked at more often than that.
        """
        fields = self._fields()
        if not fields:
            return None
        for place, field in enumerate(fields[5:7]):
            self._dropped[place] += (field - self._dropped[place]) & 0xFFFFFFFF
        return {
            "waiting": fields[2],
            "queue_dropped": self._dropped[0],
            "socket_dropped": self._dropped[1],
            "numbered": fields[7],
        }

    def close(self) -> None:
        """Give up our hold on the queue.

        Unless somebody else has one, it is gone: what waits in it the kernel drops, later packets have no listener.
        """
        self.sock.close()
        if self._proc is not None:
            self._proc.close()

    def _last_given(self) -> int:
        """The last number that the kernel gave to a packet, or -1."""
        fields = self._fields()
        return fields[7] if fields else -1

    def _fields(self) -> list[int]:
        """This queue's line in PROC; empty when it may not be read or has none."""
        if self._proc is None:
            return []
        try:
            self._proc.seek(0)
            text = self._proc.read()
        except OSError:
            return []
        for line in text.splitlines():
            fields = [int(field) for field in line.split()]
            if fields[0] == self.number:
                return fields
        return []

    def _let_flow(self) -> None:
        """From here on the loop reads. A read that waits gives up after SILENCE; the others say that they do not."""
        self.sock.setblocking(True)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, SILENCE // 1000))
        self._is_flowing = True

    def _drain(self) -> None:
        """Empties the socket of what came for our predecessor; all of it still waits in the queue."""
        self.sock.setblocking(False)
        message = Message()
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self.sock.recv(self.buffer)
                if message.read(data, 0, len(data)):
                    self._last = message.id

    def _size_socket(self) -> None:
        size = min(self.maxlen * (self.buffer + _PACKET_OVERHEAD), MAX_RECEIVE_BUFFER)
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            granted = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel says it doubled
            if granted < size:
                self.notes.append(
                    f"receive buffer: {granted} bytes instead of {size}: without CAP_NET_ADMIN on the host (rootless?)"
                    " net.core.rmem_max is the limit; bursts are lost earlier"
                )

    def _command(self, kind: int, body: bytes, acknowledge: bool = True) -> None:
        self._send(attribute(kind, body), acknowledge)

    def _send(self, attributes: bytes, acknowledge: bool) -> None:
        self._request(CONFIG_MESSAGE, attributes, _NLM_F_ACK if acknowledge else 0)
        while acknowledge:
            answer = self.sock.recv(self.buffer)
            kind, code = struct.unpack_from("=4xH10xi", answer)
            if kind == ERROR_MESSAGE:
                if code != 0:
                    raise OSError(-code, os.strerror(-code))
                return
            if kind != PACKET_MESSAGE:
                raise OSError(errno.EBADMSG, f"an answer of kind {kind}")

    def _request(self, kind: int, attributes: bytes, flags: int) -> None:
        header = message_header(kind, _NLM_F_REQUEST | flags, 20 + len(attributes), self.number)
        self.sock.send(header + attributes)


def largest_mtu() -> int:
    """The largest MTU of the interfaces in this network namespace, loopback apart, and at least MIN_RANGE."""
    largest = MIN_RANGE
    # A unix socket answers too, and a unit may forbid all other families but netlink.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            if name == "lo":
                continue
            with contextlib.suppress(OSError):  # gone meanwhile
                request = struct.pack("16sI12x", os.fsencode(name), 0)
                largest = max(largest, struct.unpack_from("16xI", fcntl.ioctl(asker, _SIOCGIFMTU, request))[0])
    return largest


def _bind(number: int) -> socket.socket:
    """A socket that holds the queue, or why there is none: this is where an administrator meets his first error."""
    try:
        from netfilterqueue import NetfilterQueue

        package = NetfilterQueue()  # ships no types for mypy --strict
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a receive buffer that we size ourselves
            package.bind(number, _never, mode=_COPY_NONE)
    except ImportError as error:
        raise QueueError(f"the NetfilterQueue package cannot be loaded: {error}") from error
    except OSError as error:
        raise _reason(number, error) from error
    descriptor = int(package.get_fd())
    sock = socket.socket(fileno=os.dup(descriptor))
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nothing, descriptor, inheritable=False)  # the package's end is none of the queue's now
    os.close(nothing)
    return sock


def _never(packet: object) -> None:
    raise AssertionError(f"the package read {packet}")


def _reason(number: int, error: OSError) -> QueueError:
    if not _has_net_admin():
        return QueueError(f"queue {number}: needs CAP_NET_ADMIN in this network namespace; run as root", denied=True)
    if not _kernel_has_nfqueue():
        return QueueError(
            f"queue {number}: this kernel has no NFQUEUE; load nfnetlink_queue or CONFIG_NETFILTER_NETLINK_QUEUE"
        )
    return QueueError(f"queue {number}: {_holder(number) or error}")


def _has_net_admin() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & (1 << 12))
    return True


def _kernel_has_nfqueue() -> bool:
    return os.path.exists(PROC) or not os.path.exists("/proc/net/netfilter")


def _holder(number: int) -> str:
    """Who holds the queue already, as far as the kernel says; empty when nobody is seen to."""
    try:
        with open(PROC, encoding="ascii") as proc:
            ports = {int(line.split()[0]): int(line.split()[1]) for line in proc}
    except PermissionError:
        return "cannot be bound; perhaps another program has it (only root may see)"
    except OSError:
        return ""
    if number not in ports:
        return ""
    port = ports[number]
    try:
        with open(f"/proc/{port}/comm", encoding="utf-8", errors="replace") as comm:
            who = f"pid {port}, {comm.read().strip()}"  # the port is the process's number unless it opened several
    except OSError:
        who = "a process that cannot be told from it"
    return (
        f"already bound by netlink port {port} ({who}); stop it or choose another with --queue."
        " A queue that systemd keeps for a service is given up by systemctl stop"
    )
