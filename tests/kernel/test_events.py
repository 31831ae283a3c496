"""The engine tells of its connections what `conntrack -E` tells of the kernel's: the same lines in the same order.

The same conversations as everywhere here, with a listener beside the kernel. What is compared is the sequence of lines
of each conversation, seconds within one. Where several of its connections end at once, because the table is emptied or
has been looked through, their order is that of the table: those lines are sorted.
"""

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from ipaddress import ip_address
from itertools import groupby
from pathlib import Path
from random import Random

import pytest
from kernel import conversations, packets
from kernel.adapter import Engine
from kernel.compare import hold, in_time, pair
from kernel.conversations.corners import CORNERS, cells
from kernel.conversations.step import Conversation
from kernel.gateway import CLIENT_SIDE, Gateway, addresses
from kernel.oracle import GROUP, PAUSE, Knobs, expiring, knobs_of

pytestmark = pytest.mark.kernel

FAMILIES = pytest.mark.parametrize("family", ["4", "6"])
LAST = 0x7FFF  # the conversation that says: everything before it has been told
_LINE = re.compile(r"( *\[\w+\] \S+ +\d+ )(?:(\d+) )?(.*?src=(\S+) .*?)(?: \[USERSPACE\].*)?$")
# These have no IPv6, so that the gateway does not ask for them there.
_NO_HELPER = re.compile(r" helper=(?:irc|pptp)")

Told = tuple[str, int]  # a line without its seconds; the seconds, 0 when there are none


class Listener:
    """`conntrack -E` on the gateway."""

    def __init__(self, gateway: Gateway, directory: Path) -> None:
        self._gateway = gateway
        self._file = directory / "told"
        with open(self._file, "w") as file:
            command = ["stdbuf", "-oL", "conntrack", "-E", "-b", str(8 << 20)]
            self._process = gateway.start(command, stdout=file, stderr=subprocess.DEVNULL)
        self._read = 0
        self._last = 0
        self.told(again=True)

    def told(self, again: bool = False) -> list[str]:
        """What was told since the last call. ``again``: nobody knows yet whether anybody listens."""
        end = time.monotonic() + 10
        source, target = addresses(LAST, False)
        self._gateway.set({})
        while True:
            self._last += 1
            self._gateway.send(CLIENT_SIDE, packets.udp(source, self._last, target, 1, b""), lambda packet: True)
            self._gateway.flush()
            while True:
                lines = self._file.read_text().splitlines()[self._read :]
                if any("[DESTROY]" in line and f" sport={self._last} dport=1 [UNREPLIED]" in line for line in lines):
                    self._read += len(lines)
                    return lines
                assert time.monotonic() < end, lines
                time.sleep(0.005)
                if again:
                    break

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway() as made:
        yield made


@pytest.fixture(scope="module")
def listener(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    made = Listener(gateway, tmp_path_factory.mktemp("listener"))
    yield made
    made.close()


@pytest.fixture
def engine() -> Engine:
    made = Engine(follow_sysctls=False)
    made.listen()
    return made


def agree(
    gateway: Gateway,
    listener: Listener,
    engine: Engine,
    group: Sequence[Conversation],
    knobs: Knobs | None = None,
    pause: float = 0.0,
) -> int:
    """Holds the conversations and compares what is told of them; returns how many lines that is."""
    listener.told(), engine.told()  # of a group that was held too slowly
    talks = hold(gateway, engine, group, knobs, pause)
    assert not [talk for talk in talks if talk.difference]
    theirs, ours = _sorted_out(listener.told()), _sorted_out(engine.told())
    for at, talk in enumerate(talks):
        mine, kernels = ours.get(at, []), theirs.get(at, [])
        same = [line for line, _ in mine] == [line for line, _ in kernels]
        if not same or any(abs(a - b) > 1 for (_, a), (_, b) in zip(mine, kernels, strict=True)):
            told = [f"  {who} {line}" for who, some in (("kernel", kernels), ("engine", mine)) for line in some]
            pytest.fail("\n".join([str(talk), *told]))
    return sum(len(told) for told in theirs.values())


def _sorted_out(lines: Sequence[str]) -> dict[int, list[Told]]:
    """By conversation; the last one is nobody's."""
    found: dict[int, list[Told]] = {}
    for line in lines:
        if " dccp     33 " in line:  # the program knows this one; to kernel and engine it is a protocol without ports
            line = line.replace("dccp   ", "unknown").replace("sport=0 dport=0 ", "").removesuffix(" sport=0 dport=0")
        match = _LINE.match(_NO_HELPER.sub("", line))
        if match is not None and _number(match[4]) != LAST:
            found.setdefault(_number(match[4]), []).append((match[1] + match[3], int(match[2] or 0)))
    for at, told in found.items():
        runs = [list(run) for _, run in groupby(told, lambda one: "[DESTROY]" in one[0])]
        found[at] = [one for run in runs for one in (sorted(run) if "[DESTROY]" in run[0][0] else run)]
    return found


def _number(address: str) -> int:
    """Which conversation of a group an address belongs to."""
    return ip_address(address).packed[-1] | (ip_address(address).packed[-2] & 0x7F) << 8


@FAMILIES
def test_random_conversations(gateway: Gateway, listener: Listener, engine: Engine, family: str) -> None:
    lines = 0
    for group in range(12):
        rng = Random(f"events/{family}/{group}")
        knobs = knobs_of(rng)
        checksum = knobs.get("checksum", 1) != 0
        held = [conversations.random(rng, pair(at, family == "6"), "", checksum) for at in range(GROUP)]
        lines += agree(gateway, listener, engine, held, knobs)
    assert lines > 400


@FAMILIES
@pytest.mark.parametrize("kind", conversations.KINDS)
def test_random_conversations_of_each_kind(
    gateway: Gateway, listener: Listener, engine: Engine, kind: str, family: str
) -> None:
    rng = Random(f"events/{kind}/{family}")
    knobs = {"checksum": 0} if kind == "udplite" else {}
    held = [conversations.random(rng, pair(at, family == "6"), kind) for at in range(GROUP)]
    agree(gateway, listener, engine, held, knobs)


@FAMILIES
def test_the_corners(gateway: Gateway, listener: Listener, engine: Engine, family: str) -> None:
    for knobs, conversation in CORNERS.values():
        agree(gateway, listener, engine, [conversation(pair(0, family == "6"))], knobs)


@FAMILIES
def test_every_cell_of_the_tcp_table(gateway: Gateway, listener: Listener, engine: Engine, family: str) -> None:
    every = list(cells())
    for first in range(0, len(every), GROUP):
        some = every[first : first + GROUP]
        agree(gateway, listener, engine, [make(pair(at, family == "6")) for at, (_, make) in enumerate(some)])


def test_connections_that_expire(gateway: Gateway, listener: Listener, engine: Engine) -> None:
    knobs, held = expiring("events/4/0", 60)
    in_time(partial(agree, gateway, listener, engine, held), knobs, PAUSE)


@pytest.mark.parametrize("word", ["NEW", "UPDATE", "DESTROY"])
def test_it_sees_a_difference(gateway: Gateway, listener: Listener, word: str) -> None:
    """An engine that keeps one kind of events to itself."""

    class Silent(Engine):
        def told(self) -> list[str]:
            return [line for line in super().told() if word not in line]

    silent = Silent(follow_sysctls=False)
    silent.listen()
    knobs, conversation = CORNERS["simultaneous open"]
    with pytest.raises(pytest.fail.Exception):
        agree(gateway, listener, silent, [conversation(pair(0, False))], knobs)
