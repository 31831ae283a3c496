"""Who may sit behind the gateway's queue: the do-nothing C loops, ctfw, or nobody (the kernel alone).

A candidate is started in the gateway of ``lab.net`` and answers what was asked for when it is ``ready``. What it costs
is read from the kernel: the processor time of its whole process tree in nanoseconds (/proc/PID/task/*/schedstat, the
sum that /proc/PID/stat shows in ticks of ten milliseconds), and how many packets it was given, which is the queue's own
count (/proc/net/netfilter/nfnetlink_queue), the same for everyone.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from lab.net import Network

QUEUE: Final = 0
RANGE: Final = 1600  # what ctfw has the kernel copy of a packet on links of the usual MTU
BATCH: Final = 32
RULES_AHEAD: Final = 100
_PATIENCE: Final = 20.0
_SOURCES: Final = Path(__file__).parent

# Rules that every packet has to pass, established or not, before one matches: they ask for no state.
_AHEAD: Final = """  - name: ahead {0}
    chain: forward
    in: lan0
    src: [10.{0}.0.0/16, 172.16.{0}.0/24]
    proto: [tcp, udp]
    dport: [{1}, 6000-6063]
    verdict: drop
"""
RULES: Final = (
    "version: 1\npolicy: {{input: accept, forward: drop, output: accept}}\n"
    "conntrack: {{max: {most}, udp_timeout: 3600, udp_timeout_stream: 3600}}\nrules:\n"
    + "".join(_AHEAD.format(number, 100 + number) for number in range(RULES_AHEAD))
    + "  - {{name: replies, state: [ESTABLISHED, RELATED], verdict: accept}}\n"
    + "  - {{name: new, chain: forward, in: lan0, state: NEW, verdict: accept}}\n"
)


class Programs(NamedTuple):
    """The compiled C programs."""

    accept: str
    traffic: str


def compile_programs(directory: Path) -> Programs:
    """Compiles them into ``directory``. Raises CalledProcessError."""
    for name in Programs._fields:
        subprocess.run(["gcc", "-O2", "-Wall", "-o", directory / name, _SOURCES / f"{name}.c"], check=True)
    return Programs(*[str(directory / name) for name in Programs._fields])


class Candidate(NamedTuple):
    """A name for the table, and the command that serves the queue; no command: the kernel alone."""

    name: str
    command: tuple[str, ...]


def c_loop(programs: Programs, name: str, batch: int, gso: bool) -> Candidate:
    return Candidate(name, (programs.accept, str(QUEUE), str(batch), str(RANGE), str(int(gso))))


def firewall(directory: Path, name: str = "ctfw", most: int = 262144) -> Candidate:
    """ctfw as an admin runs it, with RULES and room for so many connections; its control socket is NAME.sock."""
    (directory / f"{name}.yaml").write_text(RULES.format(most=most))
    files = ("--rules", str(directory / f"{name}.yaml"), "--socket", str(directory / f"{name}.sock"))
    return Candidate(name, (sys.executable, "-P", "-m", "ctfw", "run", *files, "--queue", str(QUEUE)))


class Server:
    """A candidate at work in the gateway."""

    def __init__(self, net: Network, process: "subprocess.Popen[str] | None") -> None:
        self._net = net
        self._process = process

    def nanoseconds(self) -> int:
        """Processor time of the process tree so far; 0 for the kernel alone, whose costs nobody is charged for."""
        return sum(_time_of(process) for process in _tree(self._process.pid)) if self._process else 0

    def packets(self) -> int:
        """Packets that it has been given so far, those that still wait not counted."""
        for line in self._net.gateway.run("cat", "/proc/net/netfilter/nfnetlink_queue").splitlines():
            fields = [int(field) for field in line.split()]
            if fields[0] == QUEUE:
                return fields[7] - fields[2]
        return 0

    def wait_until_idle(self) -> None:
        """Returns when nothing waits in the queue and the process has come to rest."""
        last = -1
        while last != (last := self.packets()):
            time.sleep(0.02)


@contextlib.contextmanager
def serving(net: Network, candidate: Candidate) -> Iterator[Server]:
    """Runs the candidate in the gateway. Raises RuntimeError with its words when it does not start."""
    if not candidate.command:
        yield Server(net, None)
        return
    with tempfile.TemporaryFile("w+") as said:
        process = net.gateway.start(candidate.command, stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + _PATIENCE
            while not _is_bound(net):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise RuntimeError(f"{candidate.name} did not start: {said.read()}")
                time.sleep(0.01)
            yield Server(net, process)
        finally:
            process.terminate()
            process.wait()


def _is_bound(net: Network) -> bool:
    """Is there a listener that wants packets' bytes? ctfw binds first and configures then."""
    lines = net.gateway.run("cat", "/proc/net/netfilter/nfnetlink_queue").splitlines()
    return any(line.split()[0] == str(QUEUE) and line.split()[3] == "2" for line in lines)


def _tree(root: int) -> list[int]:
    """The process and its descendants."""
    parents: dict[int, int] = {}
    for name in _listed("/proc"):
        with contextlib.suppress(OSError, ValueError):
            # Behind the name, which may hold anything: state, parent.
            parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def _time_of(process: int) -> int:
    total = 0
    for task in _listed(f"/proc/{process}/task"):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{process}/task/{task}/schedstat").read_text().split()[0])
    return total


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
