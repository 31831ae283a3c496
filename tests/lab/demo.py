"""`make demo`: ctfw on the gateway of lab/net.py's network, real traffic through it, and what ctfw says to it.

Each step is some traffic, how it has to end, and the rule that has to decide on its first packet. What is shown
beside it is the daemon's own account: what moved meanwhile in the counters of `ctfw stats`.
The daemon is an ordinary `ctfw run` with the example rules. The exit status is 0 only if every step went as the
rules say.

No privilege of this machine's is needed: an ordinary user becomes root of a user namespace, where that is allowed.
Nothing is left behind, whatever ends the demo, but the record of the packets that --record asks for.
"""

import argparse
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from ctfw.service.client import Client
from lab import traffic
from lab.net import BEYOND, CLIENT, GATEWAY, OUTSIDE, SERVER, SERVER6, Namespace, Network, why_not

CHECKOUT: Final = Path(__file__).resolve().parent.parent.parent
RULES: Final = CHECKOUT / "rules.example.yaml"
CTFW: Final = (sys.executable, "-P", "-m", "ctfw")
PATIENCE: Final = 30.0  # seconds for the daemon to start, and to end

PICTURE: Final = f"""
  client                                 gateway                                  server
  {CLIENT} ───────────── lan0 [ ctfw, by way of NFQUEUE ] wan0 ───────────── {SERVER}
"""

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"


class Step(NamedTuple):
    says: str
    host: Namespace
    act: Callable[[], str]
    ends: str  # how act() has to end
    rule: str  # the rule that has to decide on its first packet
    state: str  # a state that one of its packets has to be in


def steps(net: Network) -> list[Step]:
    client, gateway, server = net.client, net.gateway, net.server
    echo, page, answer, nothing = "3 of 3 answered", "2.1 MB, intact", "answer of 25 bytes", traffic.SILENCE
    near = f"time exceeded, says {GATEWAY}"
    expired, closed = f"time exceeded, says {SERVER}", f"port unreachable, says {SERVER}"
    finack = traffic.FIN | traffic.ACK
    return [
        Step("ping to the gateway", client, partial(traffic.ping, GATEWAY), echo, "lan ping gateway", "NEW"),
        Step("ping to the server", client, partial(traffic.ping, SERVER), echo, "lan ping", "ESTABLISHED"),
        Step("ping by IPv6", client, partial(traffic.ping, SERVER6), echo, "lan ping", "ESTABLISHED"),
        Step("web page", client, partial(traffic.download, SERVER), page, "lan web", "ESTABLISHED"),
        Step("web page by IPv6", client, partial(traffic.download, SERVER6), page, "lan web", "ESTABLISHED"),
        Step("name server", client, partial(traffic.ask, SERVER), answer, "lan names and time", "ESTABLISHED"),
        Step("the gateway asks it", gateway, partial(traffic.ask, SERVER), answer, "gateway out", "ESTABLISHED"),
        Step("FTP, passive", client, partial(traffic.fetch, SERVER, True), page, "lan ftp", "RELATED"),
        Step("FTP, active", client, partial(traffic.fetch, SERVER, False), page, "lan ftp", "RELATED"),
        Step("FTP by IPv6", client, partial(traffic.fetch, SERVER6, True), page, "lan ftp", "RELATED"),
        Step("traceroute, hop 1", client, partial(traffic.probe, SERVER, 1), near, "replies", "RELATED"),
        Step("traceroute, hop 2", client, partial(traffic.probe, BEYOND, 2), expired, "lan traceroute", "RELATED"),
        Step("traceroute, last hop", client, partial(traffic.probe, SERVER, 64), closed, "lan traceroute", "RELATED"),
        Step("mail to port 25", client, partial(traffic.connect, SERVER, 25), nothing, "lan spam", "NEW"),
        Step("telnet", client, partial(traffic.connect, SERVER, 23), nothing, "rest", "NEW"),
        Step("server calls client", server, partial(traffic.connect, CLIENT, 80), nothing, "rest", "NEW"),
        Step("server calls gateway", server, partial(traffic.connect, OUTSIDE, 22), nothing, "rest", "NEW"),
        Step("TCP null scan", client, partial(traffic.segment, SERVER, 80, 0, server), nothing, "invalid", "INVALID"),
        Step("stray FIN", client, partial(traffic.segment, SERVER, 80, finack, server), nothing, "invalid", "INVALID"),
    ]


class Daemon:
    """An ordinary `ctfw run` in the gateway; it and what it wrote into `directory` go with the demo."""

    def __init__(self, gateway: Namespace, directory: Path) -> None:
        self.socket = directory / "control.sock"
        self.record = directory / "record.pcapng"
        self._log = open(directory / "log", "w+")  # noqa: SIM115  it lives as long as the daemon
        command = (*CTFW, "run", "--rules", str(RULES), "--socket", str(self.socket), "--record", str(self.record))
        self._process = gateway.start(command, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + PATIENCE
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the daemon did not start:\n{self.said()}")
            time.sleep(0.01)

    def ask(self, *question: str) -> str:
        """What `ctfw QUESTION` prints."""
        return subprocess.check_output([*CTFW, *question, "--socket", str(self.socket)], text=True)

    def stats(self) -> dict[str, Any]:
        """What `ctfw stats -o json` prints, without a process that an interruption could leave behind."""
        with Client(str(self.socket)) as client:
            return dict(client.call("stats"), rules=list(client.pages("rules")))

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def stop(self) -> int:
        self._process.terminate()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Screen:
    """Colours on a terminal that wants them, none in a pipe."""

    def __init__(self) -> None:
        self._colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def paint(self, text: str, color: str) -> str:
        return f"\033[{color}m{text}\033[0m" if self._colored else text

    def head(self, text: str) -> None:
        print(f"\n{self.paint(text, BOLD)}\n", flush=True)

    def step(self, step: Step, ended: str, went_well: bool, verdict: str, rules: str, states: str) -> None:
        mark = self.paint("ok ", GREEN) if went_well else self.paint("BAD", RED)
        verdict = self.paint(f"{verdict:8}", GREEN if verdict == "accept" else RED)
        print(f"{mark} {step.says:21} {ended:34} {verdict}{rules:35} {self.paint(states, DIM)}", flush=True)
        if not went_well:
            print(f"    expected: {step.ends}, by the rule {step.rule!r}, {step.state}", flush=True)


def show(net: Network, daemon: Daemon, screen: Screen) -> bool:
    """The whole story on the screen; whether it went as the rules say."""
    screen.head("What happens, how it ends, and what the daemon counted meanwhile: by rule and by state")
    good = all([play(step, daemon, screen) for step in steps(net)])

    screen.head(f"$ ctfw list{' ' * 9}# while one more web page is being read")
    with net.client:
        web = http.client.HTTPConnection(SERVER, 80, timeout=traffic.TIMEOUT)
        web.request("GET", "/")
        page = web.getresponse().read()
    connections = daemon.ask("list")
    web.close()
    print(connections, end="")
    seen = any("ESTABLISHED" in line and "[ASSURED]" in line for line in connections.splitlines())

    screen.head("What the daemon logged")
    print(daemon.said(), end="")

    screen.head("$ ctfw stats")
    print(daemon.ask("stats"), end="", flush=True)
    return good and seen and page == traffic.PAGE


def play(step: Step, daemon: Daemon, screen: Screen) -> bool:
    before = daemon.stats()
    with step.host:
        try:
            ended = step.act()
        except OSError as error:
            ended = f"failed: {error}"
    after = daemon.stats()
    counts = {rule["name"]: rule["packets"] for rule in before["rules"]}
    rules = {rule["name"]: rule["packets"] - counts[rule["name"]] for rule in after["rules"]}
    states = {name: count - before["states"][name] for name, count in after["states"].items()}
    # The kernels' own IPv6 chatter comes at any time and is no part of the step.
    rules.pop("neighbours")
    states.pop("UNTRACKED")
    moved = [step.rule, *sorted(name for name in rules if name != step.rule)]
    verdict = next((rule["verdict"] for rule in after["rules"] if rule["name"] == step.rule), "none")
    went_well = ended == step.ends and rules.get(step.rule, 0) > 0 and states.get(step.state, 0) > 0
    screen.step(step, ended, went_well, verdict, counted(rules, moved), counted(states, list(states)))
    return went_well


def counted(counts: Mapping[str, int], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in names if counts.get(name))


def run(record: Path | None, counters: Path | None) -> int:
    screen = Screen()
    with Network() as net, traffic.files() as pages, tempfile.TemporaryDirectory(prefix="ctfw-demo-") as directory:
        traffic.serve(net.server, pages)
        net.queue()
        daemon = Daemon(net.gateway, Path(directory))
        try:
            version = subprocess.check_output([*CTFW, "--version"], text=True).strip()
            print(f"{version}, rules {RULES.name}, on a gateway made of network namespaces\n{PICTURE}", end="")
            good = show(net, daemon, screen)
            if counters:
                for device in ("lan0", "wan0"):  # so that no packet comes after the count
                    net.gateway.run("ip", "link", "set", device, "down")
                counters.write_text(json.dumps(daemon.stats()))
        finally:
            code = daemon.stop()
            if code:
                print(f"\nthe daemon ended with {code} and said:\n{daemon.said()}", file=sys.stderr)
        if record:
            shutil.copy(daemon.record, record)
            owner = record.absolute().parent.stat()
            os.chown(record, owner.st_uid, owner.st_gid)
    if record:
        program = os.path.relpath(Path(sys.executable).with_name("ctfw"))
        print(
            f"\nEvery packet of it is in {record}. Ask again what the rules say to them: "
            f"{program} replay {shlex.quote(str(record))} --rules {RULES.name}"
        )
    return 0 if good and not code else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description="ctfw on a gateway of network namespaces.")
    parser.add_argument("--record", metavar="FILE", type=Path, help="keep the packets in this pcapng file")
    parser.add_argument("--counters", metavar="FILE", type=Path, help="write the daemon's counters, as JSON")
    arguments = parser.parse_args()
    if os.geteuid():
        os.execvp("unshare", ["unshare", "-Urn", sys.executable, "-P", "-m", "lab.demo", *sys.argv[1:]])
    reason = why_not()
    if reason:
        print(f"demo: {reason}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return run(arguments.record, arguments.counters)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        return 128 + signal.SIGPIPE
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _terminated(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
