"""The kernel's helpers, all of them, beside ours.

    PYTHONPATH=tests python -m kernel.helper_lab NUMBER [--seed 1] [--family 46] [--kind sip-udp]

holds NUMBER random conversations of each kind and prints those that differ, made short.
"""

import argparse
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Final

from kernel.adapter import Engine as TrackerEngine
from kernel.compare import Counts, Talked, hold, minimise, pair
from kernel.gateway import HELPERS as USUAL
from kernel.gateway import Gateway as UsualGateway
from kernel.gateway import Label
from kernel.helper_conversations import KINDS

from ctfw.conntrack.settings import HELPERS, Settings, helper_protocols

GROUP: Final = 16
_PROTO_NAMES: Final = {6: "tcp", 17: "udp"}
_IPV4_ONLY: Final = ("irc", "netbios-ns", "snmp", "pptp")
BROADCAST: Final = ("netbios-ns", "snmp")
SERVED: Final = {name: [port] for name, (_, port) in HELPERS.items()}


Decide = Callable[[bytes], bool]


class Gateway(UsualGateway):
    """One whose kernel has every helper that we have, at its usual port."""

    def __enter__(self) -> "Gateway":
        super().__enter__()
        return self

    def _label(self, tables: str) -> None:
        super()._label(tables)
        for name, (_, port) in HELPERS.items():
            if name in USUAL or (name in _IPV4_ONLY and tables == "ip6tables"):
                continue
            for proto in helper_protocols(name):
                match = ("-p", _PROTO_NAMES[proto], "--dport", str(port))
                self._net.gateway.run(
                    tables, "-w", "-t", "raw", "-A", "PREROUTING", *match, "-j", "CT", "--helper", name
                )

        if tables == "iptables":
            self._label_own()

    def _label_own(self) -> None:
        """What the gateway itself sends to the services that are asked by broadcast comes to the queue, too."""
        for name in BROADCAST:
            match = ("-A", "OUTPUT", "-p", "udp", "--dport", str(HELPERS[name][1]))
            for words in (
                ("-t", "raw", *match, "-j", "CT", "--helper", name),
                ("-t", "mangle", *match, "-m", "conntrack", "--ctstate", "NEW", "-j", "MARK", "--set-mark", "1"),
                (
                    "-t",
                    "mangle",
                    *match,
                    "-m",
                    "conntrack",
                    "--ctstate",
                    "ESTABLISHED",
                    "-j",
                    "MARK",
                    "--set-mark",
                    "2",
                ),
                ("-t", "mangle", *match, "-j", "NFQUEUE", "--queue-num", "7"),
            ):
                self._net.gateway.run("iptables", "-w", *words)

    def give_address(self, address: str, broadcast: str, device: str) -> None:
        """Gives the gateway one more address, of a /24 with a broadcast address."""
        self._net.gateway.run("ip", "address", "add", f"{address}/24", "broadcast", broadcast, "dev", device)

    def say(self, source: tuple[str, int], target: tuple[str, int], data: bytes, decide: Decide) -> Label:
        """A datagram of the gateway's own; as ``send``."""
        with self._net.gateway:
            speaker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with speaker:
            speaker.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            speaker.bind(source)
            self._decide = decide
            self._mark = 0
            speaker.sendto(data, target)
            until = time.monotonic() + 0.2
            while not self._mark and time.monotonic() < until:
                self._queue.run(block=False)
        return Label(self._mark)


class Engine(TrackerEngine):
    """The like of ours. ``networks``: see Settings."""

    def __init__(self, networks: Sequence[tuple[bytes, bytes, int]] = ()) -> None:
        super().__init__(follow_sysctls=False)
        self._networks = networks
        self.set({})

    def set(self, values: Mapping[str, int]) -> None:
        self._tracker.reconfigure(Settings({**values, "max": 0}, SERVED, networks=self._networks))


def differing(
    gateway: Gateway, engine: Engine, kind: str, family: str, seed: str, wanted: int, counts: Counts
) -> Iterator[Talked]:
    """The conversations of this kind that differ, made short, each with its name in front."""
    for group in range(-(-wanted // GROUP)):
        name = f"{seed}/{family}/{kind}/{group}"
        held = [KINDS[kind](Random(f"{name}/{at}"), pair(at, family == "6")) for at in range(GROUP)]
        for at, talk in enumerate(hold(gateway, engine, held, counts=counts)):
            if talk.difference:
                short = minimise(gateway, engine, talk.steps, at, {})
                short = short if short.difference else talk
                short.log.insert(0, f"{name}/{at}")
                yield short


def main() -> int:
    parser = argparse.ArgumentParser(prog="kernel.helper_lab", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("number", type=int, help="how many conversations of each kind and family")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--family", choices=["4", "6", "46"], default="46")
    parser.add_argument("--kind", choices=sorted(KINDS), action="append")
    parser.add_argument("--most", type=int, default=3, help="differences of a kind to print")
    options = parser.parse_args()
    total = 0
    with Gateway() as gateway:
        engine = Engine()
        for kind in options.kind or KINDS:
            for family in options.family:
                if kind in _IPV4_ONLY and family == "6":
                    continue
                counts, found, began = Counts(), 0, time.monotonic()
                for talk in differing(gateway, engine, kind, family, options.seed, options.number, counts):
                    found += 1
                    print(talk, flush=True)
                    if found == options.most:
                        break
                total += found
                took = time.monotonic() - began
                print(f"{kind} IPv{family}: {counts.conversations} conversations, {counts.packets} packets, "
                      f"{took:.0f} s, {found} differ", flush=True)  # fmt: skip
    return bool(total)


if __name__ == "__main__":
    sys.exit(main())
