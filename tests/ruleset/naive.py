"""What a rule file means, in the plainest words: the rules one by one, each key by itself, from the text of the file.

Written from the description of the language, not from the code: numbers are whatever `int` and `ipaddress` say, buckets
hold fractions of tokens, sets are lists. It reads the same document that is loaded as YAML, and knows nothing of
indexes, masks or compiled sets.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

SECOND = 1_000_000_000
UNITS = {"second": 1, "minute": 60, "hour": 3600}
FLAGS = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"]
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
SIZES = {"k": 1024, "M": 1024**2}

Rule = dict[str, Any]


@dataclass(eq=False)
class Connection:
    status: set[str]
    created: int
    expires: int
    packets: int
    bytes: int
    helper: str  # of its master
    gone: bool = False


@dataclass(frozen=True)
class Packet:
    proto: str  # tcp, udp, icmp, icmpv6, or a number
    src: str
    dst: str
    sport: int = 0
    dport: int = 0
    icmp: tuple[int, int] = (0, 0)
    flags: frozenset[str] = frozenset()
    ttl: int = 64
    dscp: int = 0
    length: int = 0
    fragment: bool = False

    @property
    def family(self) -> int:
        return ipaddress.ip_address(self.src).version


@dataclass
class Asked:
    packet: Packet
    chain: str
    indev: str
    outdev: str
    state: str
    direction: str
    connection: Connection | None
    mark: int
    mac: str
    now: int
    unix: int


@dataclass
class Answer:
    rule: str
    mark: int
    logs: list[str] = field(default_factory=list)


class Firewall:
    """`document` is the rule file. Counters, buckets, connections and members live from question to question."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.policy = document["policy"]
        self.chains: dict[str, list[Rule]] = document.get("chains", {})
        self.counts: dict[str, int] = {}
        self.buckets: dict[tuple[str, str], tuple[Fraction, int]] = {}
        self.seen: dict[tuple[str, str], list[Connection]] = {}
        self.members: dict[str, dict[str, int]] = {
            name: {} for name, value in document.get("sets", {}).items() if isinstance(value, dict)
        }

    def judge(self, asked: Asked) -> Answer:
        asked = replace(asked)  # the walk changes its mark
        answer = Answer("", asked.mark)
        rule = self._walk(self.document["rules"], asked, answer)
        answer.rule = rule["name"] if rule is not None else f"policy {asked.chain}"
        self.counts[answer.rule] = self.counts.get(answer.rule, 0) + 1
        return answer

    def _walk(self, rules: list[Rule], asked: Asked, answer: Answer) -> Rule | None:
        for rule in rules:
            if self.misses(rule, asked, live=True):
                continue
            decides = rule.get("verdict") in ("accept", "drop", "reject") and not rule.get("shadow")
            if not rule.get("shadow"):
                if "set_mark" in rule:
                    value, mask = _mark(rule["set_mark"])
                    asked.mark = answer.mark = (asked.mark & ~mask) | value
                if "add" in rule:
                    self._add(rule["add"], asked)
            if decides:
                return rule
            self.counts[rule["name"]] = self.counts.get(rule["name"], 0) + 1
            if rule.get("log") and self._take("log " + rule["name"], "", Fraction(1, 6), 10, asked.now):
                answer.logs.append(rule["name"])
            if rule.get("shadow") or rule.get("verdict") == "continue":
                continue
            if rule.get("verdict") == "return":
                return None
            found = self._walk(self.chains[rule["jump"]], asked, answer)
            if found is not None:
                return found
        return None

    def misses(self, rule: Rule, asked: Asked, live: bool) -> set[str]:
        """The keys that do not match. What counts is only asked when nothing else misses, and only then counts."""
        missed = {key for key, check in self._checks().items() if key in rule and not check(rule[key], asked)}
        kinds = {key for key in ("icmp", "icmpv6") if key in rule}
        proto = asked.packet.proto
        if kinds and not (proto in kinds and _icmp(rule[proto], asked.packet.icmp)):
            missed |= kinds  # beside each other they mean one or the other
        if not missed and "connlimit" in rule and not self._connlimit(rule, asked, live):
            missed.add("connlimit")
        if not missed and "limit" in rule and not self._limit(rule, asked, live):
            missed.add("limit")
        return missed

    def _checks(self) -> dict[str, Callable[[Any, Asked], bool]]:
        return {
            "chain": lambda value, asked: asked.chain in _list(value),
            "state": lambda value, asked: _any_of(value, lambda word: word == asked.state),
            "in": lambda value, asked: _device(value, asked.indev),
            "out": lambda value, asked: _device(value, asked.outdev),
            "proto": lambda value, asked: _any_of(value, lambda word: word == asked.packet.proto),
            "src": lambda value, asked: self._has(_list(value), asked.packet.src, asked.now),
            "dst": lambda value, asked: self._has(_list(value), asked.packet.dst, asked.now),
            "sport": lambda value, asked: _has_ports(asked.packet) and _number(value, asked.packet.sport),
            "dport": lambda value, asked: _has_ports(asked.packet) and _number(value, asked.packet.dport),
            "tcp_flags": lambda value, asked: (
                asked.packet.proto == "tcp" and _any_of(value, lambda word: _flags(word, asked.packet.flags))
            ),
            "fragment": lambda value, asked: (value == "on") == asked.packet.fragment,
            "ttl": lambda value, asked: _number(value, asked.packet.ttl),
            "length": lambda value, asked: _number(value, asked.packet.length),
            "dscp": lambda value, asked: _number(value, asked.packet.dscp),
            "mark": lambda value, asked: _any_of(value, lambda word: asked.mark & _mark(word)[1] == _mark(word)[0]),
            "mac": lambda value, asked: asked.mac != "" and _any_of(value, lambda word: word == asked.mac),
            "direction": lambda value, asked: asked.direction == value,
            "status": lambda value, asked: _any_of(
                value, lambda word: asked.connection is not None and word in asked.connection.status
            ),
            "helper": lambda value, asked: _any_of(
                value, lambda word: word == (asked.connection.helper if asked.connection else "none")
            ),
            "connage": lambda value, asked: _number(
                value, (asked.now - asked.connection.created) // SECOND if asked.connection else 0
            ),
            "connpackets": lambda value, asked: _number(value, asked.connection.packets if asked.connection else 0),
            "connbytes": lambda value, asked: _number(value, asked.connection.bytes if asked.connection else 0),
            "time": lambda value, asked: _time(value, asked.unix),
        }

    def _has(self, members: list[str], address: str, now: int) -> bool:
        """Is the address one of the members (of all, when none is positive), and none of those behind a `!`?"""
        positives = [member for member in members if not member.startswith("!")]
        negatives = [member[1:] for member in members if member.startswith("!")]
        wanted = any(self._is(member, address, now) for member in positives) or (not positives and bool(members))
        return wanted and not any(self._is(member, address, now) for member in negatives)

    def _is(self, member: str, address: str, now: int) -> bool:
        if not member.startswith("$"):
            return _in_network(member, address)
        value = self.document["sets"][member[1:]]
        if not isinstance(value, dict):
            return self._has(_list(value), address, now)
        added = self.members[member[1:]]
        if any(end > now and _in_network(network, address) for network, end in added.items()):
            return True
        return self._has(_list(value["members"]), address, now)

    def _add(self, value: dict[str, Any], asked: Asked) -> None:
        address = asked.packet.src if value.get("address", "src") == "src" else asked.packet.dst
        network = _prefix(address, value)
        ttl = value.get("ttl", self.document["sets"][value["set"]].get("ttl"))
        end = asked.now + ttl * SECOND if ttl is not None else 1 << 62
        members = self.members[value["set"]]
        members[network] = max(end, members.get(network, 0))

    def _connlimit(self, rule: Rule, asked: Asked, live: bool) -> bool:
        value, me = rule["connlimit"], asked.connection
        if me is None:
            return False
        address = asked.packet.src if value.get("per", "src") == "src" else asked.packet.dst
        there = self.seen.get((rule["name"], _prefix(address, value)), [])
        alive = [
            other
            for other in there
            if other is not me and "confirmed" in other.status and not other.gone and other.expires > asked.now
        ]
        if live:
            self.seen[rule["name"], _prefix(address, value)] = [*alive, me]
        count = len(alive) + 1
        return count > int(value["above"]) if "above" in value else count <= int(value["upto"])

    def _limit(self, rule: Rule, asked: Asked, live: bool) -> bool:
        value = rule["limit"]
        if not isinstance(value, dict):
            value = {"rate": value}
        number, unit = value["rate"].split("/")
        key = ""
        if "per" in value:
            key = _prefix(asked.packet.src if value["per"] == "src" else asked.packet.dst, value)
        rate = Fraction(int(number), UNITS[unit])
        within = self._take(rule["name"], key, rate, value.get("burst", 5), asked.now, live)
        return bool(within != (value.get("over") == "on"))

    def _take(self, name: str, key: str, rate: Fraction, burst: int, now: int, live: bool = True) -> bool:
        tokens, last = self.buckets.get((name, key), (Fraction(burst), now))
        tokens = min(Fraction(burst), tokens + rate * (now - last) / SECOND)
        within = tokens >= 1
        if live:
            self.buckets[name, key] = (tokens - within, now)
        return within


def _list(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _any_of(value: Any, agrees: Callable[[str], bool]) -> bool:
    """One of the positive words agrees, or there are none; and none of those behind a `!` does."""
    words = _list(value)
    positives = [word for word in words if not word.startswith("!")]
    negatives = [word[1:] for word in words if word.startswith("!")]
    return (not positives or any(map(agrees, positives))) and not any(map(agrees, negatives))


def _number(value: Any, number: int) -> bool:
    return _any_of(value, lambda word: _in_range(word, number))


def _in_range(word: str, number: int) -> bool:
    def read(text: str) -> int:
        return int(text[:-1]) * SIZES[text[-1]] if text[-1] in SIZES else int(text)

    first, dash, last = word.partition("-")
    if not dash:
        return read(first) == number
    return (not first or read(first) <= number) and (not last or number <= read(last))


def _device(value: Any, name: str) -> bool:
    def agrees(word: str) -> bool:
        return name.startswith(word[:-1]) if word.endswith("+") else name == word

    return name != "" and _any_of(value, agrees)


def _has_ports(packet: Packet) -> bool:
    return packet.proto in ("tcp", "udp")


def _icmp(value: Any, found: tuple[int, int]) -> bool:
    def agrees(word: str) -> bool:
        kind, slash, code = word.partition("/")
        return int(kind) == found[0] and (not slash or int(code) == found[1])

    return _any_of(value, agrees)


def _flags(word: str, flags: frozenset[str]) -> bool:
    if word == "syn":
        return "syn" in flags and not flags & {"ack", "rst", "fin"}
    first, slash, second = word.partition("/")
    wanted = set(first.split(",")) - {"none"}
    among = set(FLAGS) if second == "all" or (first == "none" and not slash) else set((second or first).split(","))
    return flags & among == wanted


def _mark(word: Any) -> tuple[int, int]:
    value, slash, mask = str(word).partition("/")
    return int(value, 0), int(mask, 0) if slash else 0xFFFFFFFF


def _in_network(network: str, address: str) -> bool:
    found = ipaddress.ip_address(address)
    if "-" in network:
        first, last = (ipaddress.ip_address(end) for end in network.split("-"))
        return first.version == found.version and bool(int(first) <= int(found) <= int(last))
    return found in ipaddress.ip_network(network)


def _prefix(address: str, value: dict[str, Any]) -> str:
    version = ipaddress.ip_address(address).version
    length = value.get("prefix4", 32) if version == 4 else value.get("prefix6", 64)
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


def _time(value: dict[str, Any], unix: int) -> bool:
    there = datetime.fromtimestamp(unix // SECOND, UTC)
    minute = there.hour * 60 + there.minute
    days = [DAYS.index(day) for day in _list(value.get("days", DAYS))]
    if "hours" not in value:
        return there.weekday() in days
    for window in _list(value["hours"]):
        begin, end = (int(clock[:2]) * 60 + int(clock[3:]) for clock in window.split("-"))
        # A window is one that began today, or yesterday when it goes over midnight.
        if there.weekday() in days and begin <= minute < (end if end > begin else end + 1440):
            return True
        if (there.weekday() - 1) % 7 in days and end <= begin and minute < end:
            return True
    return False
