"""A captured conversation -> a test of a rule file that passes.

The frames of a capture are sorted into conversations by the tuple of their connection; an ICMP error belongs to the
conversation that it speaks about. One of them is written down in words and played under the rules, and what came of it
is what the test expects from now on: a record of what the rules do, for its author to read.

The words do not hold everything: payloads that no helper reads are lengths, times are whole seconds, and numbers count
from 0. So each packet is also judged as it was captured, and a difference is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ctfw.config import Config
from ctfw.config.packet_words import PacketError, Wording, parse
from ctfw.config.problems import Source
from ctfw.config.tests_section import NOON, RuleTest, Spot, Step, moment
from ctfw.conntrack import icmp
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import HOOK_NAMES, ICMP, ICMPV6, Packet, decode, inverse
from ctfw.packet_text import ends_text
from ctfw.service.record import Annotation, parse_annotation
from ctfw.tools.build_packet import Talk
from ctfw.tools.capture import Frame, network_layer
from ctfw.tools.rule_tests import START, Outcome, judged, run, situation
from ctfw.tools.write_packet import Bases, write

MOST: Final = 500  # packets of one test
_SECOND: Final = 1_000_000_000


@dataclass
class Captured:
    """A packet of a conversation. `about` is what its annotation says, None where it has none."""

    number: int
    time: int | None
    data: bytes
    length: int
    about: Annotation | None


@dataclass
class Conversation:
    """`name` is its first packet in short."""

    name: str
    packets: list[Captured] = field(default_factory=list)


@dataclass
class Written:
    """A test as text, and what is to be told about it."""

    text: str
    notes: list[str]


def conversations(frames: Iterable[tuple[Frame, Annotation | None]]) -> list[Conversation]:
    """The capture's conversations in the order in which they begin. Raises CaptureError as the frames do."""
    found: dict[bytes, Conversation] = {}
    fragments: dict[bytes, bytes] = {}
    for number, (frame, about) in enumerate(frames, 1):
        layer = network_layer(frame)
        if layer is None:
            continue
        packet = decode(*layer)
        name = _name(packet, fragments)
        if name == b"":
            continue
        if name not in found:
            found[name] = Conversation(ends_text(packet))
        found[name].packets.append(Captured(number, frame.time, *layer, about))
    return list(found.values())


def annotated(frames: Iterable[Frame]) -> Iterator[tuple[Frame, Annotation | None]]:
    """Each frame with what ``ctfw run --record`` wrote beside it."""
    for frame in frames:
        about = None
        for comment in frame.comments:
            with suppress(ValueError):
                about = about or parse_annotation(comment)
        yield frame, about


def write_test(conversation: Conversation, load: Callable[[], Config], given: Annotation) -> Written:
    """The conversation as a test. ``given`` is how packets come that say nothing of it themselves.

    ``load`` gives the rules, untouched, each time that it is called.
    """
    captured = conversation.packets[:MOST]
    notes = []
    if len(conversation.packets) > MOST:
        notes.append(f"only the first {MOST} packets of {len(conversation.packets)} are in the test")
    first = captured[0].about or given
    test = RuleTest(conversation.name, Spot(Source(""), 0, 0), moment(NOON), first.hook, first.indev, first.outdev, [])
    as_captured = _judge(captured, load(), given)
    best: tuple[int, list[Outcome]] | None = None
    for relative in (True, False):
        loaded = load()
        test.steps = _steps(captured, loaded, given, relative, as_captured)
        loaded.tests = [test]
        outcomes = run(loaded)[0].outcomes
        played = [one for one in outcomes if one.step.packet is not None]
        different = sum(one.said != said for one, said in zip(played, as_captured, strict=False))
        if best is None or different < best[0]:
            best = (different, outcomes)
        if different == 0:
            break
    assert best is not None
    if best[0]:
        notes.append(f"{best[0]} packets are judged otherwise as captured: words do not hold all of them")
    if len([one for one in best[1] if one.step.packet is not None]) < len(captured):
        notes.append("some packets cannot be said in words and were left out")
    return Written("\n".join(_yaml(test, best[1])) + "\n", notes)


def _name(packet: Packet, fragments: dict[bytes, bytes]) -> bytes:
    """What the packets of a conversation share: the smaller of the connection's two tuples; empty for none."""
    identity = packet.src + packet.dst + bytes([packet.proto])
    if packet.more or packet.fragment:
        size = 2 if packet.identity == 4 else 4
        identity += packet.data[packet.identity : packet.identity + size]
    if packet.fragment:
        return fragments.get(identity, b"")
    key = packet.key
    if key == b"":
        return b""
    if packet.proto in (ICMP, ICMPV6) and icmp.classify(packet) == icmp.ERROR:
        key = icmp.quoted_key(packet) or key
    name = min(key, inverse(key) or key)
    if packet.more:
        fragments[identity] = name
    return name


def _judge(captured: list[Captured], loaded: Config, given: Annotation) -> list[dict[str, str]]:
    """What the rules make of the packets as they were captured, alone."""
    loaded.ruleset.tick(START, moment(NOON) * _SECOND)
    engine = Engine(ConnTrack(loaded.settings), loaded.ruleset)
    first = decode(captured[0].data, captured[0].length)
    found = []
    for one, waited in zip(captured, _clock(captured), strict=True):
        about = _about(one, first, given)
        judgement = engine.handle(
            one.data, one.length, about.hook, about.indev, about.outdev, about.mark, False, START + waited * _SECOND
        )
        found.append(judged(judgement))
    return found


def _clock(captured: list[Captured]) -> list[int]:
    """Whole seconds since the first packet, never running backwards."""
    start = next((one.time for one in captured if one.time is not None), 0)
    found: list[int] = []
    for one in captured:
        elapsed = (one.time - start) // _SECOND if one.time is not None else 0
        found.append(max([elapsed, *found[-1:]]))
    return found


def _about(one: Captured, first: Packet, given: Annotation) -> Annotation:
    if one.about is not None:
        return one.about
    packet = decode(one.data, one.length)
    here = Wording("", 0, packet.src, packet.dst)
    hook, indev, outdev = situation(
        here, Wording("", 0, first.src, first.dst), given.hook, given.indev, given.outdev
    )  # fmt: skip
    return Annotation(hook, indev, outdev, given.mark, given.checksum)


def _steps(
    captured: list[Captured], loaded: Config, given: Annotation, relative: bool, judgements: list[dict[str, str]]
) -> list[Step]:
    nowhere = Spot(Source(""), 0, 0)
    talk, bases = Talk(), Bases(relative)
    first = decode(captured[0].data, captured[0].length)
    helped = {port for _, port in loaded.settings.helpers}
    asks_ttl = any(rule.ttl is not None for rule in loaded.ruleset.every)
    steps: list[Step] = []
    waited = 0
    for one, seconds, said in zip(captured, _clock(captured), judgements, strict=True):
        packet = decode(one.data, one.length)
        is_read = bool({packet.sport, packet.dport} & helped)
        try:
            text = write(packet, talk, bases, is_read, asks_ttl)
            about = _about(one, first, given)
            if about.mark:
                text += f" mark={about.mark:#x}"
            wording = parse(text)
        except (PacketError, IndexError):
            continue
        if said["verdict"] == "accept":
            talk.arrived()
        if seconds > waited:
            steps.append(Step(nowhere, wait=seconds - waited))
            waited = seconds
        steps.append(Step(nowhere, wording, 0, about.hook, about.indev, about.outdev))
    return steps


def _yaml(test: RuleTest, outcomes: list[Outcome]) -> list[str]:
    lines = ["tests:", f"  - name: {json.dumps(test.name)}"]
    if HOOK_NAMES[test.hook] != "forward":
        lines.append(f"    chain: {HOOK_NAMES[test.hook]}")
    lines += [f"    {key}: {json.dumps(name)}" for key, name in (("in", test.indev), ("out", test.outdev)) if name]
    lines.append("    steps:")
    first = next((one.step.packet for one in outcomes if one.step.packet is not None), None)
    for one in outcomes:
        packet = one.step.packet
        if packet is None or first is None:
            lines.append(f"      - wait: {one.step.wait}s")
            continue
        lines.append("      - send: '" + packet.text.replace("'", "''") + "'")
        hook, indev, outdev = situation(packet, first, test.hook, test.indev, test.outdev)
        if hook != one.hook:
            lines.append(f"        chain: {HOOK_NAMES[one.hook]}")
        for key, usual, name in (("in", indev, one.indev), ("out", outdev, one.outdev)):
            if name and name != usual:
                lines.append(f"        {key}: {json.dumps(name)}")
        words = {name: word for name, word in one.said.items() if name == "verdict" or word != "none"}
        if words.get("rule") == "connection tracking":
            del words["rule"]
        lines.append("        expect: {" + ", ".join(f"{name}: {_word(word)}" for name, word in words.items()) + "}")
    return lines


def _word(word: str) -> str:
    return word if word.replace("-", "").isalnum() and not word.isdigit() else json.dumps(word, ensure_ascii=False)
