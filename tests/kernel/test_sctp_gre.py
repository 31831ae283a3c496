"""SCTP, GRE and PPTP against the kernel, packet by packet and record by record; and all protocols in zones, counted.

The first group of tests holds random conversations of these kinds, under time-outs of which no two are equal. The
second has two gateways of its own: one puts what comes from either side into zone 5, the other only what comes from the
client, so that no answer meets its question. Both count packets and bytes (``nf_conntrack_acct``).
"""

from collections.abc import Iterator
from random import Random
from typing import Final

import pytest
from kernel import conversations
from kernel.adapter import Engine
from kernel.compare import hold, minimise, pair
from kernel.conversations.sctp import TYPES, WAYS, cell
from kernel.conversations.step import CLIENT, SERVER
from kernel.gateway import Gateway

from ctfw.conntrack.record import proc_line
from ctfw.conntrack.settings import DEFAULTS, Settings
from ctfw.conntrack.state import CONFIRMED
from ctfw.conntrack.tracker import ConnTrack

pytestmark = pytest.mark.kernel

GROUP: Final = 16
GROUPS: Final = 25
_TIMEOUTS: Final = [name for name in DEFAULTS if name.startswith(("sctp_timeout", "gre_timeout", "icmp"))]
_DISTINCT: Final = {name: 100 + 7 * number for number, name in enumerate(_TIMEOUTS)}
_ZONE: Final = 5


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway() as made:
        yield made


def _hold(gateway: Gateway, engine: Engine, kind: str, family: str, name: str, knobs: dict[str, int]) -> None:
    """A group of conversations; fails on the first that differs, made short."""
    name = f"{name}/{family}"
    held = [conversations.random(Random(f"{name}/{at}"), pair(at, family == "ipv6"), kind) for at in range(GROUP)]
    for at, talk in enumerate(hold(gateway, engine, held, knobs)):
        if talk.difference:
            short = minimise(gateway, engine, talk.steps, at, knobs)
            pytest.fail(f"{name}/{at}\n{short if short.difference else talk}")


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("kind", ["sctp", "gre", "pptp"])
def test_random_conversations(gateway: Gateway, kind: str, family: str) -> None:
    engine = Engine(follow_sysctls=False)
    for group in range(GROUPS):
        _hold(gateway, engine, kind, family, f"{kind}/{group}", {} if group % 2 else _DISTINCT)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_every_cell_of_the_sctp_table(gateway: Gateway, family: str) -> None:
    """Each chunk, from either side, in each state."""
    cells = [(way, side, name) for way in WAYS for side in (CLIENT, SERVER) for name in TYPES]
    pairs = [pair(at, family == "ipv6") for at in range(len(cells))]
    held = [cell(ends, *where) for ends, where in zip(pairs, cells, strict=True)]
    talks = hold(gateway, Engine(follow_sysctls=False), held, _DISTINCT)
    assert [str(talk) for talk in talks if talk.difference] == []
    seen = sum("INVALID" not in talk.log[-2] for talk in talks)
    assert seen > 200, "most of these chunks should pass"


def test_sctp_without_checksums(gateway: Gateway) -> None:
    """Captures lie about them."""
    engine = Engine(follow_sysctls=False)
    for group in range(GROUPS // 5):
        _hold(gateway, engine, "sctp", "ipv4", f"unchecked/{group}", {"checksum": 0})


class _ZonedGateway(Gateway):
    """The kernel, with zone 5 for what comes in by some of its interfaces; it counts packets and bytes."""

    def __init__(self, *devices: str) -> None:
        self._devices = devices

    def _label(self, tables: str) -> None:
        super()._label(tables)
        for device in self._devices:
            self._net.gateway.run(
                tables, "-w", "-t", "raw", "-A", "PREROUTING", "-i", device, "-j", "CT", "--zone", str(_ZONE)
            )
        self._net.gateway.set(netfilter__nf_conntrack_acct=1)


class _ZonedEngine(Engine):
    """The like of ours. Helpers are left out: the kernel's zone rule overrides that of the helper."""

    def __init__(self, *devices: str) -> None:
        super().__init__(follow_sysctls=False)
        self._settings = Settings({"max": 0}, None, zones=dict.fromkeys(devices, _ZONE))
        self._tracker = ConnTrack(self._settings)

    def packet(self, raw: bytes, now: float) -> tuple[str, str | None]:
        source = raw[12:14] if raw[0] >> 4 == 4 else raw[8:10]
        device = "lan0" if source in (b"\x0a\x01", b"\xfd\x01") else "wan0"
        self._tracker.zone = self._settings.zones.get(device, b"")
        return super().packet(raw, now)

    def table(self, now: float | None = None) -> list[str]:
        when = self._now if now is None else int(now * 1e9)
        table = self._tracker.table
        conns = [conn for number in range(table.shards) for conn in table.shard(number)]
        return [proc_line(conn, when, True) for conn in conns if conn.expires > when and conn.status & CONFIRMED]

    def set(self, values: object) -> None:
        pass


_KINDS: Final = ("udp", "icmp", "generic", "sctp", "gre")


@pytest.mark.parametrize("devices", [(), ("lan0", "wan0"), ("lan0",)], ids=["no-zone", "one-zone", "half-a-zone"])
def test_zones_and_counters(devices: tuple[str, ...]) -> None:
    with _ZonedGateway(*devices) as gateway:
        engine = _ZonedEngine(*devices)
        for group in range(GROUPS // 2):
            for kind in _KINDS:
                for family in ("ipv4", "ipv6"):
                    _hold(gateway, engine, kind, family, f"zones/{kind}/{group}", {})
