"""A packet in words -> what it says, word by word: `tcp 192.168.1.7:40000 > 203.0.113.9:443 syn`.

The one parser of this form, for `explain` and for `tests:` of a rule file; docs/packets.md has the grammar,
packet_vocabulary.py the words. `packet_text.describe` prints the same form, and whatever it prints can be read here.

A Wording is what was said and no more: what was left out (sequence numbers above all) is decided by whoever makes bytes
of it and knows what went before (tools/build_packet). But every Wording can be made bytes of: what cannot go together
is refused here, with the column at which it stands. Knows nothing of YAML, and no name is looked up but in our tables.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from ctfw.config import values
from ctfw.config.names import ICMP as ICMP_NAMES
from ctfw.config.names import ICMPV6 as ICMPV6_NAMES
from ctfw.config.names import PROTOCOLS, SERVICES, WITH_PORTS
from ctfw.config.packet_vocabulary import CHUNKS, FLAGS, MAX_LENGTH, PLAIN, WORDS, Word
from ctfw.config.problems import clean, did_you_mean, listing, quote
from ctfw.config.values import Wrong
from ctfw.packet import ICMP, ICMPV6, SCTP, TCP
from ctfw.packet_text import proto_name

MAX_TEXT: Final = 8192
MAX_SACKS: Final = 4
MAX_CHUNKS: Final = 16

_BYTE, _SHORT, _LONG = 0xFF, 0xFFFF, 0xFFFFFFFF
_DATA, _INIT, _INIT_ACK = 0, 1, 2

_ICMP_ERRORS: Final = {ICMP: (3, 4, 5, 11, 12), ICMPV6: (1, 2, 3, 4)}
_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]{1,8}|[0-9]{1,10}")
_TOKEN: Final = re.compile(r'(?:[^\s"()]|"(?:[^"\\]|\\.)*")+|[()"]')
_SACK: Final = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", '"': '"', "\\": "\\"}
_EXAMPLE: Final = "as in 'tcp 192.168.1.7:40000 > 203.0.113.9:443 syn'"


class PacketError(Wrong):
    """The text is not a packet in words. `column` counts from 1, within the text."""

    def __init__(self, column: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.column = column


@dataclass
class Wording:
    """What a text says about a packet. `numbers` holds what WORDS name; None and absence: not said.

    Ports are None for a protocol without ports, and for a later fragment. `flags` are those of the TCP header, `chunks`
    the types of SCTP's, `words` what else of PLAIN was said, `quoted` what an ICMP error quotes.
    """

    text: str
    proto: int
    src: bytes = b""
    dst: bytes = b""
    sport: int | None = None
    dport: int | None = None
    flags: int | None = None
    numbers: dict[str, int] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)
    sacks: list[tuple[int, int]] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    payload: bytes | None = None
    quoted: "Wording | None" = None

    @property
    def is_ipv6(self) -> bool:
        return len(self.src) == 16

    @property
    def mark(self) -> int:
        """The mark that the packet comes with."""
        return self.numbers.get("mark", 0)

    def has_ports(self) -> bool:
        return self.proto in WITH_PORTS and not self.numbers.get("fragment")


@dataclass
class _Token:
    column: int
    text: str


def parse(text: str) -> Wording:
    """What the text says. Raises PacketError for the first thing that cannot be read."""
    if len(text) > MAX_TEXT:
        raise PacketError(1, f"a packet of more than {MAX_TEXT} characters", "len=1400 stands for a long payload")
    tokens = [_Token(match.start() + 1, match[0]) for match in _TOKEN.finditer(text)]
    for token in tokens:
        if token.text == '"':
            raise PacketError(token.column, "the quoted text that starts here is not closed", "a '\"' is missing")
    reader = _Reader(text, tokens)
    wording = reader.packet(quoted=False)
    reader.expect_end()
    return wording


class _Reader:
    """The tokens of one text, and how many of them have been read."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._at = 0

    def packet(self, quoted: bool) -> Wording:
        proto = self._next("a protocol")
        wording = Wording(self._text, _proto(proto))
        source = self._next("the source")
        arrow = self._next("'>' and the destination")
        if arrow.text != ">":
            hint = "spaces stand around '>'" if ">" in source.text + arrow.text else _EXAMPLE
            raise PacketError(arrow.column, f"{quote(arrow.text)} stands where '>' must", hint)
        target = self._next("the destination")
        wording.src, wording.sport = _end(source)
        wording.dst, wording.dport = _end(target)
        if len(wording.src) != len(wording.dst):
            raise PacketError(target.column, "source and destination are of different IP versions")
        first = self._peek()
        while (token := self._peek()) is not None and token.text != ")":
            self._at += 1
            if token.text == "quotes":
                self._quotes(token, wording)
            else:
                _word(token, wording)
        _check(wording, proto, (source, target), first, quoted)
        return wording

    def expect_end(self) -> None:
        token = self._peek()
        if token is not None:
            raise PacketError(token.column, f"{quote(token.text)} has no '(' before it")

    def _quotes(self, word: _Token, wording: Wording) -> None:
        """`quotes (packet)`, of an ICMP error."""
        if wording.proto not in (ICMP, ICMPV6):
            raise PacketError(word.column, "only icmp and icmpv6 quote packets")
        if wording.quoted is not None:
            raise PacketError(word.column, "'quotes' is said twice")
        opening = self._next("'(' and the packet that it quotes")
        if opening.text != "(":
            hint = "as in 'quotes (udp 192.168.1.7:40000 > 203.0.113.9:53)'"
            raise PacketError(opening.column, f"{quote(opening.text)} stands where '(' must", hint)
        wording.quoted = self.packet(quoted=True)
        closing = self._peek()
        if closing is None:
            raise PacketError(opening.column, "this '(' is not closed", "a ')' is missing")
        self._at += 1

    def _next(self, what: str) -> _Token:
        token = self._peek()
        if token is None:
            raise PacketError(len(self._text.rstrip()) + 1, f"{what} is missing here", _EXAMPLE)
        self._at += 1
        return token

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None


def _proto(token: _Token) -> int:
    number = PROTOCOLS.get(token.text.lower())
    if number is not None:
        return number
    if token.text.isascii() and token.text.isdecimal() and int(token.text) <= _BYTE:
        return int(token.text)
    hint = did_you_mean(token.text, PROTOCOLS) or f"a packet begins with its protocol, {_EXAMPLE}"
    raise PacketError(token.column, f"{quote(token.text)} is not a protocol", hint)


def _end(token: _Token) -> tuple[bytes, int | None]:
    """`192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`."""
    text, column = token.text, token.column
    port: str | None = None
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise PacketError(column, f"{quote(text)} is not an address with a port", "as in '[2001:db8::1]:80'")
        port = rest[1:] if rest else None
        text, column = address, column + 1
    elif text.count(":") == 1:
        text, port = text.split(":")
    packed = _address(text, column)
    if port is None:
        return packed, None
    port_column = token.column + len(token.text) - len(port)
    number = SERVICES.get(port.lower())
    if number is None:
        if not (port.isascii() and port.isdecimal()) or int(port) > _SHORT:
            hint = did_you_mean(port, SERVICES) or "a number from 0 to 65535, or a service as https"
            raise PacketError(port_column, f"{quote(port)} is not a port", hint)
        number = int(port)
    return packed, number


def _address(text: str, column: int) -> bytes:
    try:
        first, last = values.address(text)
    except Wrong as wrong:
        hint = wrong.hint
        if text.startswith("$") or re.fullmatch(r"[A-Za-z_][\w.-]*", text):
            hint = "a packet has one address; sets and names do not stand for one"
        elif "::" in text or "set as" in hint:
            hint = "an address as 192.168.1.7 or 2001:db8::7"
        raise PacketError(column, f"{quote(text)} is not an address", hint) from None
    if first != last or "/" in text or "-" in text:
        raise PacketError(column, f"{quote(text)} is more than one address", "a packet has one source and one target")
    return first


def _word(token: _Token, wording: Wording) -> None:
    """One word behind the ends, into the wording."""
    name, equals, value = token.text.partition("=")
    if token.text in ("(", ">"):
        raise PacketError(token.column, f"{quote(token.text)} has no meaning here")
    if not equals:
        _plain_word(token, wording)
        return
    column = token.column + len(name) + 1
    key = name.lower()
    if key == "payload":
        if wording.payload is not None:
            raise PacketError(token.column, "'payload' is said twice")
        wording.payload = _payload(value, column)
        return
    if key == "sack" and wording.proto == TCP:
        wording.sacks.append(_sack(value, column))
        if len(wording.sacks) > MAX_SACKS:
            raise PacketError(token.column, f"more than {MAX_SACKS} blocks in one segment")
        return
    word = next((one for one in WORDS if one.name == key and (not one.protos or wording.proto in one.protos)), None)
    if word is None:
        raise PacketError(token.column, *_unknown(key, wording.proto, "="))
    if key in wording.numbers:
        raise PacketError(token.column, f"{quote(key)} is said twice")
    if key == "type" and not value[:1].isdigit():
        _icmp_name(value, column, wording)
        return
    wording.numbers[key] = _number(value, column, word)


def _plain_word(token: _Token, wording: Wording) -> None:
    name = token.text.lower()
    if wording.proto == TCP and name in FLAGS:
        wording.flags = (wording.flags or 0) | FLAGS[name]
    elif wording.proto == SCTP and name in CHUNKS:
        wording.chunks.append(CHUNKS[name])
        if len(wording.chunks) > MAX_CHUNKS:
            raise PacketError(token.column, f"more than {MAX_CHUNKS} chunks in one packet")
    elif name in PLAIN and (not PLAIN[name][0] or wording.proto in PLAIN[name][0]):
        wording.words.add(name)
        if name == "null":
            wording.flags = wording.flags or 0
    elif wording.proto in (ICMP, ICMPV6) and name in _icmp_names(wording.proto):
        if "type" in wording.numbers:
            raise PacketError(token.column, "the type is said twice")
        _icmp_name(name, token.column, wording)
    else:
        raise PacketError(token.column, *_unknown(name, wording.proto, ""))


def _unknown(name: str, proto: int, equals: str) -> tuple[str, str]:
    """Message and hint for a word that has no meaning in this protocol."""
    numbered = [word.name for word in WORDS if not word.protos or proto in word.protos]
    numbered += ["payload", *["sack"] * (proto == TCP)]
    plain = [word for word, (protos, _) in PLAIN.items() if not protos or proto in protos]
    if proto == TCP:
        plain += FLAGS
    elif proto == SCTP:
        plain += CHUNKS
    elif proto in (ICMP, ICMPV6):
        plain += ["quotes", *_icmp_names(proto)]
    what = proto_name(proto)
    if equals and name in plain:
        return f"{quote(name)} takes no value", ""
    if not equals and name in numbered:
        return f"{quote(name)} needs a value", 'as in payload="hello"' if name == "payload" else f"as in {name}=1"
    if any(word.name == name for word in WORDS) or name in PLAIN or name in FLAGS:
        return f"{quote(name + equals)} has no meaning in {what}", ""
    hint = did_you_mean(name, [*numbered, *plain])
    return f"unknown word {quote(name + equals)}", hint or f"words of {what}: {listing([*plain[:12], *numbered])}"


def _number(value: str, column: int, word: Word) -> int:
    if _NUMBER.fullmatch(value) is None:
        raise PacketError(
            column, f"{quote(value)} is not a number", f"{word.name}={word.low} to {word.name}={word.high}"
        )
    number = int(value, 0) if value[:2] == "0x" else int(value)
    if not word.low <= number <= word.high:
        raise PacketError(column, f"{word.name}={number} is out of range", f"from {word.low} to {word.high}")
    return number


def _icmp_names(proto: int) -> dict[str, tuple[int, int | None]]:
    return ICMP_NAMES if proto == ICMP else ICMPV6_NAMES


def _icmp_name(value: str, column: int, wording: Wording) -> None:
    """`echo-request`, `port-unreachable`: a type, and a code where the name says one."""
    known = _icmp_names(wording.proto)
    if value.lower() not in known:
        raise PacketError(column, f"{quote(value)} is not a type", did_you_mean(value, known) or "a number or a name")
    kind, code = known[value.lower()]
    wording.numbers["type"] = kind
    if code is not None:
        wording.numbers.setdefault("code", code)


def _sack(value: str, column: int) -> tuple[int, int]:
    match = _SACK.fullmatch(value)
    if match is None or int(match[1]) > _LONG or int(match[2]) > _LONG:
        raise PacketError(column, f"{quote(value)} is not a block", "the first and the one behind it: sack=1001-2001")
    return int(match[1]), int(match[2])


def _payload(value: str, column: int) -> bytes:
    r"""`"text"`, with \n \r \t \0 \\ \" and \x00; text beyond ASCII is UTF-8."""
    if len(value) < 2 or value[0] != '"' or value.find('"', 1) == -1 or value[-1] != '"':
        raise PacketError(column, "the payload stands in double quotes", 'as in payload="USER anonymous\\r\\n"')
    out = bytearray()
    text, at = value[1:-1], 0
    for match in _ESCAPE.finditer(text):
        out += text[at : match.start()].encode("utf-8", "surrogateescape")
        at = match.end()
        if match[1] is not None:
            out.append(int(match[1], 16))
        elif match[2] in _ESCAPES:
            out += _ESCAPES[match[2]].encode()
        else:
            message = f"unknown escape '\\{clean(match[2])}'"
            raise PacketError(column + 1 + match.start(), message, 'known: \\n \\r \\t \\0 \\\\ \\" and \\x41')
    rest = text[at:]
    if '"' in rest or '"' in _ESCAPE.sub("", text):
        raise PacketError(column, "a quotation mark inside the payload", 'write it as \\"')
    return bytes(out + rest.encode("utf-8", "surrogateescape"))


def _check(wording: Wording, proto: _Token, ends: tuple[_Token, _Token], first: _Token | None, quoted: bool) -> None:
    """What can only be said about the packet as a whole."""
    numbers = wording.numbers
    at = first.column if first is not None else proto.column
    name = proto_name(wording.proto)
    if wording.proto == ICMP and wording.is_ipv6:
        raise PacketError(proto.column, "icmp between IPv6 addresses", "write icmpv6")
    if wording.proto == ICMPV6 and not wording.is_ipv6:
        raise PacketError(proto.column, "icmpv6 between IPv4 addresses", "write icmp")
    for token, port in zip(ends, (wording.sport, wording.dport), strict=True):
        if wording.has_ports() and port is None:
            raise PacketError(
                token.column, f"{quote(token.text)} has no port", f"{name} needs one, as in {_shown(token)}"
            )
        if not wording.has_ports() and port is not None:
            why = f"{name} has no ports" if wording.proto not in WITH_PORTS else "a later fragment shows no ports"
            raise PacketError(token.column, why, "leave the port out")
    if wording.payload is not None and numbers.setdefault("len", len(wording.payload)) != len(wording.payload):
        hint = f"leave 'len' out, or write len={len(wording.payload)}"
        raise PacketError(at, f"len={numbers['len']} beside a payload of {len(wording.payload)} bytes", hint)
    if numbers.get("len", 0) > MAX_LENGTH:
        raise PacketError(at, f"a payload of more than {MAX_LENGTH} bytes")
    if numbers.get("fragment", 0) % 8:
        raise PacketError(at, f"fragment={numbers['fragment']} is not a multiple of 8")
    if not wording.is_ipv6 and numbers.get("ipid", 0) > _SHORT:
        raise PacketError(at, f"ipid={numbers['ipid']} is out of range", "up to 65535 in IPv4")
    if wording.is_ipv6 and "df" in wording.words:
        raise PacketError(at, "'df' has no meaning in IPv6")
    if numbers.get("fragment"):
        _check_fragment(wording, at)
    elif wording.proto == TCP and wording.flags is None and not quoted:
        hint = f"say which: {' '.join(FLAGS)}, or null for none of them"
        raise PacketError(at if first is not None else ends[1].column, "the segment has no TCP flags", hint)
    elif wording.proto == TCP and "null" in wording.words and wording.flags:
        raise PacketError(at, "'null' is no flag at all")
    if "call" in numbers and "key" in numbers:
        raise PacketError(at, "'call' beside 'key'", "a call has its own kind of GRE, whose key it is")
    if wording.proto in (ICMP, ICMPV6):
        _check_icmp(wording, at)
    if wording.proto == TCP:
        size = 4 * ("mss" in numbers) + 3 * ("wscale" in numbers) + 2 * ("sackok" in wording.words)
        if size + (2 + 8 * len(wording.sacks) if wording.sacks else 0) > 40:
            raise PacketError(at, "more options than a TCP header can hold", "leave one out, or a block of sack=")
    if wording.proto == SCTP and wording.chunks and "len" in numbers and _DATA not in wording.chunks:
        raise PacketError(at, "a payload without a data chunk", "add 'data'")
    if wording.proto == SCTP and "itag" in numbers and not {_INIT, _INIT_ACK} & set(wording.chunks):
        raise PacketError(at, "'itag' without init or init-ack", "later packets carry it as vtag=")


def _check_fragment(wording: Wording, at: int) -> None:
    """A later fragment is addresses and bytes: whatever the transport header says was in the first one."""
    allowed = {word.name for word in WORDS if not word.protos}
    said = [*(set(wording.numbers) - allowed), *(wording.words & {"badsum", "nosum", "sackok", "null"})]
    if said or wording.flags is not None or wording.sacks or wording.chunks or wording.quoted is not None:
        what = said[0] if said else "the transport header"
        hint = "it was in the first fragment, which is written with 'more'"
        raise PacketError(at, f"a later fragment does not show {what}", hint)


def _check_icmp(wording: Wording, at: int) -> None:
    if wording.numbers.get("fragment"):
        return
    if wording.numbers.get("mtu", 0) > _SHORT and wording.proto == ICMP:
        raise PacketError(at, f"mtu={wording.numbers['mtu']} is out of range", "up to 65535 in IPv4")
    kind = wording.numbers.setdefault("type", 8 if wording.proto == ICMP else 128)
    is_error = kind in _ICMP_ERRORS[wording.proto]
    if wording.quoted is not None:
        if not is_error:
            raise PacketError(at, f"type {kind} is no error and quotes nothing", "as in port-unreachable quotes (…)")
        if wording.payload is not None or "len" in wording.numbers:
            raise PacketError(at, "'quotes' beside a payload", "what an error carries is the packet that it quotes")
        if wording.quoted.is_ipv6 != wording.is_ipv6:
            raise PacketError(at, "the error and the packet that it quotes are of different IP versions")
    if is_error and {"id", "seq"} & set(wording.numbers):
        raise PacketError(at, f"type {kind} is an error, which has neither id nor seq")
    if not is_error and "mtu" in wording.numbers:
        raise PacketError(at, f"type {kind} is no error, so it asks for no MTU")


def _shown(token: _Token) -> str:
    return clean(f"[{token.text}]:80" if token.text.count(":") > 1 and token.text[0] != "[" else f"{token.text}:80")
