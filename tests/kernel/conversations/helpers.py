"""FTP, IRC and TFTP: commands as they are written and as they are not, and the connections that they announce."""

import socket
import struct
from random import Random

from kernel import packets
from kernel.conversations.step import CLIENT, SERVER, Conversation, Pair, Step, spoil
from kernel.conversations.tcp import Talk
from kernel.packets import MSS


def _connected(rng: Random, pair: Pair, dport: int) -> Talk:
    talk = Talk(rng, pair, rng.randint(1024, 65535), dport)
    for end in talk.ends:
        end.win = 64240
    talk.say(CLIENT, "S", options=MSS)
    talk.say(SERVER, "SA", options=MSS)
    talk.say(CLIENT, "A")
    return talk


def _line(talk: Talk, side: int, line: bytes, seq: int | None = None) -> None:
    """A line in one segment, mostly acknowledged."""
    talk.say(side, "PA", data=line, seq=seq, watch=True)
    talk.steps[-1].text += f" {line!r}"
    if talk.rng.random() < 0.3:
        talk.say(1 - side, "A")


def _data(rng: Random, talk: Talk, opener: int, port: int) -> None:
    """The announced connection, or one that is like it."""
    pair = talk.pair
    port = rng.choice((port,) * 5 + (port + 1,)) & 0xFFFF
    source = pair.address[opener] if rng.random() < 0.9 else pair.other[opener]
    target = pair.address[1 - opener] if rng.random() < 0.95 else pair.other[1 - opener]
    sport = rng.choice((20, rng.randint(1024, 65535)))
    open_ends, answer_ends = (source, sport, target, port), (target, port, source, sport)
    for side, ends, flags, seq, ack in (
        (opener, open_ends, "S", 100, 0),
        (1 - opener, answer_ends, "SA", 900, 101),
        (opener, open_ends, "A", 101, 901),
        (1 - opener, answer_ends, "FA", 901, 101),
    )[: rng.choice((1, 1, 2, 3, 4))]:
        talk.steps.append(Step(side, packets.tcp(*ends, flags, seq, ack), f"data connection to {port} {flags}"))


def ftp(rng: Random, pair: Pair) -> Conversation:
    """A control connection: greetings, commands, announcements, and their data connections."""
    talk = _logged_in(rng, pair)
    first = other = talk
    if rng.random() < 0.2:  # a second one between the same two, which may announce the same
        other = _logged_in(rng, pair)
        talk.steps += other.steps
        other.steps = talk.steps
    usual = rng.randint(1024, 65535)
    for _ in range(rng.randint(1, 4)):
        talk = rng.choice((first, other))
        side = rng.choice((CLIENT, SERVER))
        port = rng.choice((usual, usual, rng.randint(1024, 65535), 20, 255, 256))
        line = _announcement(rng, pair, side, port)
        chance = rng.random()
        start = talk.ends[side].next
        if chance < 0.65:
            _line(talk, side, line)
        elif chance < 0.75:  # in two segments
            cut = rng.randint(1, max(len(line) - 1, 1))
            _line(talk, side, line[:cut])
            _line(talk, side, line[cut:])
        elif chance < 0.8:  # behind another line, in one segment
            _line(talk, side, b"NOOP\r\n" + line)
        elif chance < 0.85:  # behind a line that has no end
            _line(talk, side, b"200 ok")
            _line(talk, side, line)
        elif chance < 0.9:  # too far on, then where it belongs
            _line(talk, side, line, seq=start + rng.choice((1, 5, -1)))
            _line(talk, side, line, seq=start)
        else:
            _line(talk, side, b"NOOP\r\n")
            _line(talk, side, line)
            _line(talk, side, line, seq=talk.ends[side].next - len(line))
        if rng.random() < 0.7:
            _data(rng, talk, 1 - side, port)
        if rng.random() < 0.3:
            _line(talk, side, b"200 fine\r\n")
    if rng.random() < 0.3:
        talk.say(CLIENT, "FA")
        talk.say(SERVER, "FA")
        talk.say(CLIENT, "A")
        _data(rng, talk, SERVER, 2000)
    spoil(rng, talk.steps, refuse=0.03, twice=0.04, swap=0.01)
    return talk.steps


def _logged_in(rng: Random, pair: Pair) -> Talk:
    talk = _connected(rng, pair, 21)
    if rng.random() < 0.9:
        _line(talk, SERVER, b"220 hello\r\n")
        _line(talk, CLIENT, rng.choice((b"USER me\r\n", b"USER me\r\n", b"USER me", b"NOOP\n")))
    return talk


def _announcement(rng: Random, pair: Pair, side: int, port: int) -> bytes:
    address = pair.address[side] if rng.random() < 0.85 else pair.other[side]
    four = (b"10.0.0.1" if pair.ipv6 else socket.inet_ntop(socket.AF_INET, address).encode()).replace(b".", b",")
    six = b"%s,%d,%d" % (four, port >> 8, port & 255)
    text = socket.inet_ntop(socket.AF_INET6 if pair.ipv6 else socket.AF_INET, address).encode()
    number = b"2" if pair.ipv6 else b"1"
    if side == CLIENT:
        lines = [
            b"PORT %s\r\n" % six,
            b"EPRT |%s|%s|%d|\r\n" % (number, text, port),
        ]
        strange = [
            b"port %s\r\n" % six,
            b"PORT  %s\r\n" % six,
            b"PORT %s\n" % six,
            b"PORT %s \r\n" % six,
            b"PORT %s" % six,
            b"PORT %s,1\r\n" % six,
            b"PORT 1,2,3\r\n",
            b"PORT %s,999,999\r\n" % four,
            b"PORTS %s\r\n" % six,
            b"POR",
            b"EPRT !%s!%s!%d!\r\n" % (number, text, port),
            b"EPRT |%s|%s|%d\r\n" % (number, text, port),
            b"EPRT |3|%s|%d|\r\n" % (text, port),
            b"EPRT |1|10.0.0.1|%d|\r\n" % port,
            b"EPRT |2|fd01::1|%d|\r\n" % port,
            b"EPRT |%s|%sx|%d|\r\n" % (number, text, port),
            b"EPRT |%s|nonsense|%d|\r\n" % (number, port),
            b"EPRT |%s||%d|\r\n" % (number, port),
            b"EPRT |%s|%s|0|\r\n" % (number, text),
            b"EPRT |%s|%s|%d|\r\n" % (number, text, port + 65536),
            b"EPRT  |%s|%s|%d|\r\n" % (number, text, port),
            b"EPRT 1%s1%s1%d1\r\n" % (number, text, port),
            b"eprt |%s|%s|%d|\r\n" % (number, text, port),
            b"EPRT",
            b"PASV\r\n",
        ]
    else:
        lines = [b"227 Entering Passive Mode (%s)\r\n" % six, b"229 Extended Passive (|||%d|)\r\n" % port]
        strange = [
            b"227 %s\r\n" % six,
            b"227 =%s\r\n" % six,
            b"227 Mode (%s" % six,
            b"227 Mode 7 (%s)\r\n" % six,
            b"227 no numbers\r\n",
            b"227-%s\r\n" % six,
            b"227 (%s,5)\r\n" % six,
            b"227 (%s,300,300)\r\n" % four,
            b"227",
            b"227 ",
            b"229 (|||%d)\r\n" % port,
            b"229 ((||%d|)\r\n" % port,
            b"229 |||%d|\r\n" % port,
            b"229 (|1||%d|)\r\n" % port,
            b"229 (!!!%d!)\r\n" % port,
            b"229 (|||0|)\r\n",
            b"229 (|||%dx|)\r\n" % port,
            b"229 (",
            b"229 (|",
            b"22",
            b"150 fine\r\n227 (%s)\r\n" % six,
        ]
    return rng.choice(lines) if rng.random() < 0.65 else rng.choice(strange)


def tftp(rng: Random, pair: Pair) -> Conversation:
    """Requests, and answers from the announced side: from any port of the server to the client's own."""
    port = rng.randint(1024, 65535)
    steps: Conversation = []
    for _ in range(rng.randint(2, 8)):
        side = rng.choice((CLIENT, CLIENT, SERVER))
        data = rng.choice(
            (b"\0\1file\0octet\0", b"\0\2file\0octet\0", b"\0\3\0\1data", b"\0\4\0\1", b"\0\5", b"\0", b"")
        )
        server = rng.choice((69, 4001, 4001, 4002))
        source = pair.address[side] if rng.random() < 0.93 else pair.other[side]
        ports = (port, server if side == SERVER or rng.random() < 0.4 else 69)
        raw = packets.udp(source, ports[side], pair.address[1 - side], ports[1 - side], data)
        steps.append(Step(side, raw, f"tftp {ports[side]} > {ports[1 - side]} {data[:2].hex()}", watch=True))
    spoil(rng, steps)
    return steps


def irc(rng: Random, pair: Pair) -> Conversation:
    """Offers of a direct connection (DCC), and who comes."""
    talk = _connected(rng, pair, 6667)
    for _ in range(rng.randint(1, 6)):
        port = rng.randint(1024, 65535)
        address = pair.address[CLIENT] if rng.random() < 0.85 else pair.other[CLIENT]
        number = struct.unpack("!I", address[-4:])[0]
        offer = rng.choice((b"SEND file", b"CHAT chat", b"MOVE x", b"TSEND f", b"SCHAT c", b"LIST x"))
        text = b"DCC %s %d %d" % (offer, number, port)
        line = b"PRIVMSG you :\1%s 1000\1\r\n" % text
        if rng.random() < 0.3:
            line = rng.choice(
                (
                    b"\r\nPRIVMSG you :\1%s\1\r\n" % text,
                    b"privmsg you :\1%s\1\n" % text,
                    b"PRIVMSG you :\1%s\1" % text,
                    b"NOTICE you :\1%s\1\r\n" % text,
                    b"PRIVMSG you :hello\r\nPRIVMSG you :\1%s\1\r\n" % text,
                    b"PRIVMSG you :\1DCC  %s\1\r\n" % text[4:],
                    b"PRIVMSG you :\1DCC SEND file %d 0\1\r\n" % number,
                    b"PRIVMSG you :\1DCC SEND file\1\r\n",
                    b"PRIVMSG you :\1DCC CHAT c %d  %d\1\r\n" % (number, port),
                    b"PRIVMSG you :\1DCC SEND \1DCC CHAT c %d %d\1\r\n" % (number, port),
                )
            )
        side = CLIENT if rng.random() < 0.9 else SERVER
        _line(talk, side, line)
        if rng.random() < 0.6:
            _data(rng, talk, SERVER, port)
    spoil(rng, talk.steps, refuse=0.02, twice=0.03, swap=0.0)
    return talk.steps
