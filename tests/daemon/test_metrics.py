"""Figures for Prometheus: what its own parser reads of them, and that a gateway's rules cannot break or stall them."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.fakekernel import BAD, GOOD, udp
from daemon.parts import RULES, Gateway
from daemon.running import OPEN, Datagrams, Running, wait_until
from daemon.running import RULES as DAEMON_RULES
from prometheus_client.parser import text_string_to_metric_families

from ctfw.config import ConfigError, load
from ctfw.packet import HOOK_NAMES
from ctfw.reason import NAMES
from ctfw.service.metric_families import FAMILIES, MOST_RULES
from ctfw.service.metrics import lines
from ctfw.service.pages import SLICE, paged
from ctfw.service.peers import Peer
from ctfw.service.session import Session
from lab.net import Network

# FIELD's names, which others' dashboards may count on.
PROMISED = {
    "ctfw_conntrack_entries", "ctfw_conntrack_entries_limit", "ctfw_conntrack_insert_total",
    "ctfw_conntrack_insert_failed_total", "ctfw_conntrack_early_drop_total", "ctfw_conntrack_expired_total",
    "ctfw_conntrack_invalid_total", "ctfw_packets_total", "ctfw_rule_packets_total", "ctfw_nfqueue_length",
    "ctfw_nfqueue_dropped_total", "ctfw_config_last_reload_successful", "ctfw_build_info", "ctfw_failure_policy",
}  # fmt: skip
BOUNDED = {
    "version",
    "python",
    "compiled",
    "state",
    "hook",
    "verdict",
    "rule",
    "set",
    "reason",
    "where",
    "event",
    "result",
    "limit",
}

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.close()


def read(gateway: Gateway) -> Figures:
    """What Prometheus' parser makes of it: value by name and labels."""
    found: Figures = {}
    for family in text_string_to_metric_families("".join(lines(gateway.parts))):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} twice: Prometheus refuses the whole text"
            found[key] = sample.value
    return found


def value(figures: Figures, name: str, **labels: str) -> float:
    return figures[name, frozenset(labels.items())]


def test_every_family_is_read_by_prometheus_with_its_help_and_type(gateway: Gateway) -> None:
    text = "".join(lines(gateway.parts))
    parsed = {family.name: family for family in text_string_to_metric_families(text)}
    for family in FAMILIES:
        name = family.name.removesuffix("_total") if family.type == "counter" else family.name
        assert (parsed[name].type, parsed[name].documentation) == (family.type, family.help)
    assert len(parsed) == len(FAMILIES)


def test_names_keep_prometheus_rules_and_labels_are_bounded() -> None:
    """What `promtool check metrics` looks at: counters end in _total and nothing else does, units are base units."""
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch("ctfw_[a-z0-9_]+", family.name)
        assert family.name.endswith("_total") == (family.type == "counter"), family.name
        assert not re.search("_(count|sum|bucket|info_total|milliseconds|minutes|kilobytes|percent)$", family.name)
        assert not re.search("counter|gauge", family.name)
        assert family.help.endswith(".") and "\n" not in family.help
        assert set(family.labels) <= BOUNDED


def test_the_names_that_were_promised_are_there(gateway: Gateway) -> None:
    assert {name for name, _ in read(gateway)} >= PROMISED


def test_every_family_but_those_that_are_off_has_samples_from_the_start(gateway: Gateway) -> None:
    named = {name for name, _ in read(gateway)}
    assert {family.name for family in FAMILIES if family.name not in named} == {
        "ctfw_record_packets_total",
        "ctfw_recorder_bytes",
        "ctfw_recorder_bytes_limit",
        "ctfw_recorder_age_seconds",
    }
    figures = read(gateway)
    assert {dict(labels)["reason"] for name, labels in figures if "reason" in dict(labels)} == set(NAMES[1:])
    for hook in HOOK_NAMES:
        assert value(figures, "ctfw_packets_total", hook=hook, verdict="drop") == 0


def test_figures_are_what_happened(gateway: Gateway) -> None:
    for port in (GOOD, GOOD, BAD):
        gateway.judge(udp(port))
    gateway.judge(b"\x00" * 40)
    figures = read(gateway)
    assert value(figures, "ctfw_packets_total", hook="forward", verdict="accept") == 2
    assert value(figures, "ctfw_packets_total", hook="forward", verdict="drop") == 2
    assert value(figures, "ctfw_bytes_total", hook="forward", verdict="accept") == 56
    assert value(figures, "ctfw_rule_packets_total", rule="open") == 2
    assert value(figures, "ctfw_rule_packets_total", rule="policy forward") == 2
    assert value(figures, "ctfw_conntrack_entries") == 1
    assert value(figures, "ctfw_conntrack_entries_limit") == 100
    assert value(figures, "ctfw_conntrack_insert_total") == 1
    assert value(figures, "ctfw_conntrack_invalid_total", reason="not-ip") == 1
    assert value(figures, "ctfw_state_packets_total", state="NEW") == 3
    assert value(figures, "ctfw_rules") == 2
    assert value(figures, "ctfw_health", state="ok") == 1


def test_the_queue_and_the_failure_policy(gateway: Gateway) -> None:
    gateway.figures.now = {"waiting": 5, "queue_dropped": 3, "socket_dropped": 9, "numbered": 5}
    gateway.kernel.lose(4)
    gateway.kernel.give(GOOD)
    gateway.parts.queue.process(10)
    figures = read(gateway)
    assert value(figures, "ctfw_nfqueue_length") == 5
    assert value(figures, "ctfw_nfqueue_dropped_total", where="queue") == 3
    assert value(figures, "ctfw_nfqueue_dropped_total", where="socket") == 4
    assert value(figures, "ctfw_nfqueue_received_total") == 1
    assert value(figures, "ctfw_failure_packets_total", event="queue_full", verdict="drop") == 12
    assert {dict(labels)["event"] for name, labels in figures if name == "ctfw_failure_policy"} == {
        "no_listener", "queue_full", "error", "stuck",
    }  # fmt: skip
    assert value(figures, "ctfw_failure_policy", event="queue_full", verdict="drop") == 1


def test_what_may_not_be_read_is_absent_and_not_zero(gateway: Gateway) -> None:
    gateway.figures.now = None
    gateway.parts.pulse.tick(1, 0)
    figures = read(gateway)
    names = {name for name, _ in figures}
    assert not names & {"ctfw_nfqueue_length", "ctfw_nfqueue_oldest_packet_age_seconds"}
    assert ("ctfw_nfqueue_dropped_total", frozenset({("where", "queue")})) not in figures
    assert value(figures, "ctfw_nfqueue_dropped_total", where="socket") == 0


def test_counters_never_go_back(gateway: Gateway) -> None:
    before = read(gateway)
    for number in range(50):
        gateway.kernel.give(GOOD, BAD)
        gateway.parts.queue.process(10)
        if number % 10 == 0:
            gateway.reload()
        now = read(gateway)
        counters = [key for key in before if key[0].endswith("_total")]
        assert len(counters) > 50
        assert [key for key in counters if now[key] < before[key]] == []
        before = now


def test_a_panic_takes_no_rules_counters_back(gateway: Gateway) -> None:
    gateway.judge(udp(GOOD))
    gateway.judge(udp(BAD))
    before = read(gateway)
    panic = gateway.parts.reloading.panic
    panic.method({"on": True, "seconds": 60}, Session(Peer(1, 0, frozenset({0}))))
    during = read(gateway)
    counters = {key for key in before if key[0] == "ctfw_rule_packets_total"}
    assert {key: before[key] for key in counters} == {key: during.get(key) for key in counters}
    assert sum(before[key] for key in counters) == 2


def test_a_reload_shows(gateway: Gateway) -> None:
    gateway.path.write_text(RULES.replace("drop", "dorp"))
    gateway.reload()
    figures = read(gateway)
    assert value(figures, "ctfw_config_last_reload_successful") == 0
    assert value(figures, "ctfw_config_reloads_total", result="failed") == 1
    assert value(figures, "ctfw_health", state="degraded") == 1
    gateway.path.write_text(RULES)
    gateway.reload()
    figures = read(gateway)
    assert value(figures, "ctfw_config_last_reload_successful") == 1
    assert value(figures, "ctfw_config_generation") == 1
    assert value(figures, "ctfw_config_last_reload_success_timestamp_seconds") == pytest.approx(time.time(), abs=60)


def test_a_rule_can_be_called_anything(gateway: Gateway) -> None:
    name = 'a "rule"\\ }\n# ctfw_build_info 2'
    gateway.engine.ruleset.rules[0].name = name
    assert value(read(gateway), "ctfw_rule_packets_total", rule=name) == 0


def test_ten_thousand_rules_keep_no_packet_waiting(tmp_path: Path) -> None:
    rules = "".join(
        f"  - {{name: rule {n}, src: 10.{n >> 8}.{n & 255}.0/24, verdict: accept}}\n" for n in range(MOST_RULES + 50)
    )
    gateway = Gateway(tmp_path, RULES + rules)
    try:
        pages = paged(lines(gateway.parts))
        worst, found = 0, []
        while True:
            begun = time.thread_time_ns()  # not the wall's: others share the machine
            page = next(pages, None)
            worst = max(worst, time.thread_time_ns() - begun)
            if page is None:
                break
            found += page
        assert worst < 2 * SLICE
        assert value(read(gateway), "ctfw_rules") == MOST_RULES + 52
        assert sum(line.startswith("ctfw_rule_packets_total{") for line in found) == MOST_RULES + 3
    finally:
        gateway.close()


@pytest.mark.parametrize(
    ("section", "error"),
    [
        ("textfile: ctfw.prom", "not an absolute path"),
        ("textfile: /run/ctfw/ctfw.txt", "does not end in '.prom'"),
        ("textfile: /run/ctfw/.prom", "does not end in '.prom'"),
        ("every: 15", "has no 'textfile'"),
        ("{textfile: /run/ctfw.prom, every: 0}", "out of range"),
    ],
)
def test_what_is_wrong_with_the_section_is_said(section: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("x", f"{RULES}metrics: {section if section.startswith('{') else '{' + section + '}'}\n")
    assert error in str([problem.message for problem in caught.value.problems])


def test_the_section_is_read() -> None:
    settings = load("x", RULES + "metrics: {textfile: /run/ctfw/ctfw.prom, every: 1m}\n").metrics
    assert settings is not None
    assert (settings.textfile, settings.every) == ("/run/ctfw/ctfw.prom", 60)
    assert load("x", RULES).metrics is None


@pytest.mark.kernel
def test_the_daemon_prints_them_and_writes_the_same_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ctfw.prom"
    rules = DAEMON_RULES + f"metrics: {{textfile: {path}, every: 1}}\n"
    with Network() as net:
        net.queue()
        with Running(net, tmp_path, rules=rules) as daemon, Datagrams(net, OPEN) as good:
            assert good.answered()
            printed = {family.name for family in text_string_to_metric_families(daemon.ctfw("metrics").stdout)}
            wait_until(path.exists)
            path.unlink()
            wait_until(path.exists)
            text = path.read_text()
            assert {family.name for family in text_string_to_metric_families(text)} == printed
            assert 'ctfw_rule_packets_total{rule="open"} 1\n' in text
            assert 'ctfw_packets_total{hook="forward",verdict="accept"} 2\n' in text
            assert re.search(r"^ctfw_resident_memory_bytes \d{7,}$", text, re.MULTILINE)
            assert re.search(r"^ctfw_watchdog_seconds 0\.4$", text, re.MULTILINE)
            daemon.stop()
            assert not path.exists()
