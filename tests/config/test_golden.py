"""Every message, caret and hint, as text: golden/NAME.yaml is a rule file, golden/NAME.txt what `ctfw check` says.

After a change of words: CTFW_UPDATE_GOLDEN=1 pytest tests/config/test_golden.py, then read the difference.
"""

import os
from pathlib import Path

import pytest

from ctfw import config

GOLDEN = Path(__file__).parent / "golden"
# Accepted by one parser only; see the essay of ctfw/config/document.py.
LIBYAML_ONLY = {"tab-caret", "syntax-tight"}

FILES = sorted(GOLDEN.glob("*.yaml"))


def said(path: Path, pure: bool) -> str:
    try:
        problems = config.load(str(path), pure=pure).warnings
    except config.ConfigError as wrong:
        problems = wrong.problems
    return "".join(config.render(problem).replace(f"{path.parent}/", "") + "\n" for problem in problems)


def test_there_are_golden_files() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_libyaml(path: Path) -> None:
    text = said(path, pure=False)
    golden = path.with_suffix(".txt")
    if os.environ.get("CTFW_UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [path for path in FILES if path.stem not in LIBYAML_ONLY], ids=lambda path: path.stem)
def test_pure_python_parser_says_the_same(path: Path) -> None:
    assert said(path, pure=True) == path.with_suffix(".txt").read_text(encoding="utf-8")
