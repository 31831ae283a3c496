"""The same packets to the kernel and to the engine, and whether both say and remember the same of each.

Compared after every packet: state, direction and status bits of the packet; the lines of its connections in
/proc/net/nf_conntrack and nf_conntrack_expect, word by word, seconds within one; what is absent in one must be absent
in the other; and where a helper might eat the packet, whether it comes out.

A group of conversations is held at once, one packet of each in turn: they have addresses of their own and never meet
in the table, so one reading of the table serves a packet of each. The first difference ends a conversation.

Where conversations outlive time-outs, what is alive at a reading must not hang on how soon the machine comes to it. A
turn that takes too long for that makes the whole group worthless: it is held again, with all times doubled.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from kernel.adapter import Engine
from kernel.conversations.step import Conversation, Pair, Step
from kernel.gateway import Gateway, addresses

_LINE: Final = re.compile(r"(\S+ +\d+ \S+ +\d+ )(\d+) (.*?src=(\S+) .*?) use=\d+$")
_EXPECTATION: Final = re.compile(r"(\d+) (l3proto = .*? dst=(\S+) .*)$")
_ELSEWHERE: Final = 0x8000
_LATE: Final = 0.25  # of a pause: where the whole pauses are, no time-out of whole seconds ends so soon after one
_SLOWER: Final = (1, 2, 4)

T = TypeVar("T")

Record = dict[str, int]  # a line without its seconds -> the seconds


class Talked:
    """How a conversation went: ``log`` in words, and where the two differed first, or ""."""

    def __init__(self, steps: Conversation) -> None:
        self.steps = steps
        self.log: list[str] = []
        self.difference = ""

    def __str__(self) -> str:
        return "\n".join(self.log + ([f"  DIFFERS {self.difference}"] if self.difference else []))


class Late(Exception):
    """The machine was too slow for the pauses; the conversations say nothing about the engine."""


class Counts:
    """What was compared, for the report."""

    def __init__(self) -> None:
        self.conversations = 0
        self.packets = 0
        self.unseen = 0
        self.states: Counter[str] = Counter()


def pair(number: int, ipv6: bool) -> Pair:
    """The ends of conversation ``number`` of a group (below 32768)."""
    return Pair(*addresses(number, ipv6), *addresses(number + _ELSEWHERE, ipv6))


def hold(
    gateway: Gateway,
    engine: Engine,
    group: Sequence[Conversation],
    knobs: Mapping[str, int] | None = None,
    pause: float = 0.0,
    counts: Counts | None = None,
) -> list[Talked]:
    """Holds the conversations of ``group``, number i between the ends of ``pair(i)``; ``pause`` seconds per round.

    Both tables are empty before and after; ``knobs`` are in force for all of it, by their sysctl names. Raises Late.
    """
    gateway.set(knobs or {})
    engine.set(knobs or {})
    gateway.flush()
    engine.flush()
    counts = counts or Counts()
    counts.conversations += len(group)
    talks = [Talked(steps) for steps in group]
    began = time.monotonic()
    for turn in range(max(len(steps) for steps in group)):
        if pause:
            time.sleep(max(0.0, began + turn * pause - time.monotonic()))
            # Reading frees what has expired in the pause: else it is chance how long a dead master has expectations.
            gateway.table()
            engine.table(time.monotonic())
        spoke = [number for number, talk in enumerate(talks) if turn < len(talk.steps) and not talk.difference]
        for number in spoke:
            _step(gateway, engine, talks[number], talks[number].steps[turn], counts)
        theirs = _records(gateway.table(), gateway.expectations())
        now = time.monotonic()
        ours = _records(engine.table(now), engine.expectations(now))
        for number, talk in enumerate(talks):
            if not talk.difference and (pause or number in spoke):
                talk.difference = _compare(theirs.get(number, {}), ours.get(number, {}))
        late = time.monotonic() - began - turn * pause
        if pause and late > pause * _LATE:
            gateway.flush()
            engine.flush()
            raise Late(f"turn {turn} was over after {late:.2f} s")
    gateway.flush()
    engine.flush()
    return talks


def in_time(held: Callable[[Mapping[str, int], float], T], knobs: Mapping[str, int], pause: float) -> T:
    """What ``held(knobs, pause)`` returns, of conversations under short time-outs; slower where the machine is.

    Raises Late when it is too slow for all of it.
    """
    for slower in _SLOWER[:-1]:
        with suppress(Late):
            return held({knob: seconds * slower for knob, seconds in knobs.items()}, pause * slower)
    return held({knob: seconds * _SLOWER[-1] for knob, seconds in knobs.items()}, pause * _SLOWER[-1])


def minimise(gateway: Gateway, engine: Engine, steps: Conversation, number: int, knobs: Mapping[str, int]) -> Talked:
    """The shortest part of a differing conversation that still differs, as far as leaving out one step after another
    finds it."""

    def held(some: Conversation) -> Talked:
        return hold(gateway, engine, [[]] * number + [some], knobs)[number]

    best = held(steps)
    if not best.difference:
        return best
    best = held(steps[: len(best.log)])
    at = 0
    while best.difference and at < len(best.steps):
        shorter = held(best.steps[:at] + best.steps[at + 1 :])
        if shorter.difference:
            best = shorter
        else:
            at += 1
    return best


def _step(gateway: Gateway, engine: Engine, talk: Talked, step: Step, counts: Counts) -> None:
    said: tuple[str, str | None] = ("", None)
    status: frozenset[str] = frozenset()
    passes = False

    def decide(packet: bytes) -> bool:
        nonlocal said, status, passes
        said = engine.packet(packet, time.monotonic())
        status = engine.status()
        passes = engine.verdict(step.accept)
        return step.accept

    if step.watch:
        gateway.drain()
    label = gateway.send(step.side, step.data, decide)
    counts.packets += 1
    counts.states[label.state] += 1
    if not label.state:
        counts.unseen += 1
        talk.log.append(f"  {step.text}: not seen")
        return
    talk.log.append(f"  {step.text}: {_words(label.state, label.direction, label.status)}")
    if said[0] != label.state or (label.direction and said[1] != label.direction) or status != label.status:
        talk.difference = f"the engine says: {_words(*said, status)}"
    elif step.watch and step.accept and gateway.comes_out(step.side, step.data, 0.2 if passes else 0.0) != passes:
        talk.difference = f"the engine says: it {'comes out' if passes else 'is eaten by the helper'}"


def _words(state: str, direction: str | None, status: frozenset[str]) -> str:
    return f"{state} {direction or '-'} {' '.join(sorted(status))}"


def _records(table: Sequence[str], expectations: Sequence[str]) -> dict[int, Record]:
    """The records of each conversation, by its number."""
    found: dict[int, Record] = {}
    for line in table:
        match = _LINE.match(line)
        assert match, line
        head, seconds, rest, src = match.groups()
        found.setdefault(_number(src), {})[f"{head}- {rest}"] = int(seconds)
    for line in expectations:
        match = _EXPECTATION.match(line)
        assert match, line
        found.setdefault(_number(match[3]), {})[match[2]] = int(match[1])
    return found


def _number(address: str) -> int:
    if ":" in address:
        return int(address[-4:], 16) & ~_ELSEWHERE
    parts = address.split(".")
    return (int(parts[2]) << 8 | int(parts[3])) & ~_ELSEWHERE


def _compare(theirs: Record, ours: Record) -> str:
    if theirs.keys() == ours.keys() and all(abs(seconds - ours[line]) <= 1 for line, seconds in theirs.items()):
        return ""
    told = [f"    {who} {seconds:>6} {line}" for who, record in (("kernel", theirs), ("engine", ours))
            for line, seconds in sorted(record.items())]  # fmt: skip
    return "in the records:\n" + "\n".join(told or ["    none"])
