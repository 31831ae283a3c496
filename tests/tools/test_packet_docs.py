"""docs/packets.md: its tables are those of the reader, its examples are packets, its tests pass."""

import re
from pathlib import Path

import pytest
from tools.gateway import established

from ctfw import config, reason
from ctfw.config.packet_vocabulary import CHUNKS, FLAGS, PLAIN, WORDS
from ctfw.config.packet_words import parse
from ctfw.packet import decode
from ctfw.packet_text import proto_name
from ctfw.tools import rule_tests
from ctfw.tools.build_packet import Talk

PAGE = (Path(__file__).parents[2] / "docs" / "packets.md").read_text(encoding="utf-8")


def fenced(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)


def generated(name: str) -> str:
    (found,) = re.findall(rf"<!-- words: {name} -->\n\n(.*?)\n\n<!-- end -->", PAGE, re.S)
    return str(found)


def table(rows: list[tuple[str, tuple[int, ...], str]]) -> str:
    lines = ["| word | in | meaning |", "|---|---|---|"]
    for name, protos, meaning in rows:
        lines.append(f"| `{name}` | {', '.join(map(proto_name, protos)) or 'all'} | {meaning} |")
    return "\n".join(lines)


def test_the_tables_are_those_of_the_reader() -> None:
    assert generated("numbers") == table([(word.name + "=", word.protos, word.meaning) for word in WORDS])
    assert generated("plain") == table([(name, protos, meaning) for name, (protos, meaning) in PLAIN.items()])
    assert generated("chunks").replace("\n", " ") == ", ".join(f"`{name}`" for name in CHUNKS)


def test_the_grammar_knows_every_flag() -> None:
    (grammar,) = fenced("ebnf")
    assert set(re.findall(r'"(\w+)"', re.findall(r"^flag .*$", grammar, re.M)[0])) == set(FLAGS)


@pytest.mark.parametrize("text", [line for block in fenced("packet") for line in block.splitlines()])
def test_every_example_is_a_packet(text: str) -> None:
    data = Talk().build(parse(text))
    packet = decode(data, len(data))
    assert packet.reason == (reason.FRAGMENT if packet.fragment else 0)


def test_the_rule_file_passes_its_tests() -> None:
    (text,) = fenced("yaml")
    loaded = config.load("packets.md", text)
    played = rule_tests.run(loaded)
    assert len(played) == 2
    assert rule_tests.problems(loaded, played) == []


def test_the_arithmetic_is_what_explain_prints() -> None:
    (shown,) = fenced("text")
    told = established().ask("tcp 192.168.1.7:40000 > 203.0.113.9:443 ack psh seq=140001 len=100".replace(" psh", ""))
    assert shown.rstrip("\n") in told["text"]
