"""The build under test is the one that was asked for, and it is whole.

From a checkout `import ctfw` finds the sources although an installed build is meant: then everything would be
green and nothing tested. CTFW_EXPECT_BUILD says which build this run is about; without it, as when pytest is
called by hand, only what holds for any build is tested.
"""

import importlib
import importlib.machinery
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import ctfw

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = Path(ctfw.__file__).parent
EXPECTED = os.environ.get("CTFW_EXPECT_BUILD")
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


def hot_modules() -> list[str]:
    """What setup.py compiles, worked out in another way: the two packages and the modules around them."""
    loose = [PACKAGE / f"{name}.py" for name in ("reason", "packet", "checksum", "engine", "nfqueue")]
    found = [*loose, *(PACKAGE / "conntrack").rglob("*.py"), *(PACKAGE / "ruleset").rglob("*.py")]
    cold = [PACKAGE / "conntrack" / "record.py"]
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in found
        if path not in cold and path.name != "__init__.py"
    ]


def test_the_build_that_was_asked_for_runs() -> None:
    compiled = {name: str(importlib.import_module(name).__file__).endswith(SUFFIX) for name in hot_modules()}
    assert len(set(compiled.values())) == 1, compiled
    assert EXPECTED is None or set(compiled.values()) == {EXPECTED == "compiled"}


def test_the_checkout_itself_is_not_what_is_tested() -> None:
    assert EXPECTED is None or PACKAGE.parent != CHECKOUT


def test_the_installed_build_is_that_of_the_checkout() -> None:
    def sources(root: Path) -> dict[str, str]:
        return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.py")}

    assert sources(PACKAGE) == sources(CHECKOUT / "ctfw")


def test_a_child_process_runs_the_same_build() -> None:
    said = subprocess.check_output([sys.executable, "-P", "-m", "ctfw", "--version"], text=True)
    assert EXPECTED is None or said == f"ctfw {ctfw.__version__} ({EXPECTED})\n"


def test_everything_installed_is_inside_the_package_and_known_to_pip() -> None:
    known = {str(path) for path in distribution("ctfw").files or ()}
    there = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*") if path.is_file()}
    assert {path for path in there if "__pycache__" not in path} <= known or EXPECTED is None
    outside = [path for path in known if not path.startswith(("ctfw/", "ctfw-"))]
    assert [path for path in outside if not path.endswith("/bin/ctfw")] == []


def test_a_wheel_carries_the_sources_of_now_and_leaves_nothing_in_the_checkout(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(CHECKOUT / "ctfw", checkout / "ctfw", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, checkout)
    stale = checkout / "build" / "lib" / "ctfw" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    before = set(checkout.rglob("*"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", tmp_path, checkout], check=True, env=os.environ | {"CTFW_PURE": "1"})
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ctfw/")}
    assert packed == {str(path.relative_to(checkout)) for path in (checkout / "ctfw").rglob("*.py")}
    assert set(checkout.rglob("*")) == before
