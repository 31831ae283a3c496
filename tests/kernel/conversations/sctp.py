"""SCTP: an association as two ends open and close it, cut anywhere, and then chunks, tags and bundles at random."""

import struct
from random import Random
from typing import Final

from kernel import packets
from kernel.conversations.step import CLIENT, SERVER, Conversation, Pair, Step, spoil

TYPES: Final = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "ECNE": 12, "CWR": 13, "SHUTDOWN_COMPLETE": 14,
    "AUTH": 15, "ASCONF_ACK": 128, "FORWARD_TSN": 192,
}  # fmt: skip

# The way into each state that the two ends can be in. The empty one is no state: nothing was said before.
WAYS: Final = (
    "",
    "c:INIT",
    "c:INIT s:INIT_ACK",
    "c:INIT s:INIT_ACK c:COOKIE_ECHO",
    "c:INIT s:INIT_ACK c:COOKIE_ECHO s:COOKIE_ACK",
    "c:INIT s:INIT_ACK c:COOKIE_ECHO s:COOKIE_ACK c:SHUTDOWN",
    "c:INIT s:INIT_ACK c:COOKIE_ECHO s:COOKIE_ACK s:SHUTDOWN",
    "c:INIT s:INIT_ACK c:COOKIE_ECHO s:COOKIE_ACK c:SHUTDOWN s:SHUTDOWN_ACK",
    "c:HEARTBEAT",
)

# What real ends say, by side. A row is cut anywhere.
_OPENING: Final = "c:INIT s:INIT_ACK c:COOKIE_ECHO s:COOKIE_ACK"
_SCRIPTS: Final = (
    f"{_OPENING} c:DATA s:SACK c:SHUTDOWN s:SHUTDOWN_ACK c:SHUTDOWN_COMPLETE c:INIT s:INIT_ACK c:COOKIE_ECHO",
    f"{_OPENING} s:SHUTDOWN c:SHUTDOWN_ACK s:SHUTDOWN_COMPLETE",
    f"{_OPENING} s:HEARTBEAT c:HEARTBEAT_ACK c:ABORT c:INIT",
    "c:INIT s:INIT s:INIT_ACK c:INIT_ACK c:COOKIE_ECHO s:COOKIE_ECHO s:COOKIE_ACK c:COOKIE_ACK c:DATA",
    "c:INIT s:INIT c:INIT_ACK s:COOKIE_ECHO c:COOKIE_ACK s:DATA",
    "c:INIT c:INIT s:ABORT c:INIT s:INIT_ACK",
    "c:HEARTBEAT s:HEARTBEAT_ACK c:DATA s:SACK s:SHUTDOWN",
    f"{_OPENING} c:INIT s:INIT_ACK c:COOKIE_ECHO s:COOKIE_ACK",
    "c:SHUTDOWN_ACK s:SHUTDOWN_COMPLETE c:INIT",
    f"{_OPENING} s:INIT c:INIT_ACK s:COOKIE_ECHO c:COOKIE_ACK c:DATA s:SACK",
)
_NOISE: Final = (*TYPES, "INIT", "INIT_ACK", "ABORT", "HEARTBEAT", "HEARTBEAT", "HEARTBEAT_ACK", "COOKIE_ECHO", "DATA")


def chunk(kind: str, flags: int = 0, value: bytes = b"") -> bytes:
    """A chunk, padded."""
    length = 4 + len(value)
    return struct.pack("!BBH", TYPES[kind], flags, length) + value + b"\0" * (-length % 4)


def init(kind: str, tag: int) -> bytes:
    """An INIT or INIT ACK that asks for ``tag``."""
    return chunk(kind, 0, struct.pack("!IIHHI", tag, 65536, 10, 10, 1))


def _plain(kind: str, tag: int) -> bytes:
    """A chunk of ``kind`` as it may look; ``tag`` is the sender's own, for those that announce it."""
    if kind in ("INIT", "INIT_ACK"):
        return init(kind, tag)
    return chunk(kind, 0, {"DATA": b"\0" * 12 + b"data", "SACK": b"\0" * 12}.get(kind, b"1234"))


class _Talk:
    def __init__(self, rng: Random, pair: Pair) -> None:
        self.rng = rng
        self.pair = pair
        self.ports = (rng.randint(1024, 65535), 3868)
        self.tags = [rng.getrandbits(32), rng.getrandbits(32)]
        self.steps: Conversation = []

    def say(self, side: int, vtag: int, chunks: bytes, text: str, spoilt: bool = False) -> None:
        pair = self.pair
        ends = (pair.address[side], self.ports[side], pair.address[1 - side], self.ports[1 - side])
        raw = packets.sctp(*ends, vtag, chunks, spoilt)
        tags = {0: "0", self.tags[side]: "own", self.tags[1 - side]: "peer's"}
        self.steps.append(Step(side, raw, f"{text} vtag={tags.get(vtag, vtag)}{' bad sum' if spoilt else ''}"))

    def proper(self, side: int, kind: str, same: bool = False) -> None:
        """A chunk as the end that sends it should; an end that begins anew may take another tag unless ``same``."""
        if kind == "INIT" and not same and self.rng.random() < 0.4:
            self.tags[side] = self.rng.getrandbits(32)
        vtag = 0 if kind == "INIT" else self.tags[1 - side]
        self.say(side, vtag, _plain(kind, self.tags[side]), kind)

    def noise(self, side: int) -> None:
        """Any chunks with any tag."""
        rng = self.rng
        kinds = [rng.choice(_NOISE) for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3)))]
        if rng.random() < 0.02:
            kinds = []
        tag = rng.choice((self.tags[side],) * 4 + (self.tags[1 - side], 0, rng.getrandbits(32)))
        chunks = b""
        text = []
        for kind in kinds:
            one = _plain(kind, tag)
            flags = rng.choice((0, 0, 0, 1, 1, 2, 0xFF)) if kind in ("ABORT", "SHUTDOWN_COMPLETE", "DATA") else 0
            chance = rng.random()
            length = len(one)
            if chance < 0.02:
                length = rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 9, 1000, 65535))
            elif chance < 0.03:
                one = one[: rng.choice((1, 3, 4, 6, 8))]
            if len(one) >= 4:
                one = struct.pack("!BBH", one[0], flags, length) + one[4:]
            chunks += one
            text.append(f"{kind}{'/T' if flags & 1 else ''}{f' len {length}' if length != len(one) else ''}")
        if rng.random() < 0.02:
            chunks += b"\0" * rng.randint(1, 4)
        own, peer = self.tags[side], self.tags[1 - side]
        usual = 0 if "INIT" in kinds else peer
        vtag = rng.choice((usual,) * 7 + (peer, own, 0, rng.getrandbits(32)))
        self.say(side, vtag, chunks, " ".join(text) + f" tag={tag:#x}", spoilt=rng.random() < 0.02)


def cell(pair: Pair, way: str, side: int, kind: str) -> Conversation:
    """A chunk of ``kind`` from ``side`` in the state that ``way`` leads to, with a tag that passes there; and data."""
    talk = _Talk(Random(0), pair)
    for word in way.split():
        end, _, known = word.partition(":")
        talk.proper(CLIENT if end == "c" else SERVER, known, same=True)
    # Whose tag is not known yet is to be sent none.
    untold = not way or (way, side) in (("c:INIT", CLIENT), ("c:HEARTBEAT", SERVER))
    vtag = 0 if untold or kind == "INIT" else talk.tags[1 - side]
    talk.say(side, vtag, _plain(kind, talk.tags[side]), kind)
    talk.say(side, vtag, _plain("DATA", 0), "DATA")
    return talk.steps


def sctp(rng: Random, pair: Pair) -> Conversation:
    """A conversation between two ends of SCTP, the first steps of which are mostly as they should be."""
    talk = _Talk(rng, pair)
    if rng.random() < 0.85:
        words = rng.choice(_SCRIPTS).split()
        for word in words[: rng.randint(1, len(words))]:
            end, _, kind = word.partition(":")
            if rng.random() < 0.08:
                talk.noise(rng.choice((CLIENT, SERVER)))
            talk.proper(CLIENT if end == "c" else SERVER, kind)
    for _ in range(rng.randint(0 if talk.steps else 1, 8)):
        side = rng.choice((CLIENT, SERVER))
        if rng.random() < 0.4:
            talk.proper(side, rng.choice(_NOISE))
        else:
            talk.noise(side)
    if rng.random() < 0.02:
        step = talk.steps[-1]
        cut = step.data[: (40 if pair.ipv6 else 20) + rng.randint(0, 15)]
        body = cut[40 if pair.ipv6 else 20 :]
        raw = packets.ip(pair.address[step.side], pair.address[1 - step.side], packets.SCTP, body)
        talk.steps.append(Step(step.side, raw, f"cut to {len(body)}"))
    spoil(rng, talk.steps)
    return talk.steps
