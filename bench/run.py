"""``make bench``: every part of the benchmark, one after the other, and the table of all their figures.

``python bench/run.py [--quick] [--pure DIRECTORY] [--output FILE]`` with PYTHONPATH=bench:tests. ``--quick`` leaves out
what needs root, a minute or more. ``--pure`` names a directory with an interpreted build, whose engine is measured as
well. Each part is a program of its own, in a process of its own, so that none works in the memory of another.
Exits with 1 when a part fails; a target that is not met is no failure, the table says it.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from report import Row, build, machine, table

_HERE: Final = Path(__file__).parent
QUICK: Final = {"engine": "engine alone", "rules": "rules and sets"}
FULL: Final = {
    "gateway": "gateway: real traffic through NFQUEUE, medians in turn",
    **QUICK,
    "hostile": "hostile senders",
    "million": "a million connections",
    "crowd": "a million connections, real traffic",
    "latency": "latency: what delays a packet",
}


def measure(part: str, title: str, pure: str = "") -> list[Row]:
    """The rows of one part, printed as they come. Raises CalledProcessError."""
    environment = os.environ | ({"PYTHONPATH": f"{pure}:{os.environ.get('PYTHONPATH', '')}"} if pure else {})
    command = (sys.executable, "-P", str(_HERE / f"{part}.py"), "--json")
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    rows = [Row(**row) for row in json.loads(ran.stdout)]
    print(table(rows, title), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pure", default="", metavar="DIRECTORY")
    parser.add_argument("--output", type=Path, metavar="FILE")
    options = parser.parse_args()
    where = machine()
    print(f"ctfw {build()}: " + ", ".join(f"{name} {value}" for name, value in where.items()), flush=True)
    result: dict[str, list[dict[str, object]]] = {}
    failed = []
    parts = [(part, title, "") for part, title in (QUICK if options.quick else FULL).items()]
    if options.pure:
        parts.append(("engine", "engine alone, interpreted", options.pure))
    for part, title, pure in parts:
        try:
            rows = measure(part, title, pure)
        except subprocess.CalledProcessError as error:
            print(f"bench: {title}: failed with {error.returncode}", file=sys.stderr)
            failed.append(part)
            continue
        result[title] = [{**vars(row), "verdict": row.verdict()} for row in rows]
    targets = [row["verdict"] for rows in result.values() for row in rows if row["verdict"]]
    print(f"{targets.count('met')} of {len(targets)} targets met")
    if options.output:
        options.output.write_text(json.dumps({"machine": where, "parts": result}, indent=1) + "\n")
        print(f"figures in {options.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
