"""The parts of a daemon as `status` and metrics read them, on a queue whose kernel is the test's."""

import selectors
from pathlib import Path
from typing import Any, cast

from daemon.fakekernel import FakeKernel

from ctfw import config
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.service.aside import Aside
from ctfw.service.control import Control
from ctfw.service.eve_log import EveLog
from ctfw.service.events import EventStream
from ctfw.service.failure import Account
from ctfw.service.flight import Flight
from ctfw.service.hook.handed import Handed
from ctfw.service.journal import Journal
from ctfw.service.kernel_queue import KernelQueue
from ctfw.service.last_good import Begun, LastGood
from ctfw.service.notify import Notifier
from ctfw.service.packet_log import PacketLog
from ctfw.service.pulse import Pulse
from ctfw.service.reloading import Reloading
from ctfw.service.status import Parts, watched

RULES = """
version: 1
policy: {input: drop, forward: drop, output: accept}
conntrack: {max: 100}
sets: {banned: {dynamic: on}}
rules:
  - {name: ban, src: $banned, verdict: drop}
  - {name: open, proto: udp, dport: 53, verdict: accept, log: {limit: 1/minute, burst: 1}}
"""


class Figures:
    """What the kernel says of the queue; None: it may not be read."""

    def __init__(self) -> None:
        self.now: dict[str, int] | None = {"waiting": 0, "queue_dropped": 0, "socket_dropped": 0, "numbered": 0}
        self.maxlen, self.gso, self.copy_range = 8192, True, 1600
        self.fail_open = False
        self.number = 7
        self.adopted = False
        self.notes: list[str] = []

    def figures(self) -> dict[str, int] | None:
        return self.now


class Gateway:
    """``parts`` of a daemon that began at 0."""

    def __init__(self, directory: Path, rules: str = RULES) -> None:
        path = directory / "rules.yaml"
        path.write_text(rules)
        loaded = config.load(str(path))
        self.path = path
        self.hook: list[Handed] | OSError = []  # what the kernel says of its rules
        self.kernel, self.figures = FakeKernel(), Figures()
        self.engine = Engine(ConnTrack(loaded.settings), loaded.ruleset)
        queue = self.kernel.queue(self.engine)
        kernel = cast(KernelQueue, self.figures)
        journal, notifier = Journal("stderr", {}), Notifier({})
        account = Account(queue, kernel, ask=self._ask)
        packet_log = PacketLog(self.engine, journal)
        queue.log = packet_log.write
        self.selector = selectors.DefaultSelector()

        def put(new: config.Config) -> list[config.Problem]:
            self.engine.ruleset = new.ruleset
            return []

        def load(path: str, stored: config.Stored | None) -> config.Config:
            return config.load(path, stored=stored)

        self.flight = Flight(self.engine)
        events = EventStream(self.engine.tracker)
        self.parts = Parts(
            started=0,
            number=7,
            engine=self.engine,
            queue=queue,
            kernel=kernel,
            account=account,
            reloading=Reloading(
                Begun(loaded),
                str(path),
                self.engine,
                Aside(lambda: None),
                LastGood(""),
                load,
                put,
                lambda: "",
                notifier,
                journal,
            ),
            journal=journal,
            packet_log=packet_log,
            control=Control(str(directory / "control.sock"), self.selector, {}, lambda what, error: None),
            flight=self.flight,
            notifier=notifier,
            pulse=Pulse(queue, kernel, watched(self.engine, queue, kernel, journal, account), 0),
            events=events,
            eve=EveLog(self.engine, events),
            recorder=None,
        )

    def _ask(self, number: int) -> list[Handed]:
        if isinstance(self.hook, OSError):
            raise self.hook
        return self.hook

    def judge(self, data: bytes, now: int = 1) -> Any:
        return self.engine.handle(data, len(data), FORWARD, "lan0", "wan0", 0, False, now)

    def reload(self) -> None:
        self.parts.reloading.ask()
        self.parts.reloading.work()

    def close(self) -> None:
        self.parts.control.close()
        self.parts.journal.close()
        self.selector.close()
