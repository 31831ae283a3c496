"""What is over is freed piece by piece: how much goes with each, counted by weak references and not timed."""

import weakref
from pathlib import Path

from ctfw import config
from ctfw.config.remains import gather, let_go
from ctfw.ruleset.rule import Rule
from ctfw.tools import rule_tests

RULES = 300
TEXT = (
    "version: 1\npolicy: {input: drop, forward: drop, output: drop}\nsets: {lan: [192.0.2.0/24, 10.0.0.0/8]}\nrules:\n"
    + "".join(f"  - {{src: $lan, dport: {n + 1}, proto: tcp, verdict: accept}}\n" for n in range(RULES))
    + 'tests:\n  - {name: one, send: "tcp 192.0.2.1:40000 > 198.51.100.1:9 syn", chain: input, expect: accept}\n'
)


class Leaf:
    """Something whose end can be seen."""


def test_each_stands_behind_what_it_holds() -> None:
    loaded = config.load("rules.yaml", TEXT)
    gathered = gather([loaded])
    places = {id(one): at for at, one in enumerate(gathered)}
    ruleset = loaded.ruleset
    assert places[id(loaded)] > places[id(ruleset)] > places[id(ruleset.main)] > places[id(ruleset.main.rules)]
    shared = ruleset.rules[0].src
    assert shared is ruleset.rules[-1].src
    for rule in ruleset.rules:
        assert places[id(ruleset.main.rules)] > places[id(rule)] > places[id(shared)]


def test_a_long_list_goes_in_pieces() -> None:
    """However it is nested, and whoever else holds a part of it."""
    leaves = [Leaf() for _ in range(1000)]
    watched = [weakref.ref(leaf) for leaf in leaves]
    kept = leaves[7]
    roots = [{"a": [leaves, (leaves,)]}]
    del leaves
    gathered = gather(roots)
    del roots
    most = 0
    before = alive(watched)
    while gathered:
        gathered.pop()
        most, before = max(most, before - alive(watched)), alive(watched)
    assert most == 1
    assert [ref() for ref in watched if ref() is not None] == [kept]


def alive(watched: list[weakref.ref[Leaf]]) -> int:
    return sum(ref() is not None for ref in watched)


def test_what_was_read_is_what_is_gathered(tmp_path: Path) -> None:
    """`softly` frees the tree of the file in pieces, and the configuration is the same."""
    file = tmp_path / "rules.yaml"
    file.write_text(TEXT)
    softly = rule_tests.load(str(file), softly=True)
    assert [rule.name for rule in softly.ruleset.rules] == [
        rule.name for rule in rule_tests.load(str(file)).ruleset.rules
    ]
    assert all(isinstance(rule, Rule) and rule.src is not None for rule in softly.ruleset.rules)


def test_let_go_leaves_nothing() -> None:
    gathered = gather([config.load("rules.yaml", TEXT)])
    assert len(gathered) > RULES
    let_go(gathered)
    assert gathered == []
