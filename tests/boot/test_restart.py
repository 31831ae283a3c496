"""The service restarts, crashes and boots, and neither packets nor connections are lost."""

import pytest
from boot.gateway import gateway, stats, survivors
from daemon.running import RULES, wait_until

from lab.systemd import System

pytestmark = [pytest.mark.kernel, pytest.mark.systemd]


def test_200_of_200_datagrams_survive_a_restart_and_50_of_50_a_sigkill() -> None:
    with gateway() as (net, system):
        pid = system.property("ctfw", "MainPID")
        assert survivors(net, 200, system, "systemctl", "restart", "ctfw") == list(range(200))
        assert system.property("ctfw", "MainPID") != pid
        queue = stats(system)["queue"]
        assert (queue["lost"], queue["errors"], queue["refused"]) == (0, 0, 0)
        assert queue["received"] == queue["answered"]

        assert survivors(net, 50, system, "systemctl", "kill", "-s", "KILL", "ctfw") == list(range(50))
        assert system.property("ctfw", "NRestarts") == "1"
        queue = stats(system)["queue"]
        assert (queue["lost"], queue["errors"], queue["refused"]) == (0, 0, 0)
        assert queue["kernel"]["waiting"] == 0


def test_a_queue_of_another_number_is_given_up_and_stop_gives_up_all() -> None:
    with gateway() as (_, system):
        assert _queues(system) == [0]
        system.put("/etc/ctfw/rules.yaml", RULES + "queue: {number: 5}\n")
        system.run("systemctl", "restart", "ctfw")
        assert "kept by systemd, but not used any more and given up: queue-0" in system.journal("-u", "ctfw")
        wait_until(lambda: _queues(system) == [5])
        assert system.property("ctfw", "NFileDescriptorStore") == "1"
        system.run("systemctl", "stop", "ctfw")
        assert _queues(system) == []


def _queues(system: System) -> list[int]:
    lines = system.run("cat", "/proc/net/netfilter/nfnetlink_queue").stdout.splitlines()
    return [int(line.split()[0]) for line in lines]
