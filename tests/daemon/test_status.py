"""`ctfw status`: one word for how it is, and a screen that says why."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.fakekernel import BAD, GOOD, broken_engine, udp
from daemon.parts import RULES, Gateway
from daemon.running import OPEN, SHUT, Datagrams, Running, command, wait_until
from hook.hooked import hooked

from ctfw.cli.status import duration, screen
from ctfw.service.hook.handed import Handed
from ctfw.service.pulse import SECOND
from ctfw.service.status import DEGRADED, FAILING, OK, answer, health
from lab.net import Network


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.close()


def kernel(gateway: Gateway, **figures: int) -> None:
    assert gateway.figures.now is not None
    gateway.figures.now = {**gateway.figures.now, **figures}


def at(gateway: Gateway, second: int) -> dict[str, Any]:
    """The answer after a tick at this second."""
    gateway.parts.pulse.tick(second * SECOND, 0)
    return answer(gateway.parts, second * SECOND)


def test_a_gateway_at_rest_is_ok(gateway: Gateway) -> None:
    told = at(gateway, 1)
    assert (told["health"], told["reasons"]) == (OK, [])


def test_what_was_lost_degrades_for_a_minute(gateway: Gateway) -> None:
    at(gateway, 1)
    gateway.kernel.lose(5)
    gateway.kernel.give(GOOD)
    gateway.parts.queue.process(10)
    told = at(gateway, 2)
    assert told["health"] == DEGRADED
    assert told["reasons"] == ["5 packets were lost on their way to ctfw in the last minute"]
    for second in range(3, 62):
        assert at(gateway, second)["health"] == DEGRADED
    assert at(gateway, 63)["health"] == OK
    assert at(gateway, 64)["queue"]["lost"] == 5


def test_a_full_queue_says_what_the_policy_does(gateway: Gateway) -> None:
    kernel(gateway, queue_dropped=7)
    told = at(gateway, 1)
    assert told["reasons"] == ["7 packets found the queue full (failure.queue_full: drop) in the last minute"]
    assert told["unjudged"]["unjudged"]["queue_full"]["drop"] == 7


def test_an_error_of_ours_degrades(gateway: Gateway) -> None:
    gateway.parts.queue.engine = broken_engine()
    gateway.kernel.give(GOOD)
    gateway.parts.queue.process(10)
    told = at(gateway, 1)
    assert told["reasons"] == ["1 packets met an error of ctfw (failure.error: drop) in the last minute"]


def test_packets_that_wait_while_nothing_moves_are_a_failure(gateway: Gateway) -> None:
    gateway.parts.queue.idle = False  # never seen empty, as when verdicts cannot leave
    at(gateway, 1)
    kernel(gateway, waiting=12, numbered=12)
    told = at(gateway, 60)
    assert told["health"] == FAILING
    assert told["reasons"][0].startswith("12 packets wait and nothing has moved for 6")
    kernel(gateway, waiting=0)
    assert at(gateway, 61)["health"] == OK  # an idle gateway is none


def test_a_table_that_is_nearly_full_degrades(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, RULES.replace("max: 100", "max: 10"))
    for source in range(1, 10):
        gateway.judge(udp(GOOD, source=source))
    told = at(gateway, 1)
    assert told["reasons"] == ["the table is 90 % full: entries=9 max=10"]
    gateway.close()


def test_a_failed_reload_degrades_until_one_succeeds(gateway: Gateway) -> None:
    gateway.path.write_text("version: 2")
    gateway.reload()
    told = at(gateway, 1)
    assert told["health"] == DEGRADED
    assert "the last reload failed" in told["reasons"][0]
    gateway.path.write_text(RULES)
    gateway.reload()
    assert at(gateway, 2)["health"] == OK


def test_rates_are_of_the_last_second_and_the_last_minute(gateway: Gateway) -> None:
    for second in range(1, 61):
        gateway.kernel.give(GOOD, BAD)
        gateway.parts.queue.process(10)
        at(gateway, second)
    gateway.kernel.give(*[BAD] * 60)
    gateway.parts.queue.process(100)
    rates = answer(gateway.parts, 61 * SECOND)["rates"]
    assert rates["1s"] == {"received": 60.0, "accepted": 0.0, "dropped": 60.0, "new": 0.0}
    assert rates["60s"]["received"] == pytest.approx(3, abs=0.1)
    assert rates["60s"]["accepted"] == pytest.approx(1, abs=0.1)


def test_the_oldest_packets_age_is_known_to_a_tick(gateway: Gateway) -> None:
    pulse = gateway.parts.pulse
    tick = SECOND // 10
    kernel(gateway, waiting=0, numbered=100)
    pulse.tick(1 * tick, 0)
    assert pulse.oldest == 0
    kernel(gateway, waiting=5, numbered=105)
    pulse.tick(2 * tick, 0)
    assert pulse.oldest == tick  # it came after the first tick
    kernel(gateway, waiting=8, numbered=108)
    pulse.tick(5 * tick, 0)
    assert pulse.oldest == 4 * tick
    kernel(gateway, waiting=3, numbered=108)  # the first five were answered
    pulse.tick(6 * tick, 0)
    assert pulse.oldest == 4 * tick
    kernel(gateway, waiting=0, numbered=108)
    pulse.tick(7 * tick, 0)
    assert pulse.oldest == 0


def test_the_kernels_numbers_may_begin_anew(gateway: Gateway) -> None:
    pulse = gateway.parts.pulse
    kernel(gateway, waiting=0, numbered=0xFFFFFFFE)
    pulse.tick(SECOND, 0)
    kernel(gateway, waiting=4, numbered=2)
    pulse.tick(2 * SECOND, 0)
    assert pulse.oldest == SECOND


def test_the_worst_delay_is_forgotten_after_a_minute(gateway: Gateway) -> None:
    pulse = gateway.parts.pulse
    for number, late in enumerate([1, 2, 900, 3, 4]):
        pulse.tick(number * SECOND // 10, late)
    assert pulse.delay(SECOND) == 900
    assert pulse.delay(61 * SECOND) == 0


def test_the_screen(gateway: Gateway) -> None:
    kernel(gateway, waiting=3, queue_dropped=2, numbered=3)
    gateway.judge(udp(GOOD))
    text = "\n".join(screen(at(gateway, 1)))
    assert text.startswith("degraded: ctfw ")
    assert "\n  - 2 packets found the queue full (failure.queue_full: drop) in the last minute\n" in text
    for line in (
        r"rate:        packets/s=0 accepted/s=1 dropped/s=0 connections/s=1",
        r"last minute: packets/s=0 accepted/s=1 dropped/s=0 connections/s=1",
        r"connections: \[\.{24}\] 1% entries=1 max=100 early_drop=0 insert_failed=0",
        r"queue:       number=7 waiting=3/8192 oldest=1\.0s gso=on copy_range=1600",
        r"losses:      socket=0 queue_full=2",
        r"failure:     no_listener=drop queue_full=drop error=drop stuck=drop",
        r"unjudged:    no_listener: .*, queue_full: passed=unavailable dropped=2, error: passed=0 dropped=0",
        r"note:        no rules of .*",
        r"rules:       /\S+ count=2 generation=0 loaded=\S+Z",
        r"reload:      last=ok at=\S+Z done=0 failed=0",
        r"watchdog:    off last_progress=\d+\.\ds loop_delay=0\.0ms in the last minute",
        r"log:         sink=stderr packets=0 suppressed=0 lost=0",
        r"clients:     connected=0 dropped=0",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), (line, text)
    assert "\033" not in text
    assert "\n".join(screen(at(gateway, 2), True)).startswith("\033[33mdegraded\033[0m: ")


def test_what_may_not_be_read_is_unavailable_and_the_screen_says_what_helps(gateway: Gateway) -> None:
    gateway.figures.now = None
    told = at(gateway, 1)
    assert told["health"] == OK
    text = "\n".join(screen(told))
    assert "waiting=?/8192 oldest=?" in text
    assert "queue_full=unavailable" in text
    assert "SupplementaryGroups=root" in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00:00"), (3661, "01:01:01"), (90061, "1d 01:01:01")])
def test_durations(seconds: int, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.kernel
def test_a_daemon_that_hangs_is_failing_and_what_waits_is_told(tmp_path: Path) -> None:
    with Network() as net:
        net.queue()
        with Running(net, tmp_path) as daemon, Datagrams(net, SHUT) as bad:
            daemon.freeze()
            for _ in range(5):
                bad.client.send(b"x")
            wait_until(lambda: daemon.queue()["waiting"] >= 5)
            with net.gateway:
                done = command("status", "--socket", daemon.control)
            assert done.returncode == 1
            assert done.stdout.startswith("failing:\n")
            assert "has not answered for 5 s: the daemon hangs" in " ".join(done.stdout.split())
            assert re.search(r"^  - queue 0: waiting=\d+ dropped=0$", done.stdout, re.MULTILINE)


@pytest.mark.kernel
def test_a_hook_that_somebody_removes_is_told_at_once(tmp_path: Path) -> None:
    with Network() as net, Running(net, tmp_path) as daemon:
        assert daemon.ctfw("status").stdout.startswith("ok")  # rules made by hand are not known, and nothing is wrong
        with hooked(net, "iptables-nft"):
            wait_until(lambda: "unavailable" not in daemon.ctfw("status").stdout)
        wait_until(lambda: "ctfw: the kernel's rules that send packets to queue 0 are gone: " in daemon.log())
        told = daemon.ctfw("status", code=1).stdout
        assert told.startswith("failing: ")
        assert "are gone: nothing is judged until `ctfw hook apply`" in " ".join(told.split())
        # Rules made by hand in its place: as soon as a packet comes that they sent.
        net.queue()
        with Datagrams(net, OPEN) as path:
            assert path.answered()
        told = daemon.ctfw("status", code=1).stdout
        assert told.startswith("degraded: ")
        assert "packets come by other rules than the hook's" in " ".join(told.split())
        with hooked(net, "iptables-nft"):
            assert daemon.ctfw("status").stdout.startswith("ok")


def test_packets_that_waited_when_the_hook_went_are_no_sign_of_another(gateway: Gateway) -> None:
    def judged(second: int, count: int) -> str:
        gateway.kernel.give(*[GOOD] * count)
        gateway.parts.queue.process(count)
        return str(at(gateway, second)["health"])

    gateway.hook = [Handed(0, 7, 7, False)]
    assert judged(1, 1) == OK
    gateway.hook = []
    kernel(gateway, waiting=2)
    assert judged(2, 0) == FAILING
    kernel(gateway, waiting=0)
    assert judged(3, 2) == FAILING  # those that waited
    assert judged(4, 1) == DEGRADED
    gateway.hook = [Handed(0, 7, 7, False)]
    assert judged(5, 0) == OK
    gateway.hook = PermissionError(1, "no")  # cannot be asked: nothing has gone
    assert judged(6, 0) == OK
    gateway.hook = []
    assert judged(7, 0) == FAILING  # what came by others then proves nothing now


def test_the_last_good_rules_degrade_as_long_as_they_run(gateway: Gateway) -> None:
    told = at(gateway, 1)
    told["rules"]["last_good"] = {"why": "rules.yaml:1:10: error: no", "saved": 0.0}
    assert health(told) == (
        DEGRADED,
        ["the file's rules are broken, the last good ones are in force; see `ctfw check`"],
    )


def test_panic_is_a_failure_for_whoever_looks_at_the_gateway(gateway: Gateway) -> None:
    told = at(gateway, 1)
    told["rules"]["panic"] = {"seconds": 60}
    assert health(told) == (FAILING, ["panic: everything is dropped for 60 s more; `ctfw panic off` ends it"])
