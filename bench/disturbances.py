"""What people, programs and sinks do to ctfw while the probe runs: the cases of bench/latency.py.

Each is the worst that its kind can do without the right to shoot the daemon: the largest table, the longest list of
rules, sets of as many addresses as a list from the net has, logs that nobody reads, clients who mean no good.
"""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from probed import Gateway

from ctfw.packet import UDP
from lab.net import CLIENT, SERVER

CONNECTIONS: Final = 100_000
RULES: Final = 10_000
PREFIXES: Final = 100_000
MEMBERS: Final = 65_000
CROWD: Final = 64
REST: Final = 6  # seconds of a round in which the case comes to its end

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
FLOWS: Final = FEW.replace("rules:", "eve: {path: HERE/eve, flow: on, drop: on, limit: 1000000/second}\nrules:")
LISTED: Final = f"{FEW.replace('sets: {', 'sets: {unwanted: {file: HERE/prefixes}, ')}" + (
    "  - {name: from them, chain: forward, src: $unwanted, verdict: drop}\n"
    "  - {name: to them, chain: forward, dst: $unwanted, verdict: drop}\n"
)
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
WRITTEN: Final = MANY.replace("rules:\n", "metrics: {textfile: HERE/ctfw.prom, every: 1}\nrules:\n", 1)


@dataclass(frozen=True)
class Case:
    """``prepare`` is done once, ``disturb`` again and again while the probe runs, by ``crowd`` at a time.

    ``seconds``: of one round, in which ``disturb`` comes to its end at least once.
    """

    name: str
    disturb: Callable[[Gateway], None]
    rules: str = FEW
    prepare: Callable[[Gateway], None] = lambda gateway: None
    crowd: int = 1
    seconds: int = 2
    beside: Mapping[str, str] = field(default_factory=dict)
    pipes: tuple[str, ...] = ()


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


def traffic(gateway: Gateway, data: bytes = b"x") -> None:
    with gateway.net.client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(500):
            sender.sendto(data, (SERVER, 10_000 + number))
    time.sleep(0.05)


def large(gateway: Gateway) -> None:
    traffic(gateway, bytes(1400))


def crammed(gateway: Gateway) -> None:
    """Until packets are missing in the recording: its pipe is full, and so is what waits for it."""
    while not gateway.status()["record"]["slow"]:
        large(gateway)


def full(gateway: Gateway) -> None:
    gateway.fill(CONNECTIONS)


def removed(gateway: Gateway) -> None:
    """Looks for one among all connections, in vain, and then takes all."""
    with gateway.client() as client:
        for _ in client.pages("delete", only={"src": "192.0.2.1"}):
            pass
        for _ in client.pages("delete", only={"proto": "udp"}):
            pass
    traffic(gateway)


def cut(gateway: Gateway) -> None:
    with gateway.client() as client:
        for _ in client.pages("kill", only={"proto": "udp"}):
            pass
        client.call("flush")
    traffic(gateway)


def dry_run(gateway: Gateway) -> None:
    """Has what a reload would change worked out, with all that this asks of the daemon."""
    command = (sys.executable, "-P", "-m", "ctfw", "reload", "--dry-run", "--rules", str(gateway.rules))
    subprocess.run((*command, "--socket", gateway.socket), stdout=subprocess.DEVNULL, check=True)


def ended(gateway: Gateway) -> None:
    """Flows by the thousand for an EVE log into a pipe that nobody empties."""
    traffic(gateway)
    with gateway.client() as client:
        client.call("flush")


def members(gateway: Gateway) -> None:
    with gateway.client() as client:
        for _ in client.pages("members"):
            pass


_PACKET: Final = (  # of UDP from the client to the server, which only the last rule matches
    bytes([0x45, 0, 0, 32, 0, 1, 0, 0, 64, UDP, 0, 0])
    + socket.inet_aton(CLIENT)
    + socket.inet_aton(SERVER)
    + bytes([156, 64, 19, 136, 0, 12, 0, 0, 1, 2, 3, 4])
)
_LIST: Final = {
    "prefixes": "".join(f"{100 + (n >> 15)}.{n >> 7 & 255}.{(n & 127) << 1}.0/24\n" for n in range(PREFIXES))
}
_BANNED: Final = {
    "sets.json": json.dumps(
        {
            "version": 1,
            "time": 0,
            "sets": {"banned": [[f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", -1] for n in range(MEMBERS)]},
        }
    )
}

CASES: Final = (
    Case("nobody asks anything", nothing),
    Case(f"{CONNECTIONS:,} connections on record for the next daemon", nothing, prepare=full),
    Case(f"{CONNECTIONS:,} connections listed, as lines", listing("proc"), prepare=full),
    Case(f"{CONNECTIONS:,} connections listed, as objects", listing("dict"), prepare=full),
    Case(f"{CONNECTIONS:,} connections deleted by filter", removed, prepare=full, seconds=REST),
    Case(f"{CONNECTIONS:,} connections killed, and forgotten", cut, prepare=full, seconds=REST),
    Case(f"{CONNECTIONS:,} connections, reload --dry-run", dry_run, prepare=full, rules=RECORDED, seconds=REST),
    Case(
        f"explain --live with {RULES:,} rules",
        paged("explain", packet=_PACKET.hex(), **{"in": "lan0", "out": "wan0"}),
        rules=MANY,
    ),
    Case(f"{RULES:,} rules listed", paged("rules"), rules=MANY),
    Case(f"{RULES:,} rules, metrics asked by eight at once", paged("metrics"), rules=MANY, crowd=8),
    Case(f"{RULES:,} rules, metrics written each second", nothing, rules=WRITTEN),
    Case(f"{RULES:,} rules reloaded", reload, rules=MANY, seconds=REST),
    Case(f"{PREFIXES:,} networks in a set, reloaded", reload, rules=LISTED, seconds=REST, beside=_LIST),
    Case(f"{MEMBERS:,} members of a set, listed", members, beside=_BANNED),
    Case(f"{MEMBERS:,} members of a set, reloaded", reload, beside=_BANNED),
    Case("status asked by eight at once", question("status"), crowd=8),
    Case("stats asked by eight at once", question("stats"), crowd=8),
    Case(f"{CROWD} clients that say nothing, and hostile ones", hostile, crowd=4),
    Case("every packet logged, into a log that nobody reads", traffic, rules=LOGGED),
    Case("flows logged as EVE, into a pipe that nobody reads", ended, rules=FLOWS, pipes=("eve",)),
    Case("every packet recorded, into a pipe that nobody reads", large, prepare=crammed, pipes=("record",)),
    Case("events wanted by four who read none", subscribed, crowd=4),
    Case("a set added to, and written", adding),
    Case("the flight recorder read out", paged("flight"), rules=RECORDED, prepare=full),
)
