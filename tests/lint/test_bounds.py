"""What warnings and invariants cost: steps are counted, so that no clock is needed."""

import random

import pytest

from ctfw import config
from ctfw.config import invariants, lint

HEAD = "version: 1\npolicy: {input: drop, forward: drop, output: drop}\nhook: {keep_ssh: {from: 10.0.0.0/8}}\n"


def rules(count: int) -> str:
    chance = random.Random(1)
    lines = []
    for number in range(count):
        source = f"10.{chance.randrange(200)}.{chance.randrange(256)}.{chance.randrange(256)}"
        asked = f"chain: forward, in: lan{number % 7}, src: {source}, proto: tcp, dport: {chance.randrange(1, 65536)}"
        lines.append(f"  - {{{asked}, state: NEW, verdict: accept}}\n")
    return f"rules:\n  - {{state: [ESTABLISHED, RELATED], verdict: accept}}\n{''.join(lines)}"


NEVER = "never: {name: closed, from: 10.250.0.0/16, proto: tcp, dport: 22}\n"
TANGLED = "".join(
    f"  - {{chain: forward, proto: tcp, sport: '!{number}', dport: '!{number * 7}', verdict: drop}}\n"
    for number in range(1, 40)
)


def test_ordinary_rules_are_decided_within_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint, "BUDGET", 2 * 2000)
    monkeypatch.setattr(invariants, "BUDGET", 100)
    neighbours = "  - {state: UNTRACKED, icmpv6: any, verdict: accept}\n"
    loaded = config.load("rules.yaml", HEAD + NEVER + rules(2000) + neighbours, advise=True)
    assert loaded.warnings == []


def test_what_costs_too_much_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint, "BUDGET", 20)
    monkeypatch.setattr(invariants, "BUDGET", 0)
    last = "  - {chain: forward, in: a, proto: tcp, verdict: accept}\n"
    loaded = config.load("rules.yaml", f"{HEAD}{NEVER}rules:\n{TANGLED}{last}", advise=True)
    said = [problem.message for problem in loaded.warnings]
    assert any("could not be decided" in message for message in said)
    assert any("too entangled" in message for message in said)


def test_chains_that_are_written_out_too_often_are_said() -> None:
    inner = "".join(f"    - {{proto: tcp, dport: {number}, verdict: accept}}\n" for number in range(1, 301))
    jumps = "".join(f"  - {{chain: forward, src: 10.0.{number}.0/24, jump: inner}}\n" for number in range(256))
    text = f"{HEAD}{NEVER}chains:\n  inner:\n{inner}rules:\n{jumps}"
    said = [problem.message for problem in config.load("rules.yaml", text, advise=True).warnings]
    assert any("could not be decided" in message for message in said)
    assert any("too entangled" in message for message in said)
