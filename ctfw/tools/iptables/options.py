"""The words of one line -> what it matches and where it goes, each match with its options.

iptables asks every match that is loaded whether an option is its own; so does this, the last one loaded first. What
takes how many values is the table here. A match that is not in it takes for the values of its options whatever does not
look like an option: it cannot be carried over anyway, but the rest of the line must stay readable.
"""

from dataclasses import dataclass, field
from typing import Final


@dataclass
class Option:
    name: str
    negated: bool
    values: list[str]

    @property
    def value(self) -> str:
        return self.values[0] if self.values else ""


@dataclass
class Match:
    """One -m, or what -p brought. `strange`: options that the table does not have."""

    module: str
    options: list[Option] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def find(self, *names: str) -> Option | None:
        """The last option of these names."""
        return next((option for option in reversed(self.options) if option.name in names), None)

    def has(self, name: str) -> bool:
        return self.find(name) is not None


@dataclass
class Spec:
    """A line, taken apart. `base` has source, destination, protocol, in-interface, out-interface, fragment."""

    base: dict[str, Option] = field(default_factory=dict)
    matches: list[Match] = field(default_factory=list)
    target: str = ""
    goto: bool = False
    options: Match = field(default_factory=lambda: Match(""))  # the target's
    family: int = 0  # -4 or -6
    strange: list[str] = field(default_factory=list)  # words that nobody takes

    def comment(self) -> str:
        """What its comments say."""
        found = [match.find("comment") for match in self.matches if match.module == "comment"]
        return " ".join(option.value for option in found if option is not None)


_BASE: Final = {
    "-s": "source", "--source": "source", "--src": "source",
    "-d": "destination", "--destination": "destination", "--dst": "destination",
    "-p": "protocol", "--protocol": "protocol", "--proto": "protocol",
    "-i": "in-interface", "--in-interface": "in-interface",
    "-o": "out-interface", "--out-interface": "out-interface",
    "-f": "fragment", "--fragment": "fragment",
}  # fmt: skip

# module -> its options and how many values each takes.
_PORTS: Final = {"sport": 1, "source-port": 1, "dport": 1, "destination-port": 1}
_CONNTRACK: Final = dict.fromkeys(
    ("ctstate", "ctdir", "ctstatus", "ctproto", "ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst", "ctorigsrcport",
     "ctorigdstport", "ctreplsrcport", "ctrepldstport", "ctexpire"), 1
)  # fmt: skip
_HASHLIMIT: Final = dict.fromkeys(
    ("hashlimit-upto", "hashlimit", "hashlimit-above", "hashlimit-burst", "hashlimit-mode", "hashlimit-srcmask",
     "hashlimit-dstmask", "hashlimit-name", "hashlimit-htable-size", "hashlimit-htable-max", "hashlimit-htable-expire",
     "hashlimit-htable-gcinterval", "hashlimit-rate-interval"), 1
) | {"hashlimit-rate-match": 0}  # fmt: skip
_TIME: Final = dict.fromkeys(
    ("timestart", "timestop", "weekdays", "monthdays", "datestart", "datestop"), 1
) | dict.fromkeys(("kerneltz", "utc", "localtz", "contiguous"), 0)  # fmt: skip
_SET: Final = {"match-set": 2, "return-nomatch": 0, "update-counters": 0, "update-subcounters": 0} | dict.fromkeys(
    ("packets-eq", "packets-lt", "packets-gt", "bytes-eq", "bytes-lt", "bytes-gt"), 1
)
MODULES: Final[dict[str, dict[str, int]]] = {
    "tcp": _PORTS | {"tcp-flags": 2, "syn": 0, "tcp-option": 1},
    "udp": _PORTS,
    "udplite": _PORTS,
    "sctp": _PORTS | {"chunk-types": 2},
    "dccp": _PORTS | {"dccp-types": 1, "dccp-option": 1},
    "icmp": {"icmp-type": 1},
    "icmp6": {"icmpv6-type": 1},
    "multiport": dict.fromkeys(("sports", "source-ports", "dports", "destination-ports", "ports"), 1),
    "state": {"state": 1},
    "conntrack": _CONNTRACK,
    "limit": {"limit": 1, "limit-burst": 1},
    "hashlimit": _HASHLIMIT,
    "connlimit": {"connlimit-upto": 1, "connlimit-above": 1, "connlimit-mask": 1, "connlimit-saddr": 0,
                  "connlimit-daddr": 0},
    "connbytes": {"connbytes": 1, "connbytes-dir": 1, "connbytes-mode": 1},
    "helper": {"helper": 1},
    "mark": {"mark": 1},
    "mac": {"mac-source": 1},
    "length": {"length": 1},
    "ttl": {"ttl-eq": 1, "ttl-lt": 1, "ttl-gt": 1, "ttl": 1},
    "hl": {"hl-eq": 1, "hl-lt": 1, "hl-gt": 1, "hl": 1},
    "dscp": {"dscp": 1, "dscp-class": 1},
    "time": _TIME,
    "iprange": {"src-range": 1, "dst-range": 1},
    "set": _SET,
    "addrtype": {"src-type": 1, "dst-type": 1, "limit-iface-in": 0, "limit-iface-out": 0},
    "comment": {"comment": 1},
    "pkttype": {"pkt-type": 1},
}  # fmt: skip

TARGETS: Final[dict[str, dict[str, int]]] = {
    "ACCEPT": {}, "DROP": {}, "RETURN": {}, "QUEUE": {},
    "REJECT": {"reject-with": 1},
    "LOG": {"log-prefix": 1, "log-level": 1, "log-tcp-sequence": 0, "log-tcp-options": 0, "log-ip-options": 0,
            "log-uid": 0, "log-macdecode": 0},
    "NFLOG": {"nflog-group": 1, "nflog-prefix": 1, "nflog-range": 1, "nflog-size": 1, "nflog-threshold": 1},
    "ULOG": {"ulog-nlgroup": 1, "ulog-prefix": 1, "ulog-cprange": 1, "ulog-qthreshold": 1},
    "MARK": {"set-mark": 1, "set-xmark": 1, "and-mark": 1, "or-mark": 1, "xor-mark": 1},
    "SET": {"add-set": 2, "del-set": 2, "map-set": 2, "timeout": 1, "exist": 0, "map-mark": 0, "map-prio": 0,
            "map-queue": 0},
    "CT": {"notrack": 0, "helper": 1, "ctevents": 1, "expevents": 1, "zone": 1, "zone-orig": 1, "zone-reply": 1,
           "timeout": 1},
    "NOTRACK": {},
}  # fmt: skip

_OF_PROTOCOL: Final = {
    "tcp": "tcp", "6": "tcp", "udp": "udp", "17": "udp", "udplite": "udplite", "136": "udplite", "sctp": "sctp",
    "132": "sctp", "dccp": "dccp", "33": "dccp", "icmp": "icmp", "1": "icmp", "ipv6-icmp": "icmp6", "icmpv6": "icmp6",
    "icmp6": "icmp6", "58": "icmp6",
}  # fmt: skip


def read(words: tuple[str, ...]) -> Spec:
    """The line behind `-A CHAIN`, taken apart."""
    spec = Spec()
    negated = False
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "!":
            negated = True
            continue
        if word in ("-4", "--ipv4", "-6", "--ipv6"):
            spec.family = 4 if "4" in word else 6
        elif word in ("-c", "--set-counters"):
            at += 2
        elif word in ("-m", "--match"):
            spec.matches.append(Match(words[at] if at < len(words) else ""))
            at += 1
        elif word in ("-j", "--jump", "-g", "--goto"):
            spec.target = words[at] if at < len(words) else ""
            spec.goto = word in ("-g", "--goto")
            spec.options = Match(spec.target)
            at += 1
        elif word in _BASE:
            name = _BASE[word]
            option, at = _take(name, negated, 0 if name == "fragment" else 1, words, at)
            spec.base[name] = option
        elif word.startswith("--"):
            at = _option(spec, word[2:], negated, words, at)
        else:
            spec.strange.append(word)
        negated = False
    return spec


def _option(spec: Spec, name: str, negated: bool, words: tuple[str, ...], at: int) -> int:
    """Hands an option to whom it belongs; where to read on."""
    for owner in ([spec.options] if spec.target else []) + spec.matches[::-1]:
        known = TARGETS if owner is spec.options else MODULES
        if name in known.get(owner.module, {}):
            option, at = _take(name, negated, known[owner.module][name], words, at)
            owner.options.append(option)
            return at
    protocol = spec.base.get("protocol")
    module = _OF_PROTOCOL.get(protocol.value.lower(), "") if protocol is not None else ""
    if name in MODULES.get(module, {}):
        match = Match(module)
        spec.matches.append(match)
        option, at = _take(name, negated, MODULES[module][name], words, at)
        match.options.append(option)
        return at
    strangers = [match for match in spec.matches if match.module not in MODULES]
    owner = spec.options if spec.target else strangers[-1] if strangers else Match(f"--{name}")
    if owner is not spec.options and not strangers:
        spec.matches.append(owner)
    owner.strange.append(name)
    while at < len(words) and words[at] != "!" and not (words[at].startswith("-") and words[at][1:2].isalpha()):
        if words[at].startswith("--"):
            break
        at += 1
    return at


def _take(name: str, negated: bool, count: int, words: tuple[str, ...], at: int) -> tuple[Option, int]:
    if count and at < len(words) and words[at] == "!":  # --dport ! 22, as older versions wrote it
        negated = not negated
        at += 1
    return Option(name, negated, list(words[at : at + count])), at + count
