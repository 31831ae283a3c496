"""Every warning of `ctfw check`, as text: golden/NAME.yaml is a rule file, golden/NAME.txt what is said about it.

After a change of words: CTFW_UPDATE_GOLDEN=1 pytest tests/lint/test_golden.py, then read the difference.
"""

import os
from pathlib import Path

import pytest

from ctfw import cli, config

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.yaml"))


def said(path: Path) -> str:
    try:
        problems = config.load(str(path), advise=True).warnings
    except config.ConfigError as wrong:
        problems = wrong.problems
    return "".join(config.render(problem) + "\n" for problem in problems).replace(f"{path.parent}/", "")


def test_there_are_golden_files() -> None:
    assert len(FILES) >= 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    text, golden = said(path), path.with_suffix(".txt")
    if os.environ.get("CTFW_UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_the_example_gives_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--strict", str(ROOT / "rules.example.yaml")]) == 0
    assert capsys.readouterr().err == ""


def test_check_advises(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(GOLDEN / "locked-out.yaml")
    assert cli.main(["check", path]) == 0
    assert "no rule lets new SSH connections in" in capsys.readouterr().err
    assert cli.main(["check", "--strict", path]) == 1


def test_loading_does_not() -> None:
    assert config.load(str(GOLDEN / "locked-out.yaml")).warnings == []


def test_an_invariant_is_held_at_every_load() -> None:
    with pytest.raises(config.ConfigError, match="does not hold"):
        config.load(
            "rules.yaml", "version: 1\npolicy: {input: drop, forward: accept, output: drop}\nnever: {to: 10.0.0.1}\n"
        )
