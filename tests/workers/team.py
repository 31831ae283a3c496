"""Several engines in one process that share the traffic as workers do, with their messages in lists.

Each packet goes to the engine that its addresses and protocol choose, as the kernel's --queue-balance does. A message
waits until its receiver looks, ahead of its next packet or while somebody waits for its answer.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

from ctfw.conntrack.settings import Settings
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine, Judgement
from ctfw.packet import FORWARD
from ctfw.ruleset.ruleset import Ruleset
from ctfw.workers.sibling import PATIENCE, Sibling


class Wire:
    """What the links of one team share."""

    def __init__(self, size: int) -> None:
        self.inboxes: list[deque[bytes]] = [deque() for _ in range(size)]
        self.siblings: list[Sibling] = []
        self.figures: list[list[int]] = [[0, 0] for _ in range(size)]
        self.now = 0
        self.waited = 0
        self.deaf = False  # nobody answers


class MemoryLink:
    def __init__(self, wire: Wire, number: int) -> None:
        self.others = [other for other in range(len(wire.inboxes)) if other != number]
        self._wire = wire
        self._inbox = wire.inboxes[number]
        self._number = number

    def is_behind(self) -> bool:
        return bool(self._inbox)

    def send(self, to: int, message: bytes) -> bool:
        self._wire.inboxes[to].append(message)
        return True

    def receive(self, deliver: Callable[[bytes], None], wait: int = 0) -> None:
        if wait and not self._inbox:
            for other in self.others:
                if not self._wire.deaf:
                    self._wire.siblings[other].catch_up()
            if not self._inbox:
                self._wire.waited += PATIENCE
        while self._inbox:
            deliver(self._inbox.popleft())

    def clock(self) -> int:
        return self._wire.now + self._wire.waited

    def figures(self, place: int, own: int) -> int:
        self._wire.figures[self._number][place] = own
        return sum(self._wire.figures[other][place] for other in self.others)


class Team:
    """``size`` engines under rules of their own each: ``ruleset`` makes them."""

    def __init__(
        self,
        size: int,
        ruleset: Callable[[], Ruleset],
        helpers: Mapping[str, Sequence[int]] | None = None,
        seed: int = 0,
        **knobs: int,
    ) -> None:
        self.wire = Wire(size)
        self.engines: list[Engine] = []
        self._seed = seed
        for number in range(size):
            tracker = ConnTrack(Settings(knobs, helpers))
            engine = Engine(tracker, ruleset())
            sibling = Sibling(number, tracker, MemoryLink(self.wire, number))
            sibling.adopt(engine.ruleset)
            self.wire.siblings.append(sibling)
            self.engines.append(engine)

    def chosen(self, data: bytes) -> int:
        """Which engine gets the packet: by both addresses, whatever their order, and in IPv4 by the protocol."""
        if len(data) < 20:
            return 0
        is_ipv4 = data[0] >> 4 == 4
        ends = sorted((data[12:16], data[16:20]) if is_ipv4 else (data[8:24], data[24:40]))
        word = b"".join(ends) + (data[9:10] if is_ipv4 else b"")
        return crc32(word, self._seed) % len(self.engines)

    def handle(
        self, data: bytes, length: int, now: int, hook: int = FORWARD, check: bool = True, way: str = "lan0 wan0"
    ) -> Judgement:
        self.wire.now = now
        indev, outdev = way.split()
        return self.engines[self.chosen(data)].handle(data, length, hook, indev, outdev, 0, check, now)

    def sweep(self, now: int) -> None:
        for engine, sibling in zip(self.engines, self.wire.siblings, strict=True):
            engine.tracker.sweep(now)
            sibling.tick()


def said(judgement: Judgement) -> tuple[str, int, int, int, str]:
    """What must be the same whoever judged."""
    rule = judgement.rule.name if judgement.rule is not None else ""
    return judgement.word(), judgement.state, judgement.direction, judgement.reason, rule
