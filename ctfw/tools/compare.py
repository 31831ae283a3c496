"""Two tables of connections, the kernel's and ours, side by side: for people who do not believe it, and for us.

Where the kernel tracks the same traffic (a rule with `-m conntrack`, or NAT, switches that on), both should hold the
same records. ``compare`` says what only one of them has and where a record differs: protocol state, flags, or seconds
left by more than a tolerance, since both tables are read one after the other and live on meanwhile. Mark, zone and use
are each side's own business.

Reads lines of /proc/net/nf_conntrack or of ``conntrack -L -o extended`` and knows nothing of where they come from.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc/net/nf_conntrack")

_HEAD: Final = re.compile(r"^(ipv4|ipv6) +\d+ (\S+) +(\d+) +(?:(\d+) +)?(.*)$")
_FLAGS: Final = ("UNREPLIED", "ASSURED", "OFFLOAD")
_TUPLE: Final = ("src", "dst", "sport", "dport", "type", "code", "id", "srckey", "dstkey")


class KernelTableError(Exception):
    """The kernel's table cannot be had; the message says why and what to do."""


@dataclass
class Record:
    """One line, taken apart. ``key`` names the connection: protocol and both tuples."""

    line: str
    key: tuple[str, ...]
    seconds: int
    state: str
    flags: frozenset[str]


@dataclass
class Comparison:
    """What ``compare`` found. ``differing`` holds both records and what differs between them."""

    same: int = 0
    only_kernel: list[Record] = field(default_factory=list)
    only_ours: list[Record] = field(default_factory=list)
    differing: list[tuple[Record, Record, list[str]]] = field(default_factory=list)

    def is_equal(self) -> bool:
        """True when both tables hold the same connections with the same records."""
        return not (self.only_kernel or self.only_ours or self.differing)


def parse(line: str) -> Record | None:
    """The record in a line; None when it is none."""
    match = _HEAD.match(line.strip())
    if match is None:
        return None
    family, _, proto, seconds, rest = match.groups()
    tuples: list[str] = []
    state, flags = "", set()
    for word in rest.split():
        name, equals, value = word.partition("=")
        if equals and name in _TUPLE:
            tuples.append(f"{name}={ip_address(value) if name in ('src', 'dst') else value}")
        elif word.startswith("[") and word.strip("[]") in _FLAGS:
            flags.add(word.strip("[]").replace("OFFLOAD", "ASSURED"))  # shown in its place, and implies it
        elif not equals and not tuples and word.isupper():
            state = word
    if not tuples:
        return None
    return Record(line.strip(), (family, proto, *tuples), int(seconds or 0), state, frozenset(flags))


def parse_all(lines: Iterable[str]) -> Iterator[Record]:
    """The records in the lines that are some."""
    for line in lines:
        try:
            record = parse(line)
        except ValueError:  # an address that is none: not a line of such a table
            record = None
        if record is not None:
            yield record


def compare(kernel: Iterable[str], ours: Iterable[str], tolerance: int = 2) -> Comparison:
    """Holds the kernel's lines against ours; ``tolerance`` is in seconds."""
    theirs = {record.key: record for record in parse_all(kernel)}
    found = Comparison()
    for mine in parse_all(ours):
        other = theirs.pop(mine.key, None)
        if other is None:
            found.only_ours.append(mine)
            continue
        differences = []
        if other.state != mine.state:
            differences.append(f"state {other.state} / {mine.state}")
        if other.flags != mine.flags:
            differences.append(f"flags {_flag_text(other)} / {_flag_text(mine)}")
        if abs(other.seconds - mine.seconds) > tolerance:
            differences.append(f"seconds {other.seconds} / {mine.seconds}")
        if differences:
            found.differing.append((other, mine, differences))
        else:
            found.same += 1
    found.only_kernel = list(theirs.values())
    return found


def kernel_lines(arguments: Iterable[str] = ()) -> list[str]:
    """The kernel's table of this network namespace; ``arguments`` are filters of ``conntrack -L``, if any.

    From the program `conntrack` when there are filters, else from /proc or, where that has none, from the program.
    Raises KernelTableError.
    """
    filters = list(arguments)
    if not filters:
        try:
            return PROC.read_text(encoding="ascii").splitlines()
        except PermissionError:
            raise KernelTableError(f"{PROC}: not permitted; only root may read the kernel's table") from None
        except OSError:
            pass  # a kernel without that file
    try:
        done = subprocess.run(
            ["conntrack", "-L", "-o", "extended", *filters], capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError:
        raise KernelTableError(
            "the kernel's table: the program conntrack is not installed (apt-get install conntrack)"
        ) from None
    except subprocess.TimeoutExpired:
        raise KernelTableError("the kernel's table: conntrack -L took more than a minute") from None
    if done.returncode != 0:
        raise KernelTableError(f"the kernel's table: conntrack -L: {(done.stderr.splitlines() or ['failed'])[-1]}")
    return done.stdout.splitlines()


def _flag_text(record: Record) -> str:
    return ",".join(sorted(record.flags)) or "none"
