"""Recordings: what is written can be read again, whatever trouble there was with the file."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from daemon.full_disk import file_size_limit
from hypothesis import given
from hypothesis import strategies as st

from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service import record
from ctfw.service.record import CHECKSUMS, Annotation, Blocks, annotation, parse_annotation
from ctfw.service.record_file import RecordFile
from ctfw.tools.capture import Frame, Gaps, read

T = 1_700_000_000_123_456_789
PACKET = bytes.fromhex("4500001c00004000401100000a0000010a000002003500350008000a")


def frames(path: Path) -> list[Frame]:
    return list(read(io.BytesIO(path.read_bytes())))


def missing(path: Path) -> int:
    """What the file says that it misses."""
    gaps = Gaps()
    list(read(io.BytesIO(path.read_bytes()), gaps))
    return gaps.missing


def block(time: int = T, data: bytes = PACKET, missing: int = 0) -> bytes:
    return Blocks().packet(data, 28, time, FORWARD, "lan0", "wan0", 0, "verified", missing=missing)


def test_packets_are_read_again_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    file, blocks = RecordFile(str(path)), Blocks()
    file.write(blocks.packet(PACKET, 28, T, FORWARD, "lan0", "wan0", 0, "verified"))
    file.write(blocks.packet(PACKET[:21], 28, T + 1, INPUT, "lan0", "", 0x10, "unverified"))
    file.write(blocks.packet(b"", 0, T + 2, OUTPUT, "", "wan0", 0xFFFFFFFF, "partial", "a note", 7))
    file.close(T + 2)
    assert frames(path) == [
        Frame(T, 101, PACKET, 28, ("ctfw chain=forward in=lan0 out=wan0 mark=0x0 checksum=verified",)),
        Frame(T + 1, 101, PACKET[:21], 28, ("ctfw chain=input in=lan0 mark=0x10 checksum=unverified",)),
        Frame(T + 2, 101, b"", 0, ("ctfw chain=output out=wan0 mark=0xffffffff checksum=partial", "a note")),
    ]
    assert (file.packets, file.lost, file.error) == (3, 0, "")


@given(
    st.integers(0, len(HOOK_NAMES) - 1),
    st.text(max_size=20),
    st.text(max_size=20),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from(CHECKSUMS),
)
def test_annotation_and_its_reader_are_inverse(hook: int, indev: str, outdev: str, mark: int, checksum: str) -> None:
    comment = annotation(hook, indev, outdev, mark, checksum)
    assert comment.isascii() and comment.isprintable()
    assert parse_annotation(comment) == Annotation(hook, indev, outdev, mark, checksum)


@pytest.mark.parametrize("name", ["eth0.100", "br-lan@x", "a b=c", "%41", "out=", "wläñ", "\udcff", "\ud800"])
def test_odd_interface_names_come_back(name: str) -> None:
    annotated = parse_annotation(annotation(FORWARD, name, name, 0, "verified"))
    assert annotated is not None
    assert (annotated.indev, annotated.outdev) == (name, name)


def test_comments_of_others_are_not_ours() -> None:
    for comment in ("", "hello", "ctfwd chain=forward", " ctfw"):
        assert parse_annotation(comment) is None


@pytest.mark.parametrize(
    "comment",
    [
        "ctfw",
        "ctfw chain=forward",
        "ctfw chain=nowhere checksum=verified",
        "ctfw chain=forward checksum=perhaps",
        "ctfw chain=forward mark=zz checksum=verified",
        "ctfw chain=forward mark=0x100000000 checksum=verified",
        "ctfw chain=forward in=%ff checksum=verified",
        "ctfw chain=forward checksum=verified more=1",
        "ctfw chain=forward chain=input checksum=verified",
        "ctfw chain=forward checksum=verified ",
    ],
)
def test_broken_annotation_is_a_value_error(comment: str) -> None:
    with pytest.raises(ValueError):
        parse_annotation(comment)


@given(st.text())
def test_any_comment_is_read_or_refused(text: str) -> None:
    for comment in (text, f"ctfw {text}"):
        try:
            parse_annotation(comment)
        except ValueError:
            assert comment.startswith("ctfw")


def test_recording_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    RecordFile(str(path)).close(T)
    assert path.stat().st_mode & 0o777 == 0o600


def test_file_that_cannot_be_opened_or_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RecordFile(str(tmp_path / "missing" / "a.pcapng"))
    with pytest.raises(OSError, match="No space left"):
        RecordFile("/dev/full")


def test_full_disk_ends_the_recording_and_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    file = RecordFile(str(path))
    with file_size_limit(1000):
        for number in range(100):
            file.write(block(T + number))
    file.write(block())  # there is room again, and a hole before it that nobody would see
    assert "File too large" in file.error
    assert (file.packets > 3, file.packets + file.lost) == (True, 101)
    assert path.stat().st_size <= 1000
    file.close(T)
    assert [f.time for f in frames(path)] == [T + n for n in range(file.packets)]
    assert missing(path) == file.lost


def test_packets_of_a_failing_write_are_counted_as_lost_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    file = RecordFile(str(path))
    file.write(block())
    with file_size_limit(path.stat().st_size + 300):
        file.write(block() * 10, 10)
        file.close(T)
    assert (file.packets, file.lost, len(frames(path)), missing(path)) == (1, 10, 1, 10)


def test_disk_that_takes_nothing_at_the_end_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    file = RecordFile(str(path))
    file.write(block())
    with file_size_limit(path.stat().st_size + 10):
        file.close(T)
    assert (len(frames(path)), "File too large" in file.error) == (1, True)


def test_reader_of_a_pipe_that_goes_away_ends_the_recording() -> None:
    reader, writer = os.pipe()
    try:
        file = RecordFile(f"/dev/fd/{writer}")
        os.close(reader)
        file.write(block())
        file.write(block())
        file.close(T)
    finally:
        os.close(writer)
    assert (file.packets, file.lost) == (0, 2)
    assert "Broken pipe" in file.error


def test_recording_ends_at_its_limit_and_says_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    for limit in range(1000, 1000 + len(block()), 4):
        file = RecordFile(str(path), limit)
        for _ in range(50):
            file.write(block())
        file.close(T)
        assert file.error == f"the limit of {limit} bytes is reached"
        assert limit - len(block()) < path.stat().st_size <= limit
        assert (len(frames(path)), missing(path)) == (file.packets, file.lost)
        assert (file.packets > 0, file.packets + file.lost) == (True, 50)


def test_what_is_missing_is_said_where_it_is_and_at_the_end_and_summed_up_once(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    file = RecordFile(str(path))
    file.write(block() + block(missing=3) + block(missing=1 << 40), 3)
    assert missing(path) == 3 + (1 << 40)
    file.close(T, 3 + (1 << 40) + 5)
    assert missing(path) == 3 + (1 << 40) + 5


def test_comments_kept_ready_are_bounded() -> None:
    blocks = Blocks()
    for mark in range(record.MAX_CACHED * 3):
        blocks.packet(PACKET, 28, T, FORWARD, "lan0", "wan0", mark, "verified")
        assert len(blocks._comments) <= record.MAX_CACHED


def test_tcpdump_reads_a_recording(tmp_path: Path) -> None:
    tcpdump = shutil.which("tcpdump")
    if tcpdump is None:
        pytest.skip("tcpdump is not installed")
    path = tmp_path / "a.pcapng"
    file = RecordFile(str(path))
    file.write(block(missing=1) + block(data=PACKET[:27]), 2)
    file.close(T, 1)
    command = [tcpdump, "-n", "-tt", "--nano", "-r", "-"]
    shown = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=True).stdout.decode()
    assert shown.count("1700000000.123456789 IP 10.0.0.1.53 > 10.0.0.2.53") == 2


def test_the_recorder_does_without_scapy() -> None:
    code = "import sys, ctfw.service.recorder; sys.exit('scapy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
