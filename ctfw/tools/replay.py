"""Replay: the packets of a capture, judged under a configuration as the daemon would have judged them.

Owns the way from a captured frame to `Engine.handle`: which chain and interfaces a packet is taken to have
come by, whether its checksum is verified, and the clock. Bytes and times come in, results go out one by one;
it opens no file and prints nothing.

* The clock is the capture's, in nanoseconds since 1970. It never runs backwards: a frame that is older than
  one before it (merged captures, several receive queues) is judged at the time reached, and counted; so is
  one without a time.
* Expired connections are swept as capture time passes, at the daemon's rate, so that the table is as full as
  it would have been.
* What a packet's annotation says (service/record.py) holds before what the caller says. So a recording of the
  daemon is judged as the daemon judged it: by the same chain, interfaces and mark, and with the checksum
  verified exactly when it was then. Captures of others are not verified unless the caller asks, because a
  capture on the sending machine sees checksums that the network card fills in later.
* A file of the flight recorder (service/flight.py) leaves packets out. What is missing would put those behind it
  outside of TCP's windows, so from its first packet on windows bind nobody, as with tcp_be_liberal.

A broken capture raises CaptureError out of `judge` after the results that came before it; `summary` holds for
those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ctfw import reason
from ctfw.config import Config
from ctfw.conntrack.state import state_name
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine, Judgement
from ctfw.nfqueue import UNVERIFIED
from ctfw.packet import DIRECTION_NAMES
from ctfw.packet_text import describe
from ctfw.ruleset.rule import Rule
from ctfw.service.flight import MARK
from ctfw.service.record import Annotation, parse_annotation
from ctfw.tools.capture import Frame, network_layer

TICK: Final = 100_000_000  # the daemon's
TICKS_PER_ROUND: Final = 32  # so many sweeps go once round the table; more in one place find nothing


@dataclass(slots=True)
class Result:
    """The judgement of one packet in words; a word is empty where there is none.

    `rule` is empty where connection tracking itself or a helper decided, `state` where that was before the rules,
    `direction` where the packet belongs to no connection.
    """

    number: int  # of the frame in its file, from 1, as Wireshark counts
    time: int
    packet: str
    state: str
    direction: str
    verdict: str
    rule: str
    reason: str


@dataclass(slots=True)
class Summary:
    """Counts over all packets judged so far."""

    packets: int = 0
    not_ip: int = 0  # frames that were skipped
    cut: int = 0  # packets of which the capture has only a part
    backwards: int = 0
    timeless: int = 0
    annotations_ignored: int = 0  # comments that look like ours and cannot be read
    verdicts: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    rules: Counter[Rule | None] = field(default_factory=Counter)
    connections: int = 0  # that live at the end


class Replay:
    """One replay: a fresh table of connections under `config`."""

    def __init__(self, config: Config, given: Annotation) -> None:
        """`given` is taken for the annotation of packets that have none."""
        self.summary = Summary()
        self._given = given
        self._tracker = ConnTrack(config.settings)
        self.engine = Engine(self._tracker, config.ruleset)
        self._now = 0
        self._swept = 0

    def judge(self, frames: Iterable[Frame]) -> Iterator[Result]:
        """The results, in order. Raises CaptureError as `frames` and `network_layer` do."""
        try:
            for number, frame in enumerate(frames, 1):
                judgement = self.feed(frame)
                if judgement is not None:
                    yield _result(number, self.time_of(frame), judgement)
        finally:
            self.finish()

    def feed(self, frame: Frame) -> Judgement | None:
        """The judgement of the next frame, valid until the one after it; None when it is not IP."""
        asked = self.ask(frame)
        if asked is None:
            return None
        data, length, about, now = asked
        check = about.checksum == UNVERIFIED
        judgement = self.engine.handle(data, length, about.hook, about.indev, about.outdev, about.mark, check, now)
        summary = self.summary
        summary.packets += 1
        summary.verdicts[judgement.word()] += 1
        summary.states[state_name(judgement.state)] += 1
        if judgement.reason:
            summary.reasons[reason.NAMES[judgement.reason]] += 1
        summary.rules[judgement.rule] += 1
        return judgement

    def ask(self, frame: Frame) -> tuple[bytes, int, Annotation, int] | None:
        """What the engine is to be asked about the next frame: packet, length, where, when. None when it is not IP."""
        self._advance(frame.time)
        layer = network_layer(frame)
        if layer is None:
            self.summary.not_ip += 1
            return None
        data, length = layer
        if len(data) < length:
            self.summary.cut += 1  # the engine knows that it cannot check these
        return data, length, self._annotation(frame), self._now

    def finish(self) -> None:
        """No frame follows: works out what the summary says about the end."""
        self._sweep(TICKS_PER_ROUND)
        self.summary.connections = len(self._tracker.table)

    def time_of(self, frame: Frame) -> int:
        """The frame's own time, or the clock's where it has none."""
        return self._now if frame.time is None else frame.time

    def _advance(self, time: int | None) -> None:
        if time is None:
            self.summary.timeless += 1
        elif time < self._now:
            self.summary.backwards += 1
        else:
            self._now = time
            if time - self._swept >= TICK:
                self._sweep(min((time - self._swept) // TICK, TICKS_PER_ROUND))
                self.engine.ruleset.tick(time, time)
                self._swept = time

    def _sweep(self, ticks: int) -> None:
        for _ in range(ticks):
            while self._tracker.sweep(self._now):
                pass

    def _annotation(self, frame: Frame) -> Annotation:
        for comment in frame.comments:
            if comment.startswith(MARK):
                self._tracker.settings.tcp_be_liberal = True
        for comment in frame.comments:
            try:
                annotated = parse_annotation(comment)
            except ValueError:
                self.summary.annotations_ignored += 1
                continue
            if annotated is not None:
                return annotated
        return self._given


def _result(number: int, time: int, judgement: Judgement) -> Result:
    direction = judgement.direction
    return Result(
        number,
        time,
        describe(judgement.packet),
        state_name(judgement.state),
        DIRECTION_NAMES[direction] if direction >= 0 else "",
        judgement.word(),
        judgement.rule.name if judgement.rule is not None else "",
        reason.NAMES[judgement.reason],
    )
