"""A machine that has no thread to give: what should be on the disk is not, which is said, and packets are judged."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import OPEN, RULES, Datagrams, Running, wait_until

from lab.net import Network

pytestmark = pytest.mark.kernel

NONE = "def none(*arguments): raise RuntimeError('no new thread')"
RULES_THAT_WRITE = (
    RULES.replace("{", "{{")
    .replace("}", "}}")
    .replace("rules:", "sets: {{banned: {{dynamic: on}}}}\nmetrics: {{textfile: {directory}/figures.prom}}\nrules:", 1)
)


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("_thread.start_new_thread = none", "last good rules not kept: no new thread"),
        (
            "threading.Thread.start = none; ctfw.service.handover.COPY_INTERVAL = 0",
            "connections not saved: {directory}/connections: Resource temporarily unavailable",
        ),
        (
            "threading.Thread.start = none; self._sets._due = 0",
            "sets not saved: {directory}: Resource temporarily unavailable",
        ),
        (
            "threading.Thread.start = none",
            "metrics: {directory}/figures.prom: cannot be written: Resource temporarily unavailable",
        ),
    ],
)
def test_no_daemon_ends_for_want_of_a_thread(net: Network, tmp_path: Path, changed: str, told: str) -> None:
    with (
        Running(
            net,
            tmp_path,
            "--state",
            str(tmp_path),
            rules=RULES_THAT_WRITE.format(directory=tmp_path),
            changed=("import _thread, threading, ctfw.service.handover", NONE, changed),
        ) as daemon,
        Datagrams(net, OPEN) as good,
    ):
        wait_until(lambda: told.format(directory=tmp_path) in daemon.log())
        daemon.rules.write_text(RULES)
        daemon.ctfw("reload")
        wait_until(good.answered)
        daemon.stop()
