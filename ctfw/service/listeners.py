"""Who listens on the queues that the hook hands packets to: a part of `ctfw doctor`, and asked by `ctfw hook apply`.

The kernel lists its queues with the netlink port of who bound them, and its netlink sockets with their ports and
inodes; whose descriptor an inode is stands in /proc. With workers there is a queue for each of them, and the hook
spreads connections over all: one without a listener is a part of the traffic that goes nowhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from ctfw.service.finding import FAIL, OK, WARN, Finding
from ctfw.service.hook.plan import Plan

_NETLINK_NETFILTER: Final = "12"
_SYSTEMD: Final = 1  # process number


def examine(plan: Plan, status: dict[str, Any]) -> Iterator[Finding]:
    """Every finding; ``status`` is the running daemon's answer, empty when there is none."""
    ports = listeners()
    if ports is None:
        yield Finding(WARN, "queue", "who listens cannot be seen", "run as root")
        return
    deaf = [number for number in plan.queues if number not in ports]
    if deaf:
        fate = "passes" if plan.bypass else "is dropped"
        text = f"nobody listens on {named(deaf)}: what is sent there {fate}"
        some = f"the file says {plan.workers} workers, and their number is read at the start: restart ctfw"
        yield Finding(FAIL, "queue", text, "start ctfw" if len(deaf) == plan.workers else some)
    ours = {status["pid"], *(worker["pid"] for worker in status.get("workers", ()))} if status else set()
    for number in plan.queues:
        if number in ports:
            yield held(number, processes_of(ports[number]), ours)


def held(number: int, holders: dict[int, str], ours: set[int]) -> Finding:
    """The finding of a queue that somebody has; ``ours`` are the running ctfw's processes."""
    readers = {pid: name for pid, name in holders.items() if pid != _SYSTEMD}
    if holders and not readers:
        text = (
            f"queue {number} is kept by systemd for the next ctfw, and nobody reads it: packets wait until it is full"
        )
        return Finding(WARN, "queue", text, "systemctl status ctfw")
    pid, name = next(
        ((pid, name) for pid, name in readers.items() if pid in ours), next(iter(readers.items()), (0, ""))
    )
    who = f"pid {pid}, {name}" if pid else "a process that cannot be seen from here"
    if ours and pid not in ours:
        return Finding(FAIL, "queue", f"queue {number} is held by {who}, not by ctfw", "stop it, or set queue.number")
    return Finding(OK, "queue", f"queue {number} is held by {who}")


def why_not(plan: Plan, standing: Collection[int], heard: Collection[int]) -> str:
    """Why the hook that stands, with these queues, must not get those of the plan now; "" when it may.

    Queues are bound when ctfw starts. Rules that name others than a running ctfw has would take packets away from it:
    for queues that nobody reads, or from workers that know their connections.
    """
    wanted = set(plan.queues)
    deaf = sorted(wanted.difference(heard))
    is_served = len(standing) > 0 and not set(standing).difference(heard)
    if 0 < len(deaf) < len(wanted) or (is_served and deaf):
        return f"nobody listens on {named(deaf)} yet: ctfw binds its queues when it starts"
    if is_served and wanted < set(standing):
        return f"ctfw still has {named(sorted(standing))}: it binds its queues when it starts"
    return ""


def unheard(plan: Plan) -> list[int]:
    """The plan's queues that nobody listens on; none when that may not be read."""
    ports = listeners()
    return [] if ports is None else [number for number in plan.queues if number not in ports]


def named(queues: Sequence[int]) -> str:
    """The queues in words."""
    return f"queue {queues[0]}" if len(queues) == 1 else f"queues {', '.join(map(str, queues))}"


def listeners() -> dict[int, int] | None:
    """The netlink port that is bound to each queue; None when that may not be read."""
    try:
        with open("/proc/thread-self/net/netfilter/nfnetlink_queue", encoding="ascii") as proc:
            return {int(line.split()[0]): int(line.split()[1]) for line in proc}
    except OSError:
        return None


def processes_of(port: int) -> dict[int, str]:
    """Who has the socket of this netlink port of netfilter, by process number; nobody when that cannot be seen.

    The port is the number of the process that opened it, and of its first netlink socket only, so the socket itself is
    looked for. systemd has it too where it keeps the queue over a restart.
    """
    with open("/proc/thread-self/net/netlink", encoding="ascii") as table:
        rows = [line.split() for line in table]
    inodes = {row[9] for row in rows if row[1] == _NETLINK_NETFILTER and row[2] == str(port)}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = {}
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with contextlib.suppress(OSError):
            if any(_target(entry) in wanted for entry in os.scandir(f"/proc/{pid}/fd")):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                    found[pid] = comm.read().strip()
    return found


def _target(entry: os.DirEntry[str]) -> str:
    """Where a descriptor leads; "" when it has just been closed."""
    try:
        return os.readlink(entry.path)
    except OSError:
        return ""
