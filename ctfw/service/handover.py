"""From one daemon to the next, without a packet or a connection lost: who hands what to whom.

systemd is the keeper (FDSTORE=1, FileDescriptorStoreMax= of the unit): it holds a copy of a descriptor while the
service restarts, after a clean end as after SIGKILL, and hands it to the next process. ``systemctl stop``, and a
service that failed for good, empty the store. A daemon that ends cannot tell which of these it is; so it gives nothing
back itself: it only closes its own copies, and what nobody else holds is gone.

The queue: kept as ``queue-N``. Packets that come while no daemon lives wait in it, up to its length; then the failure
policy ``queue_full`` has its word. (Without systemd as keeper there is no listener instead: ``no_listener``.) A queue
that is kept but is none of ours, because the rules now name another number or because it has come to an end, is given
up in words.
"""

from __future__ import annotations

import socket
from typing import Final

from ctfw.service.descriptors import Descriptors
from ctfw.service.journal import NOTICE, WARNING, Journal
from ctfw.service.kernel_queue import KernelQueue, QueueError
from ctfw.service.kinds import STATE_REFUSED, TAKEN_OVER
from ctfw.service.notify import Notifier

QUEUE: Final = "queue-"


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
