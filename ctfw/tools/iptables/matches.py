"""What a line matches -> keys of a rule.

Each reader takes one match and answers with alternatives: conditions of which one has to hold, and which exclude each
other, so that every one can become a rule of its own. A line's alternatives are the product of those of its matches;
what two of them say about the same key becomes one value (``values.meet``). A reader raises Cannot when rules have no
such key, Never when nothing that comes here can match.

What is carried over almost exactly is said in ``place.caveats``, with the direction in which it errs.
"""

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ctfw.config.names import DSCP, TCP_FLAGS, WITH_PORTS
from ctfw.config.values import Wrong, interface
from ctfw.conntrack.settings import HELPER_NAMES
from ctfw.packet import ICMP, ICMPV6, TCP
from ctfw.ruleset.sets import subtract_numbers
from ctfw.tools.iptables import counting, window
from ctfw.tools.iptables.names import MORE_ICMP, MORE_ICMPV6, MORE_PROTOCOLS, NO_MATCH, PORTS
from ctfw.tools.iptables.options import MODULES, Match, Option, Spec
from ctfw.tools.iptables.sets import Sets
from ctfw.tools.iptables.values import EVERY, Cannot, Never, Values, check, meet, values, whole

HOOKS: Final = ("input", "forward", "output")
STATES: Final = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
_TRACKED: Final = frozenset(STATES[:3])

NARROWER: Final = "narrower"  # the rule matches less than the line did
WIDER: Final = "wider"

Condition = Values | frozenset[str] | str | dict[str, object]
Conditions = dict[str, Condition]


@dataclass(frozen=True)
class Caveat:
    """What differs from the line; `errs` is "" when it cannot change a verdict."""

    text: str
    errs: str = ""


class Loopback(Never):
    """The rule is about the loopback interface, whose packets ctfw never sees."""


@dataclass
class Place:
    """Where a line stands, and what is found out about it."""

    family: int
    hooks: frozenset[str]  # from which its packets come
    builtin: str = ""  # the hook, when it stands in a chain of the kernel's
    only_logs: bool = False
    sets: Sets = field(default_factory=Sets)
    caveats: list[Caveat] = field(default_factory=list)


def conditions(spec: Spec, place: Place) -> list[Conditions]:
    """The line's alternatives, at least one. Raises Cannot or Never."""
    if spec.strange:
        raise Cannot(f"'{spec.strange[0]}' is not understood")
    start: Conditions = {"chain": frozenset({place.builtin})} if place.builtin else {}
    found = [start]
    for reader in (_addresses, _protocol, _interfaces, _fragment):
        found = _both(found, reader(spec, place))
    counted = ""
    for match in spec.matches:
        if match.module in counting.READERS:
            counted = counted or match.module
        elif counted and match.module not in ("comment", "tcp", "udp") and not place.only_logs:
            place.caveats.append(Caveat(f"ctfw asks '{counted}' last: only what matches the rest counts", WIDER))
            counted = ""
        found = _both(found, _match(match, spec, place))
    return found


def combine(first: Conditions, second: Conditions) -> Conditions:
    """What both say. Raises Cannot or Never."""
    result = dict(first)
    for key, value in second.items():
        before = result.get(key)
        if before is None:
            result[key] = value
        elif isinstance(before, Values) and isinstance(value, Values):
            result[key] = meet(key, before, value)
        elif isinstance(before, frozenset) and isinstance(value, frozenset):
            result[key] = before & value
            if not before & value:
                raise Never(f"what it asks of '{key}' excludes each other")
        elif before != value:
            raise Cannot(f"it asks twice for '{key}'")
    return result


def _both(first: list[Conditions], second: list[Conditions]) -> list[Conditions]:
    """The alternatives of two matches that must both hold."""
    found: list[Conditions] = []
    never = Never("nothing is left")
    for one in first:
        for other in second:
            try:
                found.append(combine(one, other))
            except Never as wrong:
                never = wrong
    if not found:
        raise never
    return found


def _addresses(spec: Spec, place: Place) -> list[Conditions]:
    found: Conditions = {}
    for name, key in (("source", "src"), ("destination", "dst")):
        option = spec.base.get(name)
        if option is None:
            continue
        members = [_network(text, place.family) for text in option.value.split(",")]
        if whole(place.family) in members:
            if option.negated:
                raise Never(f"no address is outside of '{option.value}'")
            continue
        found[key] = values(members, option.negated)
    return [found]


def _protocol(spec: Spec, place: Place) -> list[Conditions]:
    option = spec.base.get("protocol")
    if option is None:
        return [{}]
    number = protocol(option)
    if number == 0:
        if option.negated:
            raise Never("'! -p all' is nothing")
        return [{}]
    return [{"proto": values([(number, number)], option.negated)}]


def protocol(option: Option) -> int:
    """The number; 0 is any."""
    text = option.value.lower()
    if text == "all":
        return 0
    if text in MORE_PROTOCOLS:
        return MORE_PROTOCOLS[text]
    return _number(text, 255, "a protocol")


def _interfaces(spec: Spec, place: Place) -> list[Conditions]:
    found: list[Conditions] = [{}]
    for name, key, without in (("in-interface", "in", "output"), ("out-interface", "out", "input")):
        option = spec.base.get(name)
        if option is not None:
            found = _both(found, _interface(option, key, without, place))
    return found


def _interface(option: Option, key: str, without: str, place: Place) -> list[Conditions]:
    """`without` is the chain that has no such interface; there an inverted match holds, in iptables."""
    text = option.value
    if text == "lo":
        if option.negated:
            return [{}]
        raise Loopback("loopback traffic never reaches ctfw")
    if text == "+":
        if option.negated:
            raise Never("no interface is left")
        return [{}]
    try:
        interface(text)
    except Wrong as wrong:
        raise Cannot(f"{wrong.message}") from None
    if not option.negated:
        if place.hooks == {without}:
            raise Never(f"chain {without} has no such interface")
        return [{key: values([text])}]
    those: list[Conditions] = []
    if without in place.hooks:
        those.append({"chain": frozenset({without})})
    if place.hooks != {without}:
        there: Conditions = {key: values([text], True)}
        if without in place.hooks:
            there["chain"] = place.hooks - {without}
        those.append(there)
    return those if len(those) > 1 or place.hooks != {without} else [{}]


def _fragment(spec: Spec, place: Place) -> list[Conditions]:
    option = spec.base.get("fragment")
    if option is not None and not option.negated:
        raise Never("later fragments get what their first one got, and with connection tracking none comes this far")
    return [{}]


def _match(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    if match.module == "pkttype" and place.only_logs:
        place.caveats.append(Caveat("it logs whatever the type of the frame"))
        return [{}]
    if match.module == "nfacct":
        return [{}]
    if match.module in NO_MATCH:
        raise Cannot(f"-m {match.module}: {NO_MATCH[match.module]}")
    if match.strange or match.module not in MODULES:
        what = f"option '--{match.strange[0]}'" if match.strange and match.module in MODULES else f"-m {match.module}"
        raise Cannot(f"{what} has no counterpart")
    if match.module in counting.READERS:
        conditions: Conditions = {}
        for key, value in counting.READERS[match.module](match, place.family).items():
            conditions[key] = value
        return [conditions]
    return _READERS[match.module](match, spec, place)


def _nothing(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    return [{}]


def _with_ports(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    """tcp, udp, sctp, udplite, and what they have beside ports."""
    found: Conditions = {}
    for key, names in (("sport", ("sport", "source-port")), ("dport", ("dport", "destination-port"))):
        option = match.find(*names)
        if option is not None:
            _needs_ports(spec)
            found = combine(found, {key: _port_values(key, [option.value], option.negated)})
    if match.has("tcp-option") or match.has("chunk-types"):
        raise Cannot("rules do not ask about TCP's options and SCTP's chunks")
    flags = match.find("tcp-flags", "syn")
    if flags is not None:
        option = spec.base.get("protocol")
        if match.module != "tcp" or option is None or option.negated or protocol(option) != TCP:
            raise Cannot("only tcp has flags")
        found["tcp_flags"] = values([_flags(flags)], flags.negated)
    return [found]


def _no_ports(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    if match.options:
        raise Cannot(f"the headers of {match.module} are not read")
    return [{}]


def _multiport(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    found: list[Conditions] = [{}]
    for option in match.options:
        _needs_ports(spec)
        texts = option.value.split(",")
        if option.name == "ports":
            away_s, away_d = _port_values("sport", texts, True), _port_values("dport", texts, True)
            if option.negated:
                found = _both(found, [{"sport": away_s, "dport": away_d}])
            else:
                here, there = _port_values("sport", texts, False), _port_values("dport", texts, False)
                found = _both(found, [{"sport": here}, {"sport": away_s, "dport": there}])
        else:
            key = "sport" if option.name.startswith("s") else "dport"
            found = _both(found, [{key: _port_values(key, texts, option.negated)}])
    return found


def _icmp(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    key, table = ("icmp", MORE_ICMP) if match.module == "icmp" else ("icmpv6", MORE_ICMPV6)
    given = spec.base.get("protocol")
    if given is None or given.negated or protocol(given) != (ICMP if match.module == "icmp" else ICMPV6):
        raise Cannot("only icmp has types")
    option = match.find("icmp-type", "icmpv6-type")
    if (match.module == "icmp") != (place.family == 4):
        raise Cannot(f"-m {match.module} is of the other family")
    if option is None:
        return [{}]
    text = option.value.lower()
    if match.module == "icmp" and text in ("any", "255", "255/255"):
        if option.negated:
            raise Never("no type is outside of 'any'")
        return [{}]
    named = table.get(text)
    if named is None:
        first, slash, second = text.partition("/")
        named = _number(first, 255, "an ICMP type"), _number(second, 255, "an ICMP code") if slash else None
    kind, code = named
    interval = (kind << 8, kind << 8 | 255) if code is None else (kind << 8 | code, kind << 8 | code)
    return [{key: values([interval], option.negated)}]


def _state(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    option = match.find("state")
    return [{"state": _states(option, place)}] if option is not None else [{}]


def _conntrack(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    """A packet without a connection matches whatever else is asked, as soon as its state was asked for and fits."""
    asked: Conditions = {}
    for option in match.options:
        if option.name == "ctdir":
            way = option.value.lower()
            if way not in ("original", "reply"):
                raise Cannot(f"'{option.value}' is no direction")
            other = {"original": "reply", "reply": "original"}
            asked["direction"] = other[way] if option.negated else way
        elif option.name == "ctstatus":
            asked["status"] = _status(option)
        elif option.name != "ctstate":
            raise Cannot(f"rules do not ask for --{option.name}; 'src' and 'dst' are those of the packet")
    option_of_state = match.find("ctstate")
    states = _states(option_of_state, place) if option_of_state is not None else frozenset[str]()
    if not asked:
        return [{"state": states}] if option_of_state is not None else [{}]
    found: list[Conditions] = []
    tracked = states & _TRACKED if option_of_state is not None else _TRACKED
    if tracked:
        found.append({"state": tracked, **asked})
    if states - _TRACKED:
        found.append({"state": states - _TRACKED})
    return found


def _states(option: Option, place: Place) -> frozenset[str]:
    names = [text.strip().upper() for text in option.value.split(",")]
    nat = [name for name in names if name in ("SNAT", "DNAT")]
    for name in names:
        if name not in STATES and name not in nat:
            raise Cannot(f"'{name}' is no state")
    if option.negated and nat:
        raise Cannot(f"ctfw does not know what the kernel's NAT changed, so not '! {','.join(names)}'")
    found = frozenset(names) - frozenset(nat)
    if not found:
        raise Cannot(f"ctfw does not know what the kernel's NAT changed; name the addresses instead of {','.join(nat)}")
    if nat:
        place.caveats.append(
            Caveat(f"without {','.join(nat)}: ctfw does not know what the kernel's NAT changed", NARROWER)
        )
    found = frozenset(STATES) - found if option.negated else found
    if not found:
        raise Never("no state is left")
    return found


def _status(option: Option) -> Values:
    known = ("EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED")
    names = [text.strip().upper() for text in option.value.split(",")]
    if names == ["NONE"] and not option.negated:
        raise Never("the kernel matches NONE never")
    for name in names:
        if name not in known:
            raise Cannot(f"'{name}' is no status that rules ask for")
    return values([name.lower() for name in names], option.negated)


def _helper(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    option = match.find("helper")
    if option is None:
        return [{}]
    if option.value == "":
        return [{"helper": values(["none"], not option.negated)}]
    if option.value not in HELPER_NAMES:
        raise Cannot(f"there is no helper '{option.value}'")
    return [{"helper": values([option.value], option.negated)}]


def _mark(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    option = match.find("mark")
    if option is None:
        return [{}]
    value, mask = mark(option.value)
    if value & ~mask:
        if option.negated:
            return [{}]
        raise Never(f"'{option.value}' has bits outside of its mask")
    return [{"mark": values([show_mark(value, mask)], option.negated)}]


def mark(text: str) -> tuple[int, int]:
    """Value and mask."""
    first, slash, second = text.partition("/")
    return _hex(first), _hex(second) if slash else 0xFFFFFFFF


def show_mark(value: int, mask: int) -> str:
    return f"{value:#x}" if mask == 0xFFFFFFFF else f"{value:#x}/{mask:#x}"


def _mac(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    option = match.find("mac-source")
    if option is None:
        return [{}]
    if re.fullmatch("(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", option.value) is None:
        raise Cannot(f"'{option.value}' is no MAC address")
    if place.hooks == {"output"}:
        raise Never("chain output has no source MAC address")
    return [{"mac": values([option.value.lower()], option.negated)}]


def _length(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    option = match.find("length")
    return [{"length": _range("length", option, 65535)}] if option is not None else [{}]


def _hops(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    if (match.module == "ttl") != (place.family == 4):
        raise Cannot(f"-m {match.module} is of the other family")
    found: Conditions = {}
    for option in match.options:
        number = _number(option.value, 255, "a hop limit")
        kind = option.name.rpartition("-")[2]
        low, high = (0, number - 1) if kind == "lt" else (number + 1, 255) if kind == "gt" else (number, number)
        if low > high:
            if option.negated:
                continue
            raise Never("no hop limit is left")
        found = combine(found, {"ttl": values([(low, high)], option.negated)})
    return [found]


def _dscp(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    option = match.find("dscp", "dscp-class")
    if option is None:
        return [{}]
    number = DSCP.get(option.value.lower()) if option.name == "dscp-class" else _any_number(option.value, 63)
    if number is None:
        raise Cannot(f"'{option.value}' is no class")
    return [{"dscp": values([(number, number)], option.negated)}]


def _iprange(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    found: Conditions = {}
    for option in match.options:
        first, dash, last = option.value.partition("-")
        low, high = _packed(first, place.family), _packed(last if dash else first, place.family)
        if low > high:
            raise Never(f"'{option.value}' is a reversed range")
        key = "src" if option.name == "src-range" else "dst"
        found = combine(found, {key: values([(place.family, low, high)], option.negated)})
    return [found]


def _set(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    found: Conditions = {}
    for option in match.options:
        if option.name != "match-set":
            if option.name in ("return-nomatch", "update-counters", "update-subcounters"):
                continue
            raise Cannot("rules do not ask for the counters of a set's members")
        name, ends = [*option.values, "", ""][:2]
        if ends not in ("src", "dst"):
            raise Cannot(f"sets of more than addresses ('{ends}') have no counterpart")
        found = combine(found, {ends: values([place.sets.ipset(name)], option.negated)})
        errs = WIDER if option.negated else NARROWER
        place.caveats.append(Caveat(f"set {place.sets.ipset(name)} is empty until you fill it in", errs))
    if match.has("return-nomatch"):
        raise Cannot("sets have no 'nomatch' members")
    return [found]


def _addrtype(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    if match.has("limit-iface-in") or match.has("limit-iface-out"):
        raise Cannot("which addresses an interface has is not known")
    found: Conditions = {}
    for option in match.options:
        key = "src" if option.name == "src-type" else "dst"
        found = combine(found, {key: _address_type(option, key, place)})
    return [found]


def _address_type(option: Option, key: str, place: Place) -> Values:
    names = [text.strip().upper() for text in option.value.split(",")]
    if place.family == 6 and len(names) > 1:
        raise Cannot("of IPv6 addresses the kernel asks for all of these types at once")
    wanted: list[tuple[int, int, int] | str] = []
    for name in names:
        errs = WIDER if option.negated else NARROWER
        if name == "MULTICAST":
            wanted.append((4, 0xE0 << 24, 0xEFFFFFFF) if place.family == 4 else (6, 0xFF << 120, (1 << 128) - 1))
        elif name == "BROADCAST" and place.family == 4:
            wanted.append(place.sets.broadcast())
            place.caveats.append(Caveat("add your networks' broadcast addresses to set $broadcast", errs))
        elif name == "LOCAL" and key == "dst" and place.hooks == {"input"} and names == ["LOCAL"] and place.family == 4:
            # What is delivered to the gateway is LOCAL, BROADCAST or MULTICAST.
            place.caveats.append(Caveat("add your networks' broadcast addresses to set $broadcast", WIDER))
            return values([place.sets.broadcast(), (4, 0xE0 << 24, 0xEFFFFFFF)], not option.negated)
        elif name == "LOCAL":
            wanted.append(place.sets.local())
            place.caveats.append(Caveat("set $local is empty until you fill in the gateway's addresses", errs))
        elif name == "ANYCAST" and place.family == 4 and len(names) == 1 and not option.negated:
            raise Never("IPv4 has no anycast addresses but those that somebody routes as such")
        else:
            raise Cannot(f"addresses of type {name} are not known")
    return values(wanted, option.negated)


def _flags(option: Option) -> str:
    if option.name == "syn":
        return "syn"
    mask, wanted = (_flag_names(text) for text in [*option.values, "", ""][:2])
    if wanted - mask:
        raise Never("it wants flags outside of its mask")
    if mask == {"syn", "ack", "rst", "fin"} and wanted == {"syn"}:
        return "syn"
    order = [name for name in TCP_FLAGS if name in mask]
    if not order:
        raise Cannot("flags out of none")
    return f"{','.join(name for name in order if name in wanted) or 'none'}/{','.join(order)}"


def _flag_names(text: str) -> set[str]:
    known = list(TCP_FLAGS)[:6]
    found: set[str] = set()
    for word in text.lower().split(","):
        if word not in (*known, "all", "none"):
            raise Cannot(f"'{word}' is no TCP flag")
        found |= set(known) if word == "all" else {word} - {"none"}
    return found


def _needs_ports(spec: Spec) -> None:
    option = spec.base.get("protocol")
    if option is None or option.negated or protocol(option) not in WITH_PORTS:
        raise Cannot("ports of a protocol whose ports are not read")


def _port_values(key: str, texts: list[str], negated: bool) -> Values:
    members: list[tuple[int, int]] = []
    for text in texts:
        first, colon, last = text.partition(":")
        low = _port(first) if first or not colon else 0
        high = (_port(last) if last else 65535) if colon else low
        if low > high:
            raise Never(f"'{text}' is a reversed range")
        members.append((low, high))
    found = values(members, negated)
    check(key, found)
    return found


def _port(text: str) -> int:
    return PORTS[text.lower()] if text.lower() in PORTS else _number(text, 65535, "a port")


def _range(key: str, option: Option, most: int) -> Values:
    first, colon, last = option.value.partition(":")
    low = _number(first, most, f"a {key}") if first or not colon else 0
    high = (_number(last, most, f"a {key}") if last else EVERY[key][1]) if colon else low
    if low > high:
        raise Never(f"'{option.value}' is a reversed range")
    found = values([(low, high)], option.negated)
    check(key, found)
    return found


def _connbytes(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    option, way, mode = (match.find(name) for name in ("connbytes", "connbytes-dir", "connbytes-mode"))
    if option is None or way is None or mode is None:
        raise Cannot("connbytes without its direction or mode")
    if way.value != "both" or mode.value not in ("packets", "bytes"):
        raise Cannot("rules ask for the packets or bytes of both directions together")
    key = "connpackets" if mode.value == "packets" else "connbytes"
    first, _, last = option.value.partition(":")
    low, high = _any_number(first or "0", 10**10 - 1), _any_number(last, 10**10 - 1) if last else EVERY[key][1]
    if low > high:
        # The kernel takes this for everything outside.
        low, high = high, low
        option = Option(option.name, not option.negated, option.values)
    found = values([(low, high)], option.negated)
    if option.negated:
        left = subtract_numbers([EVERY[key]], [(low, high)])
        found = values(left)
    check(key, found)
    return [{key: found, "state": _TRACKED}]


def _time(match: Match, spec: Spec, place: Place) -> list[Conditions]:
    found, caveat = window.read(match)
    if caveat:
        place.caveats.append(Caveat(caveat))
    return [{"time": found}] if found else [{}]


def _network(text: str, family: int) -> tuple[int, int, int]:
    bits = 32 if family == 4 else 128
    base, slash, mask = text.strip().partition("/")
    low = _packed(base, family)
    length = bits
    if slash:
        if re.fullmatch("[0-9]{1,3}", mask) is not None:
            length = _number(mask, bits, "a prefix length")
        else:
            ones = _packed(mask, family)
            length = ones.bit_count()
            if ones != ((1 << length) - 1) << (bits - length):
                raise Cannot(f"the mask of '{text}' has holes")
    host = (1 << (bits - length)) - 1
    return family, low & ~host, low | host


def _packed(text: str, family: int) -> int:
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, text.strip()), "big")
    except (OSError, ValueError):
        raise Cannot(f"'{text}' is no address of this family") from None


def _number(text: str, most: int, what: str) -> int:
    if re.fullmatch("[0-9]{1,10}", text) is None or int(text) > most:
        raise Cannot(f"'{text}' is not {what}")
    return int(text)


def _any_number(text: str, most: int) -> int:
    """Decimal or hexadecimal."""
    if re.fullmatch("0[xX][0-9a-fA-F]{1,16}", text) is not None and int(text, 16) <= most:
        return int(text, 16)
    return _number(text, most, "a number")


def _hex(text: str) -> int:
    return _any_number(text, 0xFFFFFFFF)


_READERS: Final[dict[str, Callable[[Match, Spec, Place], list[Conditions]]]] = {
    "tcp": _with_ports,
    "udp": _with_ports,
    "udplite": _with_ports,
    "sctp": _with_ports,
    "dccp": _no_ports,
    "icmp": _icmp,
    "icmp6": _icmp,
    "multiport": _multiport,
    "state": _state,
    "conntrack": _conntrack,
    "connbytes": _connbytes,
    "helper": _helper,
    "mark": _mark,
    "mac": _mac,
    "length": _length,
    "ttl": _hops,
    "hl": _hops,
    "dscp": _dscp,
    "time": _time,
    "iprange": _iprange,
    "set": _set,
    "addrtype": _addrtype,
    "comment": _nothing,
    "pkttype": _nothing,
}
