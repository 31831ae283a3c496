"""The table of complaints names tests that exist; of the package, steps of its one test."""

import ast
from functools import cache
from pathlib import Path

import pytest
from field.rows import ROWS

TESTS = Path(__file__).parents[1]


@cache
def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS)
def test_each_complaint_has_tests_that_exist(row: str) -> None:
    assert ROWS[row]
    for test in ROWS[row]:
        file, _, name = test.partition("::")
        assert name in names_in(TESTS / file), test
