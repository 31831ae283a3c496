"""The failure policy, each of its four ways and both fates, with real packets through the real hook and daemon.

What the policy says is what happens, and what is not judged is counted: by `ctfw status`, from the hook's counter rule
on. The exception is raised by a wrong object put into the daemon from outside (running.py), for nothing in ctfw itself
can be told to fail.
"""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from daemon.running import RULES as EVERYDAY
from daemon.running import SHUT, Datagrams, Running, wait_until
from hook.hooked import IPTABLES, backend, command, hooked, needs_both_iptables, needs_nft

from ctfw.service.client import Client
from lab.net import Network

pytestmark = [pytest.mark.kernel, needs_nft]

FATES: Final = ("drop", "accept")
RULES: Final = EVERYDAY + "hook: {chains: forward}\n"  # not what IPv6 says on its own, so that all can be counted
QUEUE: Final = "iptables-nft"  # what every kernel has whose rules the daemon can ask for
LENGTH: Final = 100
# Shorter than the 8192 of every day, so that a test fills it at once.
SHORT: Final = f"self._kernel._command(3, ({LENGTH}).to_bytes(4, 'big'), acknowledge=False)"
RAISING: Final = "self.engine.counters.hooks = []"


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        yield made


def status(daemon: Running) -> dict[str, Any]:
    with Client(daemon.control) as client:
        answer: dict[str, Any] = client.call("status")
    return answer


def unjudged(daemon: Running, why: str) -> dict[str, int]:
    counts: dict[str, int] = status(daemon)["unjudged"]["unjudged"][why]
    return counts


def arrived(datagrams: Datagrams) -> int:
    """How many datagrams the server has got, until none comes any more."""
    count = 0
    datagrams.server.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while datagrams.server.recv(10):
            count += 1
    return count


def send(datagrams: Datagrams, count: int) -> None:
    for _ in range(count):
        datagrams.client.send(b"x")


@contextlib.contextmanager
def applied(net: Network, rules: Path) -> Iterator[None]:
    """`ctfw hook apply`, as an administrator or a unit calls it."""
    command(net.gateway, "apply", "--rules", str(rules), "--backend", QUEUE)
    try:
        yield
    finally:
        command(net.gateway, "remove")


@pytest.mark.parametrize("fate", FATES)
def test_daemon_down_is_what_the_policy_says(net: Network, tmp_path: Path, fate: str) -> None:
    """kill -9: packets that nobody listens for are dropped, or pass, and the next daemon tells how many."""
    text = RULES + f"failure: {{no_listener: {fate}, stuck: {fate}}}\n"
    (tmp_path / "rules.yaml").write_text(text)
    with applied(net, tmp_path / "rules.yaml"), Datagrams(net, SHUT) as bad:
        with Running(net, tmp_path, rules=text) as first:
            assert not bad.arrives()
            send(bad, 20)
            wait_until(lambda: first.stats()["queue"]["received"] >= 21)
            first.signal(signal.SIGKILL)
            first.process.wait()
        assert bad.arrives() is (fate == "accept")
        send(bad, 49)
        assert arrived(bad) == (49 if fate == "accept" else 0)
        (tmp_path / "notify").unlink()
        with Running(net, tmp_path, rules=text) as second:
            assert not bad.arrives()
            told = status(second)
            assert told["failure"]["no_listener"] == told["unjudged"]["in_force"]["no_listener"] == fate
            assert told["unjudged"]["unjudged"]["no_listener"] == dict.fromkeys(FATES, 0) | {fate: 50}
            assert ("no_listener: passed=50" in second.ctfw("status").stdout) is (fate == "accept")
            wait_until(lambda: f"ctfw: failure policy was at work: no_listener={fate} packets=50" in second.log())


@pytest.mark.parametrize("fate", FATES)
def test_alive_but_stuck_ends_as_the_policy_says(net: Network, tmp_path: Path, fate: str) -> None:
    """SIGSTOP: packets wait, those beyond the queue's length meet queue_full, and once it is ended, no_listener."""
    text = RULES + f"failure: {{no_listener: {fate}, queue_full: {fate}, stuck: {fate}}}\n"
    (tmp_path / "rules.yaml").write_text(text)
    with applied(net, tmp_path / "rules.yaml"), Datagrams(net, SHUT) as bad:
        with Running(net, tmp_path, rules=text, changed=(SHORT,)) as daemon:
            daemon.freeze()
            send(bad, LENGTH)
            wait_until(lambda: daemon.queue()["waiting"] == LENGTH)
            assert arrived(bad) == 0
            send(bad, 30)
            assert arrived(bad) == (30 if fate == "accept" else 0)
            # What the watchdog does in the end: a process that stands still hears no other signal.
            daemon.signal(signal.SIGKILL)
            daemon.process.wait()
        send(bad, 20)
        assert arrived(bad) == (20 if fate == "accept" else 0)
        (tmp_path / "notify").unlink()
        with Running(net, tmp_path, rules=text) as second:
            # Those that waited went with the queue, whatever the policy; nobody was left to judge any of them.
            assert sum(unjudged(second, "no_listener").values()) == LENGTH + 30 + 20


@pytest.mark.parametrize("fate", FATES)
def test_a_rule_engine_that_raises_gives_the_verdict_of_the_policy(net: Network, tmp_path: Path, fate: str) -> None:
    text = RULES + f"failure: {{error: {fate}}}\n"
    (tmp_path / "rules.yaml").write_text(text)
    with (
        applied(net, tmp_path / "rules.yaml"),
        Running(net, tmp_path, rules=text, changed=(RAISING,)) as daemon,
        Datagrams(net, SHUT) as bad,
    ):
        send(bad, 25)
        assert arrived(bad) == (25 if fate == "accept" else 0)
        told = status(daemon)
        assert told["unjudged"]["in_force"]["error"] == fate
        found = unjudged(daemon, "error")
        assert (found[fate], sum(found.values())) == (told["queue"]["errors"], told["queue"]["errors"])
        assert found[fate] >= 25


@pytest.mark.parametrize("fate", FATES)
def test_queue_overrun_is_counted(net: Network, tmp_path: Path, fate: str) -> None:
    """A flood while the daemon stands still: what finds the queue full meets the policy, counted to the packet."""
    text = RULES + f"failure: {{queue_full: {fate}}}\n"
    (tmp_path / "rules.yaml").write_text(text)
    with (
        applied(net, tmp_path / "rules.yaml"),
        Running(net, tmp_path, rules=text, changed=(SHORT,)) as daemon,
        Datagrams(net, SHUT) as bad,
    ):
        before = sum(unjudged(daemon, "queue_full").values())
        daemon.freeze()
        send(bad, 700)
        passed = arrived(bad)
        daemon.signal(signal.SIGCONT)
        wait_until(lambda: daemon.queue()["waiting"] == 0)
        wait_until(lambda: sum(unjudged(daemon, "queue_full").values()) - before == 700 - LENGTH)
        assert unjudged(daemon, "queue_full")["accept"] == passed == (700 - LENGTH if fate == "accept" else 0)
        wait_until(lambda: f"ctfw: failure policy at work: queue_full={fate} packets=600" in daemon.log())


def test_what_overruns_the_socket_meets_the_policy_as_well(net: Network, tmp_path: Path) -> None:
    """Numbered by the kernel, too much for the socket: with accept it passes, and is counted as passed."""
    small = ("import socket", "self._kernel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)")
    text = RULES + "failure: {queue_full: accept}\n"
    with (
        hooked(net, QUEUE, text),
        Running(net, tmp_path, rules=text, changed=small) as daemon,
        Datagrams(net, SHUT) as bad,
    ):
        daemon.freeze()
        send(bad, 500)
        passed = arrived(bad)
        daemon.signal(signal.SIGCONT)
        wait_until(lambda: unjudged(daemon, "queue_full") == {"accept": passed, "drop": 0})
        assert 300 < passed < 500


def test_what_the_kernels_rules_say_is_shown_when_the_file_says_something_else(net: Network, tmp_path: Path) -> None:
    with hooked(net, QUEUE, RULES + "failure: {no_listener: accept}\n"), Running(net, tmp_path, rules=RULES) as daemon:
        told = daemon.ctfw("status", code=1).stdout
        assert "no_listener=drop" in told
        assert "the kernel's rules say no_listener=accept, the file drop; run 'ctfw hook apply'" in told


def test_a_hook_made_anew_begins_a_new_account(net: Network, tmp_path: Path) -> None:
    """Its counters are zero again: nothing of before is taken for unjudged, nor anything for judged twice."""
    with Running(net, tmp_path, rules=RULES) as daemon, Datagrams(net, SHUT) as bad:
        for times in (30, 5, 40):
            with hooked(net, QUEUE, RULES):
                assert not bad.arrives()
                send(bad, times)
                assert arrived(bad) == 0
                told = status(daemon)["unjudged"]
                assert told["handed_over"] == times + 1
                assert told["unjudged"] == {why: dict.fromkeys(FATES, 0) for why in told["unjudged"]}


@needs_both_iptables
def test_what_cannot_be_known_is_said_to_be_unavailable(net: Network, tmp_path: Path) -> None:
    """The rules of legacy iptables, and a kernel whose file may not be read."""
    with (
        hooked(net, IPTABLES[1], RULES),
        Running(net, tmp_path, rules=RULES, changed=("self._kernel._proc = None",)) as daemon,
    ):
        told = status(daemon)["unjudged"]
        assert (told["handed_over"], told["in_force"]["no_listener"]) == (None, None)
        assert "unavailable" in daemon.ctfw("status").stdout
        with net.gateway:
            assert backend(IPTABLES[1]).passed()["forward"] == 0


def test_without_the_kernels_file_the_hooks_counter_still_tells(net: Network, tmp_path: Path) -> None:
    """An unprivileged daemon: what the rules handed over and nobody judged, once no packet waits."""
    hidden = "self._kernel.figures = lambda: None"
    with (
        hooked(net, QUEUE, RULES),
        Running(net, tmp_path, rules=RULES, changed=(SHORT, hidden)) as daemon,
        Datagrams(net, SHUT) as bad,
    ):
        daemon.freeze()
        send(bad, 150)
        assert arrived(bad) == 0
        daemon.signal(signal.SIGCONT)
        wait_until(lambda: unjudged(daemon, "queue_full") == {"accept": 0, "drop": 50})


def test_no_packet_at_all_is_not_taken_for_unjudged_under_load(net: Network, tmp_path: Path) -> None:
    """The sums are read while packets move, and never say more than there were."""
    with hooked(net, QUEUE, RULES), Running(net, tmp_path, rules=RULES) as daemon, Datagrams(net, SHUT) as bad:
        for _ in range(40):
            send(bad, 100)
            assert sum(unjudged(daemon, "queue_full").values()) == 0
