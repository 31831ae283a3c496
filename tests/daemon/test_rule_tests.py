"""The daemon and the tests of its rule file: red rules are not taken, and a question about a packet changes nothing."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import OPEN, RULES, SHUT, Datagrams, Running, command, wait_until

from lab.net import CLIENT, SERVER, Network

pytestmark = pytest.mark.kernel

GREEN = f"""
tests:
  - {{name: open, send: "udp {CLIENT}:1 > {SERVER}:{OPEN}", in: lan0, expect: accept}}
  - {{name: shut, send: "udp {CLIENT}:1 > {SERVER}:{SHUT}", in: lan0, expect: drop}}
"""
RED = GREEN.replace("expect: drop", "expect: accept")


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def test_a_reload_refuses_rules_whose_tests_fail(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=RULES + GREEN) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        opened = RULES.replace("dport: 5353", f"dport: {SHUT}") + GREEN
        for red in (RULES + RED, opened):
            daemon.rules.write_text(red)
            said = daemon.ctfw("reload", code=1).stderr
            assert "test '" in said and "the old ones stay in force" in said
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: daemon.log().count("reload failed, the old rules stay") == 3)
        assert good.answered()
        daemon.rules.write_text(RULES + GREEN)
        daemon.ctfw("reload")
        rules = {rule["name"]: rule["packets"] for rule in daemon.stats()["rules"]}
        assert rules["open"] == 1  # what the tests sent was not counted


def test_a_daemon_does_not_start_with_rules_whose_tests_fail(net: Network, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES + RED)
    done = command("run", "--rules", str(rules), "--socket", str(tmp_path / "control.sock"))
    assert done.returncode == 1 and "test 'shut': verdict is 'drop', not 'accept'" in done.stderr


def test_the_running_daemon_is_asked(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        port = good.client.getsockname()[1]
        before = daemon.stats()
        said = daemon.ctfw("explain", "--live", f"udp {SERVER}:{OPEN} > {CLIENT}:{port} len=3").stdout
        assert "state        ESTABLISHED REPLY" in said and "verdict      accept by 'replies'" in said
        said = daemon.ctfw("explain", "--live", f"udp {SERVER}:{SHUT} > {CLIENT}:{port}").stdout
        assert "connection   none is known" in said and "verdict      drop by 'policy forward'" in said
        after = daemon.stats()
        # The gateway itself tells its neighbours of its multicast groups when it likes.
        counts = [
            [(rule["name"], rule["packets"]) for rule in stats["rules"] if rule["name"] != "policy output"]
            for stats in (before, after)
        ]
        assert counts[0] == counts[1] and before["conntrack"]["insert"] == after["conntrack"]["insert"]
