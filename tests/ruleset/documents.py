"""Random rule files and questions about them: valid ones, over few enough values that rules do match."""

import struct
from typing import Any

from hypothesis import strategies as st
from ruleset.naive import DAYS, FLAGS, SECOND, Asked, Connection, Packet

from ctfw.conntrack import state
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.settings import HELPER_NAMES
from ctfw.packet import HOOK_NAMES, decode
from ctfw.packet import Packet as Decoded

ADDRESSES4 = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "192.0.2.1"]
ADDRESSES6 = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fd00::1"]
NETWORKS = [
    *ADDRESSES4, *ADDRESSES6, "10.0.0.0/24", "10.0.0.0/8", "0.0.0.0/0", "10.0.0.2-10.0.1.9", "2001:db8::/64",
    "2001:db8::/63", "::/0", "2001:db8::2-2001:db8::9", "$lan", "$not_one", "$bans", "$short", "$mixed",
]  # fmt: skip
PORTS = [0, 22, 80, 81, 443, 65535]
DEVICES = ["lan0", "lan1", "wan0"]
MACS = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
MARKS = ["0x0", "0x1", "0x10/0x30", "0x20/0x30", "0x100/0x100"]
STATES = ["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"]
STATUS = {"expected": 1, "seen_reply": 2, "assured": 4, "confirmed": 8}
PROTOS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "47": 47}
SETS = {
    "lan": ["10.0.0.0/24", "2001:db8::/64"],
    "not_one": ["10.0.0.0/8", "!10.0.0.1"],
    "bans": {"members": ["192.0.2.1"], "dynamic": "on", "ttl": 100},
    "short": {"members": [], "dynamic": "on"},
    "mixed": ["$lan", "$bans", "!$short"],
}


def any_of(words: list[str], most: int = 3) -> st.SearchStrategy[Any]:
    """One word, or a list of words; some behind a `!`."""
    word = st.sampled_from(words) | st.sampled_from(words).map(lambda text: "!" + text)
    return word | st.lists(word, min_size=1, max_size=most)


def positive(words: list[str]) -> st.SearchStrategy[Any]:
    return st.sampled_from(words) | st.lists(st.sampled_from(words), min_size=1, max_size=3)


PORT_WORDS = ["22", "80", "80-443", "0-79", "81-65535"]
PREFIXES = st.fixed_dictionaries(
    {"per": st.sampled_from(["src", "dst"])},
    optional={"prefix4": st.sampled_from([0, 8, 23, 24, 32]), "prefix6": st.sampled_from([0, 63, 64, 128])},
)
LIMITS = st.one_of(
    st.sampled_from(["1/second", "2/second", "1/minute"]),
    st.tuples(
        st.fixed_dictionaries(
            {"rate": st.sampled_from(["1/second", "5/second", "1/minute"])},
            optional={"burst": st.integers(1, 3), "over": st.sampled_from(["on", "off"])},
        ),
        st.just({}) | PREFIXES,
    ).map(lambda both: {**both[0], **both[1]}),
)
CONNLIMITS = st.tuples(
    st.sampled_from([{"upto": 1}, {"upto": 2}, {"above": 1}, {"above": 2}]), st.just({}) | PREFIXES
).map(lambda both: {**both[0], **both[1]})
TIMES = st.fixed_dictionaries(
    {"timezone": st.just("UTC"), "days": positive(DAYS)},
    optional={"hours": positive(["08:00-18:00", "22:00-06:00", "00:00-24:00", "12:30-12:31"])},
)
ADDS = st.tuples(
    st.fixed_dictionaries(
        {"set": st.sampled_from(["bans", "short"])},
        optional={"address": st.sampled_from(["src", "dst"]), "ttl": st.integers(1, 5)},
    ),
    st.fixed_dictionaries({}, optional={"prefix4": st.sampled_from([24, 32]), "prefix6": st.sampled_from([64, 128])}),
).map(lambda both: {**both[0], **both[1]})

# Keys that go with any rule.
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "chain": st.lists(st.sampled_from(["input", "forward", "output"]), min_size=2, max_size=3, unique=True),
    "state": st.sampled_from(STATES) | st.lists(st.sampled_from(STATES), min_size=1, max_size=3)
    | st.sampled_from(STATES).map(lambda word: "!" + word),
    "in": any_of([*DEVICES, "lan+", "+"]),
    "out": any_of([*DEVICES, "wan+"]),
    "src": any_of(NETWORKS, 4),
    "dst": any_of(NETWORKS, 4),
    "fragment": st.sampled_from(["on", "off"]),
    "ttl": any_of(["64", "1-63", "0-255"]),
    "length": any_of(["0-60", "61-", "40"]),
    "dscp": any_of(["0", "10", "46"]),
    "mark": any_of(MARKS),
    "mac": any_of(MACS),
    "direction": st.sampled_from(["original", "reply"]),
    "status": st.sampled_from([*STATUS, "!assured", "!confirmed"]) | st.just(["assured", "!expected"]),
    "helper": st.sampled_from(["ftp", "none", "!ftp"]) | st.just(["ftp", "sip"]),
    "connage": st.sampled_from(["2-", "-1", "1-3", "!2-"]),
    "connpackets": st.sampled_from(["2-", "-3", "2-3"]),
    "connbytes": st.sampled_from(["1k-", "-100", "100-1M"]),
    "time": TIMES,
    "connlimit": CONNLIMITS,
    "limit": LIMITS,
    "log": st.just("true"),
    "set_mark": st.sampled_from(["0x10/0x30", "0x20/0x30", "0x1", "0x100/0x100"]),
    "add": ADDS,
}  # fmt: skip
# What a rule asks of the protocol, as it can be said without contradiction.
PROTOCOLS = st.one_of(
    st.just({}),
    st.just({}),
    st.builds(lambda proto: {"proto": proto}, positive(["tcp", "udp", "icmp", "icmpv6", "47"])),
    st.just({"proto": "!tcp"}),
    st.builds(lambda proto, dport: {"proto": proto, "dport": dport}, positive(["tcp", "udp"]), any_of(PORT_WORDS)),
    st.builds(lambda sport: {"proto": "tcp", "sport": sport, "dport": "80"}, any_of(PORT_WORDS)),
    st.builds(lambda icmp: {"icmp": icmp}, any_of(["8", "3/4", "3"])),
    st.builds(lambda icmp: {"icmpv6": icmp, "icmp": "8"}, any_of(["128", "1/4"])),
    st.builds(
        lambda flags: {"tcp_flags": flags},
        any_of(["syn", "ack", "syn,ack", "syn/syn,ack", "none", "fin,psh,urg/all", "rst/rst"]),
    ),
)
VERDICTS = ["accept", "drop", "reject", "continue", "return"]


@st.composite
def rules(draw: st.DrawFn, name: str, below: list[str]) -> dict[str, Any]:
    rule: dict[str, Any] = {"name": name, **draw(PROTOCOLS)}
    for key in draw(st.lists(st.sampled_from(sorted(COMMON)), max_size=4, unique=True)):
        rule[key] = draw(COMMON[key])
    if below and draw(st.integers(0, 3)) == 0:
        rule["jump"] = draw(st.sampled_from(below))
    else:
        rule["verdict"] = draw(st.sampled_from(VERDICTS))
        if draw(st.integers(0, 5)) == 0 and not {"set_mark", "add"} & rule.keys():
            rule["shadow"] = "on"
    return rule


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    names = ["a", "b", "c"]
    chains = {
        name: [draw(rules(f"{name}{number}", names[at + 1 :])) for number in range(draw(st.integers(0, 3)))]
        for at, name in enumerate(names)
    }
    main = [draw(rules(f"r{number}", names)) for number in range(draw(st.integers(1, 8)))]
    policy = {hook: draw(st.sampled_from(["accept", "drop"])) for hook in ("input", "forward", "output")}
    return {"version": 1, "policy": policy, "sets": SETS, "chains": chains, "rules": main}


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    six = draw(st.booleans())
    addresses = st.sampled_from(ADDRESSES6 if six else ADDRESSES4)
    proto = draw(st.sampled_from(["tcp", "udp", "icmpv6" if six else "icmp", "47"]))
    return Packet(
        proto,
        draw(addresses),
        draw(addresses),
        draw(st.sampled_from(PORTS)),
        draw(st.sampled_from(PORTS)),
        draw(st.sampled_from([(8, 0), (3, 4), (3, 1), (128, 0), (1, 4)])),
        draw(st.frozensets(st.sampled_from(FLAGS), max_size=3)),
        draw(st.sampled_from([0, 1, 63, 64, 255])),
        draw(st.sampled_from([0, 10, 46])),
        draw(st.sampled_from([60, 61, 100])),
        not six and draw(st.integers(0, 4)) == 0,
    )


connections = st.builds(
    Connection,
    status=st.sets(st.sampled_from(sorted(STATUS))),
    created=st.integers(0, 3).map(lambda seconds: seconds * SECOND),
    expires=st.integers(0, 30).map(lambda seconds: seconds * SECOND),
    packets=st.integers(0, 4),
    bytes=st.sampled_from([0, 100, 1024, 2_000_000]),
    helper=st.sampled_from(["none", "none", "ftp", "sip"]),
)


@st.composite
def questions(draw: st.DrawFn, known: list[Connection], now: int) -> Asked:
    chain = draw(st.sampled_from(["input", "forward", "forward", "output"]))
    return Asked(
        draw(packets()),
        chain,
        "" if chain == "output" else draw(st.sampled_from(DEVICES)),
        "" if chain == "input" else draw(st.sampled_from(DEVICES)),
        draw(st.sampled_from(["NEW", "NEW", *STATES])),
        draw(st.sampled_from(["original", "original", "reply", ""])),
        draw(st.none() | st.sampled_from(known)),
        draw(st.sampled_from([0, 1, 0x10, 0x110])),
        draw(st.sampled_from(["", *MACS])),
        now,
        draw(st.integers(0, 7 * 24 * 60 * 60 - 1)) * SECOND,
    )


# --- the same for the code -----------------------------------------------------------------------------------------


def packed(address: str) -> bytes:
    import ipaddress

    return ipaddress.ip_address(address).packed


def encoded(packet: Packet) -> bytes:
    flags = sum(1 << FLAGS.index(flag) for flag in packet.flags)
    body = {
        "tcp": struct.pack(">HHIIBBHHH", packet.sport, packet.dport, 1, 1, 0x50, flags, 0, 0, 0),
        "udp": struct.pack(">HHHH", packet.sport, packet.dport, 8, 0),
    }.get(packet.proto, bytes([*packet.icmp, 0, 0, 0, 1, 0, 1]) if packet.proto != "47" else bytes(8))
    ends = packed(packet.src) + packed(packet.dst)
    proto = PROTOS[packet.proto]
    if packet.family == 4:
        offset = 0x2000 if packet.fragment else 0
        head = struct.pack(">BBHHHBBH", 0x45, packet.dscp << 2, packet.length, 7, offset, packet.ttl, proto, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28 | packet.dscp << 22, packet.length - 40, proto, packet.ttl)
    whole = head + ends + body
    return whole + bytes(packet.length - len(whole))


def decoded(asked: Asked) -> Decoded:
    data = encoded(asked.packet)
    packet = decode(data, len(data))
    packet.state = next(bit for bit, name in state.STATE_NAMES.items() if name == asked.state)
    packet.direction = {"original": 0, "reply": 1, "": -1}[asked.direction]
    return packet


def hook_of(asked: Asked) -> int:
    return HOOK_NAMES.index(asked.chain)


def conn_of(connection: Connection) -> Conn:
    conn = Conn(b"k" * 13, b"r" * 13, connection.created)
    conn.status = sum(STATUS[word] for word in connection.status)
    conn.expires = connection.expires
    conn.original_packets, conn.reply_packets = connection.packets // 2, connection.packets - connection.packets // 2
    conn.reply_bytes = connection.bytes
    if connection.helper != "none":
        conn.master = Conn(b"m" * 13, b"s" * 13, 0)
        conn.master.helper = HELPER_NAMES.index(connection.helper)
    return conn
