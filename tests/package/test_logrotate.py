"""What rotates the EVE log rotates every log that there can be, and nothing that was rotated already."""

from fnmatch import fnmatch
from pathlib import Path

import pytest

from ctfw.config.eve import DEFAULT_PATH
from ctfw.workers.prepare import own_path

ROTATION = Path(__file__).parents[2] / "packaging" / "logrotate" / "ctfw"
LOGS = [DEFAULT_PATH, *(own_path(DEFAULT_PATH, number) for number in range(16))]


def patterns() -> list[str]:
    lines = ROTATION.read_text().partition("{")[0].splitlines()
    return " ".join(line for line in lines if not line.startswith("#")).split()


@pytest.mark.parametrize("path", LOGS)
def test_a_log_is_rotated_and_what_becomes_of_it_is_not(path: str) -> None:
    assert any(fnmatch(path, pattern) for pattern in patterns())
    for rotated in (f"{path}.1", f"{path}.2.gz"):
        assert rotated not in LOGS
        assert not any(fnmatch(rotated, pattern) for pattern in patterns())
