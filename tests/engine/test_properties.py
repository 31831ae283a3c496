"""Whatever comes: the engine never raises, and what is INVALID changes nothing but what it changes in the kernel."""

import pytest
from engine import packets
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, Gateway, Tcp
from engine.table_walk import check_table
from engine.test_packet import GOOD, nearly_good
from hypothesis import event, given, settings
from hypothesis import strategies as st

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.settings import HELPERS, SECOND
from ctfw.conntrack.state import ASSURED
from ctfw.conntrack.tcp import SYN_RECV, SYN_SENT, SYN_SENT2
from ctfw.engine import Engine
from ctfw.packet import REPLY

MOST_EXPECTED = {"ftp": 1, "irc": 8, "tftp": 1}

# Anything


def check_counters(engine: Engine, judged: int) -> None:
    counters = engine.counters
    assert sum(sum(verdicts) for verdicts in counters.packets) == sum(counters.by_state().values()) == judged


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=80) | nearly_good() | st.sampled_from([packet for packet, _, _ in GOOD.values()]),
            st.none() | st.integers(0, 100),
            st.integers(0, 4),
            st.booleans(),
            st.sampled_from([0, 1, 10**9, 10**11]),
        ),
        max_size=30,
    )
)
def test_the_engine_never_raises(arriving: list[tuple[bytes, int | None, int, bool, int]]) -> None:
    gateway = Gateway({name: [port] for name, (_, port) in HELPERS.items()}, max=5)
    for data, copied, hook, check, pause in arriving:
        gateway.now += pause
        judgement = gateway.engine.handle(data[:copied], len(data), hook, "lan0", "", 0, check, gateway.now)
        assert 0 <= judgement.reason < reason.COUNT
        assert (judgement.state == 0) <= (judgement.verdict == 0)
        check_table(gateway.tracker.table)
    check_counters(gateway.engine, len(arriving))


# What each helper reads; bent, it is what somebody sends who does not like it.
SAYINGS = {
    "ftp": [
        b"PORT 10,1,0,2,100,2\r\n", b"EPRT |1|10.1.0.2|25602|\r\n", b"EPRT |2|2001:db8:1::2|25602|\r\n",
        b"227 Entering Passive Mode (10,2,0,2,100,2).\r\n", b"229 Entering Extended Passive Mode (|||25602|)\r\n",
    ],
    "irc": [b"PRIVMSG bob :\1DCC SEND file 167837698 25602 1234\1\r\n"],
    "tftp": [b"\0\1file\0octet\0", b"\0\2file\0octet\0"],
    "sip": [
        b"INVITE sip:b@10.2.0.2 SIP/2.0\r\nCSeq: 1 INVITE\r\nCall-ID: x\r\nContact: <sip:a@10.1.0.2:5070>\r\n"
        b"Content-Length: 56\r\n\r\nv=0\r\nc=IN IP4 10.1.0.2\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n",
        b"SIP/2.0 200 OK\r\nCSeq: 1 REGISTER\r\nContact: <sip:a@10.1.0.2:5070>;expires=60\r\n\r\n",
    ],
    "amanda": [b"CONNECT DATA 1001 MESG 1002 INDEX 1003\n"],
    "sane": [b"\0\0\0\7\0\0\0\1", b"\0\0\0\0\0\0\x1b\x58\0\0\0\0"],
    "pptp": [
        b"\0\x9c\0\1\x1a\x2b\x3c\x4d\0\7\0\0" + bytes(range(144)),
        b"\0\x20\0\1\x1a\x2b\x3c\x4d\0\x08" + bytes(22),
    ],
}  # fmt: skip
BENDS = [b"", b"\0", b"\n", b" ", b",", b"|", b"(", b"99999999999999999999", b"\xff" * 4]


def say(name: str, ends: tuple[str, str], line: bytes, copied: int | None = None) -> None:
    """Each side says the line on a fresh connection of that helper, at the start of a line."""
    gateway = Gateway({name: [5000]})
    client, server = ends
    if "udp" in HELPERS[name][0]:
        gateway.sees(packets.udp(client, server, 40000, 5000, line), copied=copied)
        gateway.sees(packets.udp(server, client, 5000, 40000, line), copied=copied)
    if "tcp" in HELPERS[name][0]:
        talk = Tcp(gateway, client, server, dport=5000).opened()
        talk.client("ack", b"\n").is_established()
        talk.server("ack", b"\n").is_established()
        gateway.sees(talk.packet(0, "ack", line), copied=copied)
        gateway.sees(talk.packet(1, "ack", line), copied=copied)
    assert len(gateway.expected) <= MOST_EXPECTED.get(name, 20)


@pytest.mark.parametrize("name", sorted(SAYINGS.keys() & HELPERS.keys()))
def test_a_helper_never_raises_whatever_is_wrong_in_what_it_reads(name: str) -> None:
    for ends in ((CLIENT, SERVER), (CLIENT6, SERVER6)):
        for saying in SAYINGS[name]:
            for at in range(min(len(saying), 150)):
                say(name, ends, saying[:at])
                say(name, ends, saying, copied=40 + at)
                for bend in BENDS:
                    say(name, ends, saying[:at] + bend + saying[at + 1 :])


@pytest.mark.parametrize("name", sorted(HELPERS))
@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=60), st.none() | st.integers(0, 120))
def test_a_helper_never_raises_whatever_it_reads(name: str, line: bytes, copied: int | None) -> None:
    say(name, (CLIENT, SERVER), line, copied)


# INVALID

SYN, FIN, RST, ACK = 2, 1, 4, 16
SIDE = ("end", "maxend", "maxwin", "maxack", "scale", "flags")
LAST = ("last_ack", "last_dir", "last_end", "last_flags", "last_kind", "last_scale", "last_seq", "last_win", "retrans")


def record_of(conn: Conn) -> dict[str, int]:
    """All that a connection's record holds."""
    found = {name: getattr(conn, name) for name in ("status", "created", "expires", "l4state", "mark", "helper")}
    assert conn.tcp is not None
    found |= {name: getattr(conn.tcp, name) for name in LAST}
    for number, side in enumerate((conn.tcp.original, conn.tcp.reply)):
        found |= {f"{number}.{name}": getattr(side, name) for name in SIDE}
    return found


def may_change(before: dict[str, int], packet: bytes, direction: int, why: str) -> set[str]:
    """What the kernel writes although it then finds the segment INVALID (docs/state-machine.md, "Windows")."""
    if why not in ("tcp-seq-over", "tcp-ack-over"):
        return set()  # found before the windows are looked at
    flags = packet[33]
    state = before["l4state"]
    mine, other = f"{direction}.", f"{1 - direction}."
    changing: set[str] = set()
    if flags & (FIN | RST) and before["status"] & ASSURED:
        changing |= {"last_kind", "last_dir", "expires"}  # 3.2 step 7: the first of two resets outside of the window
    if flags & SYN and (state == SYN_SENT2 or (state == SYN_SENT and direction == REPLY)):
        changing |= {"last_flags"}  # step 5: both open at once
    if before[mine + "maxwin"] == 0 or (flags & SYN and state in (SYN_SENT, SYN_RECV)):
        changing |= {mine + name for name in SIDE} | {other + name for name in ("end", "maxend", "scale")}
    if flags & SYN and flags & ACK and before["last_dir"] != direction:
        changing |= {"last_flags"} | {side + name for side in (mine, other) for name in SIDE}  # step 2: they start anew
    return changing


OFFSETS = st.sampled_from([0, 0, 0, 0, 1, -1, 100, -100, 64_240, 70_000, -70_000, 200_000, 2**31])
SEGMENTS = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["syn", "syn ack", "ack", "ack", "ack", "fin ack", "rst", "rst ack", "", "syn fin", "ack urg"]),
    OFFSETS,
    OFFSETS,
    st.sampled_from([0, 0, 1, 1400, 60_000]),
    st.sampled_from([0, 1, 1000, 64_240, 64_240]),
    st.sampled_from([b"", b"", packets.scale(7), packets.SACK_PERMITTED]),
    st.sampled_from([0, 0, 0, 1, 100]),
    st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(
    st.booleans(),
    st.lists(SEGMENTS, min_size=1, max_size=25),
)
def test_what_is_invalid_changes_nothing(
    is_open: bool, segments: list[tuple[int, str, int, int, int, int, bytes, int, bool]]
) -> None:
    talk = Tcp()
    if is_open:
        talk.opened()
    for direction, flags, seq, ack, size, win, options, pause, is_spoiled in segments:
        talk.wait(pause)
        mine, other = talk.sides[direction], talk.sides[1 - direction]
        packet = talk.packet(
            direction, flags, bytes(size), seq=mine.sent + seq, ack=other.sent + ack, win=win, options=options
        )
        if is_spoiled and seq == 1:
            packet = packets.spoiled(packet)
        conn = talk.gateway.conn_of(packet)
        before = record_of(conn) if conn is not None else {}
        said = talk.gateway.sees(packet)
        if said.state != "INVALID":
            if seq == 0:
                mine.sent += size + ("syn" in flags) + ("fin" in flags)
            continue
        event(said.reason)
        assert talk.gateway.conn_of(packet) is conn
        if conn is None:
            assert talk.gateway.conns == []
            continue
        after = record_of(conn)
        way = 0 if conn.key == said.packet.key else 1
        changed = {name for name in before if before[name] != after[name]}
        assert changed <= may_change(before, packet, way, said.reason), (said, changed)
        if "expires" in changed:
            assert after["expires"] == talk.gateway.now + 300 * SECOND < before["expires"]
