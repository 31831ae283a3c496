"""The Debian package on a machine with a real systemd, from its installation to its purge.

One machine for all of it: the steps stand in the order of its life, and each leaves it as the next one needs it.

    client ── 192.168.1.0/24 ── gateway, which has the package ── 203.0.113.0/24 ── server

The machine is installed before it boots: `dpkg -i`, rules of its own, `systemctl enable`. So what is seen first is what
a boot brings about by itself.
"""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest
from daemon.running import wait_until

from ctfw import engine
from ctfw.service.kinds import HOOK_HEALED
from lab.net import GATEWAY, SERVER, Namespace, Network
from lab.systemd import System
from lab.traffic import connect, ping

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "packaging" / "debian" / "build.py"
PATIENCE: Final = 60.0

OPEN, SHUT = 8080, 8081

# Beside the rules that the package brings, which answer SSH and ping and forward nothing.
OWN_RULES: Final = f"""\
rules:
  - {{name: open, chain: forward, proto: tcp, dport: {OPEN}, state: NEW, verdict: accept}}
  - {{name: shut, chain: forward, proto: tcp, dport: {SHUT}, state: NEW, verdict: drop}}
"""

# Every file that a package may bring or make, but for the records of dpkg and systemd, logs and caches.
LIST: Final = r"""
find /etc /usr /opt /srv /var \( -path /var/cache -o -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/systemd \
    -o -path /var/tmp -o -path '/etc/*-' \) -prune -o -print | sort
"""

# policy-rc.d: what a container's image has against services that a package starts.
PREPARE: Final = f"""\
rm -f /usr/sbin/policy-rc.d
({LIST}) >/root/before
getent passwd >/root/passwd; getent group >/root/group
dpkg -i /root/ctfw.deb
test ! -e /etc/systemd/system/multi-user.target.wants/ctfw.service
cp /root/own.yaml /etc/ctfw/rules.d/own.yaml
chgrp ctfw /etc/ctfw/rules.d/own.yaml
ctfw check
mkdir -p /etc/systemd/system/ctfw.service.d
printf '[Service]\\nWatchdogSec=1\\n' >/etc/systemd/system/ctfw.service.d/test.conf
systemctl enable ctfw
"""

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.systemd,
    pytest.mark.skipif(str(engine.__file__).endswith(".py"), reason="a package is made of a compiled build"),
]


def packages(directory: Path) -> tuple[Path, Path]:
    """The package, and the same with a higher version."""
    command = [sys.executable, str(BUILD), str(directory)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    package = Path(done.stdout.strip())
    tree, newer = directory / "tree", directory / "newer.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:"))
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, newer], check=True)
    return package, newer


@pytest.mark.timeout(300)
def test_the_life_of_the_package(tmp_path: Path) -> None:
    package, newer = packages(tmp_path)
    files: dict[str, str | Path] = {"/root/ctfw.deb": package, "/root/newer.deb": newer, "/root/own.yaml": OWN_RULES}
    with Network() as net, System(net.gateway, files=files, prepare=PREPARE) as system:
        for namespace, port in ((net.server, OPEN), (net.server, SHUT), (net.gateway, 22), (net.gateway, 23)):
            listen(namespace, port)
        for step in (
            it_boots_and_packets_pass_and_are_refused_as_the_rules_say,
            the_early_unit_came_before_the_network_and_the_service,
            files_belong_to_whom_they_should,
            a_reload_that_fails_is_seen_to_fail_and_the_old_rules_stay,
            the_watchdog_ends_a_hang,
            what_a_flush_removed_is_put_back_with_a_word_in_the_journal,
            stopped_it_stays_shut_until_the_hook_is_removed,
            at_boot_a_broken_file_does_not_open_the_gateway,
            an_upgrade_keeps_an_open_connection,
            the_way_back_in_without_ctfw,
            purged_it_leaves_nothing,
        ):
            step(net, system)


def listen(namespace: Namespace, port: int) -> None:
    """A server that sends back what it is told, one connection after the other."""
    with namespace:
        listener = socket.create_server(("", port))

    def serve() -> None:
        while True:
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(4096):
                    conn.sendall(data)

    threading.Thread(target=serve, daemon=True).start()


def it_boots_and_packets_pass_and_are_refused_as_the_rules_say(net: Network, system: System) -> None:
    assert system.state == "running", system.run("systemctl", "--failed").stdout
    assert system.property("ctfw-early", "Result") == "success"
    assert system.property("ctfw", "ActiveState") == "active", system.journal("-u", "ctfw")
    with net.client:
        assert connect(SERVER, OPEN) == "connected"
        assert connect(SERVER, SHUT) == "no answer"
        assert connect(GATEWAY, 22) == "connected"
        assert connect(GATEWAY, 23) == "no answer"
        assert ping(GATEWAY, 1) == "1 of 1 answered"
        assert ping(SERVER, 1) == "no answer"
    assert int(system.run("sh", "-c", "ctfw stats | grep -c shut").stdout) >= 1
    assert "hook: complete" in " ".join(system.run("ctfw", "hook", "status").stdout.split())


def the_early_unit_came_before_the_network_and_the_service(net: Network, system: System) -> None:
    times = [int(system.property(unit, "ExecMainExitTimestampMonotonic")) for unit in ("ctfw-early",)]
    times += [int(system.property(unit, "ActiveEnterTimestampMonotonic")) for unit in ("ctfw", "network-pre.target")]
    assert 0 < times[0] < times[1] <= times[2]


def files_belong_to_whom_they_should(net: Network, system: System) -> None:
    paths = ("/etc/ctfw", "/etc/ctfw/rules.yaml", "/var/lib/ctfw", "/var/lib/ctfw-hook", "/var/log/ctfw")
    found = system.run("stat", "-c", "%a %U:%G", *paths).stdout.splitlines()
    assert found == ["750 root:ctfw", "640 root:ctfw", "755 ctfw:ctfw", "700 root:root", "750 ctfw:ctfw"]
    (sandbox,) = [
        line for line in system.run("cat", f"/proc/{_pid(system)}/status").stdout.splitlines() if "CapPrm" in line
    ]
    assert int(sandbox.split()[1], 16) == 1 << 12  # CAP_NET_ADMIN


def a_reload_that_fails_is_seen_to_fail_and_the_old_rules_stay(net: Network, system: System) -> None:
    system.put("/etc/ctfw/rules.d/own.yaml", "rules: 7\n")
    done = system.run("systemctl", "reload", "ctfw", check=False)
    assert done.returncode != 0
    assert "own.yaml:1" in system.journal("-u", "ctfw")
    assert system.property("ctfw", "ActiveState") == "active"
    with net.client:
        assert connect(SERVER, OPEN) == "connected"
    system.put("/etc/ctfw/rules.d/own.yaml", OWN_RULES.replace(str(SHUT), "8082"))
    system.run("systemctl", "reload", "ctfw")
    with net.client:
        assert connect(SERVER, SHUT) == "no answer"  # the chain's policy now
    system.put("/etc/ctfw/rules.d/own.yaml", OWN_RULES)
    system.run("systemctl", "reload", "ctfw")


def the_watchdog_ends_a_hang(net: Network, system: System) -> None:
    hung = _pid(system)
    system.run("sh", "-c", f"kill -STOP {hung}")  # the shell's own: a bare system has no other
    wait_until(lambda: _pid(system) not in ("0", hung) and system.property("ctfw", "ActiveState") == "active")
    assert "Watchdog timeout" in system.journal("-u", "ctfw")
    with net.client:
        assert connect(SERVER, OPEN) == "connected"


def what_a_flush_removed_is_put_back_with_a_word_in_the_journal(net: Network, system: System) -> None:
    assert system.property("ctfw-hook.timer", "ActiveState") == "active"
    system.run("systemctl", "start", "ctfw-hook.service")
    assert system.journal("-u", "ctfw-hook.service") == ""
    system.run("nft", "flush", "ruleset")
    system.run("iptables-legacy", "-t", "security", "-F", check=False)
    hurry = "/etc/systemd/system/ctfw-hook.timer.d/hurry.conf"  # not each minute
    system.put(hurry, "[Timer]\nOnActiveSec=\nOnUnitActiveSec=\nOnUnitActiveSec=1\nOnActiveSec=0\nAccuracySec=1ms\n")
    system.run("systemctl", "daemon-reload")
    system.run("systemctl", "restart", "ctfw-hook.timer")
    wait_until(lambda: system.journal(f"MESSAGE_ID={HOOK_HEALED.id}").count("put back") == 1)
    system.run("nft", "flush", "ruleset")
    wait_until(lambda: system.journal(f"MESSAGE_ID={HOOK_HEALED.id}").count("put back") == 2)
    system.run("rm", "-r", os.path.dirname(hurry))
    system.run("systemctl", "daemon-reload")
    system.run("systemctl", "restart", "ctfw-hook.timer")
    with net.client:
        assert connect(SERVER, SHUT) == "no answer"
        assert connect(SERVER, OPEN) == "connected"


def stopped_it_stays_shut_until_the_hook_is_removed(net: Network, system: System) -> None:
    system.run("systemctl", "stop", "ctfw")
    with net.client:
        assert connect(SERVER, OPEN) == "no answer"
    system.run("ctfw", "hook", "remove")
    system.run("systemctl", "start", "ctfw-hook.service")  # leaves alone what the admin removed
    with net.client:
        assert connect(SERVER, SHUT) == "connected"
    system.run("systemctl", "start", "ctfw")
    with net.client:
        assert connect(SERVER, SHUT) == "no answer"
        assert connect(SERVER, OPEN) == "connected"


def at_boot_a_broken_file_does_not_open_the_gateway(net: Network, system: System) -> None:
    system.run("systemctl", "stop", "ctfw", "ctfw-early")
    system.run("ctfw", "hook", "remove")
    system.put("/etc/ctfw/rules.d/own.yaml", "rules: 7\n")
    system.run("systemctl", "start", "ctfw-early")
    with net.client:
        assert connect(SERVER, SHUT) == "no answer"
    assert "the hook of the last apply is used" in system.journal("-u", "ctfw-early")
    system.put("/etc/ctfw/rules.d/own.yaml", OWN_RULES)
    system.run("systemctl", "start", "ctfw")


def an_upgrade_keeps_an_open_connection(net: Network, system: System) -> None:
    before = _pid(system)
    with net.client:
        conn = socket.create_connection((SERVER, OPEN), timeout=PATIENCE)
    with conn:
        upgrade = system.start(["dpkg", "-i", "/root/newer.deb"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while upgrade.poll() is None:
            conn.sendall(b"there?")
            assert conn.recv(4096) == b"there?"
        assert upgrade.returncode == 0, upgrade.stdout.read() if upgrade.stdout else ""
        conn.sendall(b"still there?")
        assert conn.recv(4096) == b"still there?"
    assert _pid(system) != before
    assert system.run("dpkg-query", "-Wf", "${Version}", "ctfw").stdout.startswith("1:")


def the_way_back_in_without_ctfw(net: Network, system: System) -> None:
    """The commands of docs/gateway.md; those for other programs than the one that made the rules find nothing."""
    system.run("sh", "-c", recovery("recovery"), check=False)
    assert system.property("ctfw", "ActiveState") == "inactive"
    assert system.run("systemctl", "start", "ctfw-hook.timer", check=False).returncode != 0
    with net.client:
        assert connect(SERVER, SHUT) == "connected"
    system.run("sh", "-ec", recovery("afterwards"))
    with net.client:
        assert connect(SERVER, SHUT) == "no answer"
        assert connect(SERVER, OPEN) == "connected"


def recovery(name: str) -> str:
    page = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
    (commands,) = re.findall(rf"^```sh {name}\n(.*?)^```$", page, re.M | re.S)
    return str(commands)


def purged_it_leaves_nothing(net: Network, system: System) -> None:
    system.run("rm", "-r", "/etc/systemd/system/ctfw.service.d")  # the test's own
    system.run("sh", "-c", "echo exit 101 >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d")  # as in an image
    system.run("dpkg", "--purge", "ctfw")
    system.run("rm", "/usr/sbin/policy-rc.d")
    with net.client:
        assert connect(SERVER, SHUT) == "connected"
    left = set(system.run("sh", "-c", LIST).stdout.splitlines())
    assert sorted(left ^ set(system.run("cat", "/root/before").stdout.splitlines())) == []
    for database in ("passwd", "group"):
        assert system.run("getent", database).stdout == system.run("cat", f"/root/{database}").stdout
    assert (
        "ctfw"
        not in system.run(
            "sh", "-c", "ls /run /var/lib /var/log /etc /etc/logrotate.d; nft list ruleset; iptables-save"
        ).stdout.lower()
    )
    assert "ctfw" not in system.run("systemctl", "list-units", "--all", "--plain").stdout


def _pid(system: System) -> str:
    return system.property("ctfw", "MainPID")
