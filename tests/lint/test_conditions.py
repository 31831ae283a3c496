"""What is known about the conditions of two rules, in words of the rule file: one a line, and what follows from it."""

import pytest

from ctfw import config
from ctfw.config.conditions import Condition, conditions_of, exclude, follow

HEAD = "version: 1\npolicy: {input: drop, forward: drop, output: drop}\nsets: {banned: {dynamic: on}}\n"


def conditions(*rules: str) -> list[tuple[Condition, ...]]:
    text = "".join(f"  - {{{rule}, verdict: continue}}\n" for rule in rules)
    unused = "  - {src: $banned, verdict: drop}\n"
    return [
        conditions_of(rule) for rule in config.load("r", f"{HEAD}rules:\n{text}{unused}").ruleset.rules[: len(rules)]
    ]


@pytest.mark.parametrize(
    ("one", "other", "follows"),
    [
        ("ttl: 1-5", "ttl: 1-10", True),
        ("ttl: 1-10", "ttl: 1-5", False),
        ("length: [0-10, 20-30]", "length: 0-30", True),
        ("length: 0-30", "length: [0-10, 20-30]", False),
        ("dscp: ef", "dscp: [ef, af41]", True),
        ("ttl: 1-5", "length: 0-100", False),
        ("ttl: 1-5", "proto: tcp", True),
        ("proto: tcp", "ttl: 1-5", False),
        ("ttl: 1-5, dscp: ef", "dscp: ef", True),
        ("tcp_flags: syn", "tcp_flags: syn/syn", True),
        ("tcp_flags: syn/syn", "tcp_flags: syn", False),
        ("status: assured", "status: [assured, seen_reply]", True),
        ("status: [assured, seen_reply]", "status: assured", False),
        ('status: ["!assured", "!expected"]', 'status: "!assured"', True),
        ('status: "!assured"', 'status: ["!assured", "!expected"]', False),
        ("helper: ftp", "helper: [ftp, irc]", True),
        ("helper: [ftp, irc]", "helper: ftp", False),
        ("direction: reply", "direction: reply", True),
        ("direction: reply", "direction: original", False),
        ("fragment: on", "fragment: on", True),
        ("mark: 0x1", "mark: 0x1", True),
        ("mark: 0x1", "mark: 0x1/0x1", False),  # it does; marks are only compared
        ("connage: 2h-", "connage: 1h-", True),
        ("connbytes: 1M-", "connbytes: 2M-", False),
        ("time: {days: mon}", "time: {days: mon}", True),
        ("time: {days: mon}", "time: {days: mon-fri}", False),  # likewise
        ("limit: 5/second", "limit: 5/second", False),
        ("connlimit: {upto: 5}", "connlimit: {upto: 5}", False),
        ("src: $banned", "src: $banned", False),
    ],
)
def test_what_follows(one: str, other: str, follows: bool) -> None:
    first, second = conditions(one, other)
    assert follow(first, second, False) == follows


def test_a_mark_that_rules_change_is_not_known() -> None:
    first, second = conditions("mark: 0x1", "mark: 0x1")
    assert not follow(first, second, marks_change=True)


@pytest.mark.parametrize(
    ("one", "other", "excludes"),
    [
        ("ttl: 1-5", "ttl: 6-10", True),
        ("ttl: 1-5", "ttl: 5-10", False),
        ("ttl: 1-5", "length: 6-10", False),
        ("tcp_flags: syn", "tcp_flags: ack/ack", True),
        ("tcp_flags: syn/syn", "tcp_flags: ack/ack", False),
        ("direction: reply", "direction: original", True),
        ("fragment: on", "fragment: off", True),
        ("helper: ftp", "helper: irc", False),  # it does; of what depends on the connection nothing is said
        ("mark: 0x1", "mark: 0x2", False),  # a rule may set it in between
        ("time: {days: mon}", "time: {days: tue}", False),
    ],
)
def test_what_excludes(one: str, other: str, excludes: bool) -> None:
    first, second = conditions(one, other)
    assert exclude(first, second) == exclude(second, first) == excludes
