"""No text and no bytes make the loader raise anything but ConfigError, with libyaml or without."""

import re
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ctfw import config
from ctfw.config.document import decode
from ctfw.config.problems import Report

EXAMPLE = (Path(__file__).parents[2] / "rules.example.yaml").read_text(encoding="utf-8")
WORDS = sorted(set(re.findall(r"[\w$./-]+|\S", EXAMPLE)))
WORDS += ["\n", "\n  ", "\n    ", "\n- ", "\n  - ", ": ", ", ", "*a", "&a "]
MATCHES = ["name", "chain", "state", "in", "out", "proto", "src", "dst", "sport", "dport", "icmp", "icmpv6", "log"]

scalars = st.one_of(
    st.sampled_from(WORDS), st.text(max_size=8), st.integers().map(str), st.sampled_from(["!", "$lan", "!$lan", "a-b"])
)
quoted = scalars.map(lambda text: '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"')
trees = st.recursive(
    st.one_of(quoted, st.sampled_from(["x", "22", "~", "", "[]", "{}", "10.0.0.0/8"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + ", ".join(item or "x" for item in items) + "]"),
        st.dictionaries(st.sampled_from(WORDS).filter(str.isalnum), inner, max_size=4).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=12,
)


def outcome(text: str, pure: bool) -> list[config.Problem]:
    try:
        return config.load("rules.yaml", text, pure=pure).warnings
    except config.ConfigError as wrong:
        assert any(problem.severity == "error" for problem in wrong.problems)
        for problem in wrong.problems:
            assert problem.line == 0 or problem.column >= 1
            shown = config.render(problem)
            shown.encode()
            assert "\x1b" not in shown and len(shown) < 2000
        return wrong.problems


@settings(deadline=None, max_examples=300)
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=40).map("".join)))
@example(text='a: "\\UFFFFFFFF"')
@example(text="%YAML 99999999999999999999.1\n---\na")
@example(text="? a")
@example(text="a: \ud800")
@example(text='a: "\\ud800"')
@example(text="[" * 5000)
@example(text="? " * 5000)
@example(text="- " * 5000)
def test_any_text(text: str) -> None:
    for pure in (False, True):
        outcome(text, pure)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(key=st.sampled_from(["sets", "rules", "conntrack", "policy", "failure", "queue"]), tree=trees)
def test_any_tree_under_any_key(key: str, tree: str) -> None:
    text = f"version: 1\n{key}: {tree}\n"
    assert outcome(text, pure=False) == outcome(text, pure=True)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(pairs=st.lists(st.tuples(st.sampled_from(MATCHES), trees), max_size=5))
def test_any_rule(pairs: list[tuple[str, str]]) -> None:
    body = "".join(f"    {key}: {tree}\n" for key, tree in pairs)
    text = f"version: 1\nsets: {{lan: [10.0.0.0/8]}}\nrules:\n  - verdict: drop\n{body}"
    assert outcome(text, pure=False) == outcome(text, pure=True)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_damaged_example(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(EXAMPLE)))
    cut = data.draw(st.integers(0, 20))
    put = data.draw(st.one_of(st.text(max_size=3), st.sampled_from(WORDS)))
    outcome(EXAMPLE[:at] + put + EXAMPLE[at + cut :], pure=False)


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    report = Report("rules.yaml")
    text = decode(data, report)
    assert (text is None) == report.failed
