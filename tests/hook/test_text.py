"""What `ctfw hook show` prints, held against golden files; and what the section `hook` of a rule file may say.

To renew the golden files, run this file as a program in a checkout: `python -P tests/hook/test_text.py`.
"""

import sys
from pathlib import Path
from typing import Final

import pytest

from ctfw import config
from ctfw.cli import main
from ctfw.config.hook import Hook
from ctfw.packet import FORWARD, INPUT, OUTPUT
from ctfw.service.hook.install import backend_named
from ctfw.service.hook.nft import compare
from ctfw.service.hook.plan import Plan, is_one_sided, make_plan
from ctfw.service.hook.programs import missing

GOLDEN: Final = Path(__file__).parent / "golden"
HEAD: Final = "version: 1\npolicy: {input: drop, forward: drop, output: drop}\n"
FILES: Final = {
    "plain": HEAD,
    "everything": HEAD
    + """
queue: {number: 5}
failure: {no_listener: accept}
hook:
  leave_alone: [docker0, veth+]
  keep_ssh: {from: [192.168.1.0/24, 10.0.0.1-10.0.0.2, "fd00:1::/64"], port: [22, 2222]}
reject: {mark: 0x100}
""",
    "forward": HEAD + "hook: {chains: forward, reject: off}\n",
    "offload": HEAD
    + """
hook: {chains: forward}
offload: {mark: 0x100}
rules: [{name: bulk, state: NEW, verdict: accept, offload: on}]
""",
}
BACKENDS: Final = ("nft", "iptables-nft", "iptables-legacy")


def script(name: str, file: str) -> str:
    return backend_named(name).script(make_plan(config.load("rules.yaml", FILES[file])))


@pytest.mark.skipif(bool(missing(["nft", *BACKENDS])), reason="not all programs are installed")
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("file", FILES)
def test_show(name: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(FILES[file])
    assert main(["hook", "show", "--rules", str(rules), "--backend", name]) == 0
    assert capsys.readouterr().out == (GOLDEN / f"{file}.{name}").read_text()


def test_a_rule_file_without_the_section_queues_everything_and_keeps_nothing() -> None:
    loaded = config.load("rules.yaml", HEAD)
    assert (loaded.hook, loaded.warnings) == (Hook(), [])
    plan = make_plan(loaded)
    assert plan == Plan(reject_bit=0x40000000)
    assert plan.chains == (INPUT, FORWARD, OUTPUT) and not plan.bypass and not plan.ssh_from
    assert make_plan(loaded, 7).queue == 7


def test_bypass_is_what_the_failure_policy_says() -> None:
    assert make_plan(config.load("rules.yaml", HEAD + "failure: {no_listener: accept}\n")).bypass
    assert not make_plan(config.load("rules.yaml", HEAD + "failure: {queue_full: accept}\n")).bypass


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("leave_alone: any", "interfaces to leave alone are named one by one"),
        ("leave_alone: +", "interfaces to leave alone are named one by one"),
        ("leave_alone: '!lan0'", "interfaces to leave alone are named one by one"),
        ("leave_alone: 'a\";reset'", "'a\";reset' cannot stand in kernel rules"),
        ("keep_ssh: {from: any}", "any network's SSH past the rules"),
        ("keep_ssh: {port: 22}", "keep_ssh has no 'from'"),
        ("keep_ssh: {from: 10.0.0.1-10.99.98.97, port: 22}", None),
        ("keep_ssh: {from: '!10.0.0.77'}", None),
        ("keep_ssh: {from: ['!10.0.0.77', '!10.9.0.77', '!11.9.0.77']}", "more than 64 networks"),
        ("keep_ssh: {from: 10.0.0.1, port: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", "more than 15 ports"),
        ("chains: prerouting", "'prerouting' is not known here"),
        ("chain: input", "unknown key 'chain' in hook"),
    ],
)
def test_mistakes_in_the_section(section: str, says: str | None) -> None:
    try:
        config.load("rules.yaml", HEAD + f"hook: {{{section}}}\n")
        found = []
    except config.ConfigError as error:
        found = [problem.message for problem in error.problems]
    assert found == ([says] if says else [])


def test_half_of_the_gateways_own_traffic_is_a_warning() -> None:
    loaded = config.load("rules.yaml", HEAD + "hook: {chains: [input, forward]}\n")
    assert [warning.message for warning in loaded.warnings] == [
        "chain input without output: ctfw sees one half of the gateway's own connections"
    ]


def test_input_and_output_on_one_side_of_address_translation() -> None:
    for pair in ((10, 10), (50, 50), (0, 0), (150, -150), (-150, -99)):
        assert is_one_sided(*pair), pair
    for pair in ((150, 150), (50, -150), (-150, -150), (150, 0), (100, 10), (10, -100)):
        assert not is_one_sided(*pair), pair


def test_differences_are_named_line_by_line() -> None:
    assert compare("t", "chain a {\n\tx\n\ty\n}\n", "chain a {\n    x\n    y\n}") == []
    assert compare("t", "x\ny", "y\nz") == ["t: missing: x", "t: not ours: z"]
    assert compare("t", "x\nx", "x") == ["t: missing: x"]
    assert compare("t", "x\ny", "y\nx") == ["t: the same rules in another order"]


if __name__ == "__main__":
    for file in FILES:
        for name in BACKENDS:
            (GOLDEN / f"{file}.{name}").write_text(script(name, file))
    sys.exit(0)
