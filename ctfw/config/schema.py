"""Every key of the rule file: its name, what kind of value it takes, what it means in one line.

This is the one table. The walker checks files against it, the loader gets its defaults from it, and whatever describes
the format to others (a JSON Schema, a manual page) is generated from it. A new key is one line here and, where its
kind is new, one reader. The knobs of connection tracking come from the engine's own table.

Keys that stand in no section are errors, those that a later version may know included.
"""

from dataclasses import dataclass
from enum import Enum, auto

from ctfw.conntrack.settings import DEFAULTS, HELPERS

MAX_TIMEOUT = 366 * 86400  # seconds


class Kind(Enum):
    """What a value may look like."""

    NUMBER = auto()  # between low and high
    DURATION = auto()  # seconds, or 5d, 2h30m, 90s
    SWITCH = auto()  # on, off
    VERDICT = auto()  # accept, drop
    FATE = auto()  # accept, drop; kept as the word
    NAME = auto()  # short text for people
    TEXT = auto()  # any text
    RATE = auto()  # 5/minute
    # From here to ICMPV6: one value, or a list that means any of its members; `!` negates.
    STATES = auto()
    CHAINS = auto()
    INTERFACES = auto()
    PROTOS = auto()
    ADDRESSES = auto()
    PORTS = auto()
    ICMP = auto()
    ICMPV6 = auto()
    PORT_NUMBERS = auto()  # ports one by one
    LOG = auto()  # true, or a mapping
    SECTION = auto()  # a mapping with keys of its own
    SETS = auto()  # name -> members
    RULES = auto()  # a list of rules


@dataclass(frozen=True)
class Key:
    name: str
    kind: Kind
    meaning: str
    required: bool = False
    low: int = 0
    high: int = 0
    section: "Section | None" = None


class Section:
    """A mapping of the file. `title` is what messages call it."""

    def __init__(self, title: str, *keys: Key) -> None:
        self.title = title
        self.keys = {key.name: key for key in keys}


LOG = Section(
    "log",
    Key("limit", Kind.RATE, "lines at most, as 5/minute; 10/minute unless given"),
    Key("burst", Kind.NUMBER, "lines at once before the limit holds; 10 unless given", low=1, high=1_000_000),
    Key("prefix", Kind.NAME, "text ahead of the line"),
)

RULE = Section(
    "rule",
    Key("name", Kind.NAME, "what logs and counters call the rule; unique"),
    Key("comment", Kind.TEXT, "a note for people"),
    Key("chain", Kind.CHAINS, "input, forward, output; all of them unless given"),
    Key("state", Kind.STATES, "NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED"),
    Key("in", Kind.INTERFACES, "the interface a packet came by; + at the end is a wildcard"),
    Key("out", Kind.INTERFACES, "the interface a packet leaves by; + at the end is a wildcard"),
    Key("proto", Kind.PROTOS, "IP protocol by name or number"),
    Key("src", Kind.ADDRESSES, "source: addresses, networks, ranges, sets; IPv4 and IPv6 together"),
    Key("dst", Kind.ADDRESSES, "destination, as src"),
    Key("sport", Kind.PORTS, "source port: numbers, ranges, service names, sets"),
    Key("dport", Kind.PORTS, "destination port, as sport"),
    Key("icmp", Kind.ICMP, "ICMP type by name, number or type/code; IPv4"),
    Key("icmpv6", Kind.ICMPV6, "ICMPv6 type by name, number or type/code"),
    Key("verdict", Kind.VERDICT, "accept or drop", required=True),
    Key("log", Kind.LOG, "write a line for each packet, rate-limited", section=LOG),
)

POLICY = Section(
    "policy",
    Key("input", Kind.VERDICT, "for packets to the gateway that no rule matched"),
    Key("forward", Kind.VERDICT, "for packets through the gateway that no rule matched"),
    Key("output", Kind.VERDICT, "for packets from the gateway that no rule matched"),
)

QUEUE = Section("queue", Key("number", Kind.NUMBER, "the NFQUEUE to read; 0 unless given", high=65535))

FAILURE = Section(
    "failure",
    Key("no_listener", Kind.FATE, "packets while ctfw does not run"),
    Key("queue_full", Kind.FATE, "packets that do not fit into the queue"),
    Key("error", Kind.FATE, "a packet on which ctfw itself failed"),
    Key("stuck", Kind.FATE, "packets while ctfw makes no progress"),
)

# Knobs that are neither a duration nor a switch: name -> (low, high).
_NUMBERS = {"max": (1, 100_000_000), "expect_max": (1, 1_000_000), "tcp_max_retrans": (0, 255)}


def _knob(name: str, default: int) -> Key:
    meaning = f"as net.netfilter.nf_conntrack_{name}; {default} unless given"
    if name in _NUMBERS:
        low, high = _NUMBERS[name]
        return Key(name, Kind.NUMBER, meaning, low=low, high=high)
    if "_timeout" in name:
        return Key(name, Kind.DURATION, meaning, low=1, high=MAX_TIMEOUT)
    return Key(name, Kind.SWITCH, meaning)


HELPER_PORTS = Section(
    "helpers",
    *(
        Key(name, Kind.PORT_NUMBERS, f"{proto} ports of {name} servers; {port} as a rule")
        for name, (proto, port) in HELPERS.items()
    ),
)

CONNTRACK = Section(
    "conntrack",
    *(_knob(name, default) for name, default in DEFAULTS.items()),
    Key(
        "helpers", Kind.SECTION, "protocols whose data connections are RELATED; off unless named", section=HELPER_PORTS
    ),
)

FILE = Section(
    "rule file",
    Key("version", Kind.NUMBER, "the format of this file: 1", required=True, low=1, high=1),
    Key("queue", Kind.SECTION, "where packets come from", section=QUEUE),
    Key("conntrack", Kind.SECTION, "connection tracking", section=CONNTRACK),
    Key("failure", Kind.SECTION, "what happens to packets that ctfw cannot judge; drop unless given", section=FAILURE),
    Key("sets", Kind.SETS, "names for addresses, ports, protocols or interfaces, used as $name"),
    Key("policy", Kind.SECTION, "the verdict of each chain when no rule matched; drop unless given", section=POLICY),
    Key("rules", Kind.RULES, "the first rule that matches gives the verdict", section=RULE),
)

# Words of other firewalls -> ours, for hints where spelling alone would not find them.
SYNONYMS = {
    "action": "verdict",
    "daddr": "dst",
    "destination": "dst",
    "iif": "in",
    "iifname": "in",
    "indev": "in",
    "interface": "in",
    "jump": "verdict",
    "oif": "out",
    "oifname": "out",
    "outdev": "out",
    "port": "dport",
    "ports": "dport",
    "protocol": "proto",
    "saddr": "src",
    "source": "src",
    "target": "verdict",
    "timeouts": "tcp_timeout_established",
}
