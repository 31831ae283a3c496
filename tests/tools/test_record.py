"""Recordings: what is written can be read again, and trouble with the file stays out of the packet loop."""

from __future__ import annotations

import io
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service import record
from ctfw.service.record import CHECKSUMS, Annotation, Recorder, annotation, parse_annotation
from ctfw.tools.capture import Frame, read

T = 1_700_000_000_123_456_789
SECOND = 1_000_000_000
PACKET = bytes.fromhex("4500001c00004000401100000a0000010a000002003500350008000a")


def frames(path: Path) -> list[Frame]:
    return list(read(io.BytesIO(path.read_bytes())))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A full disk, as far as this process can tell: writing beyond `size` fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_packets_are_read_again_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    recorder = Recorder(str(path))
    recorder.write(PACKET, 28, T, FORWARD, "lan0", "wan0", 0, "verified")
    recorder.write(PACKET[:21], 28, T + 1, INPUT, "lan0", "", 0x10, "unverified")
    recorder.write(b"", 0, T + 2, OUTPUT, "", "wan0", 0xFFFFFFFF, "partial")
    recorder.close()
    recorder.close()
    assert frames(path) == [
        Frame(T, 101, PACKET, 28, ("ctfw chain=forward in=lan0 out=wan0 mark=0x0 checksum=verified",)),
        Frame(T + 1, 101, PACKET[:21], 28, ("ctfw chain=input in=lan0 mark=0x10 checksum=unverified",)),
        Frame(T + 2, 101, b"", 0, ("ctfw chain=output out=wan0 mark=0xffffffff checksum=partial",)),
    ]
    assert (recorder.packets, recorder.lost, recorder.errors) == (3, 0, 0)


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
    Recorder(str(path)).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_file_that_cannot_be_opened_or_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Recorder(str(tmp_path / "missing" / "a.pcapng"))
    with pytest.raises(OSError, match="No space left"):
        Recorder("/dev/full")


def test_full_disk_stops_the_recording_with_one_line_and_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    lines: list[str] = []
    recorder = Recorder(str(path), lines.append)
    with file_size_limit(1000):
        for number in range(100):
            recorder.write(PACKET, 28, T + number * 2 * SECOND, FORWARD, "lan0", "wan0", 0, "verified")
    recorder.flush()
    recorder.close()
    assert (recorder.errors, recorder.packets + recorder.lost) == (1, 100)
    assert len(lines) == 1 and "File too large" in lines[0]
    assert recorder.packets > 3
    assert [f.time for f in frames(path)] == [T + n * 2 * SECOND for n in range(recorder.packets)]


def test_packets_in_the_buffer_of_a_failing_write_are_counted_as_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    recorder = Recorder(str(path), lambda line: None)
    recorder.write(PACKET, 28, T, FORWARD, "lan0", "wan0", 0, "verified")
    with file_size_limit(path.stat().st_size + 300):
        for _ in range(10):
            recorder.write(PACKET, 28, T, FORWARD, "lan0", "wan0", 0, "verified")
        recorder.close()
    assert (recorder.errors, recorder.packets, recorder.lost) == (1, 1, 10)
    assert len(frames(path)) == 1


def test_reader_of_a_pipe_that_goes_away_stops_the_recording() -> None:
    reader, writer = os.pipe()
    lines: list[str] = []
    try:
        recorder = Recorder(f"/dev/fd/{writer}", lines.append)
        os.close(reader)
        recorder.write(PACKET, 28, T, FORWARD, "lan0", "wan0", 0, "verified")
        recorder.write(PACKET, 28, T, FORWARD, "lan0", "wan0", 0, "verified")
        recorder.close()
    finally:
        os.close(writer)
    assert (recorder.errors, recorder.packets, recorder.lost) == (1, 0, 2)
    assert len(lines) == 1 and "Broken pipe" in lines[0]


def test_recording_stops_at_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    lines: list[str] = []
    recorder = Recorder(str(path), lines.append, limit=1000)
    for _ in range(50):
        recorder.write(PACKET, 28, T, FORWARD, "lan0", "wan0", 0, "verified")
    recorder.close()
    assert len(lines) == 1 and "limit of 1000 bytes" in lines[0]
    assert 800 < path.stat().st_size <= 1000
    assert len(frames(path)) == recorder.packets > 0
    assert (recorder.errors, recorder.packets + recorder.lost) == (0, 50)


def test_nothing_older_than_a_second_stays_in_the_buffer(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    recorder = Recorder(str(path))
    recorder.write(PACKET, 28, T, FORWARD, "lan0", "wan0", 0, "verified")
    recorder.write(PACKET, 28, T + SECOND - 1, FORWARD, "lan0", "wan0", 0, "verified")
    assert len(frames(path)) == 1
    recorder.write(PACKET, 28, T + SECOND, FORWARD, "lan0", "wan0", 0, "verified")
    assert len(frames(path)) == 3
    recorder.write(PACKET, 28, T + SECOND + 1, FORWARD, "lan0", "wan0", 0, "verified")
    recorder.flush()
    assert len(frames(path)) == 4
    recorder.close()


def test_comments_kept_ready_are_bounded(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "a.pcapng"))
    for mark in range(record.MAX_CACHED * 3):
        recorder.write(PACKET, 28, T, FORWARD, "lan0", "wan0", mark, "verified")
        assert len(recorder._comments) <= record.MAX_CACHED
    recorder.close()


def test_tcpdump_reads_a_recording(tmp_path: Path) -> None:
    tcpdump = shutil.which("tcpdump")
    if tcpdump is None:
        pytest.skip("tcpdump is not installed")
    path = tmp_path / "a.pcapng"
    recorder = Recorder(str(path))
    recorder.write(PACKET, 28, T, FORWARD, "lan0", "wan0", 0, "verified")
    recorder.write(PACKET[:27], 28, T, FORWARD, "lan0", "wan0", 0, "verified")
    recorder.close()
    command = [tcpdump, "-n", "-tt", "--nano", "-r", "-"]
    shown = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=True).stdout.decode()
    assert shown.count("1700000000.123456789 IP 10.0.0.1.53 > 10.0.0.2.53") == 2


def test_the_recorder_does_without_scapy() -> None:
    code = "import sys, ctfw.service.record; sys.exit('scapy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
