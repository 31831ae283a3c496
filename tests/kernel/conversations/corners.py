"""Named conversations: what once differed, and where chance comes too seldom. Each runs over IPv4 and IPv6.

``CORNERS`` has, by name, the knobs and what makes the conversation; ``cells`` goes through TCP's table of transitions.
"""

import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

from kernel import packets
from kernel.conversations.step import CLIENT, SERVER, Conversation, Pair, Step
from kernel.conversations.tcp import Talk
from kernel.packets import MSS

_FAR: Final = 200_000
_PORT: Final = 40000


def _talk(pair: Pair, opened: bool = True) -> Talk:
    talk = Talk(Random(0), pair, _PORT, 80)
    for end, first in zip(talk.ends, (1000, 5000), strict=True):
        end.next, end.win = first, 64240
    if opened:
        talk.say(CLIENT, "S", options=MSS)
        talk.say(SERVER, "SA", options=MSS)
        talk.say(CLIENT, "A")
    return talk


def _simultaneous_open(pair: Pair) -> Conversation:
    """SYN_SENT2 has a time-out that no knob changes."""
    talk = _talk(pair, opened=False)
    talk.say(CLIENT, "S", options=MSS)
    talk.say(SERVER, "S", options=MSS)
    talk.say(CLIENT, "SA", seq=1000)
    talk.say(SERVER, "SA", seq=5000)
    return talk.steps


def _resets(pair: Pair) -> Conversation:
    """In the window but not exact: the connection stays, but not for long. Below it: nothing. Exact: it is closed."""
    talk = _talk(pair)
    talk.say(CLIENT, "PA", data=b"some data")
    talk.say(SERVER, "A")
    talk.say(CLIENT, "R", seq=talk.ends[CLIENT].next + 100)
    talk.say(CLIENT, "R", seq=1001)
    talk.say(SERVER, "A")
    talk.say(CLIENT, "R")
    return talk.steps


def _ends_outside(pair: Pair) -> Conversation:
    """FIN and RST outside of the window from both sides: the connection's time is cut, if it has much of it."""
    talk = _talk(pair)
    for side, flags in ((CLIENT, "FA"), (CLIENT, "RA"), (SERVER, "FA"), (CLIENT, "RA"), (SERVER, "RA")):
        talk.say(side, flags, seq=talk.ends[side].next + _FAR)
        talk.ends[side].next -= 1 + _FAR if flags == "FA" else 0
    talk.say(CLIENT, "A")
    return talk.steps


def _unanswered(pair: Pair) -> Conversation:
    """A picked-up connection; three equal segments; a closed window; data that nobody has acknowledged."""
    talk = _talk(pair, opened=False)
    talk.say(CLIENT, "A")
    talk.say(CLIENT, "A")
    talk.say(SERVER, "A")
    talk.say(CLIENT, "PA", data=b"data")
    talk.say(SERVER, "A")
    talk.say(SERVER, "A", win=0)
    talk.say(SERVER, "A")
    for _ in range(5):
        talk.say(CLIENT, "A")
    talk.say(SERVER, "A")
    return talk.steps


def _scaled(pair: Pair) -> Conversation:
    """Windows of 64 kB times two to the fourteenth, and the first byte behind one."""
    talk = _talk(pair, opened=False)
    options = MSS + packets.SACK_PERMITTED + packets.scale(20)  # counts as 14
    talk.say(CLIENT, "S", options=options)
    talk.say(SERVER, "SA", options=options)
    talk.say(CLIENT, "A", win=65535)
    for over in (-1, 0, 1):
        talk.say(SERVER, "A", seq=talk.ends[SERVER].next + (65535 << 14) + over, data=b"")
    talk.say(SERVER, "A", options=packets.sack((1001, 1500)))
    return talk.steps


def _hello(pair: Pair) -> list[Step]:
    question = packets.udp(pair.address[CLIENT], _PORT, pair.address[SERVER], 53, b"question")
    esp = packets.ip(pair.address[CLIENT], pair.address[SERVER], 50, b"\0\0\0\1" * 3)
    return [Step(CLIENT, question, "udp"), Step(CLIENT, esp, "esp")]


def _bad_quotes(pair: Pair) -> Conversation:
    """Nobody checks the header that an error quotes: neither its version nor how short it says that it is."""
    steps = _hello(pair)
    kind = 1 if pair.ipv6 else 3
    for step in list(steps):
        for first in (0x45, 0x46, 0x44, 0x40, 0x65, 0x60, 0x00, 0xF5):
            quote = bytes([first]) + step.data[1:]
            raw = packets.icmp(pair.other[SERVER], pair.address[CLIENT], kind, 1, data=quote)
            steps.append(Step(SERVER, raw, f"error, quotes {step.text[2:]} with first byte {first:#x}"))
    return steps


def _redirects(pair: Pair) -> Conversation:
    """Of a redirect's options only the first counts, and its length does not."""
    steps = _hello(pair)
    quote = steps[0].data + bytes(-len(steps[0].data) % 8)
    redirected, address = bytes([4, 1 + len(quote) // 8]) + bytes(6) + quote, b"\2\1" + bytes(6)
    long, none = b"\4\xff" + redirected[2:], b"\4\0" + redirected[2:]
    link_local, site_local = b"\xfe\x80" + bytes(13) + b"\1", b"\xfe\xc0" + bytes(13) + b"\1"
    if not pair.ipv6:
        link_local, site_local = b"\xa9\xfe\0\1", pair.other[SERVER]
    for source in (link_local, site_local):
        for options in (redirected, address + redirected, redirected + address, long, none, address, b"", b"\4\1"):
            body = pair.other[SERVER] + pair.address[SERVER] + options
            for code in (0, 1):
                raw = packets.icmp(source, pair.address[CLIENT], 137, code, data=body, ttl=255)
                steps.append(Step(SERVER, raw, f"redirect/{code} with {options[:2].hex()}"))
    return steps


def _cut_chains(pair: Pair) -> Conversation:
    """IPv6 extension headers that are longer than the packet, or cut: what has no ports is tracked all the same."""
    steps = []
    for number in (60, 51, 43, 44):
        for proto in (50, packets.UDP, packets.ICMPV6, 59):
            for size in (1, 2, 3, 4, 5, 7, 8, 9, 12):
                for length in (0, 200):
                    body = (bytes([proto, 0 if number == 44 else length]) + bytes(6) + b"\0\1\0\1\0\0\0\0")[:size]
                    raw = packets.ip(pair.address[CLIENT], pair.address[SERVER], number, body)
                    steps.append(Step(CLIENT, raw, f"{number} then {proto}, {size} bytes, length {length}"))
    return steps


def _sums(pair: Pair) -> Conversation:
    """Checksums right, wrong, missing, zero, and over bytes that are no part of the packet."""
    a, b = pair.address
    steps = [
        Step(CLIENT, packets.udp(a, 1, b, 2, spoilt=True), "udp, wrong"),
        Step(CLIENT, packets.udp(a, 1, b, 2, unsummed=True), "udp, none"),
        Step(CLIENT, packets.udp(a, 3, b, 4, b"odd"), "udp, odd length"),
        Step(CLIENT, packets.udp(a, 3, b, 4, b"odd") + b"\x55\xaa\x55", "udp, padded"),
        Step(CLIENT, packets.udp(a, 3, b, 4, b"odd", length=9), "udp, shorter than the packet"),
        Step(CLIENT, packets.tcp(a, 5, b, 6, "S", 1, spoilt=True), "tcp, wrong"),
        Step(CLIENT, packets.tcp(a, 5, b, 6, "S", 1) + b"\0\0", "tcp, padded"),
    ]
    queries = (128, 135, 1) if pair.ipv6 else (8, 0, 3)
    for kind in queries:
        for spoilt in (True, False):
            raw = packets.icmp(a, b, kind, 0, struct.pack("!HH", 7, 1), b"odd", spoilt)
            steps.append(Step(CLIENT, raw, f"icmp {kind} {'wrong' if spoilt else 'right'}"))
    zeroes = packets.ip(a, b, packets.ICMPV6 if pair.ipv6 else packets.ICMP, bytes(8))
    steps.append(Step(CLIENT, zeroes, "icmp of nothing but zeroes"))
    return steps


_NOT_SUMMED: Final = {"checksum": 0}

CORNERS: Final[dict[str, tuple[dict[str, int], Callable[[Pair], Conversation]]]] = {
    "simultaneous open": ({"tcp_timeout_syn_sent": 300}, _simultaneous_open),
    "resets": ({"tcp_timeout_close": 50}, _resets),
    "resets, not judged": ({"tcp_ignore_invalid_rst": 1}, _resets),
    "ends outside of the window": ({"tcp_timeout_fin_wait": 1_000_000}, _ends_outside),
    "ends outside of the window, a little while before the end": ({"tcp_timeout_established": 110,
        "tcp_timeout_unacknowledged": 50}, _ends_outside),
    "ends outside of the window, liberal": ({"tcp_be_liberal": 1}, _ends_outside),
    "unanswered": ({}, _unanswered),
    "unanswered, no pick-up": ({"tcp_loose": 0}, _unanswered),
    "unanswered, one retransmission": ({"tcp_max_retrans": 1, "tcp_timeout_max_retrans": 77}, _unanswered),
    "scaled windows": ({}, _scaled),
    "bad quotes": ({}, _bad_quotes),
    "redirects": ({}, _redirects),
    "cut chains": ({}, _cut_chains),
    "sums": ({}, _sums),
    "sums, not verified": (_NOT_SUMMED, _sums),
}  # fmt: skip

# How a connection gets into each state of TCP's table, from its first SYN on.
_WAYS: Final = (
    ("NONE", ()),
    ("SYN_SENT", ("cS",)),
    ("SYN_RECV", ("cS", "sSA")),
    ("ESTABLISHED", ("cS", "sSA", "cA")),
    ("FIN_WAIT", ("cS", "sSA", "cA", "cFA")),
    ("CLOSE_WAIT", ("cS", "sSA", "cA", "cFA", "sA")),
    ("LAST_ACK", ("cS", "sSA", "cA", "cFA", "sA", "sFA")),
    ("TIME_WAIT", ("cS", "sSA", "cA", "cFA", "sA", "sFA", "cA")),
    ("CLOSE", ("cS", "sSA", "cA", "cR")),
    ("SYN_SENT2", ("cS", "sS")),
)
_KINDS: Final = ("S", "SA", "FA", "A", "R", "RA", "")


def cells() -> Iterator[tuple[str, Callable[[Pair], Conversation]]]:
    """Every cell of the table of transitions, and the answers to the segment, by name."""
    for state, way in _WAYS:
        for side in (CLIENT, SERVER):
            for kind in _KINDS:
                for repeated in (False, True):
                    yield (
                        f"{state} {'cs'[side]}{kind or '-'}{' from the start' if repeated else ''}",
                        _cell(way, side, kind, repeated),
                    )


def _cell(way: tuple[str, ...], side: int, kind: str, repeated: bool) -> Callable[[Pair], Conversation]:
    def conversation(pair: Pair) -> Conversation:
        talk = _talk(pair, opened=False)
        for step in way:
            talk.say("cs".index(step[0]), step[1:], options=MSS if "S" in step else b"")
        talk.say(side, kind, seq=(1000, 5000)[side] if repeated else None, options=MSS if "S" in kind else b"")
        talk.say(1 - side, "A")
        talk.say(side, "PA", data=b"x")
        return talk.steps

    return conversation
