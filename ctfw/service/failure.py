"""What becomes of packets that ctfw does not judge: the policy in force, and how many there were.

Owns the arithmetic. The hook's rules count every packet that they hand over (service/hook/handed.py), the queue knows
which of them it has judged and which wait; what is left over was not judged:

    not judged = handed over - judged - waiting

Of these the kernel has dropped those that it says it dropped (/proc/net/netfilter/nfnetlink_queue), and let pass the
rest, which it counts nowhere. Where that file may not be read, nothing is known of those that wait, so the sum is taken
only when none does, and all are said to have met the fate that the queue's flag says.

Which of the four ways to fail it was: while this daemon runs, the queue was full (a hang looks the same: the queue
fills), and before it began too, when the queue was kept for it (handover.py); else nobody listened. What was judged
with an exception of ours, the queue counts itself.

The account of one daemon goes on where the last one's ended. What was handed over until then and accounted for stands
in a file beside the control socket, which is memory and not a disk (/run): it is a shared map, written after every
batch, for a few hundred nanoseconds, and it survives kill -9. The counters of the rules begin anew when the hook is
made anew or the machine starts; that is seen by their being less than before.

Every sum is a lower bound that never falls: packets move while the figures are read one after the other, in the order
that makes the sum too small and not too big. It is exact as soon as the queue has been quiet at a reading.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from typing import Any, Final

from ctfw.nfqueue import Queue
from ctfw.ruleset.verdict import ACCEPT
from ctfw.service.alarms import Alarms
from ctfw.service.hook.handed import Handed, handed_over
from ctfw.service.kernel_queue import KernelQueue
from ctfw.service.kinds import FAILURE_POLICY, HOOK_CHANGED

NAME: Final = "account"
UNSEEN: Final = "no rules of 'ctfw hook apply' hand packets to this queue, or they are iptables-legacy's"
GONE: Final = "nothing is judged until `ctfw hook apply`"
FATES: Final = ("drop", "accept")
WAYS: Final = ("no_listener", "queue_full", "error")
# Magic, handed over when last looked, accounted for beside what was received, dropped by the kernel; and received.
_FORM: Final = struct.Struct("=8sqqqq")
_RECEIVED: Final = 4  # where that is, in words
_MAGIC: Final = b"ctfw 2\0\0"


class Account:
    """The account of one daemon and its queue; ``directory`` is where it is kept, "" for nowhere.

    Raises nothing: what cannot be asked is unavailable, and ``figures`` says why.
    """

    def __init__(
        self,
        queue: Queue,
        kernel: KernelQueue,
        directory: str = "",
        ask: Callable[[int], list[Handed]] = handed_over,
    ) -> None:
        self._queue = queue
        self._kernel = kernel
        self._ask = ask
        self._rules: list[Handed] = []
        self._was_hooked = False
        self.unhooked = 0  # times that the rules were gone when there had been some
        self._is_gone = False  # so they are now
        self._come = 0  # packets that had come by then; -1: not counted yet
        self._unavailable = UNSEEN
        self._handed = -1  # by the rules, when last looked; -1: there were none to ask
        self._before = 0  # of it, what was accounted for when this daemon began
        self._unjudged = 0  # of the rest, what was not judged
        kernel_figures = kernel.figures()
        self._readable = kernel_figures is not None
        self._dropped_before = _dropped(kernel_figures) if kernel_figures else 0
        self._fates = {why: dict.fromkeys(FATES, 0) for why in WAYS}
        self._map = _open(directory, kernel.number) if directory else None
        self._ledger: memoryview | None = None

    def begin(self) -> None:
        """Once, before the first packet is read: what was handed over while nobody listened."""
        if self._look():
            self._before = self._handed - self._waiting()
        if self._map is not None:
            self._go_on(*_FORM.unpack_from(self._map))
            self._ledger = self._queue.ledger = memoryview(self._map).cast("q")[_RECEIVED:]
        self._note()

    def settled(self) -> None:
        """Once, after an adopted queue's packets were sent to the hook again: so they were handed over twice."""
        waiting = self._waiting()
        if self._look():
            self._before = self._handed - waiting - self._queue.received - self._unjudged
        self._note()

    def look(self) -> None:
        """Bring the sums up to now; costs a fraction of a millisecond."""
        self._sum_up()
        self._note()

    def watch(self, alarms: Alarms) -> None:
        """Have it told what passed unjudged, and what came while nobody listened. (Drops are told by the kernel's.)"""
        full, absent = self._fates["queue_full"], self._fates["no_listener"]
        alarms.watch(
            FAILURE_POLICY,
            lambda: full["accept"],
            lambda count: f"failure policy at work: queue_full=accept packets={count} passed unjudged; see ctfw doctor",
        )
        alarms.watch(
            HOOK_CHANGED,
            lambda: self.unhooked,
            lambda count: f"the kernel's rules that send packets to queue {self._kernel.number} are gone: {GONE}",
        )
        alarms.watch(
            FAILURE_POLICY,
            lambda: sum(absent.values()),
            lambda count: f"failure policy was at work: no_listener={FATES[absent['accept'] > 0]} packets={count}",
        )

    def passed(self) -> int:
        """Packets that a full queue let pass unjudged, when last looked."""
        return self._fates["queue_full"]["accept"]

    def figures(self) -> dict[str, Any]:
        """Plain data for status and metrics, up to now.

        ``in_force`` is the policy that holds, whatever the rule file says: None where the kernel cannot be asked,
        "mixed" where its rules differ among each other. ``unjudged[why][fate]`` are packets that were not judged and
        were let pass ("accept") or dropped, since the daemon began (``no_listener``: since the one before it ended);
        None where they are not known, and ``unavailable`` says why. ``handed_over`` counts since the hook was made;
        ``unhooked``: its rules were there once and are gone; ``replaced``: but packets have come since, by other rules.
        """
        self.look()
        unjudged: dict[str, dict[str, int | None]] = {why: dict(counts) for why, counts in self._fates.items()}
        if self._handed < 0:
            unjudged["no_listener"] = dict.fromkeys(FATES)
            unjudged["queue_full"] = dict.fromkeys(FATES) | {"drop": self._fates["queue_full"]["drop"]}
            if not self._readable:
                unjudged["queue_full"] = dict.fromkeys(FATES)
        bypass = {rule.bypass for rule in self._rules}
        absent = None if not bypass else "mixed" if len(bypass) > 1 else FATES[bypass.pop()]
        return {
            "in_force": {
                "no_listener": absent,
                "queue_full": FATES[self._kernel.fail_open],
                "error": FATES[self._queue.error_verdict == ACCEPT],
                "stuck": absent,  # what hangs is ended by the watchdog, and then nobody listens
            },
            "handed_over": self._handed if self._handed >= 0 else None,
            "judged": int(self._queue.received),
            "unjudged": unjudged,
            "unavailable": self._unavailable,
            "unhooked": self._is_gone,
            "replaced": self._is_gone and 0 <= self._come < self._queue.received,
        }

    def close(self) -> None:
        """The end of this daemon's account, before its queue ends; the next one goes on from here."""
        self.look()
        if self._ledger is not None:
            self._queue.ledger = None
            self._ledger.release()
        if self._map is not None:
            self._map.close()
            self._map = None

    def _sum_up(self) -> None:
        errors = self._fates["error"]
        errors[FATES[self._queue.error_verdict == ACCEPT]] += self._queue.errors - sum(errors.values())
        before = self._handed
        known = self._look()
        kernel = self._kernel.figures()
        full = self._fates["queue_full"]
        if kernel is not None:
            full["drop"] = _dropped(kernel) - self._dropped_before
        if self._is_gone and self._come < 0 and (kernel is not None or self._queue.idle):
            self._come = self._queue.received + self._waiting()
        if not known:
            return
        if kernel is None and not self._queue.idle:  # nobody tells how many wait: once there are none
            self._handed = before
            return
        waiting = max(kernel["waiting"] - int(self._queue.pending), 0) if kernel is not None else 0
        accounted = self._queue.received + waiting
        if not 0 <= before <= self._handed:  # the rules are new: what came meanwhile is not known
            self._before = self._handed - accounted - self._unjudged
        unjudged = max(self._handed - self._before - accounted, self._unjudged)
        if kernel is not None:
            full["accept"] = max(full["accept"], unjudged - full["drop"])
        else:
            full[FATES[self._kernel.fail_open]] += unjudged - self._unjudged
        self._unjudged = unjudged

    def _note(self) -> None:
        """Writes down what is accounted for, should this be the last time; the queue does the rest after each batch."""
        if self._map is not None:
            accounted = self._before + self._unjudged
            dropped = self._dropped_before + self._fates["queue_full"]["drop"]
            _FORM.pack_into(self._map, 0, _MAGIC, self._handed, accounted, dropped, self._queue.received)

    def _go_on(self, magic: bytes, handed: int, others: int, dropped: int, received: int) -> None:
        """The daemon before wrote this last: what came since then, nobody judged."""
        accounted = others + received
        if magic != _MAGIC:
            return
        absent = 0
        if handed >= 0 and self._handed >= 0:
            absent = max(self._before - (accounted if self._handed >= handed else 0), 0)
        if not self._kernel.adopted:
            bypass = all(rule.bypass for rule in self._rules)
            self._fates["no_listener"][FATES[bypass]] = absent
            return
        # The queue outlived the daemon: it listened, until it was full.
        full = self._fates["queue_full"]
        self._unjudged = absent
        self._before -= absent
        if not self._readable:
            full[FATES[self._kernel.fail_open]] = absent
            return
        full["drop"] = max(self._dropped_before - dropped, 0)
        self._dropped_before -= full["drop"]
        full["accept"] = max(absent - full["drop"], 0)

    def _look(self) -> bool:
        """Ask for the counters of the rules; whether there were any."""
        try:
            self._rules = self._ask(self._kernel.number)
        except OSError as error:
            self._rules = []
            self._unavailable = f"the kernel's rules cannot be asked: {error.strerror or error}"
        else:
            self._unavailable = "" if self._rules else UNSEEN
            if self._was_hooked and not self._rules:
                self.unhooked += 1
                self._is_gone, self._come = True, -1
            elif self._rules:
                self._is_gone = False
            self._was_hooked = bool(self._rules)
        self._handed = sum(rule.packets for rule in self._rules) if self._rules else -1
        return bool(self._rules)

    def _waiting(self) -> int:
        """Packets in the queue that are to be judged yet, as far as the kernel tells."""
        kernel = self._kernel.figures()
        return max(kernel["waiting"] - int(self._queue.pending), 0) if kernel is not None else 0


def _dropped(kernel: dict[str, int]) -> int:
    return kernel["queue_dropped"] + kernel["socket_dropped"]


def _open(directory: str, number: int) -> mmap.mmap | None:
    """The map of the account's file; None where there can be none."""
    try:
        fd = os.open(f"{directory}/{NAME}.{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        os.ftruncate(fd, _FORM.size)
        os.posix_fallocate(fd, 0, _FORM.size)  # now, or who writes into the map of a full file system dies of SIGBUS
        return mmap.mmap(fd, _FORM.size)
    except OSError:
        return None
    finally:
        os.close(fd)
