"""The process that systemd knows when there are workers: it starts them, watches them, and speaks for them.

It judges no packet itself. It loads the rules once, so that the workers, its forks, share them in memory; makes their
channels; forks; and when all of them are ready, tells systemd so and opens the control socket.

What it holds for systemd: the watchdog is fed when every worker has fed its own, which is a socket of ours, since the
last time. Descriptors that a worker wants kept (its queue, its table) are handed on with the worker's number ahead of
their names, and those that systemd kept go back to the worker of that number. A worker that needs longer than PATIENCE
for its end says so, and systemd hears of it. SIGHUP is a reload of all, SIGTERM and SIGINT the end of all. When one
worker ends, all do, with an error, and systemd starts the service anew: what one of them knew nobody else does, and
half a firewall is not one. Should this process be killed, the workers get a SIGTERM from the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ctfw import __version__
from ctfw.daemon import Daemon, Options
from ctfw.service.audit import Audit
from ctfw.service.control import Control
from ctfw.service.descriptors import FIRST, Descriptors
from ctfw.service.journal import ERROR, NOTICE, WARNING, Journal
from ctfw.service.kernel_queue import QueueError
from ctfw.service.kinds import INTERNAL_ERROR, STARTED, STATE_REFUSED, STOPPED
from ctfw.service.last_good import Begun, LastGood
from ctfw.service.members_file import read_members
from ctfw.service.methods import READING
from ctfw.service.notify import Notifier
from ctfw.service.panic import file_of
from ctfw.service.session import Method, Refused
from ctfw.service.socket_file import ControlError
from ctfw.tools import rule_tests
from ctfw.workers.aggregate import Aggregate
from ctfw.workers.channel import Channel, make
from ctfw.workers.member import Member
from ctfw.workers.other_number import prefix, renamed

SECOND: Final = 1_000_000_000
TICK: Final = 0.1
REST: Final = 0.005  # between two looks at work that others do
PATIENCE: Final = 5 * SECOND  # for the workers to end
OURS: Final = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_PR_SET_PDEATHSIG: Final = 1
_MOST_DESCRIPTORS: Final = 8


@dataclass
class _Worker:
    number: int
    pid: int
    notices: socket.socket  # what it says to systemd comes here
    is_ready: bool = False
    has_fed: bool = False


def begin(options: Options, environment: Mapping[str, str] = os.environ) -> Daemon | Supervisor:
    """What the rule file asks for: one daemon, or several. Raises what Daemon's constructor does."""
    begun = LastGood(options.state).begin(options.rules, rule_tests.load)
    first = begun.config.queue if options.queue is None else options.queue
    environment = renamed(environment, first, begun.config.workers)
    if begun.config.workers == 1:
        return Daemon(options, environment, begun=begun)
    return Supervisor(options, environment, begun)


class Supervisor:
    """``run`` starts the workers."""

    def __init__(self, options: Options, environment: Mapping[str, str], begun: Begun) -> None:
        self._options = options
        self._environment = environment
        self._begun = begun
        self._size = begun.config.workers
        self._first = begun.config.queue if options.queue is None else options.queue
        self._notifier = Notifier(environment)
        self._kept = Descriptors(environment).kept
        self._journal = Journal(options.log, environment)
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._control: Control | None = None
        self._aggregate = Aggregate([f"{options.socket}.{n}" for n in range(self._size)], options.rules)
        self._reload: Generator[None, None, dict[str, Any]] | None = None
        self._wants_reload = False  # one more, with the file as it is now
        self._stopping = False
        self._heard: set[int] = set()
        self._deadline = 0  # when workers that have not ended by then are made to
        self._code = 0

    def run(self) -> int:
        """Until a signal says stop, or a worker ends; the exit code."""
        self._take_signals()
        try:
            self._restore_sets()
            self._fork()
            while not self._stopping:
                self._turn()
        finally:
            self._stop()
        return self._code

    def _restore_sets(self) -> None:
        """Every worker begins with the members that were kept; told one by one, they would not fit into a channel."""
        if self._options.state:
            now, unix = time.monotonic_ns(), time.time_ns()
            for complaint in read_members(self._options.state, self._begun.config.ruleset, now, unix):
                self._journal.log(complaint, WARNING, kind=STATE_REFUSED)

    def _fork(self) -> None:
        gc.collect()
        gc.freeze()  # so that the collector of a worker leaves the pages alone that it shares with the others
        channels = make(self._size)
        for number in range(self._size):
            notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            path = self._notices(number)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            notices.bind(path)
            os.chmod(path, 0o600)
            signal.pthread_sigmask(signal.SIG_BLOCK, OURS)  # else the child would hear its first ones as we do
            pid = os.fork()
            if pid == 0:
                self._work(number, channels)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
            self._workers.append(_Worker(number, pid, notices))
            self._selector.register(notices, selectors.EVENT_READ, lambda mask, number=number: self._hear(number))
        for channel in channels:
            channel.close()
        for name, descriptor in self._kept.items():
            os.close(descriptor)
            if not any(name.startswith(prefix(number)) for number in range(self._size)):
                self._notifier.drop(name)  # of one daemon, or of more workers

    def _work(self, number: int, channels: list[Channel]) -> None:
        """The life of a worker; does not return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for ours in OURS:
                signal.signal(ours, signal.SIG_DFL)  # until the daemon takes them: one must not be lost before
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            for other, channel in enumerate(channels):
                if other != number:
                    channel.close()
            member = Member(number, self._size, channels[number], self._begun.config)
            code = Daemon(self._options_of(number), self._environment_of(number), member, self._begun).run()
        except QueueError as error:
            print(f"ctfw: worker {number}: {error}", file=sys.stderr)
            code = 4 if error.denied else 1
        except ControlError as error:
            print(f"ctfw: worker {number}: {error}", file=sys.stderr)
        except OSError as error:
            print(f"ctfw: worker {number}: {error.filename or 'run'}: {error.strerror or error}", file=sys.stderr)
        except Exception:  # the interpreter's end, which would tell of it, is not reached
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _options_of(self, number: int) -> Options:
        options = self._options
        return replace(
            options,
            queue=self._first + number,
            socket=f"{options.socket}.{number}",
            record=f"{options.record}.{number}" if options.record else "",
            state=options.state if number == 0 else "",  # the sets are the same everywhere
        )

    def _environment_of(self, number: int) -> dict[str, str]:
        """What systemd would say to this worker, were it alone: its notices come to us, and its queue goes to it."""
        environment = {name: value for name, value in self._environment.items() if not name.startswith("LISTEN_")}
        environment["NOTIFY_SOCKET"] = self._notices(number)
        if "WATCHDOG_USEC" in environment:
            environment["WATCHDOG_PID"] = str(os.getpid())
        mine = {name: fd for name, fd in self._kept.items() if name.startswith(prefix(number))}
        # Those of others may stand where ours are to be, so all move out of the way first.
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST + len(self._kept)) for fd in mine.values()]
        for place, descriptor in enumerate(copies, FIRST):
            os.dup2(descriptor, place)
            os.close(descriptor)
        for place in range(FIRST + len(mine), FIRST + len(self._kept)):
            os.close(place)
        if mine:
            names = ":".join(name.removeprefix(prefix(number)) for name in mine)
            environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(mine)), "LISTEN_FDNAMES": names}
        return environment

    def _notices(self, number: int) -> str:
        return f"{self._options.socket}.{number}.notify"

    def _turn(self) -> None:
        is_asked = self._control is not None and self._control.step()
        self._listen(REST if is_asked or self._reload is not None else TICK)
        self._work_on_reload()
        if self._control is not None:
            self._control.tick(time.monotonic_ns())
        if not self._stopping:
            self._look_after()

    def _listen(self, seconds: float) -> None:
        for key, mask in self._selector.select(seconds):
            key.data(mask)

    def _hear(self, number: int) -> None:
        """A worker speaks to its systemd, which is us."""
        worker = self._workers[number]
        with contextlib.suppress(BlockingIOError):
            while True:
                size = socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)
                text, ancillary, _, _ = worker.notices.recvmsg(4096, size)
                descriptors = [fd for _, _, data in ancillary for (fd,) in struct.iter_unpack("i", data)]
                self._heed(worker, dict(line.partition("=")[::2] for line in text.decode().splitlines()), descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)

    def _heed(self, worker: _Worker, said: dict[str, str], descriptors: list[int]) -> None:
        if "READY" in said and not worker.is_ready and not self._stopping:
            worker.is_ready = True
            if all(one.is_ready for one in self._workers):
                self._open()
        if "WATCHDOG" in said:
            worker.has_fed = True
            if all(one.has_fed for one in self._workers):
                self._notifier.alive()
                for one in self._workers:
                    one.has_fed = False
        if "EXTEND_TIMEOUT_USEC" in said:
            seconds = int(said["EXTEND_TIMEOUT_USEC"]) // 1_000_000
            self._deadline = max(self._deadline, time.monotonic_ns() + seconds * SECOND)
            self._notifier.extend(seconds)
        name = prefix(worker.number) + said.get("FDNAME", "")
        if "FDSTORE" in said and descriptors:
            self._notifier.keep(name, descriptors[0])
        if "FDSTOREREMOVE" in said:
            self._notifier.drop(name)

    def _open(self) -> None:
        """Every worker judges packets: now it can be told, and asked."""
        methods: dict[str, Method] = self._aggregate.table()
        audit = Audit(self._journal)
        methods.update(audit.watched(methods))
        self._control = Control(
            self._options.socket, self._selector, methods, self._log_exception, READING, self._options.access
        )
        self._control.refused = audit.refused
        self._journal.log(f"started: version={__version__} {self._facts()}", NOTICE, kind=STARTED)
        self._notifier.ready(self._facts())

    def _facts(self) -> str:
        last = self._first + len(self._workers) - 1
        return f"workers={len(self._workers)} queues={self._first}-{last}"

    def _work_on_reload(self) -> None:
        if self._reload is None:
            if not self._wants_reload or self._control is None or self._stopping:
                return
            self._wants_reload = False
            self._notifier.reloading(time.monotonic_ns())
            self._reload = self._aggregate.reload({})
        try:
            next(self._reload)
        except StopIteration:
            self._reload = None
            self._notifier.ready(self._facts())
        except Refused as error:
            self._reload = None
            self._journal.log(f"reload failed, the old rules stay: {error}", ERROR)
            for line in error.data if isinstance(error.data, list) else []:
                self._journal.log(str(line), ERROR)
            self._notifier.ready(f"rules as before, the new file has errors; {self._facts()}")

    def _look_after(self) -> None:
        """Is everybody still there?"""
        ended = []
        for worker in self._workers:
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                worker.pid = 0
                ended.append((worker.number, pid, os.waitstatus_to_exitcode(status)))
        if ended:
            self._listen(0)  # a stop may have been told to all at once, and to us before them
        for number, pid, code in ended:
            if self._stopping and self._code == 0:
                self._note_end(code)
                continue
            self._journal.log(f"worker {number} ended: pid={pid} code={code}; all end", ERROR)
            self._code = code if code > 0 else 1
            self._stopping = True

    def _note_end(self, code: int) -> None:
        """A worker has ended that was told to. By SIGTERM is how one does that has not begun to listen for it."""
        if code != -signal.SIGTERM:
            self._code = self._code or abs(code)

    def _stop(self) -> None:
        is_wanted = self._stopping and self._code == 0
        self._stopping = True
        self._notifier.stopping()
        if self._control is not None:
            self._control.close()
        self._aggregate.close()
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, signal.SIGTERM)
        self._deadline = max(self._deadline, time.monotonic_ns() + PATIENCE)
        for worker in self._workers:
            while worker.pid:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    worker.pid = 0
                    self._note_end(os.waitstatus_to_exitcode(status))
                elif time.monotonic_ns() > self._deadline:
                    os.kill(worker.pid, signal.SIGKILL)
                    self._deadline += PATIENCE
                else:
                    self._listen(REST)
            self._hear(worker.number)
            self._selector.unregister(worker.notices)
            worker.notices.close()
            own = [self._notices(worker.number), self._aggregate.paths[worker.number]]  # if it could not itself
            if is_wanted:
                own.append(file_of(os.path.dirname(self._options.socket), self._first + worker.number))
            for path in own:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self._journal.log(f"stopped: {self._facts()}", NOTICE, kind=STOPPED)
        self._journal.close()
        for ours in OURS:
            signal.signal(ours, signal.SIG_IGN)  # the interpreter's end would take one for the process's
        signal.set_wakeup_fd(-1)

    def _take_signals(self) -> None:
        self._wakeup, self._waker = socket.socketpair()
        for end in (self._wakeup, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)  # first: one that comes now is told there
        for number in OURS:
            signal.signal(number, lambda number, frame: self._heard.add(number))
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._signals)

    def _signals(self, mask: int) -> None:
        self._wakeup.recv(4096)  # has room for some hundred bytes, so what they say may not be all
        heard, self._heard = self._heard, set()
        for number in heard:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stopping = True
            elif number == signal.SIGHUP:
                self._wants_reload = True

    def _log_exception(self, what: str, error: Exception) -> None:
        self._journal.log(f"{what}: internal error: {type(error).__name__}: {error}", ERROR, kind=INTERNAL_ERROR)
