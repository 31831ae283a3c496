"""A gateway with ctfw on it, watched: how long its loop takes a turn, and round trips at a steady pace through it."""

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from candidates import Programs

from ctfw.service.client import Client, ClientError
from lab.net import SERVER, Network

PORT: Final = 5000
RATE: Final = 1000  # datagrams a second
PIPE: Final = 4096
PATIENCE: Final = 30.0


class Gateway:
    """A ctfw on a gateway of its own, with the ends of the probe.

    HERE in ``rules`` is its directory, which holds the files ``beside`` them, by name, and pipes of these names, open
    for reading, so that they can be filled, and never read. One called `record` gets every packet.
    """

    def __init__(
        self,
        rules: str,
        programs: Programs,
        stack: contextlib.ExitStack,
        beside: Mapping[str, str],
        pipes: Sequence[str],
    ) -> None:
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctfw-bench-")))
        self.socket = str(self.directory / "control.sock")
        self.rules = self.directory / "rules.yaml"
        for name, text in beside.items():
            (self.directory / name).write_text(text)
        for name in pipes:
            os.mkfifo(self.directory / name)
            stack.callback(os.close, os.open(self.directory / name, os.O_RDONLY | os.O_NONBLOCK))
        self.rules.write_text(rules.replace("HERE", str(self.directory)))
        self.net = stack.enter_context(Network())
        self.net.queue()
        self._traffic = programs.traffic
        files = ("--rules", str(self.rules), "--socket", self.socket, "--state", str(self.directory))
        # Its log is a pipe that nobody reads and that is full soon.
        self.log, log = os.pipe()
        fcntl.fcntl(log, fcntl.F_SETPIPE_SZ, PIPE)
        self._longest = self.directory / "longest"
        recording = ("--record", str(self.directory / "record")) if "record" in pipes else ()
        run = (sys.executable, "-P", str(Path(__file__).with_name("turns.py")), str(self._longest), "run")
        command = (*_nice(), *run, *files, *recording, "--log", "stderr")
        daemon = self.net.gateway.start(command, stderr=log)
        os.close(log)
        stack.callback(os.close, self.log)
        stack.callback(daemon.wait)
        stack.callback(daemon.terminate)
        self._wait()
        server = self.net.server.start((*_nice(), programs.traffic, "echo", str(PORT), "1"), stdout=subprocess.PIPE)
        stack.callback(server.wait)
        stack.callback(server.kill)
        assert server.stdout is not None
        server.stdout.readline()

    def client(self) -> Client:
        return Client(self.socket, PATIENCE)

    def status(self) -> dict[str, Any]:
        with self.client() as client:
            answer: dict[str, Any] = client.call("status")
        return answer

    def probe(self, seconds: int) -> tuple[float, float, float, float]:
        """Milliseconds: the median round trip, that of one in a thousand, the longest; and how many got no answer."""
        command = (*_nice(), self._traffic, "pace", SERVER, str(PORT), str(seconds), str(RATE))
        try:
            middle, rare, longest, lost = self.net.client.run(*command).split()
        except subprocess.CalledProcessError as error:
            os.set_blocking(self.log, False)
            raise RuntimeError(f"{error.stderr}; the log: {os.read(self.log, PIPE).decode()}") from error
        return int(middle) / 1e6, int(rare) / 1e6, int(longest) / 1e6, float(lost)

    def longest_turn(self) -> float:
        """Milliseconds, since this was asked last."""
        with self._longest.open("r+b") as file:
            longest = int.from_bytes(file.read(8), sys.byteorder)
            file.seek(0)
            file.write(bytes(8))
        return longest / 1e6

    def fill(self, count: int) -> None:
        """So many connections, each of one datagram."""
        with self.net.server:
            for rule in ("-P INPUT ACCEPT", f"-A INPUT -p udp ! --dport {PORT} -j DROP"):
                self.net.server.run("iptables", "-w", *rule.split())
        made = 0
        with self.net.client:
            while made < count:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    for port in range(10_000, 60_000):
                        sender.sendto(b"x", (SERVER, port))
                        made += 1
                        if made % 2000 == 0:
                            time.sleep(0.05)  # for the queue's length
                        if made == count:
                            break
        wait_until(lambda: self.status()["connections"]["entries"] >= count * 0.95)

    def _wait(self) -> None:
        def answers() -> bool:
            with contextlib.suppress(ClientError):
                self.status()
                return True
            return False

        wait_until(answers)


def wait_until(condition: Callable[[], object]) -> None:
    """Raises TimeoutError."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def _nice() -> tuple[str, ...]:
    """Ahead of others on the machine, where that is allowed: their work is not to be measured."""
    return ("nice", "-n", "-15") if os.getuid() == 0 else ()
