"""The difference that rules make: the same packets under two rule files, and the connections that come out otherwise.

Owns the comparison and what is remembered of it. Both engines judge each packet in one pass, each with a table of its
own and the capture's clock, so that a connection which one of them refused is unknown to that one alone, as it would
have been. A packet is concerned when its verdict (accept, drop, reject) differs.

What is remembered is one Change a connection: its first packet that is concerned, with the verdict and the rule on
either side, and how many packets and bytes follow it there. The packets that follow often differ for another reason
(the answer to a packet that was dropped is INVALID), so the first one names the rules responsible, and Changes are
grouped by them. A connection is its two ends: one that uses the tuple of an earlier one is counted with it.

Bounded: MOST connections. Packets of others that are concerned are counted, not told apart (`beyond`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ctfw import reason
from ctfw.config import Config
from ctfw.engine import Judgement
from ctfw.packet import Packet, inverse
from ctfw.packet_text import describe
from ctfw.ruleset.rule import Rule
from ctfw.service.record import Annotation
from ctfw.tools.capture import Frame
from ctfw.tools.replay import Replay

MOST: Final = 65536  # some 50 MB


@dataclass(frozen=True, slots=True)
class Side:
    """What one of the two rule files makes of a packet. `rule` is "" where no rule decided, and `why` says what did."""

    verdict: str
    rule: str
    origin: str = ""
    why: str = ""


@dataclass(slots=True)
class Change:
    """A connection that comes out otherwise. `number` is the frame's, `packet` its words."""

    number: int
    time: int
    packet: str
    old: Side
    new: Side
    packets: int
    bytes: int


@dataclass(slots=True)
class Group:
    """The changes for which the same two rules are responsible."""

    old: Side
    new: Side
    changes: list[Change]

    @property
    def packets(self) -> int:
        """Packets concerned."""
        return sum(change.packets for change in self.changes)

    @property
    def bytes(self) -> int:
        """Bytes concerned."""
        return sum(change.bytes for change in self.changes)


class Changes:
    """The changes found so far, by connection; `beyond` and `beyond_bytes` count what is over the limit."""

    def __init__(self, most: int = MOST) -> None:
        self.packets = 0
        self.bytes = 0
        self.beyond = 0
        self.beyond_bytes = 0
        self._most = most
        self._found: dict[bytes, Change] = {}

    def __len__(self) -> int:
        return len(self._found)

    def of(self, key: bytes) -> Change | None:
        """How this connection has changed already."""
        return self._found.get(key)

    def add(self, key: bytes, number: int, time: int, packet: Packet, old: Side, new: Side) -> None:
        """A packet is concerned; the rest is kept when it is its connection's first one."""
        self.packets += 1
        self.bytes += packet.length
        change = self._found.get(key)
        if change is None:
            if len(self._found) >= self._most:
                self.beyond += 1
                self.beyond_bytes += packet.length
                return
            change = self._found[key] = Change(number, time, describe(packet), old, new, 0, 0)
        change.packets += 1
        change.bytes += packet.length

    def groups(self) -> list[Group]:
        """By the rules responsible; the largest group first, within it the order of the packets."""
        found: dict[tuple[Side, Side], Group] = {}
        for change in self._found.values():
            found.setdefault((change.old, change.new), Group(change.old, change.new, [])).changes.append(change)
        return sorted(found.values(), key=lambda group: -len(group.changes))


class Difference:
    """One capture under two configurations; `old` and `new` are their replays, with the sums of each."""

    def __init__(self, old: Config, new: Config, given: Annotation, most: int = MOST) -> None:
        self.old = Replay(old, given)
        self.new = Replay(new, given)
        self.changes = Changes(most)

    def judge(self, frames: Iterable[Frame]) -> None:
        """Judges all frames. Raises CaptureError as Replay does; what came before is in the changes."""
        try:
            for number, frame in enumerate(frames, 1):
                was = self.old.feed(frame)
                now = self.new.feed(frame)
                if was is not None and now is not None and was.word() != now.word():
                    key = connection_key(_key(was) or _key(now))
                    self.changes.add(key, number, self.new.time_of(frame), now.packet, _side(was), _side(now))
        finally:
            self.old.finish()
            self.new.finish()


def connection_key(key: bytes) -> bytes:
    """One key for both directions of a connection."""
    other = inverse(key) if key else b""
    return min(key, other) if other else key


def rule_side(word: str, rule: Rule | None, why: int) -> Side:
    """The Side of a verdict in words and the rule that gave it, or what did instead."""
    if rule is None:
        return Side(word, "", "", reason.NAMES[why])
    return Side(word, rule.name, rule.origin)


def _side(judgement: Judgement) -> Side:
    return rule_side(judgement.word(), judgement.rule, judgement.reason)


def _key(judgement: Judgement) -> bytes:
    return judgement.conn.key if judgement.conn is not None else judgement.packet.key
