"""`ctfw rules`: the table, what it is made of in a running daemon, and counters that outlive a reload."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.fakekernel import BAD, GOOD, engine, udp
from daemon.running import OPEN, RULES, SHUT, Datagrams, Running

from ctfw.cli.rules_live import bar, table_lines
from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.service.heat import PART, Heat
from lab.net import Network

SECOND = 1_000_000_000

CHAINED = """
version: 1
policy: {input: accept, forward: drop, output: accept}
chains:
  guests:
    - {name: watched, dport: 5353, proto: udp, verdict: drop, shadow: on}
    - {name: open, dport: 5353, proto: udp, verdict: accept}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: from lan, chain: forward, in: lan0, jump: guests}
  - {name: never, chain: forward, proto: tcp, verdict: reject}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def rules(daemon: Running, *arguments: str) -> dict[str, dict[str, Any]]:
    lines = daemon.ctfw("rules", "-o", "jsonl", *arguments).stdout.splitlines()
    return {rule["name"]: rule for rule in map(json.loads, lines)}


@pytest.mark.kernel
def test_every_rule_of_every_chain_is_there_with_what_it_counted(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=CHAINED) as daemon, Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        assert good.answered()
        assert not bad.arrives()
        found = rules(daemon)
        assert list(found) == [
            "replies", "from lan", "never", "watched", "open", "policy input", "policy forward", "policy output",
        ]  # fmt: skip
        assert [found[name]["packets"] for name in ("from lan", "watched", "open", "policy forward")] == [2, 1, 1, 1]
        assert found["from lan"]["verdict"] == "jump guests"
        assert (found["watched"]["chain"], found["watched"]["shadow"]) == ("guests", True)
        assert (found["replies"]["chain"], found["replies"]["shadow"]) == (None, False)
        assert found["open"]["origin"] == f"{daemon.rules}:7"
        assert found["never"]["last"] is None
        assert found["never"]["hooks"] == ["forward"]
        assert found["policy forward"]["policy"]
        heat = found["policy forward"]["heat"]["10s"]
        assert heat["packets"] == 1
        assert heat["of"] >= 3

        assert list(rules(daemon, "--chain", "guests")) == ["watched", "open"]
        assert list(rules(daemon, "--chain", "forward")) == ["replies", "from lan", "never", "policy forward"]
        said = daemon.ctfw("rules", "--chain", "gusts", code=1).stderr
        assert said == "ctfw: rules: no rule stands in a chain 'gusts'\n"
        assert len(json.loads(daemon.ctfw("rules", "-o", "json").stdout)) == len(found)
        text = daemon.ctfw("rules", "--chain", "guests").stdout
        assert re.search(r"^ +1 +34 +(-|\d+\.\d%) .*Z +0  guests  accept         open ", text, re.MULTILINE), text


@pytest.mark.kernel
def test_counters_live_through_a_reload_by_the_name_of_the_rule(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        assert good.answered()
        assert not bad.arrives()
        before = rules(daemon)
        moved = RULES.replace("rules:\n", "rules:\n  - {name: first, proto: tcp, verdict: drop}\n")
        daemon.rules.write_text(moved.replace("name: garbage", "name: rubbish"))
        daemon.ctfw("reload")
        after = rules(daemon)
        for name in ("open", "replies", "policy forward"):
            assert after[name]["packets"] == before[name]["packets"] > 0
            assert abs(after[name]["last"] - before[name]["last"]) < 1
        assert after["open"]["origin"] == f"{daemon.rules}:8"
        assert {name: rule["generation"] for name, rule in after.items() if not rule["policy"]} == {
            "first": 1,
            "replies": 0,
            "rubbish": 1,
            "open": 0,
        }
        assert good.answered()
        assert rules(daemon)["replies"]["packets"] == before["replies"]["packets"] + 2


@pytest.mark.kernel
def test_reset_says_what_the_counters_were_and_sets_them_to_zero(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        assert rules(daemon, "--reset")["open"]["packets"] == 1
        found = rules(daemon)["open"]
        assert (found["packets"], found["bytes"], found["last"]) == (0, 0, None)
        assert good.answered()
        assert rules(daemon)["replies"]["packets"] == 2
        assert daemon.ctfw("rules", "--reset", "--chain", "input", code=2).stdout == ""


@pytest.mark.kernel
def test_many_rules_come_whole_and_are_reset_whole(net: Network, tmp_path: Path) -> None:
    many = "".join(f"  - {{name: r{n}, proto: tcp, dport: {n % 60000 + 1}, verdict: drop}}\n" for n in range(3000))
    with Running(net, tmp_path, rules=RULES + many) as daemon:
        assert len(rules(daemon)) == len(rules(daemon, "--reset")) == 3006


TABLE = """\
PACKETS  BYTES     10S    60S  HEAT        LAST                  GEN  CHAIN    VERDICT        RULE            ORIGIN
   1200  90000  100.0%  75.0%  ███████▌    2023-11-14T22:13:20Z    0  all      accept         replies         a.yaml:3
      0      0    0.0%   0.0%              -                       2  guests   drop (shadow)  watched         a.yaml:9
      1     60       -   0.1%  ▏           2023-11-14T22:13:20Z    0  forward  drop           policy forward  -
"""


def entry(name: str, share: tuple[int, int] | None, long: tuple[int, int], **more: Any) -> dict[str, Any]:
    def heat(pair: tuple[int, int] | None) -> dict[str, int] | None:
        return None if pair is None else {"packets": pair[0], "of": pair[1], "seconds": 9}

    rule = {"name": name, "origin": "", "verdict": "drop", "packets": 0, "bytes": 0, "last": 1_700_000_000.9}
    rule |= {"chain": None, "hooks": ["forward"], "shadow": False, "generation": 0}
    return rule | {"heat": {"10s": heat(share), "60s": heat(long)}} | more


def test_the_table() -> None:
    every = ["input", "forward", "output"]
    found = [
        entry("replies", (8, 8), (3, 4), packets=1200, bytes=90000, hooks=every, verdict="accept", origin="a.yaml:3"),
        entry("watched", (0, 8), (0, 4), chain="guests", shadow=True, last=None, generation=2, origin="a.yaml:9"),
        entry("policy forward", None, (1, 1000), packets=1, bytes=60),
    ]
    assert "\n".join(table_lines(found, True)) + "\n" == TABLE
    at = TABLE.index("HEAT")
    plain = [(line[:at] + line[at + 12 :]) for line in TABLE.splitlines()]
    assert table_lines(found, False) == plain


@pytest.mark.parametrize(("share", "drawn"), [(0, ""), (0.0001, "▏"), (0.5, "█████"), (1, "█" * 10), (1.5, "█" * 10)])
def test_a_bar(share: float, drawn: str) -> None:
    assert bar(share) == drawn


# Heat by itself


def judge(one: Engine, port: int, count: int = 1) -> None:
    for _ in range(count):
        one.handle(udp(port), 28, FORWARD, "", "", 0, False, SECOND)


def shares(heat: Heat, one: Engine, now: int) -> list[tuple[int, int]]:
    """Packets of the rule `good` and of all, over 10 and over 60 seconds."""
    found = heat.of(one.ruleset.rules[0], now * SECOND)
    return [(found[span]["packets"], found[span]["of"]) for span in ("10s", "60s")]


def test_heat_is_about_the_last_seconds() -> None:
    one = engine()
    judge(one, GOOD, 5)
    heat = Heat(one, 0)
    assert shares(heat, one, 0) == [(0, 0), (0, 0)]
    judge(one, GOOD, 3)
    judge(one, BAD)
    assert shares(heat, one, 1) == [(3, 4), (3, 4)]  # not the five from before
    for second in range(1, 31):
        heat.tick(second * SECOND)
    assert shares(heat, one, 30) == [(0, 0), (3, 4)]
    for second in range(31, 80):
        heat.tick(second * SECOND)
    assert shares(heat, one, 80) == [(0, 0), (0, 0)]
    assert len(heat._samples) <= 14


def test_heat_follows_other_rules_when_it_is_told_to_and_not_at_a_tick() -> None:
    one, other = engine(), engine()
    heat = Heat(one, 0)
    one.ruleset = other.ruleset
    heat.change(one.ruleset, SECOND)
    heat.tick(10 * SECOND)
    assert heat.is_behind()
    assert heat.rules[0] is not other.ruleset.rules[0]
    heat.follow()
    assert not heat.is_behind()
    assert heat.rules[0] is other.ruleset.rules[0]


def test_heat_starts_anew_with_other_rules_and_after_a_reset() -> None:
    one = engine()
    heat = Heat(one, 0)
    judge(one, GOOD, 3)
    one.ruleset.rules[0].packets = 0
    assert shares(heat, one, 1)[0] == (0, 3)  # never below nothing
    other = engine().ruleset
    other.generation = 4
    one.ruleset = other
    heat.change(other, SECOND)
    heat.follow()
    judge(one, GOOD)
    assert shares(heat, one, 2) == [(1, 1), (1, 1)]
    assert heat.since(other.rules[0]) == 0  # of the same name


def test_many_rules_are_written_down_in_several_ticks() -> None:
    one = engine()
    heat = Heat(one, 0)
    heat.rules = heat.rules * PART  # longer than one tick may take
    done = [0]
    while len(heat._samples) == 1:
        heat.tick(5 * SECOND)
        done.append(len(heat._growing.packets) if heat._growing is not None else len(heat._samples[-1].packets))
    assert done == [PART * turn for turn in range(len(done))]
    assert done[-1] == len(heat.rules)
