"""From one daemon to the next, without a packet or a connection lost: who hands what to whom.

systemd is the keeper (FDSTORE=1, FileDescriptorStoreMax= of the unit): it holds a copy of a descriptor while the
service restarts, after a clean end as after SIGKILL, and hands it to the next process. ``systemctl stop``, and a
service that failed for good, empty the store. A daemon that ends cannot tell which of these it is; so it gives nothing
back itself: it only closes its own copies, and what nobody else holds is gone.

The queue: kept as ``queue-N``. Packets that come while no daemon lives wait in it, up to its length; then the failure
policy ``queue_full`` has its word. (Without systemd as keeper there is no listener instead: ``no_listener``.) A queue
that is kept but is none of ours, because the rules now name another number or because it has come to an end, is given
up in words.

The table: kept as ``connections-0`` and ``connections-1``, two logs in memory that saving.py writes while packets are
judged. Memory, because writing to a disk may have to wait, and no packet should; kept by systemd and not a file below
/run, because it then lives exactly as long as the queue does, and when both come back with an exact log, the next
daemon knows that no packet has passed in between. For what comes after a stop or a reboot, a thread copies the last
complete log to the state directory: once a minute, some seconds after somebody took connections out, and at the end
(there without fsync: a restart waits for it). Its copy never counts as exact.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from ctfw.config import Stored
from ctfw.engine import Engine
from ctfw.service.beside import begin
from ctfw.service.boot import boot_id
from ctfw.service.descriptors import Descriptors
from ctfw.service.journal import NOTICE, WARNING, Journal
from ctfw.service.kernel_queue import KernelQueue, QueueError
from ctfw.service.kinds import STATE_NOT_SAVED, STATE_REFUSED, TAKEN_OVER
from ctfw.service.notify import Notifier
from ctfw.service.restoring import restore
from ctfw.service.saving import Saving
from ctfw.service.snapshot import MOST_BYTES, Log, SnapshotError, read_log
from ctfw.service.whole_file import replacing

QUEUE: Final = "queue-"
LOGS: Final = ("connections-0", "connections-1")
FILE: Final = "connections"
SECOND: Final = 1_000_000_000
COPY_INTERVAL: Final = 60 * SECOND
COPY_SOON: Final = 5 * SECOND  # when the file is outdated
PATIENCE_AT_THE_END: Final = 10  # seconds beside what the table takes
PATIENCE: Final = 5.0  # seconds that the end waits for a copy that is under way
_CHUNK: Final = 1 << 20


def take_queue(
    number: int,
    descriptors: Descriptors,
    notifier: Notifier,
    journal: Journal,
    *,
    gso: bool,
    fail_open: bool,
    copy_range: int,
) -> KernelQueue:
    """The predecessor's queue if systemd kept it, else a new one, which systemd is asked to keep. Raises QueueError."""
    name = f"{QUEUE}{number}"
    kept = _kept_socket(descriptors, name)
    if kept is not None:
        try:
            kernel = KernelQueue(number, gso=gso, fail_open=fail_open, copy_range=copy_range, kept=kept)
            journal.log(f"queue {number}: taken over from the process before", NOTICE, kind=TAKEN_OVER)
            return kernel
        except QueueError as error:
            text = f"{error}; it was kept by systemd and is now bound afresh: what waited in it is lost"
            journal.log(text, WARNING, kind=STATE_REFUSED)
            notifier.drop(name)
    kernel = KernelQueue(number, gso=gso, fail_open=fail_open, copy_range=copy_range)
    notifier.keep(name, kernel.sock.fileno())
    return kernel


def give_up_rest(descriptors: Descriptors, notifier: Notifier, journal: Journal) -> None:
    """Gives back, in words, what systemd kept and nobody took."""
    for name in descriptors.rest():
        text = f"kept by systemd, but not used any more and given up: {name or 'a descriptor without a name'}"
        journal.log(text, WARNING, kind=STATE_REFUSED)
        notifier.drop(name)


def _kept_socket(descriptors: Descriptors, name: str) -> socket.socket | None:
    descriptor = descriptors.take(name)
    if descriptor is None:
        return None
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        descriptors.kept[name] = descriptor  # no socket at all: given up with the rest
        return None


class TableKeeper:
    """The table's way to the next daemon: ``restore`` at the start, ``step`` in each tick, ``finish`` at the end.

    Does nothing when there is neither systemd nor a state ``directory``.
    """

    def __init__(self, descriptors: Descriptors, notifier: Notifier, journal: Journal, directory: str) -> None:
        self._journal = journal
        self._notifier = notifier
        self._path = os.path.join(directory, FILE) if directory else ""
        self._is_active = bool(directory) or notifier.is_heard
        self._saving: Saving | None = None
        self._copying: threading.Thread | None = None
        self._copy_error: OSError | None = None
        self._copied_at = 0
        self._copied = -1
        self._is_outdated = False  # the file tells of connections that somebody has taken out
        self._logs: list[int] = []
        self._boot = boot_id()
        if not self._is_active:
            return
        for name in LOGS:
            log = descriptors.take(name)
            if log is None:
                log = os.memfd_create(name)
                notifier.keep(name, log)
            self._logs.append(log)

    def restore(self, engine: Engine, stored: Callable[[], Stored], is_seamless: bool) -> None:
        """Fills the empty table. ``is_seamless``: no packet can have passed since the last daemon ended."""
        if not self._is_active:
            return
        begun = time.monotonic_ns()
        logs = [log for log in (self._read_kept(number) for number in range(len(LOGS))) if log is not None]
        cycle = max((log.header.cycle for log in logs), default=-1) + 1
        useful = _useful(logs)
        is_exact = is_seamless and len(useful) == 1 and useful[0].is_exact()
        if not useful and self._path:
            useful = self._read_file()
        if useful:
            try:
                now = time.monotonic_ns()
                done = restore(useful, engine, now, time.time_ns(), self._boot, is_exact, stored().digest())
            except SnapshotError as error:
                self._refuse("connections of the daemon before", error)
            else:
                milliseconds = (time.monotonic_ns() - begun) // 1_000_000
                text = (
                    f"connections restored: connections={done.connections} expectations={done.expectations}"
                    f" left_out={done.left_out} as={'they were' if is_exact else 'picked up'} ms={milliseconds}"
                )
                self._journal.log(text, NOTICE, kind=TAKEN_OVER)
        self._saving = Saving(engine, self._logs, cycle, self._boot, stored)
        try:
            self._saving.begin(begun)
        except OSError as error:
            self._complain(error)
        self._copied_at = time.monotonic_ns()

    def step(self, now: int) -> None:
        """Puts a share of the table on record; has it copied to disk when that is due."""
        saving = self._saving
        if saving is None:
            return
        is_copying = self._copying is not None and self._copying.is_alive()
        try:
            saving.note_removed(now)
            saving.step(now, may_begin=not is_copying)
        except OSError as error:
            self._complain(error)
        if self._copy_error is not None:
            self._complain(self._copy_error)
            self._copy_error = None
        interval = COPY_SOON if self._is_outdated else COPY_INTERVAL
        is_due = self._path and saving.complete > self._copied and now - self._copied_at >= interval
        if is_due and not is_copying:
            self._copied, self._copied_at, self._is_outdated = saving.complete, now, False
            log = saving.log_of(saving.complete)
            size = os.fstat(log).st_size  # now, for what was taken out may be appended while it is copied
            try:
                self._copying = begin(self._copy, log, size, True)
            except OSError as error:
                self._complain(error)

    def note_removed(self) -> None:
        """Somebody took connections out by hand: puts that on record at once, and in the file soon."""
        if self._saving is None:
            return
        try:
            if self._saving.note_removed(time.monotonic_ns()):
                self._copied, self._is_outdated = -1, True
        except OSError as error:
            self._complain(error)

    def finish(self) -> None:
        """Puts the table on record as it is now; no packet is judged any more."""
        if self._saving is None:
            return
        # A few microseconds for each connection, a multiple of that on a machine with much to do.
        self._notifier.extend(PATIENCE_AT_THE_END + self._saving.size_of_table() * 20 // 1_000_000)
        if self._copying is not None:
            self._copying.join(PATIENCE)
        try:
            log = self._saving.finish(time.monotonic_ns())
        except OSError as error:
            self._complain(error)
        else:
            if self._path:
                self._copy(log, os.fstat(log).st_size, False)
        if self._copy_error is not None:
            self._complain(self._copy_error)
        for log in self._logs:
            os.close(log)

    def _read_kept(self, number: int) -> Log | None:
        """The log of that number; None when it is empty or cannot be used."""
        log = self._logs[number]
        try:
            if os.fstat(log).st_size == 0:
                return None
            read = read_log(_read(log))
        except (OSError, SnapshotError) as error:
            self._refuse(f"{LOGS[number]}, kept by systemd", error)
            return None
        if read.header.cycle % 2 != number:
            self._refuse(f"{LOGS[number]}, kept by systemd", SnapshotError("it belongs elsewhere"))
            return None
        return read

    def _read_file(self) -> list[Log]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._refuse(self._path, error)
            return []
        try:
            log = read_log(_read(descriptor))
            if log.cut or not log.is_complete():
                raise SnapshotError("cut off or damaged")
        except (OSError, SnapshotError) as error:
            self._refuse(self._path, error)
            return []
        finally:
            os.close(descriptor)
        return [log]

    def _copy(self, log: int, size: int, durable: bool) -> None:
        """``size`` bytes of the log as the file, whole or not at all. Beside the loop: leaves its complaint for it."""
        try:
            with replacing(self._path, durable=durable) as file:
                at = 0
                while at < size:
                    sent = os.sendfile(file.fileno(), log, at, _CHUNK)
                    if sent == 0:
                        raise OSError("it became shorter")
                    at += sent
        except OSError as error:
            self._copy_error = error

    def _complain(self, error: OSError) -> None:
        text = f"connections not saved: {error.filename or self._path or LOGS[0]}: {error.strerror or error}"
        self._journal.log(text, WARNING, kind=STATE_NOT_SAVED)

    def _refuse(self, what: str, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) else error
        self._journal.log(f"{what}: not used: {reason}", WARNING, kind=STATE_REFUSED)


def _useful(logs: Sequence[Log]) -> list[Log]:
    """The newest log, and the one before it as long as the newest does not tell everything itself."""
    ordered = sorted(logs, key=lambda log: log.header.cycle, reverse=True)
    return ordered[:1] if ordered and ordered[0].is_complete() else ordered


def _read(descriptor: int) -> bytes:
    if os.fstat(descriptor).st_size > MOST_BYTES:
        raise SnapshotError(f"larger than {MOST_BYTES} bytes")
    with open(os.dup(descriptor), "rb", buffering=0) as file:
        file.seek(0)
        return file.read()
