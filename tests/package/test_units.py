"""The units of packaging/systemd as systemd itself reads them; what they do is tested on a booted machine.

`systemd-analyze verify` only warns of a key that it does not know, so any word from it is an error.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
SYSTEM = Path("/usr/lib/systemd/system")
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
PATIENCE = 30.0

# What a process that reads strangers' packets may expose, and what a root's program that makes kernel rules must: it is
# root (0.4), may make namespaces and mounts (CAP_SYS_ADMIN, 0.3), load modules and see the others' processes.
EXPOSURE = {"ctfw.service": 1.5}
EXPOSURE_OF_ROOT = 4.0

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that has the units, their program and what a Debian's own units are."""
    target = tmp_path / "usr/lib/systemd/system"
    target.mkdir(parents=True)
    for unit in [*SYSTEM.glob("*.target"), *SYSTEM.glob("*.slice"), *UNITS.glob("*.service"), *UNITS.glob("*.timer")]:
        shutil.copy(unit, target)
    (tmp_path / "usr/bin").mkdir()
    shutil.copy("/bin/true", tmp_path / "usr/bin/ctfw")
    return tmp_path


def test_systemd_has_nothing_to_say_about_the_units(root: Path) -> None:
    units = [path.name for path in UNITS.iterdir() if path.suffix in (".service", ".timer")]
    done = analyze("verify", f"--root={root}", "--man=no", *units)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_a_key_that_systemd_does_not_know_would_be_noticed(root: Path) -> None:
    path = root / "usr/lib/systemd/system/ctfw.service"
    path.write_text(path.read_text().replace("WatchdogSec", "WatchdogSecs"))
    assert "WatchdogSecs" in analyze("verify", f"--root={root}", "--man=no", "ctfw.service").stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_what_the_units_expose(unit: str) -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(UNITS / unit))
    exposure = float(done.stdout.splitlines()[-1].split(":")[1].split()[0])
    assert exposure <= EXPOSURE.get(unit, EXPOSURE_OF_ROOT)


@pytest.mark.parametrize("unit", SERVICES)
@pytest.mark.parametrize("key", ["PrivateNetwork", "PrivateUsers", "ProcSubset"])
def test_nothing_that_would_filter_another_network(unit: str, key: str) -> None:
    assert not [line for line in (UNITS / unit).read_text().splitlines() if line.startswith(f"{key}=")]
