"""Replay: a capture gets the verdicts that its packets would have got, and the lines say so."""

from __future__ import annotations

import gzip
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from ctfw import config
from ctfw.cli import main
from ctfw.cli import replay as command
from ctfw.cli.changes import rfc3339
from ctfw.nfqueue import PARTIAL, UNVERIFIED, VERIFIED
from ctfw.packet import FORWARD, INPUT, OUTPUT
from ctfw.service.record import Annotation, Blocks
from ctfw.service.record_file import RecordFile
from ctfw.tools.capture import CaptureError, Frame, read
from ctfw.tools.replay import Replay, Result

SECOND = 1_000_000_000
T = 1_700_000_000 * SECOND
RAW, ETHERNET = 101, 1

RULES = """
version: 1
policy: {input: drop, forward: drop, output: accept}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: garbage, state: INVALID, verdict: drop}
  - {name: web, chain: forward, in: lan0, out: wan0, proto: tcp, dport: 80, state: NEW, verdict: accept}
  - {name: dns, chain: forward, proto: udp, dport: 53, state: NEW, verdict: accept}
  - {name: ssh, chain: input, proto: tcp, dport: 22, state: NEW, verdict: accept}
"""

CLIENT, SERVER = "192.168.1.7", "203.0.113.9"


def tcp(flags: str, seq: int = 0, ack: int = 0, back: bool = False, dport: int = 80, data: bytes = b"") -> bytes:
    src, dst, ports = (SERVER, CLIENT, (dport, 40000)) if back else (CLIENT, SERVER, (40000, dport))
    header = TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq, ack=ack, window=1000)
    return bytes(IP(src=src, dst=dst) / header / Raw(data))


def udp(back: bool = False, dport: int = 53) -> bytes:
    src, dst, ports = (SERVER, CLIENT, (dport, 5000)) if back else (CLIENT, SERVER, (5000, dport))
    return bytes(IP(src=src, dst=dst) / UDP(sport=ports[0], dport=ports[1]) / b"query")


def wrong_checksum(packet: bytes) -> bytes:
    return packet[:-1] + bytes([packet[-1] ^ 1])


def frame(data: bytes, at: float = 0, comment: str = "", link: int = RAW) -> Frame:
    return Frame(T + int(at * SECOND), link, data, len(data), (comment,) if comment else ())


def loaded(rules: str = RULES) -> config.Config:
    return config.load("rules.yaml", rules)


def replayed(
    frames: Sequence[Frame],
    rules: str = RULES,
    hook: int = FORWARD,
    indev: str = "",
    outdev: str = "",
    checksum: str = VERIFIED,
) -> tuple[list[Result], Replay]:
    replay = Replay(loaded(rules), Annotation(hook, indev, outdev, 0, checksum))
    return list(replay.judge(frames)), replay


def words(results: Sequence[Result]) -> list[str]:
    """The judgement of each packet in short."""
    return [" ".join(filter(None, (r.state, r.verdict, r.rule, r.reason))) for r in results]


def pcap(frames: Sequence[Frame], link: int = RAW) -> bytes:
    out = struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, link)
    for f in frames:
        assert f.time is not None
        out += struct.pack("<IIII", f.time // SECOND, f.time % SECOND, len(f.data), f.length) + f.data
    return out


HANDSHAKE = [
    frame(tcp("S", 100), 0),
    frame(tcp("SA", 500, 101, back=True), 0.01),
    frame(tcp("A", 101, 501), 0.02),
]


# What is judged


def test_a_conversation_is_judged_as_it_goes_by() -> None:
    frames = [
        *HANDSHAKE,
        frame(tcp("PA", 101, 501, data=b"GET"), 0.03),
        frame(tcp("SF", 101, 501), 0.04),
        frame(tcp("S", 1, dport=81), 0.05),
    ]
    results, replay = replayed(frames, indev="lan0", outdev="wan0")
    assert words(results) == [
        "NEW accept web",
        "ESTABLISHED accept replies",
        "ESTABLISHED accept replies",
        "ESTABLISHED accept replies",
        "INVALID drop garbage tcp-flags",
        "NEW drop policy forward",
    ]
    assert [r.direction for r in results] == ["ORIGINAL", "REPLY", "ORIGINAL", "ORIGINAL", "", "ORIGINAL"]
    assert replay.summary.connections == 1


def test_options_say_where_packets_went_when_the_capture_does_not() -> None:
    syn = [frame(tcp("S", 100))]
    assert words(replayed(syn)[0]) == ["NEW drop policy forward"]
    assert words(replayed(syn, indev="lan0")[0]) == ["NEW drop policy forward"]
    assert words(replayed(syn, indev="lan0", outdev="wan0")[0]) == ["NEW accept web"]
    assert words(replayed([frame(tcp("S", 1, dport=22))], hook=INPUT)[0]) == ["NEW accept ssh"]
    assert words(replayed(syn, hook=OUTPUT)[0]) == ["NEW accept policy output"]


def test_an_annotation_goes_before_the_options() -> None:
    comment = "ctfw chain=forward in=lan0 out=wan0 mark=0x0 checksum=verified"
    assert words(replayed([frame(tcp("S", 100), comment=comment)], hook=INPUT, indev="x")[0]) == ["NEW accept web"]


def test_a_broken_annotation_is_counted_and_the_options_hold() -> None:
    frames = [frame(udp(), comment="ctfw chain=backward"), frame(udp(back=True), comment="somebody else's")]
    results, replay = replayed(frames)
    assert words(results) == ["NEW accept dns", "ESTABLISHED accept replies"]
    assert replay.summary.annotations_ignored == 1


def test_checksums_are_verified_when_asked() -> None:
    bad = [frame(wrong_checksum(udp()))]
    assert words(replayed(bad)[0]) == ["NEW accept dns"]
    assert words(replayed(bad, checksum=UNVERIFIED)[0]) == ["INVALID drop garbage checksum"]


@pytest.mark.parametrize(
    ("checksum", "expected"),
    [
        (VERIFIED, "NEW accept dns"),
        (PARTIAL, "NEW accept dns"),
        (UNVERIFIED, "INVALID drop garbage checksum"),
    ],
)
def test_in_a_recording_checksums_are_verified_where_the_daemon_verified_them(checksum: str, expected: str) -> None:
    bad = [frame(wrong_checksum(udp()), comment=f"ctfw chain=forward mark=0x0 checksum={checksum}")]
    for asked in (VERIFIED, UNVERIFIED):
        assert words(replayed(bad, checksum=asked)[0]) == [expected]


def test_a_cut_packet_is_never_called_invalid_for_its_checksum() -> None:
    data = udp()
    cut = Frame(T, RAW, data[:-2], len(data), ("ctfw chain=forward mark=0x0 checksum=unverified",))
    results, replay = replayed([cut], checksum=UNVERIFIED)
    assert words(results) == ["NEW accept dns"]
    assert replay.summary.cut == 1


def test_frames_without_ip_are_skipped_and_keep_their_numbers() -> None:
    frames = [
        frame(bytes(Ether() / ARP()), link=ETHERNET),
        frame(bytes(Ether() / IP(udp())), link=ETHERNET),
        frame(b"short", link=ETHERNET),
        frame(bytes(Ether() / IP(udp(back=True))), link=ETHERNET),
    ]
    results, replay = replayed(frames)
    assert [r.number for r in results] == [2, 4]
    assert (replay.summary.packets, replay.summary.not_ip) == (2, 2)


def test_an_unknown_link_type_is_an_error_after_what_came_before() -> None:
    replay = Replay(loaded(), Annotation(FORWARD, "", "", 0, VERIFIED))
    results = replay.judge([frame(udp()), frame(b"", link=127)])
    assert next(results).rule == "dns"
    with pytest.raises(CaptureError, match="link type 127"):
        next(results)
    assert replay.summary.connections == 1


@given(st.lists(st.tuples(st.binary(max_size=80), st.integers(0, 60 * SECOND), st.integers(0, 100)), max_size=8))
def test_any_bytes_get_a_verdict(packets: list[tuple[bytes, int, int]]) -> None:
    for start in (b"", udp()[:28], tcp("S")[:20]):
        frames = [Frame(T + at, RAW, start + data, len(start + data) + missing) for data, at, missing in packets]
        results, _ = replayed(frames, checksum=UNVERIFIED)
        assert [r.verdict in ("accept", "drop") for r in results] == [True] * len(packets)


# The clock


def test_connections_expire_by_the_time_of_the_capture() -> None:
    for gap, expected in ((29.9, "ESTABLISHED accept replies"), (30.1, "NEW drop policy forward")):
        results, _ = replayed([frame(udp()), frame(udp(back=True), gap)])
        assert words(results)[1] == expected


def test_expired_connections_are_swept_as_time_passes() -> None:
    many = [frame(bytes(IP(src=f"10.0.{n // 250}.{n % 250}") / UDP(dport=53)), n / 1000) for n in range(500)]
    _, replay = replayed(many)
    assert replay.summary.connections == 500
    # Nobody meets the expired ones: only the sweep can have freed them.
    _, replay = replayed([*many, frame(udp(), 60)])
    assert replay.summary.connections == 1
    # At the end only the living count, although the rate of the sweep has not brought it round to all of the others.
    _, replay = replayed([*many[:50], frame(udp(), 30.0), frame(udp(), 30.08)])
    assert replay.summary.connections == 1
    # With room for 100 the table is full of the expired if they are not swept, and early drop has to help.
    rules = RULES + "conntrack: {max: 100}\n"
    waves = [
        frame(bytes(IP(src=f"10.{wave}.0.{n}") / UDP(dport=53)), wave * 40 + n / 1000)
        for wave in range(4)
        for n in range(100)
    ]
    _, replay = replayed(waves, rules)
    assert replay.summary.connections == 100
    assert replay._tracker.stats.early_drop == 0


def test_the_clock_stands_still_for_a_frame_that_is_older() -> None:
    results, replay = replayed([frame(udp(), 100), frame(udp(back=True), 10), frame(udp(), 129.9)])
    assert words(results) == ["NEW accept dns", "ESTABLISHED accept replies", "ESTABLISHED accept replies"]
    assert [r.time for r in results] == [T + 100 * SECOND, T + 10 * SECOND, T + 129 * SECOND + 9 * SECOND // 10]
    assert replay.summary.backwards == 1


def test_frames_without_a_time_are_judged_at_the_time_reached() -> None:
    results, replay = replayed([frame(udp(), 1), Frame(None, RAW, udp(back=True), 33)])
    assert words(results) == ["NEW accept dns", "ESTABLISHED accept replies"]
    assert results[1].time == T + SECOND
    assert replay.summary.timeless == 1


# A recording of the daemon


def test_a_recording_is_judged_as_the_daemon_judged_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    recording, blocks = RecordFile(str(path)), Blocks()
    packets = [
        (tcp("S", 100), FORWARD, "lan0", "wan0", "verified"),
        (tcp("S", 100), FORWARD, "wan0", "lan0", "verified"),
        (tcp("SA", 500, 101, back=True), FORWARD, "wan0", "lan0", "unverified"),
        (wrong_checksum(udp()), FORWARD, "lan0", "wan0", "unverified"),
        (wrong_checksum(udp()), FORWARD, "lan0", "wan0", "partial"),
        (tcp("S", 1, dport=22), INPUT, "odd name=%", "", "verified"),
    ]
    for number, (data, hook, indev, outdev, checksum) in enumerate(packets):
        recording.write(blocks.packet(data, len(data), T + number, hook, indev, outdev, 0, checksum))
    recording.close(T)
    results, _ = replayed(list(read(io.BytesIO(path.read_bytes()))))
    assert words(results) == [
        "NEW accept web",
        "NEW drop policy forward",
        "ESTABLISHED accept replies",
        "INVALID drop garbage checksum",
        "NEW accept dns",
        "NEW accept ssh",
    ]
    assert [r.time for r in results] == [T + n for n in range(6)]


# The command


@pytest.mark.parametrize("against", [False, True])
def test_what_the_capture_misses_is_said(against: bool, files: Files) -> None:
    recording, data = RecordFile(str(files.folder / "a.pcapng")), udp()
    recording.write(Blocks().packet(data, len(data), T, FORWARD, "lan0", "wan0", 0, "verified", missing=3))
    recording.close(T, 4)
    options = ["--against", str(files.rules)] if against else []
    code, out, _ = files.replay(recording.path, *options)
    note = "missing in the capture, as it says itself; what follows may be judged otherwise: 4"
    assert (code, f"             {note}" in out.splitlines()) == (0, True)


class Files:
    """A rule file and captures, and the command run on them."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.rules = folder / "rules.yaml"
        self.rules.write_text(RULES)

    def write(self, content: bytes, name: str = "a.pcap") -> str:
        (self.folder / name).write_bytes(content)
        return str(self.folder / name)

    def replay(self, *arguments: str) -> tuple[int, str, str]:
        code = main(["replay", "--rules", str(self.rules), *arguments])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    return Files(tmp_path, capsys)


MIXED = [
    frame(bytes(Ether() / IP(packet)), at, link=ETHERNET)
    for at, packet in [
        (0, tcp("S", 100)),
        (0.01, tcp("SA", 500, 101, back=True)),
        (0.02, tcp("SF", 101, 501)),
        (0.015, udp()),
        (1.5, bytes(IP(src=CLIENT, dst=SERVER) / ICMP(id=7, seq=1))),
    ]
]
MIXED.insert(2, frame(bytes(Ether() / ARP()), 0.011, link=ETHERNET))


def golden(files: Files, text: str) -> str:
    """Golden text has one blank where the output has blanks, and RULES for the rule file's name."""
    return re.sub(" +", " ", text.replace(str(files.rules), "RULES"))


TABLE = """\
 1 2023-11-14T22:13:20.000000000Z tcp 192.168.1.7:40000 > 203.0.113.9:80 syn seq=100 win=1000 len=0 \
NEW ORIGINAL accept web
 2 2023-11-14T22:13:20.010000000Z tcp 203.0.113.9:80 > 192.168.1.7:40000 syn ack seq=500 ack=101 win=1000 len=0 \
ESTABLISHED REPLY accept replies
 4 2023-11-14T22:13:20.020000000Z tcp 192.168.1.7:40000 > 203.0.113.9:80 syn fin seq=101 win=1000 len=0 \
INVALID - drop garbage tcp-flags
 5 2023-11-14T22:13:20.015000000Z udp 192.168.1.7:5000 > 203.0.113.9:53 len=5 NEW ORIGINAL accept dns
 6 2023-11-14T22:13:21.500000000Z icmp 192.168.1.7 > 203.0.113.9 type=8 code=0 id=7 NEW ORIGINAL drop policy forward

packets 5
 frames without IP, skipped: 1
 older than a frame before, clock held: 1
verdicts accept 3, drop 2
states NEW 3, ESTABLISHED 1, INVALID 1
reasons tcp-flags 1
rules
 1 web (RULES:7)
 1 replies (RULES:5)
 1 garbage (RULES:6)
 1 dns (RULES:8)
 1 policy forward
connections 2 at the end, of at most 65536
"""


def test_table(files: Files) -> None:
    code, out, err = files.replay(files.write(pcap(MIXED, ETHERNET)), "--in", "lan0", "--out", "wan0")
    assert (code, err) == (0, "")
    assert golden(files, out) == TABLE


def test_jsonl(files: Files) -> None:
    path = files.write(pcap(MIXED, ETHERNET))
    code, out, err = files.replay(path, "--in", "lan0", "--out", "wan0", "-o", "jsonl")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [list(line) for line in lines] == [
        ["n", "time", "packet", "state", "direction", "verdict", "rule", "reason"]
    ] * 5
    assert lines[0] == {
        "n": 1,
        "time": "2023-11-14T22:13:20.000000000Z",
        "packet": "tcp 192.168.1.7:40000 > 203.0.113.9:80 syn seq=100 win=1000 len=0",
        "state": "NEW",
        "direction": "ORIGINAL",
        "verdict": "accept",
        "rule": "web",
        "reason": None,
    }
    garbage = {"n": 4, "state": "INVALID", "direction": None, "verdict": "drop", "reason": "tcp-flags"}
    assert lines[2].items() >= garbage.items()
    # The same sums as under the table, on the other stream.
    assert err == "\n" + files.replay(path, "--in", "lan0", "--out", "wan0")[1].partition("\n\n")[2]


def test_packet_that_connection_tracking_drops_has_no_state_and_no_rule(files: Files) -> None:
    files.rules.write_text(RULES + "conntrack: {max: 1}\n")
    pair = [frame(udp()), frame(udp(back=True)), frame(udp(), 0.1)]
    stream = [*pair, frame(udp(back=True), 5), frame(udp(dport=54), 6)]
    path = files.write(pcap(stream))
    _, out, _ = files.replay(path, "-o", "jsonl")
    dropped = {"state": None, "direction": None, "verdict": "drop", "rule": None, "reason": "table-full"}
    assert json.loads(out.splitlines()[-1]).items() >= dropped.items()
    assert "1 no rule: connection tracking itself" in golden(files, files.replay(path)[1])


def test_checksum_option(files: Files) -> None:
    path = files.write(pcap([frame(wrong_checksum(udp()))]))
    assert "dns" in files.replay(path)[1].splitlines()[0]
    assert files.replay(path, "--checksum")[1].splitlines()[0].endswith("checksum")


def test_cut_off_file_is_an_error_after_what_could_be_read(files: Files) -> None:
    content = pcap(HANDSHAKE)
    ends = [24 + sum(16 + len(f.data) for f in HANDSHAKE[:n]) for n in range(4)]
    for size in range(len(content) + 1):
        path = files.write(content[:size])
        code, out, err = files.replay(path, "-o", "jsonl")
        whole = sum(size >= end for end in ends) - 1
        assert len(out.splitlines()) == max(whole, 0)
        assert code == (0 if size in ends else 1)
        assert (f"ctfw: replay: {path}: " in err) == (code == 1)
        assert f"packets      {max(whole, 0)}\n" in err


def test_gzipped_capture(files: Files) -> None:
    code, out, _ = files.replay(files.write(gzip.compress(pcap(HANDSHAKE)), "a.pcap.gz"), "-o", "jsonl")
    assert (code, len(out.splitlines())) == (0, 3)


def test_capture_from_standard_input_and_reader_that_leaves(files: Files) -> None:
    content = pcap(HANDSHAKE * 5000)
    command_line = [sys.executable, "-m", "ctfw", "replay", "-", "--rules", str(files.rules)]
    whole = subprocess.run(command_line, input=content, capture_output=True, check=True)
    assert whole.stdout.count(b"\n") > 15000
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as early:
        assert early.stdin is not None and early.stdout is not None and early.stderr is not None
        early.stdout.close()
        early.stdin.write(content[:1000])
        early.stdin.close()
        assert early.stderr.read() == b""


def test_foreign_missing_and_empty_files_are_clear_errors(files: Files) -> None:
    foreign = files.write(b"#!/bin/sh\n", "foreign")
    code, _, err = files.replay(foreign)
    assert code == 1
    assert f"ctfw: replay: {foreign}: not a pcap or pcapng file: it starts with 23 21 2f 62\n" in err
    missing = str(files.folder / "missing")
    assert files.replay(missing) == (1, "", f"ctfw: replay: {missing}: No such file or directory\n")
    folder = str(files.folder)
    assert files.replay(folder) == (1, "", f"ctfw: replay: {folder}: Is a directory\n")


def test_bad_rules_are_an_error_before_anything_is_judged(files: Files) -> None:
    path = files.write(pcap(HANDSHAKE))
    files.rules.write_text(RULES + "surprise: 1\n")
    code, out, err = files.replay(path)
    assert (code, out) == (1, "")
    assert f"{files.rules}:" in err and "surprise" in err
    files.rules.unlink()
    code, out, err = files.replay(path)
    assert (code, out) == (1, "")
    assert "no such file or directory" in err


def test_chain_that_does_not_exist_is_a_usage_error(files: Files) -> None:
    with pytest.raises(SystemExit) as exit_:
        files.replay(files.write(pcap([])), "--chain", "sideways")
    assert exit_.value.code == 2


def test_progress_is_shown_on_a_terminal_that_the_lines_do_not_go_to(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PROGRESS_INTERVAL", 0.0)
    monkeypatch.setattr(command, "PROGRESS_FRAMES", 1)
    path = files.write(pcap(HANDSHAKE))
    controller, terminal = pty.openpty()
    try:
        with open(terminal, "w", closefd=False) as stderr:
            monkeypatch.setattr("sys.stderr", stderr)
            assert files.replay(path)[0] == 0
        shown = ""
        while "2 frames" not in shown or not shown.endswith("\r\x1b[K"):  # a terminal hands over piece by piece
            shown += os.read(controller, 4096).decode()
        assert "replay: 100 % 2 frames" in shown
        assert shown.endswith("\r\x1b[K")
        # Lines and progress on one terminal would tear each other up.
        with open(terminal, "w", closefd=False) as both:
            monkeypatch.setattr("sys.stderr", both)
            monkeypatch.setattr("sys.stdout", both)
            assert files.replay(path)[0] == 0
        shown = ""
        while "policy forward" not in shown:
            shown += os.read(controller, 1 << 16).decode()
        assert "\x1b" not in shown
    finally:
        os.close(controller)
        os.close(terminal)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        ((1 << 32) * SECOND - 1, "2106-02-07T06:28:15.999999999Z"),
    ],
)
def test_times_are_rfc3339_to_the_nanosecond(nanoseconds: int, text: str) -> None:
    assert rfc3339(nanoseconds) == text
