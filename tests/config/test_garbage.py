"""What reading a rule file leaves behind: nothing that only a collector of cycles finds, for the daemon has none."""

import gc
from collections import Counter
from pathlib import Path

import pytest

from ctfw import config
from ctfw.tools import rule_tests

EXAMPLE = Path(__file__).parents[2] / "rules.example.yaml"
MUCH = """
version: 1
sets: {banned: {dynamic: on, ttl: 1s}, lan: [192.168.0.0/16]}
policy: {input: accept, forward: drop, output: accept}
chains:
  more:
    - {name: ssh, proto: tcp, dport: 22, verdict: accept, log: {limit: 5/minute}}
never:
  - {name: no telnet, from: $lan, proto: tcp, dport: telnet}
rules:
  - {name: banned, src: $banned, verdict: drop}
  - {name: more, jump: more}
tests:
  - {name: ssh is open, send: "tcp 192.168.1.7:40000 > 203.0.113.9:22 syn", expect: accept}
"""


@pytest.mark.parametrize("text", [EXAMPLE.read_text(), MUCH, "rules: [{verdict: nothing}]", "{"])
def test_a_file_that_was_read_leaves_no_cycles(tmp_path: Path, text: str) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(text)

    def read() -> None:
        try:
            rule_tests.load(str(rules))
        except config.ConfigError:
            assert text not in (EXAMPLE.read_text(), MUCH)

    read()  # what is made once and kept
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        read()
        gc.collect()
        assert Counter(type(found).__name__ for found in gc.garbage) == {}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
