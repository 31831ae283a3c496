"""The demo works, leaves nothing behind however it ends, and its record says the same again when it is replayed.

And the README's rules for a real gateway are those of the demo's, and can be undone as it says.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.demo import CHECKOUT, RULES
from lab.net import Network

pytestmark = pytest.mark.kernel

TESTS = Path(__file__).resolve().parent.parent
# A shell that starts us in the background has interrupts ignored, and so would the demo.
DEMO = ("env", "--default-signal=INT", sys.executable, "-P", "-m", "lab.demo")


def environment(directory: Path) -> dict[str, str]:
    """Our own, with tests/ importable and `directory` for temporary files."""
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(TESTS))))
    return os.environ | {"PYTHONPATH": path, "TMPDIR": str(directory)}


def left_behind(directory: Path) -> list[str]:
    """Files in `directory`, and processes that have to do with it."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if str(directory) in command:
            processes.append(command)
    return [str(path) for path in directory.iterdir()] + processes


def goes(is_there: Callable[[], bool]) -> bool:
    """It ends at once; a process that has ended may still be listed for a moment."""
    end = time.monotonic() + 5
    while is_there() and time.monotonic() < end:
        time.sleep(0.05)
    return not is_there()


def test_the_demo_goes_as_the_rules_say_and_its_replay_agrees(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    temporary, record, counters = tmp_path_factory.mktemp("d"), tmp_path / "record.pcapng", tmp_path / "counters.json"
    demo = subprocess.run(
        [*DEMO, "--record", record, "--counters", counters],
        env=environment(temporary),
        capture_output=True,
        text=True,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "BAD" not in demo.stdout and "\033" not in demo.stdout
    assert left_behind(temporary) == []

    replay = [sys.executable, "-P", "-m", "ctfw", "replay", str(record), "--rules", str(RULES), "-o", "jsonl"]
    packets = [json.loads(line) for line in subprocess.check_output(replay).splitlines()]
    daemon = json.loads(counters.read_text())
    assert Counter(packet["rule"] for packet in packets) == {
        rule["name"]: rule["packets"] for rule in daemon["rules"] if rule["packets"]
    }
    assert Counter(packet["state"] for packet in packets) == {
        state: count for state, count in daemon["states"].items() if count
    }
    assert Counter(packet["verdict"] for packet in packets) == {
        verdict: sum(chain[verdict] for chain in daemon["packets"].values()) for verdict in ("accept", "drop")
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen(DEMO, env=environment(tmp_path), stdout=subprocess.PIPE, text=True)
    assert demo.stdout
    for line in demo.stdout:
        if "web page" in line:
            break
    (daemon,) = (command for command in left_behind(tmp_path) if " run " in command)
    demo.send_signal(number)
    demo.stdout.read()
    if number == signal.SIGKILL:
        assert demo.wait() == -number
        # Nobody was there to remove the files; but the daemon is gone, and the network with it.
        assert goes(lambda: daemon in left_behind(tmp_path))
    else:
        assert demo.wait() == 128 + number
        assert goes(lambda: left_behind(tmp_path) != [])


def test_the_readme_queues_what_the_demo_queues_and_undoes_it() -> None:
    lines = (CHECKOUT / "README.md").read_text().splitlines()
    commands = [line.removeprefix("sudo ").split() for line in lines if line.startswith("sudo ip")]
    # "The same lines with `-D` in place of `-A` and `-I` undo them."
    removing = [["-D" if word in ("-A", "-I") else word for word in command] for command in commands]

    def rules(net: Network) -> list[str]:
        saved = net.gateway.run("iptables-save") + net.gateway.run("ip6tables-save")
        return sorted(line for line in saved.splitlines() if line.startswith("-A"))

    with Network() as demo, Network() as own:
        demo.queue()
        for command in commands:
            own.gateway.run(*command)
        assert rules(own) == rules(demo) != []
        for command in removing:
            own.gateway.run(*command)
        assert rules(own) == []
