"""`tests:` of a rule file -> what is sent and what is expected, each with its place.

A test is one packet (`send`, `expect`) or a list of `steps`: packets, and times of waiting on a clock that only tests
have. Here is only what they say. Packets are read by `packet_words`, to the column; whether the rules hold to it is
tools/rule_tests' business.
"""

from dataclasses import dataclass, field
from datetime import datetime

from ctfw.config import values
from ctfw.config.document import Mapping, Node, Scalar, Sequence
from ctfw.config.packet_words import PacketError, Wording, parse
from ctfw.config.problems import Source, quote
from ctfw.config.schema import EXPECT, STEP, TEST, Key, Kind
from ctfw.config.values import Wrong
from ctfw.config.walk import Fields, Skip, Walker, text_of
from ctfw.packet import INPUT

# When a test plays that does not say: a Monday at noon, by the machine's own time.
NOON = "2024-01-01T12:00"

_FORWARD = 1  # among the words of `chain`, the first of which is input


@dataclass(frozen=True)
class Spot:
    """A place of the file that outlives the reading."""

    source: Source
    line: int
    column: int


@dataclass
class Step:
    """A packet, or with `packet` None a wait of so many seconds. None in the others: the step does not say.

    `hook` is the chain's number. `expected` maps verdict, state, rule and reason to the word wanted, `places` each of
    them to where it stands.
    """

    spot: Spot
    packet: Wording | None = None
    wait: int = 0
    hook: int | None = None
    indev: str | None = None
    outdev: str | None = None
    expected: dict[str, str] = field(default_factory=dict)
    places: dict[str, Spot] = field(default_factory=dict)


@dataclass
class RuleTest:
    """`at` is when it plays, in seconds since 1970; `hook`, `indev` and `outdev` hold where a step says nothing."""

    name: str
    spot: Spot
    at: int
    hook: int
    indev: str
    outdev: str
    steps: list[Step]


class Tests:
    """Reads the tests of a file and of those that it includes; `found` has all that could be read."""

    def __init__(self, walker: Walker) -> None:
        self.walker = walker
        self.report = walker.report
        self.found: list[RuleTest] = []
        self._names: dict[str, Node] = {}
        walker.readers[Kind.TESTS] = self._read
        walker.readers[Kind.STEPS] = self._steps
        walker.readers[Kind.PACKET] = self._packet
        walker.readers[Kind.EXPECT] = self._expect
        walker.readers[Kind.DEVICE] = _device
        walker.readers[Kind.MOMENT] = lambda node, key: moment(text_of(node, key))

    def _read(self, node: Node, key: Key) -> list[RuleTest]:
        if not isinstance(node, Sequence):
            raise Wrong("'tests' is a list", "each test starts with a dash: '- name: …'")
        for item in node.items:
            if not isinstance(item, Mapping):
                self.report.error(item, "a test is a mapping of keys to values", "as in '- {send: …, expect: accept}'")
                continue
            self._test(self.walker.section(item, TEST))
        return self.found

    def _test(self, fields: Fields) -> None:
        name = fields.get("name", f"test {len(self.found) + 1}")
        first = self._names.setdefault(name, fields.node)
        if first is not fields.node:
            where = self.report.where(first, fields.node)
            self.report.error(fields.place("name"), f"test name {quote(name)} is used twice", f"first at {where}")
        if "steps" in fields.keys and ("send" in fields.keys or "expect" in fields.keys):
            word = "send" if "send" in fields.keys else "expect"
            self.report.error(fields.place(word), f"{quote(word)} beside 'steps'", "make it the first of the steps")
        elif "steps" not in fields.keys:
            for word, hint in (
                ("send", "add 'send: …' or 'steps: …'"),
                ("expect", "add 'expect: accept', drop or reject"),
            ):
                if word not in fields.keys:
                    self.report.error(fields.node, f"test has no {quote(word)}", hint)
        if not fields.complete():
            return
        if "steps" in fields.keys:
            steps: list[Step] = fields.get("steps")
        elif "send" in fields.keys and "expect" in fields.keys:
            steps = [_step(fields)]
        else:
            return
        at, hook = fields.get("at", moment(NOON)), fields.get("chain", _FORWARD) + INPUT
        spot = _spot(fields.place("name"))
        self.found.append(RuleTest(name, spot, at, hook, fields.get("in", ""), fields.get("out", ""), steps))

    def _steps(self, node: Node, key: Key) -> list[Step]:
        if not isinstance(node, Sequence) or not node.items:
            raise Wrong("'steps' is a list", "each step starts with a dash: '- send: …' or '- wait: 5s'")
        steps: list[Step] = []
        bad = False
        for item in node.items:
            if not isinstance(item, Mapping):
                self.report.error(item, "a step is a mapping of keys to values", "as in '- wait: 5s'")
                bad = True
                continue
            fields = self.walker.section(item, STEP)
            if ("send" in fields.keys) == ("wait" in fields.keys):
                message = (
                    "a step either sends or waits" if "send" in fields.keys else "step has neither 'send' nor 'wait'"
                )
                self.report.error(item, message, "write two steps" if "send" in fields.keys else "as in '- wait: 5s'")
                bad = True
            elif "wait" in fields.keys and len(fields.keys) > 1:
                self.report.error(item, "nothing else stands beside 'wait'", "write a step of its own")
                bad = True
            elif fields.complete():
                steps.append(_step(fields))
            else:
                bad = True
        if bad:
            raise Skip
        return steps

    def _packet(self, node: Node, key: Key) -> Wording:
        text = text_of(node, key)
        try:
            return parse(text)
        except PacketError as wrong:
            self.report.error(_within(node, text, wrong.column), wrong.message, wrong.hint)
            raise Skip from None

    def _expect(self, node: Node, key: Key) -> dict[str, tuple[str, Spot]]:
        """A word is the verdict; a mapping says more."""
        if isinstance(node, Scalar):
            word = EXPECT.keys["verdict"].words
            return {"verdict": (word[values.choice(node.text, {w: i for i, w in enumerate(word)})], _spot(node))}
        fields = self.walker.section(node, EXPECT)
        if not fields.complete():
            raise Skip
        if not fields.values:
            raise Wrong("nothing is expected here", "a verdict, or as in 'expect: {state: INVALID, reason: tcp-flags}'")
        found: dict[str, tuple[str, Spot]] = {}
        for name, value in fields.values.items():
            words = EXPECT.keys[name].words
            found[name] = (words[value] if words else value, _spot(fields.place(name)))
        return found


def _step(fields: Fields) -> Step:
    expected: dict[str, tuple[str, Spot]] = fields.get("expect", {})
    chain = fields.get("chain")
    return Step(
        _spot(fields.place("send" if "send" in fields.keys else "wait")),
        fields.get("send"),
        fields.get("wait", 0),
        None if chain is None else chain + INPUT,
        fields.get("in"),
        fields.get("out"),
        {name: word for name, (word, _) in expected.items()},
        {name: place for name, (_, place) in expected.items()},
    )


def _spot(node: Node) -> Spot:
    return Spot(node.source, node.line, node.column)


def _within(node: Node, text: str, column: int) -> Spot:
    """The place of a character of a scalar; the scalar's own where the file spells it otherwise."""
    start = node.column + (not isinstance(node, Scalar) or not node.plain)
    line = node.source.lines[node.line - 1] if node.line <= len(node.source.lines) else ""
    if line[start - 1 : start - 1 + len(text)] != text:
        return _spot(node)
    return Spot(node.source, node.line, start + column - 1)


def _device(node: Node, key: Key) -> str:
    text = text_of(node, key)
    if "+" in text:
        raise Wrong(f"{quote(text)} is not an interface", "a packet comes by one interface: a test has no wildcards")
    return values.interface(text)


def moment(text: str) -> int:
    """Seconds since 1970, from `2024-01-01T12:00`, by the machine's own time unless an offset stands behind it."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):
        raise Wrong(f"{quote(text)} is not a time", "as in 2024-01-01T12:00, or 2024-01-01T12:00+01:00") from None
