"""Tests of a rule file: what they say, what comes of them, and that a red file goes nowhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctfw import cli, config
from ctfw.config import ConfigError
from ctfw.tools import rule_tests

RULES = """version: 1
conntrack: {helpers: {ftp: 21}}
policy: {input: drop, forward: drop, output: accept}
sets:
  banned: {dynamic: on, ttl: 1h}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: garbage, state: INVALID, verdict: drop}
  - {name: banned, src: $banned, verdict: drop}
  - {name: office hours, dport: 8080, proto: tcp, time: {days: mon-fri, hours: "08:00-18:00"}, verdict: accept}
  - {name: telnet, chain: input, proto: tcp, dport: 23, add: {set: banned}, verdict: reject}
  - {name: ssh, chain: input, in: lan0, proto: tcp, dport: 22, limit: {rate: 1/minute, burst: 1}, verdict: accept}
  - {name: web, chain: forward, in: lan0, proto: tcp, dport: [21, 443], state: NEW, verdict: accept}
"""

GREEN = """tests:
  - {name: web is open, send: tcp 192.168.1.7:40000 > 203.0.113.9:443 syn, in: lan0, expect: accept}
  - {name: only from the lan, send: tcp 192.168.1.7:40000 > 203.0.113.9:443 syn, in: wan0, expect: drop}
  - {send: "tcp [fd00::7]:40000 > [2001:db8::9]:443 syn fin", in: lan0, expect: {state: INVALID, reason: tcp-flags}}
  - {send: udp 192.168.1.7:1 > 203.0.113.9:53, expect: {rule: policy forward, state: NEW}}
  - {send: tcp 192.168.1.7:1 > 192.168.1.1:23 syn, chain: input, expect: reject}
  - {name: at noon, send: tcp 192.168.1.7:1 > 203.0.113.9:8080 syn, expect: accept}
  - {name: at night, at: 2024-01-01T20:00, send: tcp 192.168.1.7:1 > 203.0.113.9:8080 syn, expect: drop}
  - name: a conversation goes both ways, and ends when nobody speaks
    in: lan0
    out: wan0
    steps:
      - {send: tcp 192.168.1.7:40000 > 203.0.113.9:443 syn, expect: {rule: web, state: NEW}}
      - {send: tcp 203.0.113.9:443 > 192.168.1.7:40000 syn ack, expect: {verdict: accept, state: ESTABLISHED}}
      - {send: tcp 192.168.1.7:40000 > 203.0.113.9:443 ack}
      - {send: tcp 192.168.1.7:40000 > 203.0.113.9:443 ack psh len=100, expect: accept}
      - {send: tcp 203.0.113.9:443 > 192.168.1.7:40000 ack, expect: accept}
      - wait: 6d
      - {send: tcp 203.0.113.9:443 > 192.168.1.7:40000 ack psh len=10, expect: drop}
  - name: the limit holds
    chain: input
    in: lan0
    steps: &twice
      - {send: tcp 192.168.1.7:1 > 192.168.1.1:22 syn, expect: accept}
      - {send: tcp 192.168.1.7:2 > 192.168.1.1:22 syn, expect: drop}
      - wait: 60s
      - {send: tcp 192.168.1.7:2 > 192.168.1.1:22 syn, expect: accept}
  - {name: and begins anew, chain: input, in: lan0, steps: *twice}
  - name: who tries telnet is banned, for an hour
    in: lan0
    steps:
      - {send: tcp 192.168.1.8:1 > 192.168.1.1:23 syn, chain: input, expect: {verdict: reject, rule: telnet}}
      - {send: tcp 192.168.1.8:1 > 203.0.113.9:443 syn, expect: {rule: banned}}
      - wait: 1h
      - {send: tcp 192.168.1.8:1 > 203.0.113.9:443 syn, expect: {rule: web}}
  - {name: and nobody else is, send: tcp 192.168.1.8:1 > 203.0.113.9:443 syn, in: lan0, expect: {rule: web}}
  - name: the data connection of ftp is expected
    in: lan0
    out: wan0
    steps:
      - send: tcp 192.168.1.7:40000 > 203.0.113.9:21 syn
      - send: tcp 203.0.113.9:21 > 192.168.1.7:40000 syn ack
      - send: tcp 192.168.1.7:40000 > 203.0.113.9:21 ack
      - send: 'tcp 192.168.1.7:40000 > 203.0.113.9:21 ack psh payload="USER x\\r\\n"'
      - send: 'tcp 192.168.1.7:40000 > 203.0.113.9:21 ack psh payload="PORT 192,168,1,7,10,0\\r\\n"'
      - {send: tcp 203.0.113.9:20 > 192.168.1.7:2560 syn, expect: {verdict: accept, state: RELATED}}
"""


def write(folder: Path, tests: str, rules: str = RULES) -> str:
    path = folder / "rules.yaml"
    path.write_text(rules + tests, encoding="utf-8")
    return str(path)


def loaded(tests: str) -> config.Config:
    return config.load("rules.yaml", RULES + tests)


def said(tests: str) -> list[str]:
    """What is wrong with a file, each as line:column: message, lines counted from that of `tests:`."""
    try:
        one = loaded(tests)
        problems = rule_tests.problems(one, rule_tests.run(one))
    except ConfigError as error:
        problems = [problem for problem in error.problems if problem.severity == "error"]
    before = RULES.count("\n")
    return [f"{problem.line - before}:{problem.column}: {problem.message}" for problem in problems]


def test_a_green_file_has_nothing_to_say() -> None:
    one = loaded(GREEN)
    played = rule_tests.run(one)
    assert [line for test in played if test.failed for line in rule_tests.lines(test)] == []
    assert len(played) == 13


def test_each_test_begins_anew_whatever_ran_before() -> None:
    one = loaded(GREEN)
    one.tests = one.tests[::-1]
    assert not any(test.failed for test in rule_tests.run(one))
    assert not any(test.failed for test in rule_tests.run(one))


def marked(text: str, *messages: str) -> tuple[str, list[str]]:
    """The text without its marks, each of which is where one of the messages belongs."""
    found = []
    for message in messages:
        before, _, after = text.partition("§")
        found.append(f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: {message}")
        text = before + after
    return text, found


SYN, UDP = "tcp 1.2.3.4:1 > 5.6.7.8:443 syn", "udp 1.2.3.4:1 > 5.6.7.8:1"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (f"{{name: a, send: {SYN}, in: wan0, expect: §accept}}", ["test 'a': verdict is 'drop', not 'accept'"]),
        (
            f"{{name: a, send: {SYN}, in: lan0, expect: {{§rule: wbe, §state: INVALID}}}}",
            ["test 'a': no rule is called 'wbe'", "test 'a': state is 'NEW', not 'INVALID'"],
        ),
        (
            f"{{name: a, send: {SYN} fin, expect: {{§reason: tcp-new}}}}",
            ["test 'a': reason is 'tcp-flags', not 'tcp-new'"],
        ),
        (f"{{send: {SYN} §quux, expect: drop}}", ["unknown word 'quux'"]),
        (f"{{send: '{SYN} §quux', expect: drop}}", ["unknown word 'quux'"]),
        (f'{{send: §"\\x74cp {SYN[4:]} quux", expect: drop}}', ["unknown word 'quux'"]),
        ("§accept", ["a test is a mapping of keys to values"]),
        ("§{name: a, expect: drop}", ["test has no 'send'"]),
        (f"§{{name: a, send: {UDP}}}", ["test has no 'expect'"]),
        (f"{{name: a, §send: {UDP}, expect: drop, steps: [{{wait: 5s}}]}}", ["'send' beside 'steps'"]),
        ("{name: a, steps: §[]}", ["'steps' is a list"]),
        ("{name: a, steps: [§5s]}", ["a step is a mapping of keys to values"]),
        ("{name: a, steps: [§{in: lan0}]}", ["step has neither 'send' nor 'wait'"]),
        ("{name: a, steps: [§{wait: 5s, expect: drop}]}", ["nothing else stands beside 'wait'"]),
        (f"{{name: a, steps: [§{{wait: 5s, send: {UDP}}}]}}", ["a step either sends or waits"]),
        (f"{{send: {UDP}, expect: §pass}}", ["'pass' is not known here"]),
        (f"{{send: {UDP}, expect: §{{}}}}", ["nothing is expected here"]),
        (f"{{send: {UDP}, expect: drop, in: §lan+}}", ["'lan+' is not an interface"]),
        (f"{{send: {UDP}, expect: drop, at: §noon}}", ["'noon' is not a time"]),
        (
            f"{{name: a, send: {UDP}, expect: drop}}\n  - {{§name: a, send: {UDP}, expect: drop}}",
            ["test name 'a' is used twice"],
        ),
    ],
)
def test_what_is_wrong_is_told_at_its_place(text: str, messages: list[str]) -> None:
    tests, wanted = marked(f"tests:\n  - {text}\n", *messages)
    assert said(tests) == wanted


def test_tests_are_a_list() -> None:
    assert said("tests: {}\n") == ["1:8: 'tests' is a list"]


def test_tests_may_stand_in_files_that_are_included(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(GREEN.replace("expect: reject", "expect: accept"), encoding="utf-8")
    path = write(tmp_path, "include: more.yaml\n")
    with pytest.raises(ConfigError) as caught:
        rule_tests.load(path)
    assert [(p.file, p.line) for p in caught.value.problems if p.severity == "error"] == [
        (str(tmp_path / "more.yaml"), 6)
    ]


# --- a red file goes nowhere --------------------------------------------------------------------


def test_check_refuses_a_red_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", write(tmp_path, GREEN)]) == 0
    capsys.readouterr()
    assert cli.main(["check", write(tmp_path, GREEN.replace("wan0, expect: drop", "wan0, expect: accept"))]) == 1
    assert "test 'only from the lan': verdict is 'drop', not 'accept'" in capsys.readouterr().err


def test_what_is_loaded_has_counted_nothing(tmp_path: Path) -> None:
    one = rule_tests.load(write(tmp_path, GREEN))
    assert sum(rule.packets for rule in one.ruleset.every) == 0
    assert len(one.ruleset.sets["banned"]) == 0
    path = write(tmp_path, GREEN.replace("expect: reject", "expect: accept"))
    with pytest.raises(ConfigError):
        rule_tests.load(path)


def test_a_file_that_changes_meanwhile_is_tested_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GREEN)
    os.utime(path)
    plays = []
    real = rule_tests.run

    def run(one: config.Config) -> list[rule_tests.Played]:
        plays.append(one)
        if len(plays) == 1:  # somebody saves another file while the first one is tested
            write(tmp_path, GREEN.replace("expect: reject", "expect: accept"))
        return real(one)

    monkeypatch.setattr(rule_tests, "run", run)
    with pytest.raises(ConfigError):
        rule_tests.load(path)
    assert len(plays) > 1


# --- the command --------------------------------------------------------------------------------

RED = """tests:
  - {name: fine, send: tcp 192.168.1.7:40000 > 203.0.113.9:443 syn, in: lan0, expect: accept}
  - name: too late
    in: lan0
    steps:
      - {send: tcp 192.168.1.7:40000 > 203.0.113.9:443 syn, expect: accept}
      - wait: 2m
      - {send: tcp 203.0.113.9:443 > 192.168.1.7:40000 syn ack, expect: {verdict: accept, state: ESTABLISHED}}
"""


def test_a_difference_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, RED)
    assert cli.main(["test", path]) == 1
    out = capsys.readouterr().out.replace(path, "rules.yaml")
    line = RULES.count("\n")
    assert out.splitlines() == [
        f"ok   fine (rules.yaml:{line + 2})",
        f"FAIL too late (rules.yaml:{line + 3})",
        "     1  tcp 192.168.1.7:40000 > 203.0.113.9:443 syn  [forward lan0 > -]",
        "        accept NEW by 'web'",
        "        wait 120s",
        "     2  tcp 203.0.113.9:443 > 192.168.1.7:40000 syn ack  [forward - > lan0]",
        "        drop INVALID by 'garbage' tcp-new",
        "      - verdict: accept",
        "      + verdict: drop",
        "      - state: ESTABLISHED",
        "      + state: INVALID",
        "2 tests, 1 failed",
    ]


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["test", "-o", "json", write(tmp_path, RED)]) == 1
    played = json.loads(capsys.readouterr().out)
    assert [one["passed"] for one in played] == [True, False]
    assert played[1]["steps"][2]["wrong"] == ["verdict", "state"]
    assert played[1]["steps"][2]["got"] == {
        "verdict": "drop",
        "state": "INVALID",
        "rule": "garbage",
        "reason": "tcp-new",
    }


def test_all_pass_or_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["test", write(tmp_path, GREEN)]) == 0
    assert capsys.readouterr().out.endswith("13 tests, 0 failed\n")
    assert cli.main(["test", write(tmp_path, "")]) == 0
    assert cli.main(["test", str(tmp_path / "none.yaml")]) == 1


def test_testing_needs_no_scapy() -> None:
    program = "import sys, ctfw.cli, ctfw.tools.rule_tests, ctfw.tools.from_pcap; print('scapy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-P", "-c", program], text=True) == "False\n"
