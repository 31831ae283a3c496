"""GRE plain, enhanced and cut; and PPTP: control messages in and out of order, and the tunnels that they announce."""

import struct
from random import Random
from typing import Final

from kernel import packets
from kernel.conversations.step import CLIENT, SERVER, Conversation, Pair, Step, spoil
from kernel.conversations.tcp import Talk
from kernel.packets import MSS

PORT: Final = 1723
_IDS: Final = (0, 1, 2, 7, 0x1111, 0xFFFF)

# Control messages by name: number, and the bytes behind the header (RFC 2637 section 2).
_SIZES: Final = {
    "START": (1, 144), "START_REPLY": (2, 144), "STOP": (3, 4), "STOP_REPLY": (4, 4), "ECHO": (5, 4),
    "ECHO_REPLY": (6, 8), "OUT": (7, 156), "OUT_REPLY": (8, 20), "IN": (9, 208), "IN_REPLY": (10, 12),
    "IN_CONNECT": (11, 16), "CLEAR": (12, 4), "DISCONNECT": (13, 136), "ERROR": (14, 28), "LINK": (15, 12),
    "NONE": (0, 8), "UNKNOWN": (16, 8),
}  # fmt: skip
_CLIENT_SAYS: Final = ("START", "STOP", "OUT", "IN_REPLY", "CLEAR", "ECHO", "LINK")
_SERVER_SAYS: Final = (
    "START_REPLY",
    "STOP_REPLY",
    "OUT_REPLY",
    "IN",
    "IN_CONNECT",
    "DISCONNECT",
    "ECHO_REPLY",
    "ERROR",
)

_OPENING: Final = "c:START s:START_REPLY "
_OUT: Final = "c:OUT s:OUT_REPLY "
_IN: Final = "s:IN c:IN_REPLY s:IN_CONNECT "
_SCRIPTS: Final = (
    _OPENING + _OUT + "gre gre gre c:CLEAR s:DISCONNECT gre c:STOP s:STOP_REPLY",
    _OPENING + _IN + "gre gre gre s:DISCONNECT gre",
    _OPENING + _OUT + "gre s:DISCONNECT new " + _OUT + "gre gre",
    _OPENING + _OUT + "new " + _OUT + "gre gre gre s:DISCONNECT",
    _OPENING + _OUT + "gre " + _OUT + "gre s:OUT_REPLY gre",
    _OPENING + _OUT + "close gre open gre " + _OPENING + _OUT + "gre",
    _OPENING + _IN + "s:IN_CONNECT " + _OUT + "gre gre",
    _OPENING + _OUT + "s:DISCONNECT gre",
    _OPENING + _OUT + "other gre gre",
)


def gre(rng: Random, pair: Pair) -> Conversation:
    """GRE of every version between two ends that have not said anything before."""
    steps: Conversation = []
    first = rng.choice((CLIENT, SERVER))
    for _ in range(rng.randint(1, 8)):
        steps.append(_packet(rng, pair, first if rng.random() < 0.6 else 1 - first, rng.choice(_IDS)))
    spoil(rng, steps)
    return steps


def _packet(rng: Random, pair: Pair, side: int, call: int) -> Step:
    ends = (pair.address[side], pair.address[1 - side])
    chance = rng.random()
    if chance < 0.45:
        return Step(side, packets.gre(*ends), "gre")
    if chance < 0.55:
        version = rng.choice((0x2000, 0xB000, 2, 7, 0x3002, 0xFFF8))
        return Step(side, packets.gre(*ends, bytes(12), version=version), f"gre version {version:#x}")
    if chance < 0.65:
        size = rng.choice((0, 1, 3, 4, 5, 7, 8, 11))
        whole = packets.enhanced_gre(*ends, call, proto=rng.choice((0x880B, 0x0800)))
        body = whole[40 if pair.ipv6 else 20 :]
        return Step(side, packets.ip(*ends, packets.GRE, body[:size]), f"gre cut to {size}")
    if chance < 0.72:
        return Step(side, packets.enhanced_gre(*ends, call, proto=0x0800), "enhanced gre that is not PPP")
    return Step(side, packets.enhanced_gre(*ends, call), f"gre call {call:#x}")


def message(kind: str, own: int, peer: int, result: int = 1) -> bytes:
    """A control message of ``kind`` from the end whose call id is ``own``."""
    number, size = _SIZES[kind]
    body = bytearray(size)
    if kind in ("OUT", "IN", "CLEAR", "DISCONNECT"):
        body[0:2] = struct.pack("!H", own)
    if kind in ("OUT_REPLY", "IN_REPLY"):
        body[0:5] = struct.pack("!HHB", own, peer, result)
    if kind in ("IN_CONNECT", "ERROR", "LINK"):
        body[0:2] = struct.pack("!H", peer)
    if kind == "START_REPLY":
        body[0:3] = struct.pack("!HB", 256, result)
    if kind in ("STOP", "STOP_REPLY"):
        body[0] = result
    return struct.pack("!HHIHH", 12 + size, 1, 0x1A2B3C4D, number, 0) + bytes(body)


class _Control:
    """A control connection and the ids that its ends have picked."""

    def __init__(self, rng: Random, pair: Pair, steps: Conversation) -> None:
        self.rng = rng
        self.talk = Talk(rng, pair, rng.randint(1024, 65535), PORT)
        self.talk.steps = steps
        for end in self.talk.ends:
            end.win = 64240
        self.ids = [rng.choice(_IDS), rng.choice(_IDS)]
        self.open()

    def open(self) -> None:
        self.talk.say(CLIENT, "S", options=MSS)
        self.talk.say(SERVER, "SA", options=MSS)
        self.talk.say(CLIENT, "A")

    def close(self) -> None:
        self.talk.say(CLIENT, "FA")
        self.talk.say(SERVER, "FA")
        self.talk.say(CLIENT, "A")
        if self.rng.random() < 0.7:
            self.talk.renumber(CLIENT)
            self.talk.renumber(SERVER)

    def say(self, side: int, kind: str) -> None:
        """A message, mostly as it should be."""
        rng = self.rng
        own, peer = self.ids[side], self.ids[1 - side]
        if rng.random() < 0.06:
            peer = rng.choice(_IDS)
        result = 1 if rng.random() < 0.93 else rng.choice((0, 2, 5))
        data = message(kind, own, peer, result)
        text = f"{kind} ids {own:#x} {peer:#x} result {result}"
        chance = rng.random()
        if chance < 0.05:
            cut = rng.choice((1, 2, 4, len(data) // 2, len(data) - 12))
            data = data[:-cut]
            text += f" cut by {cut}"
        elif chance < 0.08:
            data += message("ECHO", 0, 0)
            text += " and another"
        elif chance < 0.10:
            spot = rng.choice((3, 4, 7, 9))
            data = data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :]
            text += f" spoilt at {spot}"
        self.talk.say(side, "PA", data=data)
        self.talk.steps[-1].text = f"{'cs'[side]} {text}"

    def tunnel(self) -> None:
        """A packet of the call, from either end."""
        side = self.rng.choice((CLIENT, SERVER))
        call = self.ids[1 - side] if self.rng.random() < 0.85 else self.rng.choice(_IDS)
        pair = self.talk.pair
        ends = (pair.address[side], pair.address[1 - side])
        chance = self.rng.random()
        if chance < 0.85:
            step = Step(side, packets.enhanced_gre(*ends, call), f"gre call {call:#x}")
        elif chance < 0.93:
            kind, code = (1, 3) if pair.ipv6 else (3, 1)
            quoted = packets.enhanced_gre(ends[1], ends[0], call)
            step = Step(side, packets.icmp(*ends, kind, code, data=quoted), f"error on gre call {call:#x}")
        else:
            step = _packet(self.rng, pair, side, call)
        self.talk.steps.append(step)


def pptp(rng: Random, pair: Pair) -> Conversation:
    """One control connection, sometimes two between the same ends; scripts with noise in between."""
    steps: Conversation = []
    controls = [_Control(rng, pair, steps)]
    words = rng.choice(_SCRIPTS).split()
    words = words[: rng.randint(3, len(words))] if rng.random() < 0.5 else words
    words += [
        rng.choice(("noise", "noise", "gre", "gre", "new", "c:OUT", "s:OUT_REPLY")) for _ in range(rng.randint(0, 6))
    ]
    for word in words:
        control = rng.choice(controls) if rng.random() < 0.3 else controls[-1]
        if rng.random() < 0.05:
            _noise(rng, control)
        if word == "gre":
            control.tunnel()
        elif word == "new":
            control.ids = [rng.choice((*control.ids, *_IDS)), rng.choice((*control.ids, *_IDS))]
        elif word == "close":
            control.close()
        elif word == "open":
            control.open()
        elif word == "other":
            controls.append(_Control(rng, pair, steps))
            controls[-1].ids = [rng.choice((one, rng.choice(_IDS))) for one in control.ids]
            for side, kind in ((CLIENT, "START"), (SERVER, "START_REPLY"), (CLIENT, "OUT"), (SERVER, "OUT_REPLY")):
                controls[-1].say(side, kind)
        elif word == "noise":
            _noise(rng, control)
        else:
            end, _, name = word.partition(":")
            control.say(CLIENT if end == "c" else SERVER, name)
    spoil(rng, steps, refuse=0.03, twice=0.05, swap=0.02)
    return steps


def _noise(rng: Random, control: _Control) -> None:
    side = rng.choice((CLIENT, SERVER))
    kinds = (_CLIENT_SAYS, _SERVER_SAYS)[side] if rng.random() < 0.8 else tuple(_SIZES)
    control.say(side, rng.choice(kinds))
