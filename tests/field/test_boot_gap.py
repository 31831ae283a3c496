"""FIELD: "boot gap before the firewall is up". Real boots, with the network brought up as network managers do it.

The worst case stands for all: the rules were good once, and at this boot ctfw itself does not come up at all. Then
systemd lets the network come, and what the kernel does with its packets is what the early unit left there.
"""

from pathlib import Path
from typing import Final

import pytest
from daemon.running import OPEN, RULES, Datagrams

from lab.net import Network
from lab.systemd import System, this_ctfw

UNITS: Final = Path(__file__).parents[2] / "packaging" / "systemd"
NEVER: Final = "[Service]\nExecStart=\nExecStart=/bin/false\nRestart=no\n"
NETWORK: Final = """\
[Unit]
After=network-pre.target
Wants=network-pre.target
[Service]
Type=oneshot
ExecStart=ip link set lan0 up
[Install]
WantedBy=multi-user.target
"""

pytestmark = [pytest.mark.kernel, pytest.mark.systemd]


@pytest.mark.parametrize("early", [True, False], ids=["with the early unit", "without it"])
def test_boot_gap_before_the_firewall_is_up(early: bool) -> None:
    files, shows = this_ctfw()
    files |= {f"/etc/systemd/system/{unit.name}": unit for unit in UNITS.glob("ctfw*.*") if unit.suffix != ".sysusers"}
    files |= {
        "/usr/lib/sysusers.d/ctfw.conf": UNITS / "ctfw.sysusers",
        "/etc/systemd/system/ctfw.service.d/never.conf": NEVER,
        "/etc/systemd/system/manager.service": NETWORK,
        "/etc/ctfw/rules.yaml": RULES,
    }
    enable = "systemctl enable ctfw manager\n" + ("" if early else "systemctl disable ctfw-early\n")
    with Network() as net, Datagrams(net, OPEN) as path:
        assert path.arrives()
        net.gateway.run("ip", "link", "set", "lan0", "down")
        with System(net.gateway, files=files, shows=shows, prepare=enable) as system:
            assert system.property("manager", "Result") == "success"
            assert system.property("ctfw", "ActiveState") == "failed"
            assert path.arrives() is not early
