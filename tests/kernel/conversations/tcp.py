"""TCP conversations: two ends that keep their numbers, put together from motifs, with wild segments in between.

A motif is what TCPs do (open, send, probe a window, close, start anew on the same ports) or what makes a middle-man
stumble. ``Talk`` knows what each end has sent, so that wild segments can aim at the edges: of the sequence space, of a
window, of what was acknowledged.
"""

from collections.abc import Callable
from random import Random

from kernel import packets
from kernel.conversations.step import CLIENT, SERVER, Conversation, Pair, Step, spoil
from kernel.packets import MSS, NOP, SACK_PERMITTED, scale

_MASK = 0xFFFFFFFF
_ISN = (0, 1, 1000, 0x7FFFFFF0, 0x80000000, 0xFFFFFF00, 0xFFFFFFFF)
_WINDOWS = (64240, 64240, 64240, 65535, 512, 1, 0)
_JITTER = (0, 0, 0, 1, -1, 2, -2, 500, -500, 65535, -65535, 65999, -65999, 66000, -66000, 66001, -66001)
_FAR = (70000, 1 << 20, -(1 << 20), 1 << 23, 1 << 30, -(1 << 30), (1 << 31) - 1, 1 << 31, (1 << 31) + 1)
_ALL_FLAGS = [
    *("S", "SA", "A", "A", "A", "PA", "PA", "FA", "FA", "R", "R", "RA", "RA", "", "F", "SF", "SR", "SFA"),
    *("FPU", "SU", "SAU", "AU", "FAU", "RU", "P", "U", "SEC", "AE", "FPA", "RPA", "RAU", "SPA"),
]


class End:
    """What one end has said of itself; ``next`` is the next sequence number that it will send."""

    def __init__(self, rng: Random, port: int) -> None:
        self.port = port
        self.next = rng.choice(_ISN) if rng.random() < 0.3 else rng.getrandbits(32)
        self.win = rng.choice(_WINDOWS)
        self.scale = 0
        self.acked = 0  # the last acknowledgement that it sent


class Talk:
    """A conversation as it is written down."""

    def __init__(self, rng: Random, pair: Pair, sport: int, dport: int) -> None:
        self.rng = rng
        self.pair = pair
        self.ends = (End(rng, sport), End(rng, dport))
        self.steps: Conversation = []

    def say(
        self,
        side: int,
        flags: str,
        seq: int | None = None,
        ack: int | None = None,
        win: int | None = None,
        data: bytes = b"",
        options: bytes = b"",
        spoilt: bool = False,
        offset: int | None = None,
        watch: bool = False,
    ) -> None:
        """One segment; what is not given is what a sane TCP would put there."""
        me, peer = self.ends[side], self.ends[1 - side]
        real = me.next if seq is None else seq & _MASK
        answered = peer.next if ack is None else ack & _MASK
        if "A" not in flags and ack is None:
            answered = 0
        window = me.win if win is None else win
        source, target = self.pair.address[side], self.pair.address[1 - side]
        raw = packets.tcp(
            source, me.port, target, peer.port, flags, real, answered, window, data, options, spoilt, offset
        )
        text = f"{flags or '-'} seq={_near(real, me.next)} ack={_near(answered, peer.next)} win={window}"
        text += f" len={len(data)}" if data else ""
        text += f" options={options.hex()}" if options else ""
        text += " bad checksum" if spoilt else ""
        text += f" header={offset}" if offset is not None else ""
        self.steps.append(Step(side, raw, text, watch=watch))
        end = (real + len(data) + ("S" in flags) + ("F" in flags)) & _MASK
        if not spoilt and (end - me.next) & _MASK < 1 << 20 and "R" not in flags:
            me.next = end
        if "A" in flags:
            me.acked = answered

    def renumber(self, side: int) -> None:
        """The end starts anew, with another initial sequence number."""
        me = self.ends[side]
        me.next = (
            me.next + self.rng.choice((1000, 100000, -1000)) if self.rng.random() < 0.4 else self.rng.getrandbits(32)
        )
        me.next &= _MASK
        me.scale = 0


def _near(number: int, known: int) -> str:
    distance = (number - known + (1 << 31)) % (1 << 32) - (1 << 31)
    return f"{distance:+d}" if abs(distance) < 1 << 24 else f"{number}"


def syn_options(rng: Random, shift: int) -> bytes:
    """A SYN's options: mostly sane, sometimes cut, doubled or nonsense."""
    sane = (
        MSS + SACK_PERMITTED + scale(shift),
        MSS + SACK_PERMITTED + b"\x08\x0a\0\0\0\1\0\0\0\0" + NOP + b"\3\3" + bytes([shift]),
        MSS + scale(shift),
        MSS + SACK_PERMITTED,
        MSS,
        b"",
    )
    if rng.random() < 0.8:
        return rng.choice(sane)
    return rng.choice(
        (
            MSS + b"\0" + SACK_PERMITTED + scale(shift),  # the list ends before them
            scale(shift) + scale(3),
            NOP + b"\3\2" + b"\3" + SACK_PERMITTED,  # a scale that is too short
            b"\3\4" + bytes([shift]) + b"\0" + SACK_PERMITTED,  # and one that is too long
            b"\4\3\0" + NOP,
            b"\3\3",  # cut by the end of the header (and the padding)
            NOP * 3 + b"\3",
            NOP * 2 + b"\3\0",
            NOP * 2 + b"\4\1",
            NOP * 4,
            b"\xfe\4\0\0" + SACK_PERMITTED + scale(shift),
            b"\xfe\x28\0\0",  # longer than the header
            MSS * 8 + SACK_PERMITTED + b"\3\3" + bytes([shift]) + NOP + NOP * 2,
        )
    )


def _open(talk: Talk) -> None:
    """The handshake, cut anywhere, each step perhaps again."""
    rng = talk.rng
    shifts = [rng.choice((0, 2, 7, 7, 14, 15, 200)) for _ in (CLIENT, SERVER)]
    again = rng.random() < 0.15
    steps = rng.choice((1, 2, 3, 3, 3, 3, 3, 3, 4, 4))
    first = talk.ends[CLIENT].next
    options = syn_options(rng, shifts[CLIENT])
    data = b"early" if rng.random() < 0.03 else b""
    talk.say(CLIENT, rng.choice(("S", "S", "S", "SEC", "SU")), options=options, data=data)
    while again and rng.random() < 0.6:
        talk.say(CLIENT, "S", seq=first, options=options)
    if steps == 1:
        return
    if rng.random() < 0.05:
        talk.say(SERVER, rng.choice(("A", "RA", "R", "FA", "PA")), ack=first + rng.choice((0, 1, 1, 2)))
    second = talk.ends[SERVER].next
    options = syn_options(rng, shifts[SERVER]) if rng.random() < 0.9 else b""
    talk.say(SERVER, "SA", options=options, ack=first + rng.choice((1,) * 12 + (0, 2, 500)))
    while again and rng.random() < 0.5:
        talk.say(SERVER, "SA", seq=second, options=options)
    if steps == 2:
        return
    for side in (CLIENT, SERVER):
        talk.ends[side].scale = shifts[side]
        talk.ends[side].win = rng.choice(_WINDOWS)
    talk.say(CLIENT, "A")
    if steps == 4:
        talk.say(CLIENT, "PA", data=b"hello")
        talk.say(SERVER, "A")


def _open_both(talk: Talk) -> None:
    """Simultaneous open: both send a SYN, and then one or both a SYN with an acknowledgement, or an acknowledgement."""
    rng = talk.rng
    first, second = talk.ends[CLIENT].next, talk.ends[SERVER].next
    talk.say(CLIENT, "S", options=syn_options(rng, 7))
    talk.say(SERVER, "S", options=syn_options(rng, 2))
    if rng.random() < 0.3:
        talk.say(SERVER, "S", seq=second, options=syn_options(rng, 2))
    answers = [(CLIENT, first), (SERVER, second)]
    rng.shuffle(answers)
    for side, seq in answers[: rng.choice((1, 2, 2))]:
        if rng.random() < 0.75:
            talk.say(side, "SA", seq=seq, options=syn_options(rng, 7) if rng.random() < 0.7 else b"")
        else:
            talk.say(side, "A")
    talk.say(rng.choice((CLIENT, SERVER)), "A")


def _pick_up(talk: Talk) -> None:
    """A connection that is older than the firewall."""
    rng = talk.rng
    for _ in range(rng.randint(1, 4)):
        side = rng.choice((CLIENT, SERVER))
        talk.say(side, rng.choice(("A", "PA", "PA", "AU", "FA")), data=b"d" * rng.choice((0, 0, 1, 1000)))


def _send(talk: Talk) -> None:
    """Data one way and its acknowledgements: delayed, doubled, selective."""
    rng = talk.rng
    side = rng.choice((CLIENT, SERVER))
    me, peer = talk.ends[side], talk.ends[1 - side]
    start = me.next
    for _ in range(rng.randint(1, 3)):
        talk.say(side, rng.choice(("PA", "A", "PA", "PAU")), data=b"d" * rng.choice((1, 10, 536, 1400)))
    how = rng.random()
    if how < 0.5:
        talk.say(1 - side, "A")
    elif how < 0.7:
        for _ in range(rng.randint(2, 6)):
            talk.say(1 - side, "A", ack=start)
        if rng.random() < 0.5:
            talk.say(side, "PA", seq=start, data=b"d")
    elif how < 0.9:
        blocks = [(start + at, start + at + 10) for at in rng.sample((1, 20, 500, 1400, 5000, -20), rng.randint(1, 3))]
        if rng.random() < 0.3:
            blocks.append((start + 9, start + 3))
        talk.say(1 - side, rng.choice(("A", "A", "PA")), ack=start, options=_sack(rng, blocks))
        talk.say(1 - side, "A")
    if rng.random() < 0.2:
        me.win = rng.choice(_WINDOWS)
        talk.say(side, "A")
    if rng.random() < 0.1:
        peer.win = rng.choice(_WINDOWS)


def _sack(rng: Random, blocks: list[tuple[int, int]]) -> bytes:
    if rng.random() < 0.85:
        return packets.sack(*blocks)
    one = packets.sack(blocks[0])[4:]
    return rng.choice(
        (
            b"\5\x0a" + one + NOP * 2,
            b"\5\x0a" + one + b"\5\x0a" + one,
            NOP * 2 + b"\5\2",
            NOP * 2 + b"\5\x06" + one[:4],
            b"\5\x09" + one,
            NOP * 2 + b"\5\x12" + one,  # says two blocks, is cut after one
            b"\0" * 2 + b"\5\x0a" + one,
            NOP * 2 + b"\x08\x0a" + b"\0\0\0\1\0\0\0\2",
            NOP * 2 + b"\x08\x0a" + b"\0\0\0\1\0\0\0\2" + NOP * 2 + b"\5\x0a" + one,
        )
    )


def _keep_alive(talk: Talk) -> None:
    """A probe just before what was sent, and its answer."""
    side = talk.rng.choice((CLIENT, SERVER))
    for _ in range(talk.rng.randint(1, 5)):
        talk.say(side, "A", seq=talk.ends[side].next - 1, data=talk.rng.choice((b"", b"", b"k")))
        if talk.rng.random() < 0.7:
            talk.say(1 - side, "A")


def _zero_window(talk: Talk) -> None:
    """A receiver that closes its window, probes, and its opening again."""
    rng = talk.rng
    side = rng.choice((CLIENT, SERVER))
    talk.say(side, "A", win=0)
    for _ in range(rng.randint(0, 4)):
        talk.say(1 - side, "A", data=rng.choice((b"", b"p")), seq=talk.ends[1 - side].next - rng.choice((0, 1)))
        talk.say(side, "A", win=0)
    if rng.random() < 0.6:
        talk.say(side, "A", win=rng.choice(_WINDOWS))


def _edges(talk: Talk) -> None:
    """Segments at the very edges of what the other side allows."""
    rng = talk.rng
    side = rng.choice((CLIENT, SERVER))
    me, peer = talk.ends[side], talk.ends[1 - side]
    window = peer.win << min(peer.scale, 14)
    off = rng.choice((-2, -1, 0, 1, 2))
    length = rng.choice((0, 1, 100))
    flags = rng.choice(("A", "PA", "A", "FA", "R", "RA"))
    which = rng.randrange(6)
    if which == 0:
        talk.say(side, flags, seq=peer.acked + window + off - length, data=b"e" * length)
    elif which == 1:
        talk.say(side, flags, seq=peer.acked + window + off, data=b"e" * length)
    elif which == 2:
        talk.say(side, flags, seq=me.next - window + off - length, data=b"e" * length)
    elif which == 3:
        talk.say(side, flags, ack=peer.next - 66000 + off, data=b"e" * length)
    elif which == 4:
        talk.say(side, flags, ack=peer.next - (me.win << min(me.scale, 14)) + off, data=b"e" * length)
    else:
        talk.say(side, flags, seq=peer.acked + 2 * window + off, data=b"e" * length)


def _wild(talk: Talk) -> None:
    """Anything at all, mostly near to what would be right."""
    rng = talk.rng
    side = rng.choice((CLIENT, SERVER))
    me, peer = talk.ends[side], talk.ends[1 - side]
    flags = rng.choice(_ALL_FLAGS)
    seq = me.next + (rng.choice(_JITTER) if rng.random() < 0.85 else rng.choice(_FAR))
    ack = peer.next + (rng.choice(_JITTER) if rng.random() < 0.85 else rng.choice(_FAR))
    if "R" in flags and rng.random() < 0.4:
        seq = rng.choice((0, peer.acked, peer.acked + 1, peer.acked - 1, 0))
    if "A" not in flags or ("R" in flags and rng.random() < 0.3):
        ack = rng.choice((0, 0, ack))
    options = b""
    if "S" in flags:
        options = syn_options(rng, rng.choice((0, 7, 14)))
    elif rng.random() < 0.08:
        options = _sack(rng, [(ack + 1, ack + rng.choice((2, 1000, 100000, -100000)))])
    data = b"w" * rng.choice((1, 10, 1400)) if "P" in flags or rng.random() < 0.15 else b""
    win = rng.choice(_WINDOWS) if rng.random() < 0.4 else None
    offset = rng.choice((0, 4, 5, 6, 15)) if rng.random() < 0.02 else None
    talk.say(side, flags, seq, ack, win, data, options, rng.random() < 0.03, offset)


def _reset(talk: Talk) -> None:
    """Resets: exact, inexact, old, in trains, without numbers."""
    rng = talk.rng
    side = rng.choice((CLIENT, SERVER))
    me, peer = talk.ends[side], talk.ends[1 - side]
    if rng.random() < 0.3:
        talk.say(side, "PA", data=b"last words")
        talk.say(side, rng.choice(("R", "RA")), seq=me.next + rng.choice((0, 0, 1, -1)))
        return
    for _ in range(rng.randint(1, 3)):
        seq = rng.choice((peer.acked, peer.acked, me.next, peer.acked + 1, peer.acked - 1, peer.acked + 500, 0))
        ack = rng.choice((peer.next, peer.next, 0, peer.next + 1, me.acked, me.acked - 1))
        talk.say(side, rng.choice(("R", "R", "RA")), seq=seq, ack=ack, win=rng.choice((0, 0, 512)))


def _close(talk: Talk) -> None:
    """From one side, from both at once, half, cut anywhere."""
    rng = talk.rng
    side = rng.choice((CLIENT, SERVER))
    how = rng.random()
    if how < 0.2:
        at = talk.ends[1 - side].next
        talk.say(side, "FA")
        talk.say(1 - side, "FA", ack=talk.ends[side].next - 1, seq=at)
        talk.say(side, "A")
        talk.say(1 - side, "A")
        return
    steps = rng.choice((1, 2, 3, 4, 4, 4, 4, 5))
    first = talk.ends[side].next
    talk.say(side, rng.choice(("FA", "FA", "FPA")), data=rng.choice((b"", b"", b"bye")))
    if rng.random() < 0.15:
        talk.say(side, "FA", seq=first)
    if steps > 1:
        talk.say(1 - side, "A")
    if rng.random() < 0.15:
        talk.say(1 - side, "PA", data=b"not yet")
        talk.say(side, "A")
    if steps > 2:
        talk.say(1 - side, "FA")
    if steps > 3:
        talk.say(side, "A")
    if steps > 4:
        talk.say(rng.choice((CLIENT, SERVER)), rng.choice(("A", "PA", "RA", "R")))


def _start_anew(talk: Talk) -> None:
    """The same ports again, from either side, while the firewall may still remember the former connection."""
    rng = talk.rng
    side = rng.choice((CLIENT, CLIENT, CLIENT, SERVER))
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 3)):
            talk.say(rng.choice((CLIENT, SERVER)), "RA" if rng.random() < 0.7 else "R")
    old = [end.next for end in talk.ends]
    talk.renumber(side)
    first = talk.ends[side].next
    talk.say(side, "S", options=syn_options(rng, rng.choice((0, 7))), win=rng.choice((64240, 0)))
    how = rng.random()
    if how < 0.35:  # the other end still knows the former one: a challenge, a reset, and again
        talk.say(1 - side, "A", ack=old[side] + rng.choice((0, 0, -1, 1)), seq=old[1 - side])
        talk.say(side, rng.choice(("R", "R", "RA")), seq=rng.choice((old[side], old[side], first, old[side] + 1)))
        talk.say(side, "S", seq=first, options=syn_options(rng, 7))
        talk.say(1 - side, "SA", ack=first + 1)
    elif how < 0.85:  # it is new for the other end, too
        talk.renumber(1 - side)
        talk.say(1 - side, "SA", ack=first + rng.choice((1, 1, 1, 1, 0, 2)), options=syn_options(rng, 7))
    elif how < 0.95:
        talk.say(1 - side, rng.choice(("RA", "R")), seq=rng.choice((0, old[1 - side])), ack=first + 1)
    if rng.random() < 0.8:
        talk.say(side, "A")
        _send(talk)


_MOTIFS: tuple[tuple[int, Callable[[Talk], None]], ...] = (
    (5, _send),
    (1, _keep_alive),
    (1, _zero_window),
    (3, _edges),
    (5, _wild),
    (2, _reset),
    (3, _close),
    (2, _start_anew),
)


def tcp(rng: Random, pair: Pair, dport: int = 80) -> Conversation:
    """A TCP conversation."""
    talk = Talk(rng, pair, rng.randint(1024, 65535), dport)
    start = rng.choices((_open, _open_both, _pick_up, _wild), (75, 7, 10, 8))[0]
    start(talk)
    motifs = [motif for _, motif in _MOTIFS]
    weights = [weight for weight, _ in _MOTIFS]
    for motif in rng.choices(motifs, weights, k=rng.randint(1, 6)):
        motif(talk)
    spoil(rng, talk.steps)
    return talk.steps
