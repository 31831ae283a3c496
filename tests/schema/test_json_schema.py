"""The JSON Schema and the loader agree: what the loader takes is valid, and what has the wrong shape neither takes.

What the schema cannot know is listed in the essay of ctfw/config/json_schema.py; files that are wrong in such a way
alone are valid, and not asked about here. Files are read for the schema as editors read them: YAML 1.2, core schema.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctfw import cli, config
from ctfw.config import json_schema
from ctfw.config.names import DSCP, ICMP, ICMPV6, SERVICES
from ctfw.config.schema import FILE, NEVER, RULE, SET, Key, Kind, Section

ROOT = Path(__file__).parents[2]
HEAD = {"version": 1, "policy": {"input": "drop", "forward": "drop", "output": "drop"}}
SCHEMA = json_schema.rule_file()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


class Editor(yaml.SafeLoader):
    """YAML as editors read it: the core schema of YAML 1.2 in place of YAML 1.1's types."""


Editor.yaml_implicit_resolvers = {}
for tag, expression, first in (
    ("null", "~|null|Null|NULL|", "~nN"),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    Editor.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{expression})$"), list(first) + [""])
Editor.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _whole(str(node.value)))


def _whole(text: str) -> int:
    bare = text.lstrip("+-")
    number = int(bare, 16) if bare.startswith("0x") else int(bare[2:], 8) if bare.startswith("0o") else int(bare)
    return -number if text.startswith("-") else number


def seen(text: str) -> Any:
    return yaml.load(text, Loader=Editor)


def loads(text: str) -> list[str]:
    """What is wrong with the file, as the loader says it."""
    try:
        config.load("rules.yaml", text)
    except config.ConfigError as wrong:
        return [problem.message for problem in wrong.problems if problem.severity == "error"]
    return []


def errors(document: Any) -> list[str]:
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in VALIDATOR.iter_errors(document)]


# --- the schema itself --------------------------------------------------------------------------------------------


def test_is_a_schema() -> None:
    for schema in (SCHEMA, json_schema.included_file()):
        jsonschema.Draft7Validator.check_schema(schema)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
    assert cli.main(["schema", "--included"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema.included_file()


def sections(section: Section, found: dict[str, Section]) -> dict[str, Section]:
    if section.title not in found:
        found[section.title] = section
        for key in section.keys.values():
            if key.section is not None:
                sections(key.section, found)
    return found


SECTIONS = sections(SET, sections(FILE, {}))


def test_every_key_of_the_table_is_in_it() -> None:
    for title, section in SECTIONS.items():
        where = SCHEMA if section is FILE else SCHEMA["definitions"][title]
        assert list(where["properties"]) == list(section.keys)
        assert all(where["properties"][key.name]["description"] == key.meaning for key in section.keys.values())
    assert set(SCHEMA["definitions"]) == set(SECTIONS) - {FILE.title}


def test_expressions_are_those_of_editors() -> None:
    """What Python's expressions have and ECMAScript's do not."""
    for pattern in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', json.dumps(SCHEMA)):
        assert not re.search(r"\(\?[^:=!]|\\[AZdw]", json.loads(f'"{pattern}"')), pattern


# --- files of people ----------------------------------------------------------------------------------------------


def blocks(page: Path) -> list[str]:
    found = re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [text if "version:" in text else f"version: 1\n{text}" for text in found]


def test_the_example_is_valid() -> None:
    text = (ROOT / "rules.example.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=/usr/share/ctfw/rules.schema.json\n")
    assert errors(seen(text)) == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_documentation_is_valid(page: Path) -> None:
    assert [errors(seen(text)) for text in blocks(page) if errors(seen(text))] == []


# --- files that nobody would write --------------------------------------------------------------------------------


def cased(words: Any) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(words)).flatmap(lambda word: st.sampled_from([word, word.upper(), word.capitalize()]))


def many(member: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return member | st.lists(member, min_size=1, max_size=3)


def signed(member: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return member | member.map(lambda one: f"!{one}")


ports = st.integers(0, 65535)
port_ranges = st.tuples(ports, ports).map(lambda pair: f"{min(pair)}-{max(pair)}")
spans = st.sampled_from(["10-", "-100", "5-6", "0-"])
plain_names = st.sampled_from(["lan", "10", "1.5", "true", "on", "null and more", "a b", "ä"])
addresses = st.sampled_from(["any", "10.0.0.0/8", "!10.1.1.1", "fd00::/8", "$lan", "!$lan", "10.0.0.1-10.0.0.9", "::1"])

VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.NAME: plain_names,
    Kind.TEXT: plain_names,
    Kind.CHAINS: many(signed(cased(["input", "forward", "output"]))) | st.just("input, forward"),
    Kind.STATES: many(signed(cased(["NEW", "ESTABLISHED", "RELATED"]))) | st.sampled_from(["any", "NEW,RELATED"]),
    Kind.INTERFACES: many(st.sampled_from(["lan0", "!wan0", "ppp+", "+", "5", "true", "1.5"])) | st.just("any"),
    Kind.PROTOS: st.sampled_from(["tcp", "UDP", ["tcp", 17], 6, "6", ["tcp", "sctp", "udplite"]]),
    Kind.ADDRESSES: many(addresses.filter(lambda one: one != "any")) | st.just("any"),
    Kind.PORTS: many(signed(ports | port_ranges | cased(SERVICES) | ports.map(str))),
    Kind.ICMP: many(signed(st.integers(0, 255) | cased(ICMP) | st.sampled_from(["3/4", "8/0"]))),
    Kind.ICMPV6: many(signed(st.integers(0, 255) | cased(ICMPV6) | st.sampled_from(["1/4"]))),
    Kind.TCP_FLAGS: many(signed(st.sampled_from(["syn", "SYN,ack", "syn/syn,ack, rst", "none", "none/all"]))),
    Kind.SWITCH: st.booleans() | cased(["on", "off", "yes", "no"]) | st.integers(0, 1),
    Kind.HOPS: many(signed(st.sampled_from([64, "1-5", "200-", "64"]))),
    Kind.LENGTHS: many(signed(st.sampled_from([100, "0-99", "1500-"]))),
    Kind.DSCPS: many(signed(st.integers(0, 63) | cased(DSCP))),
    Kind.MARKS: many(signed(st.sampled_from([16, "0x10", "0x10/0xf0", "1/0xff"]))),
    Kind.MACS: many(signed(st.sampled_from(["52:54:00:12:34:56", "52-54-00-AB-cd-ef"]))),
    Kind.STATUS: many(signed(cased(["assured", "expected"]))) | st.just("assured, !expected"),
    Kind.HELPERS: many(cased(["ftp", "none", "irc"])),
    Kind.SECONDS: many(st.sampled_from(["1h-", "-10m", "5-1h", "-600"])),
    Kind.PACKETS: many(signed(spans)),
    Kind.OCTETS: many(st.sampled_from(["1M-", "-100k", "5-1G", "-5"])),
    Kind.TIME: st.fixed_dictionaries(
        {"days": many(st.sampled_from(["mon", "Sat-sun", "we - Fri"]))},
        optional={"hours": many(st.sampled_from(["08:00-18:00", "22:00 - 6:30"])), "timezone": st.just("UTC")},
    ),
    Kind.CONNLIMIT: st.sampled_from([{"upto": 5}, {"above": "10", "per": "dst", "prefix4": 24}]),
    Kind.LIMIT: st.sampled_from(["10/second", "5 / min", {"rate": "1/day", "per": "SRC", "over": True}]),
    Kind.LOG: st.sampled_from([True, False, "on", {}, {"limit": "5/minute", "burst": 3, "prefix": "1.5"}]),
    Kind.MARK: st.sampled_from([16, "0x20", "0x20/0xf0"]),
    Kind.ADD: st.sampled_from([{"set": "bans", "ttl": "1h"}, {"set": "$bans", "address": "dst", "prefix4": 24}]),
}


def field(key: Key) -> st.SearchStrategy[Any]:
    return st.sampled_from(key.words).flatmap(lambda word: cased([word])) if key.words else VALUES[key.kind]


def some(section: Section, without: set[str]) -> st.SearchStrategy[dict[str, Any]]:
    keys = [key for key in section.keys.values() if key.name not in without]
    return st.lists(st.sampled_from(keys), unique_by=lambda key: key.name, max_size=5).flatmap(
        lambda chosen: st.fixed_dictionaries({key.name: field(key) for key in chosen})
    )


DECISIONS = st.one_of(
    st.fixed_dictionaries({"verdict": cased(["accept", "drop", "reject", "return", "continue"])}),
    st.fixed_dictionaries({"jump": st.just("guests")}),
    st.fixed_dictionaries({"track": cased(["none", "loose", "liberal"])}),
)
RULES = st.tuples(some(RULE, {"verdict", "jump", "track", "name"}), DECISIONS).map(lambda two: {**two[0], **two[1]})
SETS = st.dictionaries(
    st.sampled_from(["web", "_x", "a.b-c"]),
    st.sampled_from([80, [80, "443"], [], "10.0.0.1", {"members": ["::1"]}, {"dynamic": True, "ttl": "1h", "max": 5}]),
    max_size=3,
)
FILES = st.fixed_dictionaries(
    {"rules": st.lists(RULES, max_size=3)},
    optional={
        "never": st.lists(some(NEVER, {"name"}), max_size=2) | some(NEVER, {"name"}),
        "sets": SETS,
        "existing": cased(["keep", "recheck", "kill"]),
        "queue": st.sampled_from([{}, {"number": 3}, {"number": "3"}]),
        "conntrack": st.sampled_from(
            [{"max": 5, "tcp_loose": "no", "udp_timeout": "2h30m", "helpers": {"ftp": [21, 2121]}}]
        ),
    },
)


def written(file: dict[str, Any]) -> str:
    """As YAML that gives both readers these texts: numbers and booleans plain, texts as the dump decides."""
    full = {**HEAD, **file, "sets": {"lan": ["192.168.0.0/16"], "bans": {"dynamic": True}, **file.get("sets", {})}}
    text = yaml.safe_dump({**full, "chains": {"guests": []}}, allow_unicode=True)
    # A text that YAML 1.1 would take for something else comes quoted. Take the quotes off where ctfw would not care.
    return re.sub(r"'([0-9a-z.:-]+)'", r"\1", text)


@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(file=FILES)
def test_what_the_loader_takes_is_valid(file: dict[str, Any]) -> None:
    text = written(file)
    if not loads(text):
        assert errors(seen(text)) == [], text


def test_the_generated_files_reach_the_loader() -> None:
    """The property above says nothing if the loader refuses nearly everything."""
    taken = 0

    @settings(deadline=None, max_examples=300, database=None, derandomize=True)
    @given(file=FILES)
    def count(file: dict[str, Any]) -> None:
        nonlocal taken
        taken += not loads(written(file)) and bool(file["rules"])

    count()
    assert taken > 40


@pytest.mark.parametrize("name", [name for name in RULE.keys if name not in ("verdict", "jump", "track")])
def test_each_key_is_taken_by_both(name: str) -> None:
    """One by one, so that no key hides behind another that is wrong."""
    taken = 0

    @settings(deadline=None, max_examples=40, database=None, derandomize=True)
    @given(value=field(RULE.keys[name]))
    def each(value: Any) -> None:
        nonlocal taken
        rule = {name: value, "verdict": "reject" if name == "reject_with" else "continue"}
        if name in ("sport", "dport") or value == "tcp-reset":
            rule["proto"] = "tcp"
        text = written({"rules": [rule]})
        if not loads(text):
            taken += 1
            assert errors(seen(text)) == [], text

    each()
    assert taken > 0


# --- files of the wrong shape -------------------------------------------------------------------------------------

GOOD = {
    **HEAD,
    "sets": {"lan": ["192.168.0.0/16"]},
    "chains": {"guests": [{"verdict": "drop"}]},
    "rules": [
        {"state": "NEW", "src": "$lan", "proto": "tcp", "dport": [80, 443], "verdict": "accept", "log": {"burst": 5}},
        {"jump": "guests", "limit": {"rate": "5/second"}, "time": {"days": "mon"}},
    ],
    "never": [{"from": "10.0.0.1", "to": "10.0.0.2"}],
    "tests": [{"send": "udp 10.0.0.1:5 > 10.0.0.2:53", "expect": "drop"}],
}  # fmt: skip


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [way] if way else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*way, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            found += places(inner, (*way, at))
    return found


def changed(way: tuple[Any, ...], change: Any) -> Any:
    copy = json.loads(json.dumps(GOOD))
    holder = copy
    for step in way[:-1]:
        holder = holder[step]
    change(holder, way[-1])
    return copy


def test_the_good_file_is_good() -> None:
    assert loads(yaml.safe_dump(GOOD)) == errors(GOOD) == []


@pytest.mark.parametrize("way", places(GOOD), ids=lambda way: "/".join(map(str, way)))
@pytest.mark.parametrize("wrong", [{"nobody": {"knows": 1}}, [["deep"]], None], ids=["mapping", "list", "nothing"])
def test_a_value_of_the_wrong_shape(way: tuple[Any, ...], wrong: Any) -> None:
    document = changed(way, lambda holder, last: holder.__setitem__(last, wrong))
    if way == ("sets",) and isinstance(wrong, dict):
        wrong = document["sets"] = {"nobody": {"knows": 1}}
    text = yaml.safe_dump(document).replace(" null\n", "\n")
    assert loads(text), text
    assert errors(document), text


@pytest.mark.parametrize("way", [way for way in places(GOOD) if isinstance(way[-1], str)], ids=str)
def test_a_key_that_nobody_knows(way: tuple[Any, ...]) -> None:
    if way[0] in ("sets", "chains") and len(way) == 2:
        pytest.skip("names are free here")
    document = changed(way, lambda holder, last: holder.__setitem__("zzz", holder.pop(last)))
    assert loads(yaml.safe_dump(document))
    assert errors(document)


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"verdict": "accept", "jump": "guests"},
        {"verdict": "accept", "dport": 80},
        {"verdict": "accept", "proto": "tcp", "dport": []},
        {"verdict": "maybe"},
        {"verdict": "drop", "state": "NEWS"},
        {"verdict": "drop", "proto": 256},
        {"verdict": "drop", "proto": "tcp", "dport": 65536},
        {"verdict": "drop", "src": "home"},
        {"verdict": "drop", "in": "eth 0"},
        {"verdict": "drop", "limit": "many"},
        {"verdict": "drop", "time": {}},
        {"verdict": "drop", "connlimit": {"per": "src"}},
        {"verdict": "drop", "connlimit": {"upto": 1, "above": 2}},
        {"verdict": "drop", "mac": "52:54"},
        {"verdict": "drop", "mark": "blue"},
        {"verdict": "drop", "tcp_flags": "syn,sin"},
        {"verdict": "drop", "name": ""},
        {"verdict": "drop", "name": "x" * 65},
    ],
    ids=str,
)
def test_a_rule_that_neither_takes(rule: dict[str, Any]) -> None:
    document = {**HEAD, "chains": {"guests": [{"verdict": "drop"}]}, "rules": [rule]}
    assert loads(yaml.safe_dump(document))
    assert errors(document)
