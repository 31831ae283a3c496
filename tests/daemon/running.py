"""A real `ctfw run` on the gateway of a Network, and what it says: its log, its notifications, its answers."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from lab.net import SERVER, Network

COMMAND: Final = (sys.executable, "-P", "-m", "ctfw")
PATIENCE: Final = 30.0  # seconds; as long as nothing is wrong, what takes them is the machine
OPEN: Final = 5353  # RULES accept UDP to it
SHUT: Final = 666
RULES: Final = """
version: 1
policy: {input: accept, forward: drop, output: accept}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: garbage, state: INVALID, verdict: drop, log: {limit: 5/minute}}
  - {name: open, chain: forward, in: lan0, proto: udp, dport: 5353, state: NEW, verdict: accept}
"""
# The command, with something done to the Daemon before it says READY: `self` in the given statements.
_CHANGED: Final = """
import sys
from ctfw.cli import main
from ctfw.daemon import Daemon
begin = Daemon._start
def start(self):
{statements}
    begin(self)
Daemon._start = start
code = main(sys.argv[1:])
print("modules:", *sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
sys.exit(code)
"""


class Running:
    """The daemon from READY to its end. `changed`: statements that the test wants done to it at its start."""

    def __init__(
        self, net: Network, directory: Path, *options: str, rules: str = RULES, changed: Sequence[str] = ("pass",)
    ) -> None:
        self.net = net
        self.rules = directory / "rules.yaml"
        self.rules.write_text(rules)
        self.control = str(directory / "control.sock")
        self._log = directory / "log"
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.settimeout(PATIENCE)
        self._notices.bind(str(directory / "notify"))
        code = _CHANGED.format(statements="\n".join(f"    {statement}" for statement in changed))
        arguments = ["run", "--rules", str(self.rules), "--socket", self.control, "--log", "stderr", *options]
        with open(self._log, "w") as log:
            self.process = net.gateway.start(
                [sys.executable, "-P", "-c", code, *arguments],
                env={"NOTIFY_SOCKET": str(directory / "notify"), "WATCHDOG_USEC": "400000"},
                stderr=log,
            )
        self.notice("READY=1")

    def __enter__(self) -> "Running":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._notices.close()

    def notice(self, wanted: str) -> str:
        """The next notification to systemd that says `wanted`."""
        while True:
            try:
                text = self._notices.recv(4096).decode()
            except TimeoutError:
                raise AssertionError(f"no {wanted}; the log: {self.log()}") from None
            if wanted in text:
                return text

    def notices(self, seconds: float) -> str:
        """Everything that is notified in the next so many seconds."""
        end = time.monotonic() + seconds
        text = ""
        while (left := end - time.monotonic()) > 0:
            self._notices.settimeout(left)
            with contextlib.suppress(TimeoutError):
                text += self._notices.recv(4096).decode() + "\n"
        return text

    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def freeze(self) -> None:
        """SIGSTOP, and it really stands still."""
        self.signal(signal.SIGSTOP)
        state = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")

    def stop(self) -> dict[str, int]:
        """SIGTERM, exit code 0; the figures of the last line."""
        self.signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log()
        (last,) = re.findall("^ctfw: stopped: (.*)", self.log(), re.MULTILINE)
        return {name: int(value) for name, _, value in (word.partition("=") for word in last.split())}

    def ctfw(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run the command against this daemon."""
        done = command(*arguments, "--socket", self.control)
        assert done.returncode == code, done.stderr
        return done

    def stats(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.ctfw("stats", "-o", "json").stdout)
        return answer

    def queue(self) -> dict[str, int]:
        """The kernel's own view of queue 0."""
        with self.net.gateway, open("/proc/thread-self/net/netfilter/nfnetlink_queue") as file:
            fields = [int(field) for field in file.read().split()]
        return {"waiting": fields[2], "queue_dropped": fields[5], "socket_dropped": fields[6], "last": fields[7]}


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30)


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Datagrams:
    """UDP from the client to a port of the server, both of them kept open."""

    def __init__(self, net: Network, port: int) -> None:
        with net.server:
            self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self.server.bind((SERVER, port))
        with net.client:
            self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.client.connect((SERVER, port))
        for end in (self.server, self.client):
            end.settimeout(0.5)

    def arrives(self, data: bytes = b"there?") -> bool:
        """Does a datagram come through?"""
        self.client.send(data)
        try:
            return self.server.recv(2048) == data
        except TimeoutError:
            return False

    def answered(self) -> bool:
        """Does one come through, and its answer back?"""
        self.client.send(b"there?")
        try:
            data, asker = self.server.recvfrom(2048)
            self.server.sendto(data, asker)
            return self.client.recv(2048) == data
        except TimeoutError:
            return False

    def __enter__(self) -> "Datagrams":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.close()
        self.client.close()
