"""Every key of the rule file: its name, what kind of value it takes, what it means in one line.

This is the one table. The walker checks files against it, the loader gets its defaults from it, and whatever describes
the format to others (a JSON Schema, a manual page) is generated from it. A new key is one line here and, where its
kind is new, one reader. The knobs of connection tracking come from the engine's own table.

Keys that stand in no section are errors, those that a later version may know included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from ctfw.conntrack.settings import DEFAULTS, HELPERS, UNSUPPORTED
from ctfw.conntrack.state import STATE_NAMES
from ctfw.reason import NAMES as REASONS
from ctfw.ruleset.ruleset import EXISTING_NAMES
from ctfw.ruleset.verdict import REJECT_NAMES, TRACK_NAMES

# What a rule may decide, and the words for it.
ACTIONS = ("accept", "drop", "reject", "return", "continue")

MAX_TIMEOUT = 366 * 86400  # seconds


class Kind(Enum):
    """What a value may look like."""

    __hash__ = object.__hash__  # Enum's own, in Python, is a fifth of a second in 10,000 rules

    NUMBER = auto()  # between low and high
    CHOICE = auto()  # one of the words
    ACTION = auto()  # accept, drop, reject, return, continue
    DURATION = auto()  # seconds, or 5d, 2h30m, 90s
    SWITCH = auto()  # on, off
    VERDICT = auto()  # accept, drop
    FATE = auto()  # accept, drop; kept as the word
    NAME = auto()  # short text for people
    TEXT = auto()  # any text
    RATE = auto()  # 5/minute
    PATHS = auto()  # a file, or several; * and ? stand for what is there, in lexical order
    MEMBERS = auto()  # of a set
    # From here to OCTETS: one value, or a list that means any of its members; `!` negates.
    STATES = auto()
    CHAINS = auto()
    INTERFACES = auto()
    PROTOS = auto()
    ADDRESSES = auto()
    PORTS = auto()
    ICMP = auto()
    ICMPV6 = auto()
    STATUS = auto()
    HELPERS = auto()
    TCP_FLAGS = auto()  # syn, or SET/OUT OF
    MARKS = auto()  # 0x10, 0x10/0xf0
    MACS = auto()
    HOPS = auto()  # 0 to 255
    LENGTHS = auto()
    DSCPS = auto()
    SECONDS = auto()  # 1h-, -10m
    PACKETS = auto()  # 10-, -100
    OCTETS = auto()  # 1M-, -100k
    MARK = auto()  # 0x10, 0x10/0xf0: one
    MARK_BIT = auto()  # a power of two
    DAYS = auto()  # mon, mon-fri; or a list
    HOURS = auto()  # 08:00-18:00; or a list
    ZONE = auto()  # a time zone
    WORD = auto()  # the name of a set or a chain
    LIMIT = auto()  # a rate, or a mapping
    CONNLIMIT = auto()  # a mapping
    TIME = auto()  # a mapping
    ADD = auto()  # a mapping
    CHAINS_OF_RULES = auto()  # name -> list of rules
    ZONES = auto()  # interface -> number
    PORT_NUMBERS = auto()  # ports one by one
    LOG = auto()  # true, or a mapping
    SECTION = auto()  # a mapping with keys of its own
    SETS = auto()  # name -> members
    RULES = auto()  # a list of rules
    NEVER = auto()  # a list of mappings, or one
    TESTS = auto()  # a list of tests
    STEPS = auto()  # a list of steps
    PACKET = auto()  # a packet in words, docs/packets.md
    EXPECT = auto()  # a verdict, or a mapping
    DEVICE = auto()  # one interface, no wildcard
    MOMENT = auto()  # 2024-01-01T12:00
    SIZE = auto()  # bytes: 128 bytes, 64 KiB, 16 MiB


@dataclass(frozen=True)
class Key:
    name: str
    kind: Kind
    meaning: str
    required: bool = False
    low: int = 0
    high: int = 0
    section: "Section | None" = None
    words: tuple[str, ...] = ()  # of a choice; its value is the word's place


class Section:
    """A mapping of the file. `title` is what messages call it; `refused` says why some keys are none."""

    def __init__(self, title: str, *keys: Key, refused: Mapping[str, str] | None = None) -> None:
        self.title = title
        self.keys = {key.name: key for key in keys}
        self.refused = refused or {}


LOG = Section(
    "log",
    Key("limit", Kind.RATE, "lines at most, as 5/minute; 10/minute unless given"),
    Key("burst", Kind.NUMBER, "lines at once before the limit holds; 10 unless given", low=1, high=1_000_000),
    Key("prefix", Kind.NAME, "text ahead of the line"),
)

_PER = (
    Key("prefix4", Kind.NUMBER, "how many bits of an IPv4 address count as one; 32 unless given", high=32),
    Key("prefix6", Kind.NUMBER, "how many bits of an IPv6 address count as one; 64 unless given", high=128),
)

LIMIT = Section(
    "limit",
    Key("rate", Kind.RATE, "packets, as 10/second", required=True),
    Key("burst", Kind.NUMBER, "packets at once before the rate holds; 5 unless given", low=1, high=1_000_000),
    Key("per", Kind.CHOICE, "src or dst: a rate for each source or destination", words=("src", "dst")),
    *_PER,
    Key("over", Kind.SWITCH, "match what exceeds the rate, instead of what keeps to it"),
)

CONNLIMIT = Section(
    "connlimit",
    Key("upto", Kind.NUMBER, "match while there are at most so many connections, this one included", high=65535),
    Key("above", Kind.NUMBER, "match when there are more connections, this one included", high=65535),
    Key("per", Kind.CHOICE, "src or dst: whose connections; src unless given", words=("src", "dst")),
    *_PER,
)

TIME = Section(
    "time",
    Key("days", Kind.DAYS, "mon to sun, ranges as mon-fri; every day unless given"),
    Key("hours", Kind.HOURS, "from-to, as 08:00-18:00; over midnight it belongs to the day on which it begins"),
    Key("timezone", Kind.ZONE, "a name as Europe/Berlin; the machine's own unless given"),
)

ADD = Section(
    "add",
    Key("set", Kind.WORD, "the dynamic set", required=True),
    Key("address", Kind.CHOICE, "src or dst: which address becomes a member; src unless given", words=("src", "dst")),
    *_PER,
    Key("ttl", Kind.DURATION, "how long it stays; as the set says unless given", low=1, high=MAX_TIMEOUT),
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
    Key("tcp_flags", Kind.TCP_FLAGS, "syn: what opens a connection; SET/OUT OF, as syn,ack/syn,ack,rst; implies tcp"),
    Key("fragment", Kind.SWITCH, "on: fragments only; off: none"),
    Key("ttl", Kind.HOPS, "TTL or hop limit, numbers and ranges"),
    Key("length", Kind.LENGTHS, "bytes from the IP header on, numbers and ranges"),
    Key("dscp", Kind.DSCPS, "differentiated services code point by name or number"),
    Key("mark", Kind.MARKS, "the packet's mark, as 0x10 or value/mask"),
    Key("mac", Kind.MACS, "source MAC address"),
    Key("direction", Kind.CHOICE, "original or reply: of the packet in its connection", words=("original", "reply")),
    Key("status", Kind.STATUS, "of the connection: assured, seen_reply, expected, confirmed"),
    Key("helper", Kind.HELPERS, "the helper that announced the connection"),
    Key("connage", Kind.SECONDS, "how long the connection has lived, as 1h- or -10m"),
    Key("connpackets", Kind.PACKETS, "packets of the connection in both directions, as 10-"),
    Key("connbytes", Kind.OCTETS, "bytes of the connection in both directions, as 1M-"),
    Key("time", Kind.TIME, "days and hours", section=TIME),
    Key("connlimit", Kind.CONNLIMIT, "connections at the same time, by source or destination", section=CONNLIMIT),
    Key("limit", Kind.LIMIT, "packets per time, as 10/second or a mapping; asked last", section=LIMIT),
    Key("verdict", Kind.ACTION, "accept, drop, reject, return or continue; or 'jump' or 'track' instead"),
    Key("jump", Kind.WORD, "go on in this chain, and behind this rule when it ends without a verdict"),
    Key(
        "reject_with",
        Kind.CHOICE,
        "how to reject; a reset for tcp, else port-unreachable, unless given",
        words=REJECT_NAMES[1:],
    ),
    Key("track", Kind.CHOICE, "none, loose or liberal: how to track; no verdict", words=TRACK_NAMES[1:]),
    Key("shadow", Kind.SWITCH, "count and log what the rule would decide, and go on"),
    Key("log", Kind.LOG, "write a line for each packet, rate-limited", section=LOG),
    Key("set_mark", Kind.MARK, "the mark that the packet leaves with, as 0x10 or value/mask"),
    Key("add", Kind.ADD, "make the source or destination a member of a dynamic set", section=ADD),
    Key(
        "offload", Kind.SWITCH, "on: once open, the connection's packets pass in the kernel; tcp and udp, forward only"
    ),
)

SET = Section(
    "set",
    Key("members", Kind.MEMBERS, "one value or a list of values"),
    Key("file", Kind.PATHS, "members from a file, one a line; # begins a comment"),
    Key("dynamic", Kind.SWITCH, "on: rules add addresses while ctfw runs, and their time takes them away"),
    Key("ttl", Kind.DURATION, "how long an added address stays; for ever unless given", low=1, high=MAX_TIMEOUT),
    Key("max", Kind.NUMBER, "added addresses at most; 65536 unless given", low=1, high=1_000_000),
)

REJECT = Section(
    "reject",
    Key("mark", Kind.MARK_BIT, "the bit of the mark that says reject to the kernel; the three below it say how"),
)

OFFLOAD = Section(
    "offload",
    Key("mark", Kind.MARK_BIT, "the bit of the mark by which the kernel knows offloaded connections"),
)

POLICY = Section(
    "policy",
    Key("input", Kind.VERDICT, "for packets to the gateway that no rule matched"),
    Key("forward", Kind.VERDICT, "for packets through the gateway that no rule matched"),
    Key("output", Kind.VERDICT, "for packets from the gateway that no rule matched"),
)

QUEUE = Section(
    "queue",
    Key("number", Kind.NUMBER, "the NFQUEUE to read, with workers the first one; 0 unless given", high=65535),
    Key("workers", Kind.NUMBER, "processes that share the packets, a queue each; 1 unless given", low=1, high=16),
)

KEEP_SSH = Section(
    "keep_ssh",
    Key("from", Kind.ADDRESSES, "networks whose SSH to the gateway is never queued", required=True),
    Key("port", Kind.PORT_NUMBERS, "SSH's ports; 22 unless given"),
)

HOOK = Section(
    "hook",
    Key("chains", Kind.CHAINS, "the chains whose packets are queued; all of them unless given"),
    Key("leave_alone", Kind.INTERFACES, "interfaces whose packets are never queued, beside lo"),
    Key("keep_ssh", Kind.SECTION, "a way in that no rule can close; none unless given", section=KEEP_SSH),
    Key("reject", Kind.SWITCH, "the kernel answers what rules reject; on unless given"),
)

RECORDER = Section(
    "recorder",
    Key("minutes", Kind.NUMBER, "how long headers are kept; 10 unless given", low=1, high=1440),
    Key("memory", Kind.SIZE, "bytes of memory, as 16 MiB, which it is unless given", low=1 << 20, high=1 << 30),
    Key("headers", Kind.SIZE, "bytes kept of each packet, as 128 bytes, which it is unless given", low=64, high=1024),
)

METRICS = Section(
    "metrics",
    Key("textfile", Kind.TEXT, "write figures to this file for node_exporter, as /run/ctfw/ctfw.prom", required=True),
    Key("every", Kind.DURATION, "how often; 15 seconds unless given", low=1, high=3600),
)

EVE = Section(
    "eve",
    Key("path", Kind.TEXT, "the file; /var/log/ctfw/eve.json unless given"),
    Key("flow", Kind.SWITCH, "a record for each connection that has ended; on unless given"),
    Key("drop", Kind.SWITCH, "a record for each dropped packet that a rule logs; on unless given"),
    Key("limit", Kind.RATE, "records at most, as 100/second; 1000/second unless given"),
)

FAILURE = Section(
    "failure",
    Key("no_listener", Kind.FATE, "packets while ctfw does not run"),
    Key("queue_full", Kind.FATE, "packets that do not fit into the queue"),
    Key("error", Kind.FATE, "a packet on which ctfw itself failed"),
    Key("stuck", Kind.FATE, "packets of a ctfw that hangs and is ended for it; as no_listener"),
)

# Knobs that are neither a duration nor a switch: name -> (low, high).
_NUMBERS = {
    "max": (1, 100_000_000),
    "expect_max": (1, 1_000_000),
    "per_source": (0, 100_000_000),
    "tcp_max_retrans": (0, 255),
}


def _knob(name: str, default: int) -> Key:
    meaning = f"as net.netfilter.nf_conntrack_{name}; {default} unless given"
    if name == "per_source":
        meaning = "connections that one source (IPv6: one /64) may have; 0, the default, means no limit"
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
    refused=UNSUPPORTED,
)

CONNTRACK = Section(
    "conntrack",
    *(_knob(name, default) for name, default in DEFAULTS.items()),
    Key(
        "helpers", Kind.SECTION, "protocols whose data connections are RELATED; off unless named", section=HELPER_PORTS
    ),
    Key("zones", Kind.ZONES, "interface: zone, 1 to 65535; what comes in by it is tracked apart from the rest"),
)

EXPECT = Section(
    "expect",
    Key("verdict", Kind.CHOICE, "accept, drop or reject", words=("accept", "drop", "reject")),
    Key("state", Kind.CHOICE, "its state; none: dropped before the rules", words=(*STATE_NAMES.values(), "none")),
    Key("rule", Kind.NAME, "the rule that decides, or 'policy forward'"),
    Key("reason", Kind.CHOICE, "why it is INVALID or was dropped beside the rules", words=REASONS[1:]),
)

_PACKET = (
    Key("send", Kind.PACKET, "a packet in words, as tcp 192.168.1.7:40000 > 203.0.113.9:443 syn"),
    Key("in", Kind.DEVICE, "the interface that the packet comes by"),
    Key("out", Kind.DEVICE, "the interface that the packet leaves by"),
    Key("chain", Kind.CHOICE, "input, forward or output; forward unless given", words=("input", "forward", "output")),
    Key("expect", Kind.EXPECT, "accept, drop or reject; or a mapping", section=EXPECT),
)

STEP = Section("step", *_PACKET, Key("wait", Kind.DURATION, "let time pass instead", low=1, high=MAX_TIMEOUT))

TEST = Section(
    "test",
    Key("name", Kind.NAME, "what reports call the test; unique"),
    Key("comment", Kind.TEXT, "a note for people"),
    Key("at", Kind.MOMENT, "when the test plays, as 2024-01-01T12:00, a Monday, which it is unless given"),
    *_PACKET,
    Key("steps", Kind.STEPS, "packets and times of waiting, instead of 'send' and 'expect'", section=STEP),
)

NEVER = Section(
    "never",
    Key("name", Kind.NAME, "what messages call it"),
    Key("comment", Kind.TEXT, "a note for people"),
    Key("from", Kind.ADDRESSES, "source: addresses, networks, ranges, sets"),
    Key("to", Kind.ADDRESSES, "destination, as from"),
    Key("chain", Kind.CHAINS, "input, forward, output; forward unless given"),
    Key("state", Kind.STATES, "NEW unless given"),
    *(
        RULE.keys[name]
        for name in (
            "in", "out", "proto", "sport", "dport", "icmp", "icmpv6", "tcp_flags", "fragment", "ttl", "length", "dscp",
            "mark", "mac",
        )
    ),
)  # fmt: skip

FILE = Section(
    "rule file",
    Key("version", Kind.NUMBER, "the format of this file: 1", required=True, low=1, high=1),
    Key("include", Kind.PATHS, "files with more sets, chains and rules; their rules come first"),
    Key("queue", Kind.SECTION, "where packets come from", section=QUEUE),
    Key("hook", Kind.SECTION, "the kernel rules that `ctfw hook` makes", section=HOOK),
    Key("conntrack", Kind.SECTION, "connection tracking", section=CONNTRACK),
    Key("failure", Kind.SECTION, "what happens to packets that ctfw cannot judge; drop unless given", section=FAILURE),
    Key("recorder", Kind.SECTION, "keep headers and verdicts of the last minutes; off unless here", section=RECORDER),
    Key("metrics", Kind.SECTION, "figures in a file, for Prometheus; off unless here", section=METRICS),
    Key("eve", Kind.SECTION, "a log in Suricata's EVE form; off unless here", section=EVE),
    Key("reject", Kind.SECTION, "how rejected packets are handed to the kernel", section=REJECT),
    Key("offload", Kind.SECTION, "how connections are handed to the kernel", section=OFFLOAD),
    Key(
        "existing",
        Kind.CHOICE,
        "connections that older rules accepted, after a reload; keep unless given",
        words=EXISTING_NAMES,
    ),
    Key("sets", Kind.SETS, "names for addresses, ports, protocols or interfaces, used as $name"),
    Key("policy", Kind.SECTION, "the verdict of each chain when no rule matched; drop unless given", section=POLICY),
    Key("chains", Kind.CHAINS_OF_RULES, "lists of rules to jump to, by name", section=RULE),
    Key("rules", Kind.RULES, "the first rule that matches gives the verdict", section=RULE),
    Key("never", Kind.NEVER, "packets that no rule may accept; the file is refused when one does", section=NEVER),
    Key("tests", Kind.TESTS, "packets and what becomes of them; the file is refused when one differs", section=TEST),
)

# What a file may hold that another one includes: the rest is said once, by the file that ctfw was given.
INCLUDED = Section(
    "included file",
    Key("version", Kind.NUMBER, "the format of this file: 1", low=1, high=1),
    *(FILE.keys[name] for name in ("include", "sets", "chains", "rules", "never", "tests")),
)
