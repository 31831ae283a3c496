"""What the failure policy is worth while systemd keeps the queue: a crash loop, and a daemon that stands still.

The hook is the unit's own; the gateway of these tests has no other rule.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from boot.gateway import PACKAGING
from daemon.running import OPEN, RULES, SHUT, Datagrams, wait_until

from ctfw.service.kernel_queue import MAXLEN
from lab.net import Network
from lab.systemd import System, this_ctfw

pytestmark = [pytest.mark.kernel, pytest.mark.systemd]

# While /run/broken stands, no start succeeds; and the watchdog's patience is shorter than a test's.
BREAKABLE: Final = "[Service]\nExecStartPre=/bin/sh -c '! test -e /run/broken'\nWatchdogSec=1\nRestartSec=100ms\n"


@contextmanager
def gateway(rules: str) -> Iterator[tuple[Network, System]]:
    files, shows = this_ctfw()
    files |= {
        "/etc/systemd/system/ctfw.service": PACKAGING / "ctfw.service",
        "/etc/systemd/system/ctfw.service.d/breakable.conf": BREAKABLE,
        "/usr/lib/sysusers.d/ctfw.conf": PACKAGING / "ctfw.sysusers",
        "/etc/ctfw/rules.yaml": rules,
    }
    with Network() as net, System(net.gateway, files=files, shows=shows) as system:
        started = system.run("systemctl", "start", "ctfw", check=False)
        assert started.returncode == 0, system.journal("-u", "ctfw")
        yield net, system


def status(system: System) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(system.run("ctfw", "status", "-o", "json", check=False).stdout)
    return answer


def waiting(system: System) -> int:
    return int(system.run("cat", "/proc/net/netfilter/nfnetlink_queue").stdout.split()[2])


def test_in_a_crash_loop_packets_wait_and_bypass_does_not_fire() -> None:
    """no_listener is accept, and yet nothing passes: systemd holds the queue. What is too much for it is counted."""
    # Of forwarded packets alone: all of them can be counted, and none is one that IPv6 sends on its own.
    rules = RULES + "hook: {chains: forward}\nfailure: {no_listener: accept, queue_full: drop}\n"
    with gateway(rules) as (net, system), Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        assert good.answered()
        assert not bad.arrives()
        system.run("touch", "/run/broken")
        system.run("systemctl", "kill", "-s", "KILL", "ctfw")
        wait_until(lambda: int(system.property("ctfw", "NRestarts")) >= 3)
        assert not good.arrives()
        for _ in range(MAXLEN + 99):
            bad.client.send(b"x")
        wait_until(lambda: waiting(system) == MAXLEN)
        system.run("rm", "/run/broken")
        wait_until(lambda: system.property("ctfw", "SubState") == "running")
        assert good.server.recv(100) == b"there?"  # it had waited
        wait_until(lambda: status(system)["queue"]["received"] >= MAXLEN)
        told = status(system)["unjudged"]["unjudged"]
        assert told["queue_full"] == {"accept": 0, "drop": 100}
        assert told["no_listener"] == {"accept": 0, "drop": 0}

        system.run("systemctl", "stop", "ctfw")  # now nobody keeps it
        assert bad.arrives()


def test_the_watchdog_ends_what_stands_still_and_what_waited_is_judged() -> None:
    with gateway(RULES) as (net, system), Datagrams(net, OPEN) as good:
        assert good.answered()
        system.run("systemctl", "kill", "-s", "STOP", "ctfw")
        for number in range(20):
            good.client.send(b"%d" % number)
        good.server.settimeout(15)
        assert [int(good.server.recv(100)) for _ in range(20)] == list(range(20))
        assert "Watchdog timeout" in system.journal("-u", "ctfw")
        wait_until(lambda: system.property("ctfw", "SubState") == "running")
        told = status(system)["unjudged"]["unjudged"]
        assert sum(count for fates in told.values() for count in fates.values()) == 0
