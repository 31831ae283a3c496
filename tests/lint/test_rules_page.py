"""docs/rules.md: every key stands there in an example, examples are good, and messages are what `ctfw check` says."""

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from ctfw import config
from ctfw.config.schema import CONNTRACK, FILE, HELPER_PORTS, SET, Section
from ctfw.tools import rule_tests

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
HEAD = "version: 1\npolicy: {input: drop, forward: drop, output: drop}\n"
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.M | re.S)


def fenced() -> list[tuple[str, str]]:
    return [(info, dedent(text)) for _, info, text in FENCE.findall(PAGE.read_text(encoding="utf-8"))]


EXAMPLES = [text if "version:" in text else HEAD + text for info, text in fenced() if info == "yaml"]
STEPS = [
    (text, said)
    for (info, text), (next_info, said) in zip(fenced(), fenced()[1:], strict=False)
    if (info, next_info) == ("yaml step", "check")
]


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.splitlines()[-1][:40])
def test_an_example_is_good(text: str) -> None:
    loaded = config.load("rules.yaml", text)
    assert loaded.warnings == []
    assert rule_tests.problems(loaded, rule_tests.run(loaded)) == []


def test_the_last_step_is_a_gateway_without_a_warning() -> None:
    (gateway,) = [text for text in EXAMPLES if "nothing comes in by itself" in text]
    assert config.load("rules.yaml", gateway, advise=True).warnings == []


@pytest.mark.parametrize(("text", "said"), STEPS)
def test_a_step_is_told_what_the_page_says(text: str, said: str) -> None:
    try:
        problems = config.load("rules.yaml", text, advise=True).warnings
    except config.ConfigError as wrong:
        problems = wrong.problems
    assert "".join(config.render(problem) + "\n" for problem in problems) == said


def test_there_are_examples_and_steps() -> None:
    assert len(EXAMPLES) >= 15 and len(STEPS) >= 6
    assert sum(info == "check" for info, _ in fenced()) == len(STEPS)


def shown(value: Any, section: Section, found: set[tuple[str, str]]) -> None:
    """Takes note of the keys of a mapping of this section, and of those inside."""
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        for name, inner in item.items():
            key = section.keys.get(name)
            if key is not None:
                found.add((section.title, name))
                if name == "sets" and section is FILE:
                    shown(list(inner.values()), SET, found)
                elif name == "chains" and section is FILE and key.section is not None:
                    for rules in inner.values():
                        shown(rules, key.section, found)
                elif key.section is not None:
                    shown(inner, key.section, found)


def every(section: Section, found: dict[tuple[str, str], None]) -> dict[tuple[str, str], None]:
    for key in section.keys.values():
        if (section.title, key.name) not in found:
            found[section.title, key.name] = None
            if key.section is not None:
                every(key.section, found)
    return found


def test_every_key_stands_in_an_example() -> None:
    found: set[tuple[str, str]] = set()
    for text in EXAMPLES:
        shown(yaml.safe_load(text), FILE, found)
    there = set(every(SET, every(FILE, {})))
    # The knobs of conntrack have a page of their own, where a test asks for each of them.
    elsewhere = {(CONNTRACK.title, name) for name in CONNTRACK.keys} | {
        (HELPER_PORTS.title, n) for n in HELPER_PORTS.keys
    }
    elsewhere |= {("rule file", "include"), ("set", "file")}  # of files that are there: tests/config
    assert there - found - elsewhere == set()


def test_every_key_is_in_the_tables() -> None:
    text = PAGE.read_text(encoding="utf-8")
    words = set(re.findall(r"`([a-z_0-9]+)(?::[^`]*)?`", text))
    names = {name for title, name in every(SET, every(FILE, {})) if title not in (CONNTRACK.title, HELPER_PORTS.title)}
    tested_elsewhere = {"send", "wait", "at", "expect", "steps", "rule", "reason"}  # docs/packets.md
    assert names - words - tested_elsewhere == set()
