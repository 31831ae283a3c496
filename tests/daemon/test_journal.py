"""The log: a packet in iptables' words, and nobody waits for a reader that does not read."""

import os
import subprocess
import sys

import pytest
from daemon.fakekernel import BAD, GOOD, engine, udp

from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.ruleset.rule import Log
from ctfw.service.journal import MAX_WAITING, Journal, packet_fields, packet_text
from ctfw.service.notify import Notifier


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
    assert packet_fields(judge.handle(data, len(data), FORWARD, "", "", 0, False, 1))["CTFW_STATE"] == "INVALID"


def test_the_fields_of_an_entry() -> None:
    judgement = engine().handle(udp(GOOD), 28, FORWARD, "lan0", "wan0", 0, False, 1)
    assert packet_fields(judgement) == {
        "CTFW_VERDICT": "accept",
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
