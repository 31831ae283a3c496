"""The log: a packet in iptables' words, and nobody waits for a reader that does not read."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from daemon.fakekernel import BAD, GOOD, engine, udp

from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.ruleset.limit import Limit
from ctfw.ruleset.rule import Log
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.verdict import DROP
from ctfw.service.alarms import PAUSE, Alarms
from ctfw.service.journal import MAX_WAITING, Journal
from ctfw.service.kinds import RELOADED, SECOND, STARTED, SUPPRESSED, TABLE_FULL, Kind
from ctfw.service.notify import Notifier
from ctfw.service.packet_log import PacketLog, packet_fields, packet_text


def text(judge: Engine, data: bytes, mark: int = 0) -> str:
    judgement = judge.handle(data, len(data), FORWARD, "lan0", "wan0", mark, False, 1)
    return packet_text(judgement, "lan0", "wan0", mark)


def test_an_accepted_datagram() -> None:
    assert text(engine(), udp(GOOD)) == (
        'rule="good" state=NEW verdict=accept IN=lan0 OUT=wan0 SRC=10.0.0.1 DST=10.0.0.2 PROTO=UDP SPT=1 DPT=53 LEN=28'
    )


def test_a_dropped_one_with_a_mark() -> None:
    assert text(engine(), udp(BAD), 0x10) == (
        'rule="policy forward" state=NEW verdict=drop IN=lan0 OUT=wan0 SRC=10.0.0.1 DST=10.0.0.2'
        " PROTO=UDP SPT=1 DPT=666 LEN=28 MARK=0x10"
    )


def test_a_rule_cannot_break_the_line() -> None:
    judge = engine()
    judge.ruleset.rules[0].name = 'a "rule"\nctfw: forged'
    judge.ruleset.rules[0].log = Log(None, "look\x1b[2J")
    line = text(judge, udp(GOOD))
    assert line.startswith('look?[2J rule="a \\"rule\\"\\nctfw: forged" state=NEW')
    assert line.isprintable()


@pytest.mark.parametrize("data", [b"", b"\x45", b"\x00" * 40, udp(GOOD)[:20], udp(GOOD)[:27]])
def test_what_cannot_be_read_is_logged_all_the_same(data: bytes) -> None:
    judge = engine()
    assert "state=INVALID reason=" in text(judge, data)
    assert (
        packet_fields(judge.handle(data, len(data), FORWARD, "", "", 0, False, 1), "", "", 0)["CTFW_STATE"] == "INVALID"
    )


def test_the_fields_of_an_entry() -> None:
    judgement = engine().handle(udp(GOOD), 28, FORWARD, "lan0", "wan0", 0, False, 1)
    assert packet_fields(judgement, "lan0", "wan0", 0x10) == {
        "CTFW_VERDICT": "accept",
        "CTFW_LEN": "28",
        "CTFW_IN": "lan0",
        "CTFW_OUT": "wan0",
        "CTFW_MARK": "0x10",
        "CTFW_RULE": "good",
        "CTFW_STATE": "NEW",
        "CTFW_SRC": "10.0.0.1",
        "CTFW_DST": "10.0.0.2",
        "CTFW_PROTO": "UDP",
        "CTFW_SPT": "1",
        "CTFW_DPT": "53",
    }


def test_a_reader_that_does_not_read_costs_lines_and_no_time() -> None:
    lines = MAX_WAITING + 3000  # of 100 bytes: far more than fits into a pipe and the queue
    code = f"""if True:
        from ctfw.service.journal import Journal
        log = Journal("stderr")
        for number in range({lines}):
            log.log(f"{{number:090}}")
        print(log.lost)
        log.close(0.1)
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lost = int(process.stdout.readline())  # and nobody reads the other pipe meanwhile
        process.wait(20)
        assert 0 < lost <= 3000


def test_the_journal_is_used_only_where_standard_error_leads_there() -> None:
    assert Journal("auto", {}).sink == "stderr"
    assert Journal("auto", {"JOURNAL_STREAM": "1:2"}).sink == "stderr"
    there = os.fstat(2)
    assert Journal("auto", {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}).sink == "journal"


def test_without_systemd_python_standard_error_is_used_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemd", None)
    there = os.fstat(2)
    assert Journal("auto", {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}).sink == "stderr"
    assert Journal("journal", {}).sink == "stderr"


def test_without_systemd_nothing_is_notified() -> None:
    silent = Notifier({})
    silent.ready("x")
    assert silent.watchdog_ns == 0


def test_a_watchdog_for_somebody_else_is_not_ours() -> None:
    environment = {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Notifier(environment).watchdog_ns == 0
    ours = Notifier(environment | {"WATCHDOG_PID": str(os.getpid())})
    assert ours.watchdog_ns == 1_000_000_000
    ours.alive()  # nobody there: no error


@pytest.mark.parametrize("said", ["READY=1", "FDSTORE=1", "FDSTOREREMOVE=1"])
def test_what_nobody_repeats_waits_for_a_systemd_that_is_behind(tmp_path: Path, said: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, open(os.devnull) as file:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(1000):  # more than it takes: those are lost
            notifier.status("busy")
        heard: list[str] = []

        def read() -> None:
            while not heard or not heard[-1].startswith(said):
                heard.append(systemd.recv(4096).decode())

        reading = threading.Timer(0.05, read)
        reading.start()
        if said == "READY=1":
            notifier.ready("")
        elif said == "FDSTORE=1":
            notifier.keep("queue-0", file.fileno())
        else:
            notifier.drop("queue-0")
        reading.join()
        assert heard[-1].startswith(said)


def test_a_systemd_that_stands_still_is_waited_for_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(1000):  # a second each would be more than a test is given
            notifier.drop("queue-0")
        notifier.ready("")


# --- how often ------------------------------------------------------------------------------------


class Told(Journal):
    """A log that keeps its lines instead of writing them, on a clock of the test's."""

    def __init__(self) -> None:
        self.now = 0
        super().__init__("stderr", {}, clock=lambda: self.now)
        self.entries: list[tuple[str, dict[str, str]]] = []

    def _put(self, text: str, priority: int, fields: Mapping[str, str]) -> None:
        self.entries.append((text, dict(fields)))

    @property
    def lines(self) -> list[str]:
        return [text for text, _ in self.entries]


SOME = Kind("some-event", "0" * 32, 10 * SECOND, 2)


def test_a_kind_gives_the_entry_its_identity() -> None:
    log = Told()
    log.log("started", kind=STARTED, fields={"CTFW_X": "1"})
    assert log.entries == [("started", {"MESSAGE_ID": STARTED.id, "CTFW_EVENT": "started", "CTFW_X": "1"})]


def test_beyond_its_limit_a_kind_is_held_back_and_told_with_the_next_line() -> None:
    log = Told()
    for number in range(5):
        log.log(f"line {number}", kind=SOME)
    assert log.lines == ["line 0", "line 1"]
    log.now = 10 * SECOND
    log.log("line 5", kind=SOME)
    assert log.lines[2:] == ["3 lines suppressed: event=some-event", "line 5"]
    assert log.entries[2][1]["CTFW_SUPPRESSED"] == "3" == str(log.suppressed)


def test_what_was_held_back_is_told_when_nothing_follows() -> None:
    log = Told()
    for number in range(3):
        log.log(f"line {number}", kind=SOME)
    log.tick(9 * SECOND)
    assert len(log.lines) == 2
    log.tick(10 * SECOND)
    log.tick(11 * SECOND)
    assert log.lines[2:] == ["1 lines suppressed: event=some-event"]


def test_what_was_held_back_is_told_at_the_end() -> None:
    log = Told()
    for number in range(3):
        log.log(f"line {number}", kind=SOME)
    log.close()
    assert log.lines[2:] == ["1 lines suppressed: event=some-event"]


def test_a_kind_without_a_limit_is_never_held_back() -> None:
    log = Told()
    for _ in range(100):
        log.log("reloaded", kind=RELOADED)
    assert len(log.lines) == 100


def logging_engine(*, shadow: bool = False) -> Engine:
    """Logs UDP to GOOD once a second; as a shadow, so that another rule decides."""
    judge = engine()
    rule = judge.ruleset.rules[0]
    rule.log = Log(Limit(SECOND, 1))
    rule.shadow = shadow
    return Engine(judge.tracker, Ruleset([rule], {FORWARD: DROP}))


@pytest.mark.parametrize("shadow", [False, True])
def test_a_flood_on_a_rule_that_logs_costs_lines_by_the_clock(shadow: bool) -> None:
    log, judge = Told(), logging_engine(shadow=shadow)
    packets = PacketLog(judge, log)

    def packet(now: int) -> None:
        judgement = judge.handle(udp(GOOD), 28, FORWARD, "lan0", "wan0", 0, False, now)
        if judgement.log or judgement.logs:
            packets.write(judgement, "lan0", "wan0", 0, now)

    for number in range(1000):
        packet(SECOND + number)
    assert len(log.lines) == 1
    packets.tick(SECOND + 1000)
    assert len(log.lines) == 1
    packet(2 * SECOND)
    assert log.lines[1] == '999 lines suppressed: rule="good"'
    assert log.entries[1][1]["MESSAGE_ID"] == SUPPRESSED.id
    assert (len(log.lines), packets.lines, packets.suppressed) == (3, 2, 999)
    packet(2 * SECOND + 1)
    packets.tick(3 * SECOND)
    assert log.lines[3:] == ['1 lines suppressed: rule="good"']


def test_an_alarm_says_how_much_and_comes_by_the_clock() -> None:
    log, count = Told(), [5]
    alarms = Alarms(log)
    alarms.watch(TABLE_FULL, lambda: count[0], lambda grown: f"full: dropped={grown}")
    alarms.tick(0)
    assert log.lines == []  # it was so before we came
    count[0] += 1
    alarms.tick(1)
    count[0] += 100
    alarms.tick(PAUSE)
    alarms.tick(PAUSE + 1)
    assert log.lines == ["full: dropped=1", "full: dropped=100"]
    assert log.entries[1][1]["CTFW_COUNT"] == "100"
