"""The daemon: one thread, one loop, in which packets come first and everything else takes small turns.

Owns the selector and what hangs on it (queue, control socket, signals), the tick, what hangs on the rules, and the
order of start and stop. What each of them does is in its own file; here is only when.

Life-cycle: everything that can fail is made first (rules, record file, control socket, queue), so that a start that
fails has not yet touched a packet; then READY. A turn judges packets until something else wants one (loop.py), serves
at most one request of one client, and ticks when TICK has passed. The end (SIGTERM, SIGINT): the packets that wait are
judged, the last verdicts sent, and then our hold on the queue is given up. Every packet that was read is answered, the
last line of the log proves it by received=answered; what comes after the last read waits for the next daemon if systemd
keeps the queue (service/handover.py), else the kernel drops it as it does with any queue that ends.

The watchdog is fed only for progress: since the last time verdicts went out, or the queue was seen empty. A loop that
merely turns does not count.

Garbage: the automatic collector is off. Everything made before the start is frozen out of its sight, connections hold
no cycles and live long, and a young collection now and then frees the rest; none ever walks the table.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import selectors
import signal
import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ctfw import __version__, config
from ctfw.conntrack.settings import NETBIOS_NS, SNMP
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.loop import BUDGET, YOUNG, PacketLoop
from ctfw.nfqueue import Queue
from ctfw.ruleset.verdict import ACCEPT, DROP
from ctfw.service import directions, metrics, status
from ctfw.service.alarms import Alarms, watch_packets
from ctfw.service.aside import Abandoned, Aside
from ctfw.service.audit import Audit
from ctfw.service.control import Control
from ctfw.service.descriptors import Descriptors
from ctfw.service.eve_log import EveLog, both, watch_eve
from ctfw.service.events import EventStream
from ctfw.service.failure import Account
from ctfw.service.flight import Flight
from ctfw.service.handover import TableKeeper, give_up_rest, take_queue
from ctfw.service.heat import Heat
from ctfw.service.hook.present import is_answering
from ctfw.service.journal import ERROR, NOTICE, WARNING, Journal
from ctfw.service.kernel_queue import QueueError
from ctfw.service.kinds import (
    INTERNAL_ERROR,
    RULES_PROBLEM,
    SETTING,
    SINK_FAILED,
    STARTED,
    STATE_NOT_SAVED,
    STATE_REFUSED,
    STOPPED,
)
from ctfw.service.last_good import Begun, LastGood
from ctfw.service.members_file import SetsKeeper, read_members
from ctfw.service.methods import READING, Methods
from ctfw.service.networks import broadcast_networks
from ctfw.service.notify import Notifier
from ctfw.service.offload import OffloadCare
from ctfw.service.packet_log import PacketLog
from ctfw.service.panic import file_of
from ctfw.service.peers import Access
from ctfw.service.pulse import Pulse
from ctfw.service.recorder import Recorder, watch_record
from ctfw.service.reloading import Reloading
from ctfw.service.removal import Removal
from ctfw.service.session import Method
from ctfw.service.team import Team
from ctfw.service.textfile import Textfile
from ctfw.tools import explain_live, rule_tests

SECOND: Final = 1_000_000_000
TICK: Final = SECOND // 10
STATUS_INTERVAL: Final = 5 * SECOND
PATIENCE: Final = SECOND  # how long the end may take for packets that wait


@dataclass(frozen=True)
class Options:
    """What the command line says. ``queue`` and ``copy_range``: None and 0 leave it to the rules and the interfaces.

    ``state`` is the directory for what outlives the daemon, "" for none; ``access`` who may use the control socket.
    """

    rules: str
    socket: str
    queue: int | None = None
    record: str = ""
    log: str = "auto"
    copy_range: int = 0
    gso: bool = True
    state: str = ""
    access: Access | None = None


class Daemon:
    """A firewall ready to run. The constructor raises config.ConfigError, OSError, ControlError or QueueError."""

    def __init__(
        self,
        options: Options,
        environment: Mapping[str, str] = os.environ,
        team: Team | None = None,
        begun: Begun | None = None,
    ) -> None:
        self._options = options
        self._team = team
        load = partial(rule_tests.load, softly=True) if team is None else team.load
        last_good = LastGood(options.state)
        if begun is None:
            begun = last_good.begin(options.rules, load)
        loaded = begun.config
        self._notifier = Notifier(environment)
        self._descriptors = Descriptors(environment)
        self._journal = Journal(options.log, environment)
        self._started = time.monotonic_ns()
        self._number = loaded.queue if options.queue is None else options.queue

        self._tracker = ConnTrack(loaded.settings, _secret())
        self.engine = Engine(self._tracker, loaded.ruleset)
        if team is not None:
            team.join(self.engine)
        self._selector = selectors.EpollSelector()
        offset = time.time_ns() - time.monotonic_ns()  # taken once: recorded times know no step of the wall clock
        self._recorder = Recorder(options.record, offset, self._log_warning) if options.record else None
        self._flight = Flight(self.engine)
        self._flight.configure(loaded.recorder)
        self._heat = Heat(self.engine, self._started)
        self._offload = OffloadCare(self.engine, self._log_setting)
        # After a stop or a reboot the kernel's hash may send a connection to another worker than before.
        directory = options.state if team is None else ""
        self._keeper = TableKeeper(self._descriptors, self._notifier, self._journal, directory)
        methods: dict[str, Method] = {}  # filled below: they speak of the queue, which is bound last
        self._control = Control(options.socket, self._selector, methods, self._log_exception, READING, options.access)
        try:
            self._kernel = take_queue(
                self._number,
                self._descriptors,
                self._notifier,
                self._journal,
                gso=options.gso,
                fail_open=_is_failing_open(loaded),
                copy_range=options.copy_range,
            )
        except QueueError:
            self._control.close()
            raise
        self.queue = Queue(self._kernel.sock, self._number, self.engine, _error_verdict(loaded), self._kernel.buffer)
        # Not a worker: others may be waiting for what it knows before they can judge a packet.
        may_wait = team is None
        self._loop = PacketLoop(self.queue, self._kernel.sock.fileno(), self._selector.fileno(), may_wait)
        if team is None:
            self._account = Account(self.queue, self._kernel, os.path.dirname(self._control.path))
        else:
            self._account = Account(self.queue, self._kernel, "", team.handed_over)
        self._aside = Aside(self._turn_aside)
        self._reloading = Reloading(
            begun,
            options.rules,
            self.engine,
            self._aside,
            last_good,
            load,
            self._put,
            self._facts,
            self._notifier,
            self._journal,
        )
        self._packet_log = PacketLog(self.engine, self._journal)
        self._alarms = Alarms(self._journal)
        self._events = EventStream(self._tracker)
        self._eve = EveLog(self.engine, self._events)
        self._eve.configure(loaded.eve)
        watch_eve(self._alarms, self._eve)
        if self._recorder is not None:
            watch_record(self._alarms, self._recorder)
        watch_packets(self._alarms, self.engine, self.queue, self._kernel, lambda: self._reloading.config.failure)
        self._account.watch(self._alarms)
        counters = status.watched(self.engine, self.queue, self._kernel, self._journal, self._account)
        self._pulse = Pulse(self.queue, self._kernel, counters, self._started)
        self._parts = status.Parts(
            started=self._started,
            number=self._number,
            recorder=self._recorder,
            engine=self.engine,
            queue=self.queue,
            kernel=self._kernel,
            account=self._account,
            reloading=self._reloading,
            journal=self._journal,
            packet_log=self._packet_log,
            control=self._control,
            flight=self._flight,
            notifier=self._notifier,
            pulse=self._pulse,
            events=self._events,
            eve=self._eve,
        )
        self._textfile = Textfile(self._parts, self._journal)
        self._textfile.configure(loaded.metrics)
        self._methods = Methods(self.engine, self.queue, self._kernel, self._status, self._flight, self._heat)
        methods.update(Removal(self._tracker, self._keeper.note_removed).table())
        methods.update(self._reloading.methods())
        methods.update(
            self._methods.table(),
            explain=explain_live.method(self.engine),
            events=self._events.subscribe,
            metrics=metrics.method(self._parts),
            directions=directions.method(self.engine),
        )
        if team is not None:
            methods.update(team.methods())
        audit = Audit(self._journal)
        methods.update(audit.watched(methods))
        self._control.refused = audit.refused

        self._stopping = False
        self._heard: set[int] = set()
        self._more_requests = False
        self._more_expired = False
        self._next_tick = self._started + TICK
        self._ticks = 0
        self._sets = SetsKeeper(options.state, self._tell_unsaved) if options.state else None
        self._fed = self._started
        self._status_at = (self._started, 0)

    def run(self) -> int:
        """Judge packets until a signal says stop; the exit code."""
        self._start()
        try:
            while not self._stopping:
                self._turn()
                self._reloading.work()
                if self._team is not None:
                    self._team.work(self._aside)
                if self._heat.is_behind():
                    with contextlib.suppress(Abandoned):
                        self._aside.run(self._heat.follow)
        finally:
            self._stop()
        return 0

    def _start(self) -> None:
        self.queue.log = both(self._packet_log.write, self._eve.packet)
        self._observe()
        self._look_around()
        if self._options.state and self._team is None:  # a team's were read before it parted
            now, unix = time.monotonic_ns(), time.time_ns()
            for complaint in read_members(self._options.state, self.engine.ruleset, now, unix):
                self._journal.log(complaint, WARNING, kind=STATE_REFUSED)
        give_up_rest(self._descriptors, self._notifier, self._journal)
        self._account.begin()
        if self._team is not None:
            for sock in self._team.sockets():
                self._selector.register(sock, selectors.EVENT_READ, self._team.serve)
        self._offload.start(time.monotonic_ns())
        self._take_signals()
        for note in self._kernel.notes:
            self._journal.log(note, WARNING, kind=SETTING)
        for problem in self._reloading.config.warnings:
            self._journal.log(f"{problem.where()}: warning: {problem.message}", WARNING, kind=RULES_PROBLEM)
        gc.disable()
        gc.collect()
        gc.freeze()
        self._keeper.restore(self.engine, lambda: self._reloading.config.stored, is_seamless=self._kernel.adopted)
        self._reloading.panic.begin(file_of(os.path.dirname(self._control.path), self._number))
        if self._kernel.adopted:
            self.queue.resume(*self._kernel.settle())
            self._account.settled()
        self._journal.log(f"started: version={__version__} {self._facts()}", NOTICE, kind=STARTED)
        self._reloading.start()
        self._notifier.ready(self._reloading.note() + self._facts())

    def _observe(self) -> None:
        """Has the queue tell whoever records packets, and nobody when nobody does."""
        self.queue.telling = self._flight.look if self._flight.settings is not None else None
        self.queue.record = self._recorder.write if self._recorder is not None else None

    def _turn_aside(self) -> None:
        """A turn while something longer is under way."""
        self._more_requests = True
        self._turn()
        if self._stopping:
            self._aside.abandon()

    def _turn(self) -> None:
        is_listened_to = self._tracker.table.events is not None
        if self._loop.serve(0 if self._more_requests or self._more_expired else self._next_tick, is_listened_to):
            for key, mask in self._selector.select(0):
                key.data(mask)
        if self._heard:
            self._heed()
        self._after_packets()
        more_events = self._events.step()
        self._more_requests = self._control.step() or more_events
        now = time.monotonic_ns()
        if self._more_expired:
            self._more_expired = self._tracker.sweep(now)
        if now >= self._next_tick:
            self._tick(now)
            self._next_tick = now + TICK

    def _packets(self) -> None:
        self.queue.process(BUDGET)
        self._after_packets()

    def _after_packets(self) -> None:
        if self.queue.blocked:
            time.sleep(0.001)  # the kernel has no memory for our verdicts: let it find some
        if self.queue.last_error is not None:
            self._log_exception("packet", self.queue.last_error)
            self.queue.last_error = None
        if gc.get_count()[0] > YOUNG:
            gc.collect(0)

    def _tick(self, now: int) -> None:
        self._ticks += 1
        self._more_expired = self._tracker.sweep(now)
        self.engine.ruleset.tick(now, time.time_ns())
        self._flight.tick(now)
        self._heat.tick(now)
        self._reloading.panic.tick(now)
        if self._team is not None:
            self._team.tick()
        self._offload.tick(now)
        self._control.tick(now)
        self._keeper.step(now)
        self._packets()  # an idle queue proves here that it is empty, not merely silent
        self._pulse.tick(now, now - self._next_tick)
        self._feed(now)
        self._textfile.tick(now)
        if self._ticks % 10 == 0:
            self._account.look()
            self._alarms.tick(now)
            self._packet_log.tick(now)
            self._journal.tick(now)
            self._look_around()
            if self._recorder is not None:
                self._recorder.tick()
        if self._sets is not None:
            self._sets.tick(self.engine.ruleset, now)
        if now - self._status_at[0] >= STATUS_INTERVAL:
            self._notifier.status(self._reloading.note() + self._facts(now))
            self._status_at = (now, self.queue.received)

    def _tell_unsaved(self, text: str) -> None:
        self._journal.log(text, WARNING, kind=STATE_NOT_SAVED)

    def _look_around(self) -> None:
        """What others may have changed since: interfaces, their networks, and the hook's answer to what is rejected."""
        with contextlib.suppress(OSError):  # no memory to ask: as it was, until the next time
            self.queue.refresh_names()
        self.queue.rejects = is_answering(int(self.engine.ruleset.reject_bit))
        settings = self._tracker.settings
        if any(helper in (NETBIOS_NS, SNMP) for helper in settings.helpers.values()):
            with contextlib.suppress(OSError):
                settings.set_networks(broadcast_networks())

    def _feed(self, now: int) -> None:
        watchdog = self._notifier.watchdog_ns
        if not watchdog or now - self._fed < watchdog // 4:
            return
        if self._pulse.progress > self._fed:
            self._notifier.alive()
            self._fed = now

    def _stop(self) -> None:
        self._notifier.stopping()
        deadline = time.monotonic_ns() + PATIENCE
        self.queue.process(BUDGET)
        while (not self.queue.idle or self.queue.pending) and time.monotonic_ns() < deadline:
            self._packets()
        self._control.close()
        self._account.close()
        if self._stopping and self._team is None:  # one of a team ends with the others, whoever wanted that
            self._reloading.panic.end()
        self._keeper.finish()
        self._kernel.close()
        self._offload.close()
        if self._sets is not None:
            self._sets.close(self.engine.ruleset)
        self._textfile.close()
        if self._recorder is not None:
            self._recorder.close()
        self._eve.close()
        queue = self.queue
        self._journal.log(
            f"stopped: received={queue.received} answered={queue.answered} lost={queue.lost} errors={queue.errors}",
            NOTICE,
            kind=STOPPED,
        )
        self._journal.close()
        self._loop.close()
        self._selector.close()
        self._give_signals_back()

    # Signals arrive as bytes on a socket, which wakes the selector. There is room for some hundred bytes: which signals
    # there were the handlers say, whose number nobody can exceed. A turn asks these whatever it has read: one within
    # the handler of another signal (an alarm, see aside) may read a byte whose own handler comes only after it.

    def _take_signals(self) -> None:
        self._wakeup, self._waker = socket.socketpair()
        for end in (self._wakeup, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)  # first: one that comes now is told there
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self._heard.add(number))
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._signals)

    def _give_signals_back(self) -> None:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # the interpreter's end would take one for the process's
        signal.set_wakeup_fd(-1)
        self._wakeup.close()
        self._waker.close()

    def _signals(self, _mask: int) -> None:
        self._wakeup.recv(4096)

    def _heed(self) -> None:
        heard, self._heard = self._heard, set()
        for number in heard:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stopping = True
            elif number == signal.SIGHUP:
                self._reloading.ask()

    def _put(self, new: config.Config) -> list[config.Problem]:
        """Puts a configuration into force between two packets; what of it has to wait for a restart."""
        fail_open = _is_failing_open(new)
        if fail_open != self._kernel.fail_open:
            self._kernel.set_flags(gso=self._options.gso, fail_open=fail_open)
        self._tracker.reconfigure(new.settings)
        self.engine.ruleset = new.ruleset
        if self._team is not None:
            self._team.adopt(new.ruleset)
        self._look_around()
        self._flight.configure(new.recorder)
        self._textfile.configure(new.metrics)
        self._eve.configure(new.eve)
        self._heat.change(new.ruleset, time.monotonic_ns())
        self._observe()
        self.queue.error_verdict = _error_verdict(new)
        texts = []
        if self._options.queue is None and new.queue != self._number:
            texts.append(f"queue {new.queue}: needs a restart, still on queue {self._number}")
        if self._team is None and new.workers != 1:
            texts.append(f"workers {new.workers}: needs a restart, still 1")
        return [config.Problem(self._options.rules, 0, 0, "warning", text) for text in texts]

    def _status(self) -> dict[str, Any]:
        return status.answer(self._parts, time.monotonic_ns())

    def _facts(self, now: int = 0) -> str:
        facts = (
            f"queue={self._number} rules={len(self.engine.ruleset.rules)}"
            f" generation={self.engine.ruleset.generation} connections={len(self._tracker.table)}"
        )
        if now:
            before, received = self._status_at
            facts += (
                f" packets/s={(self.queue.received - received) * SECOND // max(now - before, 1)} lost={self.queue.lost}"
            )
        return facts

    def _log_setting(self, text: str) -> None:
        self._journal.log(text, WARNING, kind=SETTING)

    def _log_warning(self, text: str) -> None:
        self._journal.log(text, WARNING, kind=SINK_FAILED)

    def _log_exception(self, what: str, error: Exception) -> None:
        where = traceback.extract_tb(error.__traceback__)
        last = f"{os.path.basename(where[-1].filename)}:{where[-1].lineno}" if where else "?"
        self._journal.log(
            f"{what}: internal error: {type(error).__name__}: {error} at={last}", ERROR, kind=INTERNAL_ERROR
        )


def _is_failing_open(loaded: config.Config) -> bool:
    return loaded.failure["queue_full"] == "accept"


def _error_verdict(loaded: config.Config) -> int:
    return ACCEPT if loaded.failure["error"] == "accept" else DROP


def _secret() -> bytes:
    """Which connection goes to which shard of the table; nobody outside may know."""
    return bytes(random.SystemRandom().sample(range(256), 256))
