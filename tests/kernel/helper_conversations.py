"""Random conversations for the helpers: what their protocols say, and what is left of it when somebody breaks it.

Each payload is written from a grammar and then, often, mutated: bytes and pieces lost, doubled, swapped, lines folded
or ended otherwise, numbers changed, the end cut off. Between the payloads come connections that were announced, or
almost.
"""

import socket
import struct
from collections.abc import Callable
from random import Random
from typing import Final

from kernel import packets
from kernel.conversations.helpers import _announcement as ftp_announcement
from kernel.conversations.step import CLIENT, SERVER, Conversation, Pair, Step, spoil
from kernel.conversations.tcp import Talk
from kernel.packets import MSS

_ODD: Final = [bytes([byte]) for byte in b"\r\n\t :;,<>@[]=|().\x000159afAFzZ\xe9\xd7\1%-"] + [
    b"\r\n", b"\r\n ", b"\n\t", b"\r ", b"\n\n", b"\r\n\r\n", b"  ", b"sip:", b"::", b"65536", b"1024", b"4294967296",
]  # fmt: skip


def mutated(rng: Random, data: bytes, least: int = 0, most: int = 4) -> bytes:
    """``data`` with a few small accidents."""
    for _ in range(rng.randint(least, most)):
        at = rng.randint(0, len(data))
        size = rng.choice((1, 1, 1, 2, 5, 20))
        chance = rng.random()
        if chance < 0.2:
            data = data[:at] + data[at + size :]
        elif chance < 0.3:
            data = data[:at] + data[at : at + size] * 2 + data[at + size :]
        elif chance < 0.55:
            data = data[:at] + rng.choice(_ODD) + data[at:]
        elif chance < 0.75:
            data = data[:at] + rng.choice(_ODD) + data[at + 1 :]
        elif chance < 0.85:
            data = data[:at] + data[at : at + size].swapcase() + data[at + size :]
        elif chance < 0.92:
            data = data[:at]
        else:
            data = data.replace(
                *rng.choice(((b"\r\n", b"\n"), (b"\r\n", b"\r"), (b" ", b"\t"), (b"\r\n", b"\r\n\r\n")))
            )
    return data


def text_of(address: bytes) -> bytes:
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address).encode()


def odd_ipv6(rng: Random, address: bytes) -> bytes:
    """The address, or something near it, in one of the many ways in which one can write it, or cannot."""
    words = [b"%x" % word for word in struct.unpack("!8H", address)]
    if rng.random() < 0.2:
        words[6:] = [b"%d.%d.%d.%d" % tuple(address[12:])]
    if rng.random() < 0.3:
        at = rng.randrange(len(words))
        words[at] = rng.choice((b"0%s", b"000%s", b"00000%s", b"1%s", b"%sffff")) % words[at]
    if rng.random() < 0.7:
        start = rng.randint(0, len(words))
        stop = start + rng.randint(0, 8)
        found = b":".join(words[:start]) + b"::" + b":".join(words[stop:])
    else:
        found = b":".join(words)
    if rng.random() < 0.2:
        found = rng.choice((b":" + found, found + b":", b"1:" + found, found + b":1", found + b"::", found + b".1"))
    return found.upper() if rng.random() < 0.3 else found


# SIP

_METHODS: Final = (
    b"INVITE",
    b"INVITE",
    b"REGISTER",
    b"REGISTER",
    b"UPDATE",
    b"ACK",
    b"PRACK",
    b"BYE",
    b"OPTIONS",
    b"CANCEL",
)
_CODES: Final = (b"100 Trying", b"180 Ringing", b"183 Progress", b"200 OK", b"200 OK", b"200 OK", b"404 Not Found",
                 b"486 Busy", b"603 Decline", b"299 x", b"300 y", b"0 z", b"x", b"1000")  # fmt: skip


def _host(rng: Random, pair: Pair, side: int) -> bytes:
    address = pair.address[side] if rng.random() < 0.88 else pair.other[side]
    text = text_of(address)
    if len(address) == 16:
        text = rng.choice((text, text, text.upper(), odd_ipv6(rng, address)))
        return b"[%s]" % text if rng.random() < 0.95 else text
    return text


def _sdp(rng: Random, pair: Pair, side: int) -> bytes:
    kind = b"IP6" if pair.ipv6 else b"IP4"

    def address() -> bytes:
        found = text_of(pair.address[side] if rng.random() < 0.85 else pair.other[side])
        return found if rng.random() < 0.9 or not pair.ipv6 else odd_ipv6(rng, pair.address[side])

    lines = [b"v=0", b"o=- 1 1 IN %s %s" % (kind, address()), b"s=call"]
    if rng.random() < 0.85:
        lines.append(b"c=IN %s %s" % (kind, address()))
    lines.append(b"t=0 0")
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 5))):
        media = rng.choice((b"audio", b"audio", b"audio", b"video", b"image", b"application", b"Audio", b"text"))
        port = rng.choice((rng.randint(1024, 65535),) * 8 + (rng.randint(1024, 1032), 0, 80, 65535, 65536, 99999))
        port = rng.randint(4000, 4005) if rng.random() < 0.3 else port  # the same one again, be it elsewhere
        lines.append(b"m=%s %d RTP/AVP 0" % (media, port))
        if rng.random() < 0.25:
            lines.append(b"c=IN %s %s" % (rng.choice((kind, kind, kind, b"IP4", b"IP6")), address()))
        if rng.random() < 0.4:
            lines.append(rng.choice((b"a=rtpmap:0 PCMU/8000", b"a=sendrecv", b"b=AS:64", b"")))
    return b"".join(line + b"\r\n" for line in lines)


def _contact(rng: Random, pair: Pair, side: int, ports: tuple[int, int]) -> bytes:
    port = rng.choice(
        (b"", b":%d" % ports[side], b":%d" % ports[side], b":%d" % ports[side], b":5060", b":80", b":70000")
    )
    parameters = rng.choice((b"", b"", b";transport=udp", b";transport=TCP", b";transport=tls", b";ob"))
    after = rng.choice(
        (b"", b"", b";expires=60", b";expires=0", b";expires=x", b";q=0.5;expires=7200", b";expires=99999999999")
    )
    name = rng.choice((b"", b'"Me" ', b"x "))
    user = rng.choice((b"me@", b"me@", b"", b"me:pw@"))
    form = b"%s<sip:%s%s%s%s>%s" if rng.random() < 0.9 else b"%ssip:%s%s%s%s%s"
    return form % (name, user, _host(rng, pair, side), port, parameters, after)


class Said:
    """A request that was made: its method, its number and its contacts."""

    def __init__(self, method: bytes, cseq: int, contacts: list[bytes]) -> None:
        self.method = method
        self.cseq = cseq
        self.contacts = contacts


def sip_message(rng: Random, pair: Pair, side: int, ports: tuple[int, int], said: list[Said]) -> bytes:
    """A request, or an answer to one that was made."""
    proto = rng.choice((b"UDP", b"TCP"))
    me = _host(rng, pair, side)
    if said and rng.random() < 0.55:
        asked = rng.choice(said[-3:])
        method, cseq = asked.method, asked.cseq
        first = b"SIP/2.0 " + rng.choice(_CODES)
        contacts = asked.contacts[:] if rng.random() < 0.8 else []
        whose = 1 - side if rng.random() < 0.85 else side
    else:
        method, cseq, whose, contacts = rng.choice(_METHODS), rng.choice((1, 2, 3, 101, 102, 0)), side, []
        first = b"%s sip:%s SIP/2.0" % (method, _host(rng, pair, 1 - side))
        asked = Said(method, cseq, contacts)
        said.append(asked)
    headers = [
        (b"Via", b"v", b"SIP/2.0/%s %s:%d;branch=z9hG4bK1" % (proto, me, ports[side])),
        (b"From", b"f", b"<sip:a@%s>;tag=1" % me),
        (b"To", b"t", b"<sip:b@%s>" % _host(rng, pair, 1 - side)),
        (b"Call-ID", b"i", b"1@x"),
        (b"CSeq", b"CSeq", b"%d %s" % (cseq, method)),
    ]
    for _ in range(rng.choice((0, 0, 0, 1, 2)) if contacts else rng.choice((0, 1, 1, 1, 2, 3))):
        contacts.insert(
            rng.randint(0, len(contacts)),
            b", ".join(_contact(rng, pair, whose, ports) for _ in range(rng.choice((1, 1, 1, 2, 3)))),
        )
    headers += [(b"Contact", b"m", value) for value in contacts]
    asked.contacts = contacts
    if rng.random() < 0.5:
        headers.append(
            (
                b"Expires",
                b"Expires",
                rng.choice((b"60", b"3600", b"3600", b"0", b"", b"010", b"17179868", b"42949672960")),
            )
        )
    if rng.random() < 0.15:
        rng.shuffle(headers)
    body = _sdp(rng, pair, side) if rng.random() < (0.75 if method != b"REGISTER" else 0.1) else b""
    length = len(body) if rng.random() < 0.93 else max(0, len(body) + rng.choice((-1, 1, -5, 100)))
    headers.append((b"Content-Length", b"l", b"%d" % length))
    if rng.random() < 0.03:
        headers.pop(rng.randrange(len(headers)))
    lines = [first]
    for name, short, value in headers:
        name = rng.choice((name,) * 6 + (short, name.lower(), name.upper()))
        colon = rng.choice((b": ",) * 8 + (b":", b" : ", b":\t", b":\r\n ", b"\t:  "))
        lines.append(
            name + colon + (value if rng.random() < 0.9 else value.replace(b" ", rng.choice((b"\r\n ", b"\n\t "))))
        )
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _called(rng: Random, pair: Pair, steps: Conversation, text: bytes, side: int) -> None:
    """Somebody comes to a port that was mentioned."""
    numbers = [int(word) for word in "".join(chr(b) if 48 <= b <= 57 else " " for b in text).split() if len(word) < 6]
    numbers = [number for number in numbers if 1024 <= number <= 65535] or [5060]
    media = [number for number in numbers if b" %d RTP" % number in text or b":%d>" % number in text]
    numbers = media or numbers
    port = (rng.choice(numbers) & rng.choice((0xFFFF, 0xFFFE))) + rng.choice((0, 0, 1))
    source = pair.address[1 - side] if rng.random() < 0.9 else pair.other[1 - side]
    target = pair.address[side] if rng.random() < 0.95 else pair.other[side]
    data = rng.choice((b"rtp", b"REGISTER sip:x SIP/2.0\r\nCSeq: 1 REGISTER\r\n\r\n"))
    raw = packets.udp(source, rng.randint(1024, 65535), target, port & 0xFFFF, data)
    steps.append(Step(1 - side, raw, f"comes to {port}"))


def _registration(rng: Random, pair: Pair, ports: tuple[int, int], said: list[Said]) -> list[tuple[int, bytes]]:
    """A phone registers and mostly may: what both sides say."""
    host = text_of(pair.address[CLIENT])
    contact = b"<sip:me@%s:%d>" % (b"[%s]" % host if pair.ipv6 else host, ports[CLIENT])
    said.append(Said(b"REGISTER", 7, [contact]))
    head = b"Via: SIP/2.0/UDP %s:%d\r\nCSeq: 7 REGISTER\r\nCall-ID: 1@x\r\n" % (host, ports[CLIENT])
    code = rng.choice(_CODES) if rng.random() < 0.3 else b"200 OK"
    contacts = [contact + rng.choice((b"", b";expires=500", b";expires=0"))]
    if rng.random() < 0.5:
        contacts.insert(rng.randint(0, 1), b"<sip:other@%s>" % text_of(pair.other[CLIENT]))
    texts = (
        b"REGISTER sip:registrar SIP/2.0\r\n%sContact: %s\r\nExpires: 3600\r\nContent-Length: 0\r\n\r\n"
        % (head, contact),
        b"SIP/2.0 %s\r\n%sContact: %s\r\nExpires: 600\r\nContent-Length: 0\r\n\r\n"
        % (code, head, b", ".join(contacts)),
    )
    return [(side, text if rng.random() < 0.8 else mutated(rng, text, 1, 2)) for side, text in enumerate(texts)]


def _call_in(rng: Random, pair: Pair, steps: Conversation, port: int) -> None:
    """The registrar's call to the registered phone, and its end."""
    sport = rng.choice((5060, 6060))
    ends = (pair.address[SERVER], sport, pair.address[CLIENT], port)
    said: list[Said] = []
    for side in (SERVER, CLIENT, SERVER)[: rng.randint(1, 3)]:
        text = sip_message(rng, pair, side, (port, sport), said)
        raw = packets.udp(*ends if side == SERVER else (*ends[2:], *ends[:2]), text)
        steps.append(Step(side, raw, f"call in {sport} > {port} {text!r}", watch=True))


def sip_udp(rng: Random, pair: Pair) -> Conversation:
    """SIP over UDP, from one port or from two."""
    ports = (rng.choice((5060, rng.randint(1024, 65535))), 5060)
    second = rng.randint(1024, 65535)
    steps: Conversation = []
    said: list[Said] = []
    if rng.random() < 0.3:
        for side, text in _registration(rng, pair, ports, said):
            raw = packets.udp(pair.address[side], ports[side], pair.address[1 - side], ports[1 - side], text)
            steps.append(Step(side, raw, f"sip {text!r}", watch=True))
        _call_in(rng, pair, steps, ports[CLIENT])
    for _ in range(rng.randint(2, 9)):
        side = rng.choice((CLIENT, CLIENT, SERVER))
        text = sip_message(rng, pair, side, ports, said)
        if rng.random() < 0.45:
            text = mutated(rng, text, 1)
        source = ports if rng.random() < 0.85 else (second, 5060)
        raw = packets.udp(pair.address[side], source[side], pair.address[1 - side], source[1 - side], text)
        steps.append(Step(side, raw, f"sip {source[side]} {text!r}", watch=True))
        if rng.random() < 0.4:
            _called(rng, pair, steps, text, side)
        if rng.random() < 0.06:
            raw = packets.udp(pair.address[side], source[side], pair.address[1 - side], source[1 - side], b"")
            steps.append(Step(side, raw, "empty"))
    spoil(rng, steps)
    return steps


def connected(rng: Random, pair: Pair, dport: int) -> Talk:
    talk = Talk(rng, pair, rng.randint(1024, 65535), dport)
    for end in talk.ends:
        end.win = 64240
    talk.say(CLIENT, "S", options=MSS)
    talk.say(SERVER, "SA", options=MSS)
    talk.say(CLIENT, "A")
    return talk


def say(talk: Talk, side: int, data: bytes) -> None:
    """One segment, acknowledged."""
    talk.say(side, "PA", data=data, watch=True)
    talk.steps[-1].text += f" {data!r}"
    talk.say(1 - side, "A")


def sip_tcp(rng: Random, pair: Pair) -> Conversation:
    """SIP over TCP: one message a segment, several, parts."""
    talk = connected(rng, pair, 5060)
    said: list[Said] = []
    ports = (rng.choice((5060, 5070)), 5060)
    if rng.random() < 0.3:
        for side, text in _registration(rng, pair, ports, said):
            if text:
                say(talk, side, text)
        raw = packets.tcp(pair.address[SERVER], 7000, pair.address[CLIENT], ports[CLIENT], "S", 1)
        talk.steps.append(Step(SERVER, raw, "calls in"))
    for _ in range(rng.randint(1, 6)):
        side = rng.choice((CLIENT, CLIENT, SERVER))
        text = b"".join(sip_message(rng, pair, side, ports, said) for _ in range(rng.choice((1, 1, 1, 2, 3))))
        if rng.random() < 0.45:
            text = mutated(rng, text, 1)
        text = text[:1400]  # what goes out must fit the wire
        if not text:
            continue
        say(talk, side, text)
        if rng.random() < 0.4:
            _called(rng, pair, talk.steps, text, side)
    spoil(rng, talk.steps, swap=0.0)
    return talk.steps


# The others


def amanda(rng: Random, pair: Pair) -> Conversation:
    """An Amanda server asks, the client names its ports."""
    ports = (rng.randint(512, 1023), 10080)
    steps: Conversation = []
    for _ in range(rng.randint(2, 8)):
        side = rng.choice((CLIENT, SERVER, SERVER, SERVER))
        numbers = [rng.choice((rng.randint(1024, 65535), 50000, 0, 65536, 99999, 123456)) for _ in range(4)]
        names = rng.choice(((b"DATA", b"MESG", b"INDEX"), (b"DATA", b"MESG", b"INDEX", b"STATE"), (b"MESG", b"DATA")))
        streams = b" ".join(b"%s %d" % pair for pair in zip(names, numbers, strict=False))
        text = b"Amanda 2.4 REP HANDLE 000-1 SEQ 1\nCONNECT %s\nOPTIONS features=ff;\n" % streams
        if rng.random() < 0.4:
            text = mutated(rng, text, 1)
        if rng.random() < 0.1:
            text = rng.choice((b"", b"CONNECT \n", b"CONNECT DATA \n", b"CONNECT DATA 70000 MESG 5\n", text + text))
        client = ports[0] if rng.random() < 0.9 else 1000
        raw = packets.udp(
            pair.address[side], (client, 10080)[side], pair.address[1 - side], (10080, client)[side], text
        )
        steps.append(Step(side, raw, f"amanda {client} {text!r}", watch=True))
        if rng.random() < 0.4:
            port = rng.choice(numbers) & 0xFFFF
            raw = packets.tcp(pair.address[CLIENT], 700, pair.address[SERVER], port, "S", 1)
            steps.append(Step(CLIENT, raw, f"comes to {port}"))
    spoil(rng, steps)
    return steps


def sane(rng: Random, pair: Pair) -> Conversation:
    """Requests and answers of a scanner's daemon."""
    talk = connected(rng, pair, 6566)
    for _ in range(rng.randint(2, 7)):
        port = rng.choice((rng.randint(1024, 65535), 0))
        if rng.random() < 0.5:
            data = struct.pack("!II", rng.choice((7, 7, 7, 7, 1, 8, 0x07000000)), rng.choice((0, 1)))
            say(talk, CLIENT, data if rng.random() < 0.8 else rng.choice((data[:4], data + b"\0", data * 2)))
        else:
            answer = struct.pack("!IHHII", rng.choice((0,) * 6 + (1, 11)), rng.choice((0,) * 6 + (1,)), port, 0x1234, 0)
            say(
                talk,
                SERVER,
                answer if rng.random() < 0.75 else rng.choice((answer[:8], answer[:7], answer[:4], answer * 2)),
            )
        if rng.random() < 0.3:
            raw = packets.tcp(pair.address[CLIENT], 7000, pair.address[SERVER], port, "S", 1)
            talk.steps.append(Step(CLIENT, raw, f"comes to {port}"))
    spoil(rng, talk.steps, swap=0.0)
    return talk.steps


def ftp_broken(rng: Random, pair: Pair) -> Conversation:
    """Announcements, mutated."""
    talk = connected(rng, pair, 21)
    say(talk, SERVER, b"220 hello\r\n")
    say(talk, CLIENT, b"USER me\r\n")
    for _ in range(rng.randint(2, 6)):
        side = rng.choice((CLIENT, SERVER))
        line = ftp_announcement(rng, pair, side, rng.randint(1, 65535))
        if pair.ipv6 and rng.random() < 0.6:
            address = pair.address[side]
            line = b"EPRT |2|%s|1025|\r\n" % odd_ipv6(rng, address)
            if rng.random() < 0.3:
                line = rng.choice(
                    (
                        b"EPRT |2|%s\0|1025|\r\n" % text_of(address),
                        b"EPRT :2:%s:1025:\r\n" % text_of(address),
                        b"EPRT a2a%sa1025a\r\n" % text_of(address),
                        b"PORT %d,%d,%d,%d,4,1\r\n" % tuple(address[:4]),
                        b"227 (%d,%d,%d,%d,4,1)\r\n" % tuple(address[:4]),
                    )
                )
        if rng.random() < 0.5:
            line = mutated(rng, line, 1, 3)
        if not line:
            continue
        say(talk, side, line)
        if rng.random() < 0.5:
            say(talk, side, b"NOOP\r\n")
        if rng.random() < 0.3:  # something old again
            talk.steps.append(rng.choice(talk.steps[3:]))
    spoil(rng, talk.steps, swap=0.0)
    return talk.steps


def irc_broken(rng: Random, pair: Pair) -> Conversation:
    """Offers, mutated."""
    talk = connected(rng, pair, 6667)
    for _ in range(rng.randint(2, 6)):
        number = int.from_bytes(pair.address[CLIENT][-4:], "big")
        port = rng.choice((rng.randint(1, 65535), rng.randint(1, 65535), 0, 65536, 65537, 99999999999))
        offer = rng.choice(
            (b"SEND file", b"CHAT chat", b"MOVE x", b"TSEND f", b"SCHAT c", b"SEND CHAT a", b"SEND SCHAT")
        )
        size = rng.choice((b"", b" 1000", b" 1"))
        line = b"PRIVMSG you :\1DCC %s %d %d%s\1\r\n" % (offer, number, port, size)
        if rng.random() < 0.15:
            line = b"PRIVMSG " + b"x" * rng.choice((1, 4000, 4030, 4040, 4050, 4060, 4070)) + line[11:]
            line = line[:1400] if rng.random() < 0.5 else b"PRIVMSG " + b"x" * 1200 + line[8:][-100:]
        if rng.random() < 0.2:
            line = line.replace(b" :", b" : :")
        if rng.random() < 0.6:
            line = mutated(rng, line, 1, 3)
        if line:
            say(talk, CLIENT, line)
    spoil(rng, talk.steps, swap=0.0)
    return talk.steps


def tftp_broken(rng: Random, pair: Pair) -> Conversation:
    """Requests, mutated, and from where the answers come."""
    steps: Conversation = []
    ports = (rng.randint(1024, 65535), 69)
    for _ in range(rng.randint(2, 8)):
        side = rng.choice((CLIENT, CLIENT, SERVER))
        data = mutated(rng, rng.choice((b"\0\1file\0octet\0", b"\0\2f\0netascii\0", b"\0\1", b"\0", b"\1\0")), 0, 2)
        raw = packets.udp(pair.address[side], ports[side], pair.address[1 - side], ports[1 - side], data)
        steps.append(Step(side, raw, f"tftp {data!r}", watch=True))
        if rng.random() < 0.5:
            raw = packets.udp(pair.address[SERVER], rng.randint(1024, 65535), pair.address[CLIENT], ports[0], data)
            steps.append(Step(SERVER, raw, "answer from another port"))
    spoil(rng, steps)
    return steps


KINDS: Final[dict[str, Callable[[Random, Pair], Conversation]]] = {
    "sip-udp": sip_udp,
    "sip-tcp": sip_tcp,
    "amanda": amanda,
    "sane": sane,
    "ftp": ftp_broken,
    "irc": irc_broken,
    "tftp": tftp_broken,
}
