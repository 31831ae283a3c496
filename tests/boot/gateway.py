"""A gateway that runs ctfw as a service: the real unit, booted, with packets going through its queue."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from daemon.running import OPEN, RULES, Datagrams

from lab.net import Network
from lab.systemd import System, this_ctfw

PACKAGING: Final = Path(__file__).parents[2] / "packaging" / "systemd"
PAUSE: Final = 0.01  # between two datagrams


@contextmanager
def gateway(rules: str = RULES, keeps: Mapping[str, Path] | None = None) -> Iterator[tuple[Network, System]]:
    """A network whose gateway has booted and runs ctfw.service."""
    with Network() as net, booted(net, rules, keeps) as system:
        yield net, system


@contextmanager
def booted(
    net: Network,
    rules: str = RULES,
    keeps: Mapping[str, Path] | None = None,
    files: Mapping[str, str | Path] | None = None,
) -> Iterator[System]:
    """The gateway of `net` boots and runs ctfw.service; ``files`` are there beside what that needs."""
    own, shows = this_ctfw()
    own |= {
        "/etc/systemd/system/ctfw.service": PACKAGING / "ctfw.service",
        "/usr/lib/sysusers.d/ctfw.conf": PACKAGING / "ctfw.sysusers",
        "/etc/ctfw/rules.yaml": rules,
    }
    with System(net.gateway, files=own | dict(files or {}), shows=shows, keeps=keeps) as system:
        started = system.run("systemctl", "enable", "--now", "ctfw", check=False)
        assert started.returncode == 0, system.journal("-u", "ctfw")
        yield system


def stats(system: System) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(system.run("ctfw", "stats", "-o", "json").stdout)
    return answer


def survivors(net: Network, count: int, system: System, *command: str) -> list[int]:
    """Send `count` numbered datagrams to OPEN, one each PAUSE, while `command` runs inside; those that arrived."""
    with Datagrams(net, OPEN) as path:
        assert path.arrives()
        process = None
        for number in range(count):
            if number == count // 10:
                process = system.start(command)
            path.client.send(b"%d" % number)
            time.sleep(PAUSE)
        assert process is not None and process.wait(30) == 0
        arrived: list[int] = []
        path.server.settimeout(15)
        while len(arrived) < count:
            try:
                arrived.append(int(path.server.recv(2048)))
            except TimeoutError:
                break
        path.server.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            arrived.append(int(path.server.recv(2048)))  # one too many, if there is one
        return arrived
