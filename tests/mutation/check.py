"""Have the tests teeth? Plants one fault after another in a copy of ctfw, and runs the tests against it.

    PYTHONPATH=tests python -m mutation.check [--fast] [--list] [WORD ...]

First the engine's conversations, then its properties, which take longer, and only if both stay green the comparison
with the kernel (tests/kernel/test_fidelity.py, which needs root); ``--fast`` leaves that out. WORDs choose the faults
whose name has one of them. Prints who caught what, and exits with 1 when a fault survives, with 2 when a fault does not
fit the code any more or the unspoilt copy is red.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from mutation.faults import FAULTS, Fault

_CHECKOUT: Final = Path(__file__).resolve().parents[2]
_ENGINE: Final = (("tests/engine", "-m", "not hypothesis"), ("tests/engine", "-m", "hypothesis"))
_KERNEL: Final = (("tests/kernel/test_fidelity.py",),)
_TIMEOUT: Final = 600
_GREEN: Final = ""


def copy(where: Path) -> None:
    """A checkout in ``where``, as far as the tests need it, and without anything compiled."""
    for name in ("ctfw", "tests"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", ".hypothesis")
        shutil.copytree(_CHECKOUT / name, where / name, ignore=ignored)
    shutil.copy(_CHECKOUT / "pyproject.toml", where)


def run(where: Path, suite: tuple[str, ...]) -> str:
    """The first test that fails, or what else went wrong; "" when all is green."""
    environment = os.environ | {"PYTHONPATH": f"{where}:{where}/tests", "CTFW_REQUIRE_KERNEL": "1"}
    environment |= {"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *suite]
    try:
        ran = subprocess.run(
            command, cwd=where, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return "it hangs"
    if ran.returncode == 0:
        return _GREEN
    failed = [line.split(" - ")[0] for line in ran.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0].partition(" ")[2] if failed else f"pytest ended with {ran.returncode}: {ran.stdout[-200:]}"


def plant(where: Path, fault: Fault) -> bool:
    """Changes the copy; False when the text is not there exactly once."""
    file = where / "ctfw" / fault.path
    text = file.read_text()
    if text.count(fault.old) != 1:
        return False
    changed = text.replace(fault.old, fault.new)
    compile(changed, file, "exec")
    file.write_text(changed)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--fast", action="store_true", help="only the engine's tests")
    parser.add_argument("--list", action="store_true", help="show the faults")
    options = parser.parse_args()
    faults = [one for one in FAULTS if not options.words or any(word in one.name for word in options.words)]
    if options.list:
        print("\n".join(f"{one.name:48} {one.path}" for one in faults))
        return 0
    suites = _ENGINE if options.fast else _ENGINE + _KERNEL
    survived, unfit = [], []
    with tempfile.TemporaryDirectory(prefix="ctfw-mutation-") as directory:
        where = Path(directory)
        copy(where)
        for suite in suites:
            red = run(where, suite)
            if red:
                print(f"without any fault {' '.join(suite)} is red: {red}", file=sys.stderr)
                return 2
        for fault in faults:
            file = where / "ctfw" / fault.path
            right = file.read_text()
            began = time.monotonic()
            if not plant(where, fault):
                unfit.append(fault)
                print(f"{fault.name:48} DOES NOT FIT {fault.path} any more", flush=True)
                continue
            caught = next((red for red in (run(where, suite) for suite in suites) if red), _GREEN)
            file.write_text(right)
            if not caught:
                survived.append(fault)
            print(f"{fault.name:48} {time.monotonic() - began:4.0f} s  {caught or 'SURVIVED'}", flush=True)
    print(f"{len(faults)} faults, {len(faults) - len(survived) - len(unfit)} caught, {len(survived)} survived")
    return 2 if unfit else 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
