"""What the service says, in a real journal: entries that are found by their id, and the sandbox around its files."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
from boot.gateway import PACKAGING, gateway
from daemon.running import RULES, SHUT, Datagrams, wait_until

from ctfw.service import kinds
from ctfw.service.kinds import Kind
from lab.net import CLIENT, SERVER
from lab.systemd import System

pytestmark = [pytest.mark.kernel, pytest.mark.systemd]

LOGGED: Final = "  - {name: shut, chain: forward, proto: udp, verdict: drop, log: {limit: 1/second, burst: 2}}\n"
ELSEWHERE: Final = "/var/lib/prometheus/node-exporter"


def entries(system: System, kind: Kind) -> list[dict[str, Any]]:
    return [json.loads(line) for line in system.journal("-o", "json", f"MESSAGE_ID={kind.id}").splitlines()]


def test_events_and_packets_are_found_by_their_id_with_their_fields() -> None:
    with gateway(RULES + LOGGED) as (net, system), Datagrams(net, SHUT) as bad:
        system.put("/usr/lib/systemd/catalog/ctfw.catalog", PACKAGING / "ctfw.catalog")
        system.run("journalctl", "--update-catalog")
        (started,) = entries(system, kinds.STARTED)
        assert started["MESSAGE"].startswith("ctfw: started: version=")
        assert (started["CTFW_EVENT"], started["PRIORITY"], started["SYSLOG_IDENTIFIER"]) == ("started", "5", "ctfw")
        assert started["_SYSTEMD_UNIT"] == "ctfw.service"

        for _ in range(30):
            bad.client.send(b"x")
        wait_until(lambda: entries(system, kinds.SUPPRESSED))
        lines = entries(system, kinds.PACKET)
        assert len(lines) == 2
        port = str(bad.client.getsockname()[1])
        wanted = {
            "CTFW_EVENT": "packet",
            "CTFW_RULE": "shut",
            "CTFW_ORIGIN": "/etc/ctfw/rules.yaml:8",
            "CTFW_GENERATION": "0",
            "CTFW_STATE": "NEW",
            "CTFW_VERDICT": "drop",
            "CTFW_IN": "lan0",
            "CTFW_OUT": "wan0",
            "CTFW_SRC": CLIENT,
            "CTFW_DST": SERVER,
            "CTFW_PROTO": "UDP",
            "CTFW_SPT": port,
            "CTFW_DPT": str(SHUT),
            "CTFW_LEN": "29",
            "PRIORITY": "6",
        }
        assert {name: lines[0].get(name) for name in wanted} == wanted
        assert lines[0]["MESSAGE"] == (
            f'ctfw: rule="shut" state=NEW verdict=drop IN=lan0 OUT=wan0 SRC={CLIENT} DST={SERVER} PROTO=UDP'
            f" SPT={port} DPT={SHUT} LEN=29"
        )
        (held,) = entries(system, kinds.SUPPRESSED)
        assert (held["MESSAGE"], held["CTFW_SUPPRESSED"]) == ('ctfw: 28 lines suppressed: rule="shut"', "28")
        explained = system.journal("-o", "short", "-x", f"MESSAGE_ID={kinds.PACKET.id}")
        assert "Subject: A packet was logged by a rule" in explained
        assert "The rule shut (/etc/ctfw/rules.yaml:8) wanted a line about this packet" in explained

        system.put("/etc/ctfw/rules.yaml", "version: 2\n")
        system.run("systemctl", "reload", "ctfw", check=False)
        wait_until(lambda: entries(system, kinds.RELOAD_FAILED))
        assert entries(system, kinds.RULES_PROBLEM)[-1]["PRIORITY"] == "3"
        system.run("systemctl", "stop", "ctfw")
        assert entries(system, kinds.STOPPED)


def test_the_file_of_figures_passes_the_sandbox_where_the_documentation_says() -> None:
    with gateway(RULES + "metrics: {textfile: /run/ctfw/ctfw.prom, every: 1}\n") as (_, system):

        def read(path: str) -> str:
            nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
            return system.run(*nobody, "cat", path, check=False).stdout

        system.run("mkdir", "-p", ELSEWHERE)
        system.run("ln", "-s", "/run/ctfw/ctfw.prom", f"{ELSEWHERE}/ctfw.prom")
        wait_until(lambda: "\nctfw_build_info{" in read(f"{ELSEWHERE}/ctfw.prom"))
        assert "\nctfw_nfqueue_length 0\n" in read("/run/ctfw/ctfw.prom")  # SupplementaryGroups=root is enough for it

        system.run("rm", f"{ELSEWHERE}/ctfw.prom")
        system.put("/etc/ctfw/rules.yaml", RULES + f"metrics: {{textfile: {ELSEWHERE}/ctfw.prom, every: 1}}\n")
        system.run("systemctl", "reload", "ctfw")
        wait_until(lambda: entries(system, kinds.SINK_FAILED))
        (failed,) = entries(system, kinds.SINK_FAILED)
        assert failed["MESSAGE"] == f"ctfw: metrics: {ELSEWHERE}/ctfw.prom: cannot be written: Read-only file system"
        assert not Path(system.path("/run/ctfw/ctfw.prom")).exists()

        system.put("/etc/systemd/system/ctfw.service.d/metrics.conf", f"[Service]\nReadWritePaths={ELSEWHERE}\n")
        system.run("chown", "ctfw", ELSEWHERE)
        system.run("systemctl", "daemon-reload")
        system.run("systemctl", "restart", "ctfw")
        wait_until(lambda: "\nctfw_build_info{" in read(f"{ELSEWHERE}/ctfw.prom"))
        assert len(entries(system, kinds.SINK_FAILED)) == 1
