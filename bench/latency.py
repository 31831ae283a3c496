"""What delays a packet: round trips at a steady pace through the gateway while people and programs ask ctfw for things.

``python bench/latency.py [--only CASE] [--json]`` with PYTHONPATH=bench:tests, as root if only that of a user
namespace; part of ``make bench``. Each case has a daemon of its own and ROUNDS rounds: in each the probe sends
RATE datagrams a second that the server answers, and the case does its worst meanwhile.

Two figures of each case have a target. A packet waits for at most one turn of the daemon's loop, so the longest turn is
the longest delay, whenever the packet came; it is that of all rounds, without the time in which the kernel let others
run (turns.py). And the longest round trip of the probe, which is two packets, as the clock on the wall has it: that of
the best round, for what ctfw does, it does in every round, and what else happens on the machine it does not; the first
case, in which nobody asks anything, shows how much that is.
"""

import argparse
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from candidates import Programs, compile_programs
from report import Row, emit

from ctfw.packet import UDP
from ctfw.service.client import Client, ClientError
from lab.net import CLIENT, SERVER, Network, why_not

PORT: Final = 5000
RATE: Final = 1000  # datagrams a second
SECONDS: Final = 2
ROUNDS: Final = 3
LIMIT: Final = 10.0  # milliseconds
CONNECTIONS: Final = 100_000
RULES: Final = 10_000
PIPE: Final = 4096
PATIENCE: Final = 30.0
CROWD: Final = 64

HEAD: Final = """version: 1
policy: {input: drop, forward: drop, output: accept}
conntrack: {max: 262144, udp_timeout: 600}
sets: {banned: {dynamic: on, ttl: 1h}}
"""
REPLIES: Final = "  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}\n"
LAST: Final = "  - {name: rest, chain: forward, in: lan0, proto: udp, state: NEW, verdict: accept}\n"
BANNED: Final = "  - {name: banned, chain: forward, src: $banned, verdict: drop}\n"
FEW: Final = f"{HEAD}rules:\n{REPLIES}{BANNED}{LAST}"
LOGGED: Final = f"{HEAD}rules:\n  - {{name: all, chain: forward, log: on, verdict: continue}}\n{REPLIES}{BANNED}{LAST}"
RECORDED: Final = f"{HEAD}recorder: {{minutes: 10, memory: 16 MiB}}\nrules:\n{REPLIES}{BANNED}{LAST}"
_RULE: Final = """  - name: rule {0}
    chain: forward
    in: lan0
    src: [192.168.{1}.0/24, 172.16.0.0/12]
    dst: 10.{1}.{2}.0/24
    proto: tcp
    dport: [{3}, 443, 8000-8099]
    verdict: accept
"""
MANY: Final = (
    f"{HEAD}rules:\n{REPLIES}{BANNED}"
    + "".join(_RULE.format(n, n % 256, n // 256, n % 60000 + 1) for n in range(RULES))
    + LAST
)


class Gateway:
    """A ctfw on a gateway of its own, with the ends of the probe."""

    def __init__(self, rules: str, programs: Programs, stack: contextlib.ExitStack, *options: str) -> None:
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctfw-bench-")))
        self.socket = str(self.directory / "control.sock")
        self.rules = self.directory / "rules.yaml"
        self.rules.write_text(rules)
        self.net = stack.enter_context(Network())
        self.net.queue()
        self._traffic = programs.traffic
        files = ("--rules", str(self.rules), "--socket", self.socket, "--state", str(self.directory))
        # Its log is a pipe that nobody reads and that is full soon.
        self.log, log = os.pipe()
        fcntl.fcntl(log, fcntl.F_SETPIPE_SZ, PIPE)
        self._longest = self.directory / "longest"
        run = (sys.executable, "-P", str(Path(__file__).with_name("turns.py")), str(self._longest), "run")
        command = (*_nice(), *run, *files, "--log", "stderr", *options)
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

    def probe(self) -> tuple[float, float, float, float]:
        """Milliseconds: the median round trip, that of one in a thousand, the longest; and how many got no answer."""
        command = (*_nice(), self._traffic, "pace", SERVER, str(PORT), str(SECONDS), str(RATE))
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


@dataclass(frozen=True)
class Case:
    """``prepare`` is done once, ``disturb`` again and again while the probe runs, by ``crowd`` at a time."""

    name: str
    disturb: Callable[[Gateway], None]
    rules: str = FEW
    prepare: Callable[[Gateway], None] = lambda gateway: None
    crowd: int = 1
    options: tuple[str, ...] = ()


def nothing(gateway: Gateway) -> None:
    time.sleep(0.1)


def listing(form: str) -> Callable[[Gateway], None]:
    def ask(gateway: Gateway) -> None:
        with gateway.client() as client:
            for _ in client.pages("list", form=form):
                pass

    return ask


def question(method: str, **params: object) -> Callable[[Gateway], None]:
    def ask(gateway: Gateway) -> None:
        with gateway.client() as client:
            for _ in range(50):
                client.call(method, **params)

    return ask


def paged(method: str, **params: object) -> Callable[[Gateway], None]:
    def ask(gateway: Gateway) -> None:
        with gateway.client() as client:
            for _ in client.pages(method, **params):
                pass

    return ask


def reload(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.call("reload")


def adding(gateway: Gateway) -> None:
    with gateway.client() as client:
        for number in range(200):
            member = f"198.18.{time.monotonic_ns() >> 20 & 255}.{number}"
            client.call("set_add", set="banned", member=member)


def hostile(gateway: Gateway) -> None:
    """Half lines, long lines, no JSON, answers that nobody takes, and going away in the middle."""
    for said in (b'{"id": 1, "meth', b"x" * 70_000, b"\0\xff\n" * 500, b'{"id":1,"method":"list"}\n' * 500, b""):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(0.05)
            with contextlib.suppress(OSError):
                client.connect(gateway.socket)
                client.sendall(said)


def subscribed(gateway: Gateway) -> None:
    """Wants all events and reads none."""
    with gateway.client() as client:
        client.call("events")
        traffic(gateway)


def traffic(gateway: Gateway) -> None:
    with gateway.net.client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(500):
            sender.sendto(b"x", (SERVER, 10_000 + number))
    time.sleep(0.05)


def full(gateway: Gateway) -> None:
    gateway.fill(CONNECTIONS)


def recorded(gateway: Gateway) -> None:
    gateway.fill(CONNECTIONS)


_PACKET: Final = (  # of UDP from the client to the server, which only the last rule matches
    bytes([0x45, 0, 0, 32, 0, 1, 0, 0, 64, UDP, 0, 0])
    + socket.inet_aton(CLIENT)
    + socket.inet_aton(SERVER)
    + bytes([156, 64, 19, 136, 0, 12, 0, 0, 1, 2, 3, 4])
)

CASES: Final = (
    Case("nobody asks anything", nothing),
    Case(f"{CONNECTIONS:,} connections listed, as lines", listing("proc"), prepare=full),
    Case(f"{CONNECTIONS:,} connections listed, as objects", listing("dict"), prepare=full),
    Case(
        f"explain --live with {RULES:,} rules",
        paged("explain", packet=_PACKET.hex(), **{"in": "lan0", "out": "wan0"}),
        rules=MANY,
    ),
    Case(f"{RULES:,} rules listed", paged("rules"), rules=MANY),
    Case(f"{RULES:,} rules reloaded", reload, rules=MANY),
    Case("status asked by eight at once", question("status"), crowd=8),
    Case("stats asked by eight at once", question("stats"), crowd=8),
    Case(f"{CROWD} clients that say nothing, and hostile ones", hostile, crowd=4),
    Case("every packet logged, into a log that nobody reads", traffic, rules=LOGGED),
    Case("events wanted by four who read none", subscribed, crowd=4),
    Case("a set added to, and written", adding),
    Case("the flight recorder read out", paged("flight"), rules=RECORDED, prepare=recorded),
)


def measure(case: Case, programs: Programs) -> dict[str, float]:
    """The figures of the best round, and the longest turn of all, in milliseconds."""
    print(f"latency: {case.name}", file=sys.stderr, flush=True)
    with contextlib.ExitStack() as stack:
        gateway = Gateway(case.rules, programs, stack, *case.options)
        case.prepare(gateway)
        if case.disturb is hostile:
            for _ in range(CROWD):
                idle = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                idle.connect(gateway.socket)
        rounds = []
        gateway.longest_turn()
        with disturbed(case, gateway):
            rounds = [gateway.probe() for _ in range(ROUNDS)]
            turn = gateway.longest_turn()
        middle, rare, longest, lost = min(rounds, key=lambda one: one[2])
        return {"turn": turn, "longest": longest, "p50": middle, "p99.9": rare, "lost": lost}


@contextlib.contextmanager
def disturbed(case: Case, gateway: Gateway) -> Iterator[None]:
    """The case at its work, for as long as the `with` lasts. Raises what one of the crowd raised."""
    over = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        while not over.is_set():
            try:
                case.disturb(gateway)
            except BaseException as error:
                failures.append(error)
                return

    crowd = [threading.Thread(target=work) for _ in range(case.crowd)]
    for one in crowd:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in crowd:
            one.join()
    if failures:
        raise failures[0]


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


def rows(found: Sequence[tuple[Case, dict[str, float]]]) -> list[Row]:
    found_rows = []
    for case, figures in found:
        notes = {name: figures[name] for name in ("p50", "p99.9", "lost")}
        found_rows.append(Row(f"{case.name}: longest turn", figures["turn"], "ms", LIMIT))
        found_rows.append(Row(f"{case.name}: round trip", figures["longest"], "ms", 2 * LIMIT, notes=notes))
    return found_rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="cases with this word")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    wanted = [case for case in CASES if not options.only or any(word in case.name for word in options.only)]
    with tempfile.TemporaryDirectory(prefix="ctfw-bench-") as directory:
        programs = compile_programs(Path(directory))
        emit(rows([(case, measure(case, programs)) for case in wanted]), "latency: the longest round trip while ...")
    return 0


if __name__ == "__main__":
    sys.exit(main())
