"""`ctfw run --record`: every packet is in the file, none waits for it, and what is missing is counted and said."""

import io
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path

import pytest
from daemon.full_disk import file_size_limit
from daemon.parts import Gateway
from daemon.running import OPEN, Datagrams, Running, command, wait_until

from ctfw.cli.status import screen
from ctfw.packet import FORWARD
from ctfw.service.alarms import Alarms
from ctfw.service.journal import Journal
from ctfw.service.metrics import lines
from ctfw.service.recorder import CHUNK, ROOM, Recorder, watch_record
from ctfw.service.spool import Spool
from ctfw.service.status import answer
from ctfw.tools.capture import Frame, Gaps, read
from lab.net import Network

SECOND = 1_000_000_000
OFFSET = 1_700_000_000 * SECOND
SMALL = bytes.fromhex("4500001c00004000401100000a0000010a000002003500350008000a")
LARGE = SMALL + bytes(60_000)
LONG = 60.0  # seconds that nothing here takes


def tell(recorder: Recorder, now: int, data: bytes = SMALL, mark: int = 0) -> None:
    recorder.write(data, len(data), now, FORWARD, "lan0", "wan0", mark, "verified")


def recorded(content: bytes) -> tuple[list[Frame], int]:
    """The packets, and how many the file says it misses."""
    gaps = Gaps()
    return list(read(io.BytesIO(content), gaps)), gaps.missing


class Pipe:
    """A recording into a pipe that nobody reads before `drained`."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._reader, writer = os.pipe()
        fcntl(writer, F_SETPIPE_SZ, 4096)
        self.recorder = Recorder(f"/dev/fd/{writer}", OFFSET, self.said.append)
        os.close(writer)
        self._content = b""
        self._reading = threading.Thread(target=self._read)

    def fill(self) -> None:
        """Until packets are left out."""
        now = 0
        while not self.recorder.slow:
            assert self.recorder.seen < 2 * ROOM // len(LARGE)
            tell(self.recorder, now, LARGE)
            now += SECOND // 1000

    def start_reading(self) -> None:
        self._reading.start()

    def drained(self) -> bytes:
        """All that came, once the recorder is closed."""
        self._reading.join()
        return self._content

    def give_up(self) -> None:
        os.close(self._reader)

    def _read(self) -> None:
        with open(self._reader, "rb") as file:
            self._content = file.read()


# The thread that writes


def test_what_is_being_written_takes_its_room_and_then_gives_it_back() -> None:
    begun, go_on, found = threading.Event(), threading.Event(), list[str]()

    def write(pieces: list[str]) -> None:
        begun.set()
        go_on.wait(LONG)
        found.extend(pieces)

    spool = Spool("test", 10, write, lambda: found.append("finished"))
    assert (spool.has_room(10), spool.has_room(11)) == (True, False)
    spool.put("one", 6)
    assert begun.wait(LONG)
    assert (spool.has_room(4), spool.has_room(5)) == (True, False)
    spool.put("two", 4)
    assert not spool.has_room()
    go_on.set()
    wait_until(lambda: spool.has_room(10))
    spool.put("three")
    spool.close(LONG)
    assert (found, spool.is_over()) == (["one", "two", "three", "finished"], True)


def test_nobody_waits_for_a_thread_that_does_not_end() -> None:
    go_on = threading.Event()

    def write(pieces: list[str]) -> None:
        go_on.wait(LONG)

    spool = Spool("test", 10, write, lambda: None)
    spool.put("one")
    spool.close(0)
    assert not spool.is_over()
    go_on.set()
    wait_until(spool.is_over)


def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)


def test_where_no_thread_is_to_be_had_it_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[str]()
    no_thread(monkeypatch)
    spool = Spool("test", 2, found.extend, lambda: found.append("finished"))
    for piece in ("one", "two"):
        assert spool.has_room()
        spool.put(piece)
    assert (spool.has_room(), spool.is_over(), found) == (False, False, [])
    monkeypatch.undo()
    wait_until(spool.has_room)
    spool.close(LONG)
    assert (found, spool.is_over()) == (["one", "two", "finished"], True)


def test_what_waits_for_a_thread_until_the_end_is_written_then(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[str]()
    no_thread(monkeypatch)
    spool = Spool("test", 2, found.extend, lambda: found.append("finished"))
    spool.put("one")
    monkeypatch.undo()
    spool.close(LONG)
    assert (found, spool.is_over()) == (["one", "finished"], True)


# The recorder


def test_all_that_waits_is_in_the_file_at_the_end(tmp_path: Path) -> None:
    path, said = tmp_path / "a.pcapng", list[str]()
    recorder = Recorder(str(path), OFFSET, said.append)
    count = 3 * CHUNK // len(SMALL)
    for number in range(count):
        tell(recorder, number, mark=number % 7)
    recorder.close(LONG)
    frames, missing = recorded(path.read_bytes())
    assert [frame.time for frame in frames] == [OFFSET + number for number in range(count)]
    assert {frame.comments for frame in frames} == {
        (f"ctfw chain=forward in=lan0 out=wan0 mark={mark:#x} checksum=verified",) for mark in range(7)
    }
    assert (missing, said) == (0, [])
    assert recorder.figures() == {"path": str(path), "written": count, "slow": 0, "ended": 0, "error": None}


def test_nothing_older_than_a_second_stays_in_the_buffer(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "a.pcapng"), OFFSET, pytest.fail)

    def is_written(packets: int) -> None:
        wait_until(lambda: recorder.figures()["written"] == packets)

    tell(recorder, 0)
    is_written(1)
    tell(recorder, SECOND - 1)
    tell(recorder, SECOND)
    is_written(3)
    tell(recorder, SECOND + 1)
    recorder.tick()
    is_written(4)
    recorder.close(LONG)


def test_packets_that_find_no_room_are_left_out_and_the_capture_says_where_and_how_many() -> None:
    pipe = Pipe()
    recorder = pipe.recorder
    pipe.fill()
    tell(recorder, SECOND)
    early = recorder.slow
    assert early >= 1
    assert (recorder.seen - recorder.slow) * len(LARGE) <= ROOM + len(LARGE) + 4096
    pipe.start_reading()
    wait_until(lambda: recorder._spool.has_room(ROOM // 2))
    tell(recorder, 2 * SECOND, mark=0x77)
    recorder.close(LONG)
    frames, missing = recorded(pipe.drained())
    assert (missing, len(frames) + missing) == (recorder.slow, recorder.seen)
    assert "mark=0x77" in frames[-1].comments[0]
    assert recorder.figures()["written"] == len(frames)
    (line,) = pipe.said
    assert f"record: incomplete: file={recorder.path} packets={len(frames)} missing={missing}" in line
    assert "waits" not in line


def test_the_packet_behind_a_hole_says_how_many_are_missing_before_it() -> None:
    """Also when the end of the file, which says it again, was never written."""
    pipe = Pipe()
    recorder = pipe.recorder
    pipe.fill()
    pipe.start_reading()
    wait_until(lambda: recorder._spool.has_room(ROOM // 2))
    tell(recorder, SECOND)
    recorder.close(LONG)
    content = pipe.drained()
    size = int.from_bytes(content[-4:], "little")  # the last block's: the statistics
    assert recorded(content[:-size]) == recorded(content)
    assert recorded(content)[1] == recorder.slow > 0


def test_the_end_of_the_daemon_does_not_wait_for_ever_and_says_what_is_missing() -> None:
    pipe = Pipe()
    pipe.fill()
    pipe.recorder.close(0)
    (line,) = pipe.said
    assert f" packets=0 missing={pipe.recorder.seen} reason=it still waits to be written" in line
    pipe.give_up()


def test_a_reader_that_goes_away_ends_the_recording_and_is_told_once() -> None:
    pipe = Pipe()
    recorder = pipe.recorder
    pipe.give_up()
    tell(recorder, 0)
    wait_until(lambda: recorder.figures()["error"])
    for number in range(5):
        tell(recorder, number * SECOND)
        recorder.tick()
    recorder.close(LONG)
    assert recorder.figures() | {"path": ""} == {
        "path": "",
        "written": 0,
        "slow": 0,
        "ended": 6,
        "error": "[Errno 32] Broken pipe",
    }
    stopped, incomplete = pipe.said
    assert re.fullmatch(
        r"record: stopped: file=\S+ packets=0 reason=\[Errno 32\] Broken pipe; restart the daemon to record again",
        stopped,
    )
    assert incomplete.endswith(" packets=0 missing=6")


def test_a_full_disk_leaves_a_file_that_can_be_read_and_says_what_it_misses(tmp_path: Path) -> None:
    path, said = tmp_path / "a.pcapng", list[str]()
    recorder = Recorder(str(path), OFFSET, said.append)
    tell(recorder, 0)
    wait_until(lambda: recorder.figures()["written"] == 1)
    with file_size_limit(path.stat().st_size + 100):
        for number in range(3):
            tell(recorder, number)
        recorder.tick()
        wait_until(lambda: recorder.figures()["error"])
    tell(recorder, 3)
    assert recorder.figures() | {"error": ""} == {"path": str(path), "written": 1, "slow": 0, "ended": 4, "error": ""}
    recorder.close(LONG)
    frames, missing = recorded(path.read_bytes())
    assert (len(frames), missing, len(said)) == (1, 4, 2)
    assert "File too large" in said[0] and said[1].endswith("packets=1 missing=4")


# What is said of it


def test_status_and_metrics_show_it_when_there_is_one(tmp_path: Path) -> None:
    gateway, pipe = Gateway(tmp_path), Pipe()
    try:
        assert not any(line.startswith("record:") for line in screen(answer(gateway.parts, 1)))
        gateway.parts = replace(gateway.parts, recorder=pipe.recorder)
        pipe.fill()
        row = f"record:      {pipe.recorder.path} written=0 slow={pipe.recorder.slow} ended=0"
        assert row in list(screen(answer(gateway.parts, 1)))
        text = "".join(lines(gateway.parts))
        for fate, count in (("written", 0), ("slow", pipe.recorder.slow), ("ended", 0)):
            assert f'ctfw_record_packets_total{{result="{fate}"}} {count}\n' in text
        pipe.give_up()
        wait_until(lambda: pipe.recorder.figures()["error"])
        assert any(line.endswith(" error=[Errno 32] Broken pipe") for line in screen(answer(gateway.parts, 1)))
    finally:
        pipe.recorder.close(LONG)
        gateway.close()


def test_the_log_tells_what_is_left_out_by_the_clock_and_not_by_the_packet(capfd: pytest.CaptureFixture[str]) -> None:
    pipe, journal = Pipe(), Journal("stderr", {})
    alarms = Alarms(journal)
    watch_record(alarms, pipe.recorder)
    pipe.fill()
    alarms.tick(100 * SECOND)
    for number in range(50):
        tell(pipe.recorder, number, LARGE)
        alarms.tick(100 * SECOND + number)
    alarms.tick(106 * SECOND)
    journal.close(LONG)
    said = re.findall(
        r"^ctfw: record: packets missing=(\d+) file=\S+: what it is written to is too slow$",
        capfd.readouterr().err,
        re.M,
    )
    assert said == ["1", "50"]
    pipe.give_up()
    pipe.recorder.close(LONG)


# The daemon


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


# So that a few datagrams are more than may wait.
SCARCE = ("self._recorder._spool._room = 8192",)


@pytest.mark.kernel
def test_no_packet_waits_for_a_pipe_that_nobody_reads(net: Network, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl(reader, F_SETPIPE_SZ, 4096)
    with Running(net, tmp_path, "--record", str(pipe), changed=SCARCE) as daemon, Datagrams(net, OPEN) as good:

        def is_said() -> bool:
            good.client.send(bytes(1000))
            return "record: packets missing=" in daemon.log()

        wait_until(is_said)
        wait_until(good.answered)
        record = json.loads(daemon.ctfw("status", "-o", "json").stdout)["record"]
        assert (record["path"], record["slow"] > 0, record["error"]) == (str(pipe), True, None)
        daemon.signal(signal.SIGTERM)  # the recorder's patience is a part of what `stop` would have
        assert daemon.process.wait(LONG) == 0
        assert f"record: incomplete: file={pipe} packets=" in daemon.log()
    os.close(reader)


@pytest.mark.kernel
def test_replay_says_what_the_capture_misses(net: Network, tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    with Running(net, tmp_path, "--record", str(file), changed=SCARCE) as daemon, Datagrams(net, OPEN) as good:

        def is_missing() -> bool:
            for _ in range(20):
                good.client.send(bytes(1000))
            return bool(json.loads(daemon.ctfw("status", "-o", "json").stdout)["record"]["slow"])

        wait_until(is_missing)
        received = daemon.stop()["received"]
        done = command("replay", str(file), "--rules", str(daemon.rules))
    (packets,) = re.findall(r"^packets +(\d+)$", done.stdout, re.M)
    (missing,) = re.findall(r"^ +missing in the capture, as it says itself.*: (\d+)$", done.stdout, re.M)
    assert (int(packets) + int(missing), int(missing) > 0) == (received, True)
