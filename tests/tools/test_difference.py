"""Two rule files and one capture: the connections that come out otherwise, and who is responsible."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.test_replay import CLIENT, HANDSHAKE, RULES, SERVER, Files, T, frame, loaded, pcap, tcp, udp

from ctfw.nfqueue import VERIFIED
from ctfw.packet import FORWARD, decode, inverse
from ctfw.service.flight import MARK
from ctfw.service.record import Annotation
from ctfw.tools.capture import CaptureError, Frame
from ctfw.tools.difference import Changes, Difference, Group, Side, connection_key
from ctfw.tools.replay import Replay

OPEN = RULES.replace("in: lan0, out: wan0, ", "")
NO_WEB = OPEN.replace("dport: 80,", "dport: 81,")
WEB_REJECTED = OPEN.replace("dport: 80, state: NEW, verdict: accept", "dport: 80, state: NEW, verdict: reject")
NOWHERE = Annotation(FORWARD, "", "", 0, VERIFIED)

TALK = [
    *HANDSHAKE,
    frame(udp(), 0.03),
    frame(udp(back=True), 0.04),
    frame(tcp("S", 1, dport=81), 0.05),
    frame(tcp("PA", 101, 501, data=b"GET"), 0.06),
]


def difference(frames: list[Frame], old: str = OPEN, new: str = NO_WEB, most: int = 100) -> Difference:
    made = Difference(loaded(old), loaded(new), NOWHERE, most)
    made.judge(frames)
    return made


def groups(made: Difference) -> list[tuple[str, str, str, str, list[int]]]:
    return [
        (g.old.verdict, g.old.rule, g.new.verdict, g.new.rule, [change.number for change in g.changes])
        for g in made.changes.groups()
    ]


def test_the_same_rules_make_no_difference() -> None:
    made = difference(TALK, OPEN, OPEN)
    assert made.changes.groups() == []
    assert made.changes.packets == made.changes.bytes == 0


def test_a_connection_is_told_once_with_its_first_packet_and_counted_with_all() -> None:
    made = difference(TALK)
    assert groups(made) == [
        ("accept", "web", "drop", "policy forward", [1]),
        ("drop", "policy forward", "accept", "web", [6]),
    ]
    (lost,) = made.changes.groups()[0].changes
    assert lost.packet == f"tcp {CLIENT}:40000 > {SERVER}:80 syn seq=100 win=1000 len=0"
    assert lost.time == T
    # The answer is INVALID where the opening was dropped, but the ACK behind it opens a connection in its middle, which
    # neither file accepts.
    assert (lost.packets, lost.bytes) == (4, 163)
    assert (made.changes.packets, made.changes.bytes) == (5, 203)
    assert made.old.summary.verdicts == {"accept": 6, "drop": 1}
    assert made.new.summary.verdicts == {"drop": 4, "accept": 3}


def test_a_rejected_packet_is_another_verdict_than_a_dropped_one() -> None:
    made = difference([frame(tcp("S", 1))], NO_WEB, WEB_REJECTED)
    assert groups(made) == [("drop", "policy forward", "reject", "web", [1])]


def test_what_connection_tracking_does_itself_is_named() -> None:
    made = difference([frame(udp()), frame(udp(back=True)), frame(udp()), frame(udp(dport=54), 0.1)], OPEN, OPEN)
    assert made.changes.packets == 0
    small = OPEN + "conntrack: {max: 1}\n"
    frames = [
        *[frame(udp()), frame(udp(back=True)), frame(udp(), 0.1)],
        frame(udp(back=True), 5),  # assured, so it makes no room
        frame(tcp("S", 1), 6),
    ]
    made = difference(frames, OPEN, small)
    (group,) = made.changes.groups()
    assert (group.old.rule, group.new) == ("web", Side("drop", "", "", "table-full"))


def test_the_largest_group_comes_first() -> None:
    made = difference(
        [frame(udp()), frame(tcp("S", 1), 0.1), *(frame(syn(port), 0.2) for port in range(1, 4))],
        OPEN,
        OPEN.replace("verdict: accept}\n  - {name: dns", "verdict: drop}\n  - {name: dns").replace(
            "port: 53", "port: 5"
        ),
    )
    assert [len(group.changes) for group in made.changes.groups()] == [4, 1]
    assert [group.new.rule for group in made.changes.groups()] == ["web", "policy forward"]


def syn(sport: int) -> bytes:
    data = bytearray(tcp("S", 1))
    data[20:22] = sport.to_bytes(2, "big")
    return bytes(data)


def test_memory_is_bounded_and_what_is_beyond_is_counted() -> None:
    frames = [frame(syn(port), port / 1000) for port in (*range(1, 51), *range(1, 51))]
    made = difference(frames, most=10)
    assert len(made.changes) == 10
    assert made.changes.packets == 100
    (group,) = made.changes.groups()
    assert (group.packets, group.bytes) == (20, 800)
    assert (made.changes.beyond, made.changes.beyond_bytes) == (80, 3200)


def test_both_directions_are_one_connection() -> None:
    there, back = decode(udp(), 33), decode(udp(back=True), 33)
    assert connection_key(there.key) == connection_key(back.key) != b""
    assert connection_key(b"") == b""


@given(st.binary(min_size=13, max_size=13).map(lambda key: b"\x11" + key[1:]))
def test_the_key_of_a_connection_is_that_of_its_inverse(key: bytes) -> None:
    assert connection_key(key) == connection_key(inverse(key)) in (key, inverse(key))


def test_a_broken_capture_keeps_what_came_before() -> None:
    made = Difference(loaded(OPEN), loaded(NO_WEB), NOWHERE)
    with pytest.raises(CaptureError):
        made.judge([*HANDSHAKE, frame(b"", link=127)])
    assert len(made.changes) == 1
    assert made.new.summary.packets == 3


def test_each_side_is_what_a_replay_of_its_own_says() -> None:
    """The two engines know nothing of each other."""
    made = difference(TALK)
    for rules, side in ((OPEN, made.old), (NO_WEB, made.new)):
        alone = Replay(loaded(rules), NOWHERE)
        assert [result.verdict for result in alone.judge(TALK)]
        assert alone.summary.verdicts == side.summary.verdicts
        assert alone.summary.states == side.summary.states
        assert alone.summary.connections == side.summary.connections


def test_in_a_file_of_the_flight_recorder_missing_packets_make_none_invalid() -> None:
    far = [*HANDSHAKE, frame(tcp("FA", 9_000_101, 501), 1)]
    flown = [Frame(f.time, f.linktype, f.data, f.length, (f"{MARK} verdict=accept",)) for f in far]
    for frames, verdict in ((far, "drop"), (flown, "accept")):
        *_, last = Replay(loaded(OPEN), NOWHERE).judge(frames)
        assert last.verdict == verdict


def test_groups_add_up() -> None:
    changes = Changes()
    packet = decode(udp(), 33)
    for key in (b"a", b"b", b"a"):
        changes.add(key, 1, T, packet, Side("accept", "x"), Side("drop", "y"))
    (group,) = changes.groups()
    assert isinstance(group, Group)
    assert (len(group.changes), group.packets, group.bytes) == (2, 3, 99)


# The command

TABLE = """\
accept -> drop: 1 connection, 4 packets, 163 bytes
  was: web (OLD:7)
  now: policy forward
       1  2023-11-14T22:13:20.000000000Z  tcp 192.168.1.7:40000 > 203.0.113.9:80 syn seq=100 win=1000 len=0\
  (4 packets, 163 bytes)

drop -> accept: 1 connection, 1 packet, 40 bytes
  was: policy forward
  now: web (NEW:7)
       6  2023-11-14T22:13:20.050000000Z  tcp 192.168.1.7:40000 > 203.0.113.9:81 syn seq=1 win=1000 len=0\
  (1 packet, 40 bytes)

packets      7 judged, 5 with another verdict, 203 bytes
connections  2 with another verdict
was          accept 6, drop 1
now          drop 4, accept 3
"""


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    made = Files(tmp_path, capsys)
    made.rules.write_text(NO_WEB)
    (tmp_path / "old.yaml").write_text(OPEN)
    return made


def test_the_table(files: Files) -> None:
    old = str(files.folder / "old.yaml")
    code, out, err = files.replay(files.write(pcap(TALK)), "--against", old)
    assert (code, err) == (1, "")
    assert out.replace(old, "OLD").replace(str(files.rules), "NEW") == TABLE
    code, out, _ = files.replay(files.write(pcap(TALK)), "--against", str(files.rules))
    assert code == 0
    assert out.startswith("packets      7 judged, 0 with another verdict, 0 bytes\nconnections  0 with")


def test_jsonl(files: Files) -> None:
    old = str(files.folder / "old.yaml")
    code, out, err = files.replay(files.write(pcap(TALK)), "--against", old, "-o", "jsonl")
    assert code == 1
    lost, won = (json.loads(line) for line in out.splitlines())
    assert lost == {
        "n": 1,
        "time": "2023-11-14T22:13:20.000000000Z",
        "packet": f"tcp {CLIENT}:40000 > {SERVER}:80 syn seq=100 win=1000 len=0",
        "old": {"verdict": "accept", "rule": "web", "origin": f"{old}:7", "reason": None},
        "new": {"verdict": "drop", "rule": "policy forward", "origin": None, "reason": None},
        "packets": 4,
        "bytes": 163,
    }
    assert (won["n"], won["new"]["rule"]) == (6, "web")
    assert err == TABLE[TABLE.index("packets      ") :]


def test_mistakes_of_either_file_and_of_the_capture_are_errors(files: Files) -> None:
    old = files.folder / "old.yaml"
    whole = pcap(TALK)
    code, out, err = files.replay(files.write(whole[:-5]), "--against", str(old))
    assert code == 1
    assert out.startswith("accept -> drop: 1 connection, 3 packets")
    assert "the file is cut off" in err
    old.write_text("version: 2\n")
    code, out, err = files.replay(files.write(whole), "--against", str(old))
    assert (code, out) == (1, "")
    assert re.search(r"old.yaml:1:10: error", err)
