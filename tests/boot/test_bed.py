"""The bed itself: a real systemd on the gateway, and nothing of it left when it is over."""

import os
from pathlib import Path

import pytest

from lab.net import CLIENT, SERVER, Network
from lab.systemd import System, this_ctfw
from lab.traffic import ping

pytestmark = [pytest.mark.kernel, pytest.mark.systemd]

BARRIER = """
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/iptables -I FORWARD -j DROP
ExecStop=/sbin/iptables -D FORWARD -j DROP
[Install]
WantedBy=multi-user.target
"""


def test_a_unit_boots_and_acts_on_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    files, shows = this_ctfw()
    files["/etc/systemd/system/barrier.service"] = BARRIER
    with (
        Network() as net,
        System(net.gateway, files=files, shows=shows, keeps={"/var/lib/kept": tmp_path / "kept"}) as system,
    ):
        assert system.state == "running"
        assert system.run("ctfw", "--version").stdout.startswith("ctfw ")
        assert os.readlink(f"/proc/{system.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        with net.client:
            assert ping(SERVER) == "3 of 3 answered"
        system.run("systemctl", "start", "barrier")
        with net.client:
            assert ping(SERVER, 1) == "no answer"
        system.run("systemctl", "stop", "barrier")
        assert system.property("barrier", "ActiveState") == "inactive"
        with net.server:
            assert ping(CLIENT, 1) == "1 of 1 answered"
        system.put("/etc/hello", "hello")
        assert system.run("cat", "/etc/hello").stdout == "hello"
        assert not os.path.exists("/etc/hello")
        system.run("touch", "/var/lib/kept/file")
        assert (tmp_path / "kept" / "file").exists()
        assert "Finished barrier.service" in system.journal("-u", "barrier")


def test_nothing_of_it_is_left() -> None:
    with Network() as net:
        system = System(net.gateway)
        pid, cgroup, stage = system.pid, system.cgroup, system.stage
        assert cgroup.exists() and stage.exists()
        system.poweroff()
        system.stop()
        assert not os.path.exists(f"/proc/{pid}")
        assert not cgroup.exists()
        assert not stage.exists()


def test_a_command_inside_has_no_right_over_the_clock_and_the_modules() -> None:
    with Network() as net, System(net.gateway) as system:
        (bound,) = [line for line in system.run("cat", "/proc/self/status").stdout.splitlines() if "CapBnd" in line]
        assert not int(bound.split()[1], 16) & (1 << 25 | 1 << 16)
