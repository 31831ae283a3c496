"""Rule files -> Config: what the loader builds, and what it refuses without building anything."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctfw import config
from ctfw.conntrack.settings import DEFAULTS, SECOND, Settings
from ctfw.conntrack.state import ANY, ESTABLISHED, INVALID, NEW, RELATED
from ctfw.packet import FORWARD, INPUT, OUTPUT
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.verdict import ACCEPT, DROP

ROOT = Path(__file__).parents[2]
PACKAGE = Path(config.__file__).parents[1]  # the one that runs: installed, or the checkout's
HEAD = "version: 1\npolicy: {input: drop, forward: drop, output: accept}\n"


def load(text: str) -> config.Config:
    return config.load("rules.yaml", HEAD + text)


def rule(text: str, more: str = "") -> Rule:
    loaded = load(f"{more}\nrules:\n  - {{verdict: accept, {text}}}\n")
    assert loaded.warnings == []
    return loaded.ruleset.rules[0]


def problems(text: str) -> list[config.Problem]:
    with pytest.raises(config.ConfigError) as caught:
        config.load("rules.yaml", text)
    return caught.value.problems


def packed(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


# --- what a file says --------------------------------------------------------------------------------------------


def test_defaults() -> None:
    loaded = config.load("rules.yaml", "version: 1\n")
    assert loaded.queue == 0
    assert loaded.failure == dict.fromkeys(("no_listener", "queue_full", "error", "stuck"), "drop")
    assert loaded.settings.values == DEFAULTS
    assert loaded.settings.helpers == {}
    assert [policy.verdict for policy in loaded.ruleset.policies.values()] == [DROP] * 3
    assert len(loaded.warnings) == 1


def test_settings() -> None:
    loaded = load(
        "queue: {number: 7}\nfailure: {no_listener: accept}\n"
        "conntrack: {max: 100, tcp_timeout_established: 2h30m, tcp_loose: no, helpers: {ftp: [21, 2121], tftp: 69}}"
    )
    assert (loaded.queue, loaded.failure["stuck"], loaded.failure["error"]) == (7, "accept", "drop")
    expected = Settings(
        {"max": 100, "tcp_timeout_established": 9000, "tcp_loose": 0}, {"ftp": [21, 2121], "tftp": [69]}
    )
    assert loaded.settings.values == expected.values
    assert loaded.settings.helpers == expected.helpers


@pytest.mark.parametrize("knob", DEFAULTS)
def test_every_knob_can_be_set(knob: str) -> None:
    assert load(f"conntrack: {{{knob}: 1}}").settings.values[knob] == 1


def test_policy() -> None:
    policies = load("").ruleset.policies
    assert (policies[INPUT].verdict, policies[FORWARD].verdict, policies[OUTPUT].verdict) == (DROP, DROP, ACCEPT)


def test_a_rule_without_keys_matches_everything() -> None:
    bare = rule("comment: all")
    assert (bare.states, bare.chains, bare.verdict) == (ANY, 1 << INPUT | 1 << FORWARD | 1 << OUTPUT, ACCEPT)
    fields = (bare.protos, bare.src, bare.dst, bare.sport, bare.dport, bare.icmp, bare.icmpv6, bare.indev, bare.outdev)
    assert fields == (None,) * 9
    assert (bare.name, bare.origin, bare.log) == ("rule 1", "rules.yaml:5", None)


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("NEW", NEW),
        ("new", NEW),
        ("[ESTABLISHED, RELATED]", ESTABLISHED | RELATED),
        ('"ESTABLISHED,RELATED"', ESTABLISHED | RELATED),
        ('"!INVALID"', ANY & ~INVALID),
        ('["!INVALID", NEW]', NEW),
        ("any", ANY),
    ],
)
def test_states(text: str, mask: int) -> None:
    assert rule(f"state: {text}").states == mask


def test_chains() -> None:
    assert rule("chain: [input, FORWARD]").chains == 1 << INPUT | 1 << FORWARD


def test_both_families_in_one_rule() -> None:
    src = rule('src: [192.168.0.0/16, "fd00::/8", 10.0.0.5-10.0.0.9, "!192.168.7.0/24"]').src
    assert src is not None
    assert (
        src.contains(packed("192.168.1.1")) and src.contains(b"\xfd" + bytes(15)) and src.contains(packed("10.0.0.9"))
    )
    assert not src.contains(packed("192.168.7.1")) and not src.contains(packed("10.0.0.4"))


def test_negation_alone_means_everything_but() -> None:
    dst = rule('dst: "!10.0.0.0/8"').dst
    assert dst is not None
    assert dst.contains(packed("11.0.0.0")) and dst.contains(bytes(16)) and not dst.contains(packed("10.1.2.3"))


def test_ports() -> None:
    dport = rule('proto: [tcp, udp], dport: [ssh, 8000-8099, "!8050"]').dport
    assert dport is not None
    assert dport.intervals() == [(22, 22), (8000, 8049), (8051, 8099)]


def test_icmp_implies_its_protocol_and_may_go_with_the_other() -> None:
    ping = rule("icmp: echo-request, icmpv6: [echo-request, 1/4]")
    assert ping.icmp is not None and ping.icmpv6 is not None
    assert ping.icmp.intervals() == [(0x800, 0x8FF)]
    assert ping.icmpv6.intervals() == [(0x104, 0x104), (0x8000, 0x80FF)]


def test_any_icmp_type_is_not_any_packet() -> None:
    every = rule("icmp: any").icmp
    assert every is not None and every.intervals() == [(0, 65535)]


def test_any_is_no_restriction() -> None:
    bare = rule("proto: any, src: any, in: any")
    assert (bare.protos, bare.src, bare.indev) == (None, None, None)


def test_interfaces() -> None:
    indev = rule('in: [$lans, "!eth9"]', "sets: {lans: [lan0, eth+]}").indev
    assert indev is not None
    assert (
        indev.contains("lan0") and indev.contains("eth1") and not indev.contains("eth9") and not indev.contains("wan0")
    )


def test_log() -> None:
    plain, full = rule("log: true").log, rule("log: {limit: 5/minute, burst: 3, prefix: spam}").log
    assert rule("log: false").log is None
    assert plain is not None and plain.limit is not None and full is not None and full.limit is not None
    assert (full.limit.interval, full.limit.burst, full.prefix) == (12 * SECOND, 3, "spam")
    assert (plain.limit.interval, plain.limit.burst) == (6 * SECOND, 10)


def test_sets_nest_and_keep_their_value() -> None:
    sets = 'sets: {home: [$lan, 10.0.0.1], lan: [192.168.0.0/16, "!192.168.7.0/24"], web: [80, https]}'
    both = rule("src: $home, proto: tcp, dport: $web", sets)
    assert both.src is not None and both.dport is not None
    assert both.src.contains(packed("10.0.0.1")) and both.src.contains(packed("192.168.1.1"))
    assert not both.src.contains(packed("192.168.7.1"))
    assert both.dport.intervals() == [(80, 80), (443, 443)]
    negated = rule('src: "!$home"', sets.replace(", web: [80, https]", "")).src
    assert negated is not None
    assert negated.contains(packed("192.168.7.1")) and not negated.contains(packed("10.0.0.1"))


def test_an_empty_set_matches_nothing() -> None:
    loaded = load("sets: {nobody: []}\nrules: [{src: $nobody, verdict: accept}]")
    src = loaded.ruleset.rules[0].src
    assert src is not None and src.intervals() == []
    assert "never match" in loaded.warnings[0].message
    everybody = rule('src: "!$nobody"', "sets: {nobody: []}").src
    assert everybody is not None and everybody.contains(bytes(4)) and everybody.contains(bytes(16))


def test_one_set_is_compiled_once() -> None:
    rules = load(
        "sets: {lan: 10.0.0.0/8}\nrules: [{src: $lan, verdict: drop}, {dst: $lan, verdict: drop}]"
    ).ruleset.rules
    assert rules[0].src is rules[1].dst


def test_scalars_stay_text() -> None:
    text = "rules:\n" + "".join(
        f"  - {{name: {name}, verdict: drop}}\n" for name in ("22:22", "no", "on", "010", "~", "1e3")
    )
    assert [each.name for each in load(text).ruleset.rules] == ["22:22", "no", "on", "010", "~", "1e3"]


def test_aliases_are_followed() -> None:
    rules = load(
        "rules:\n  - {src: &lan [10.0.0.0/8], verdict: accept}\n  - {dst: *lan, verdict: drop}\n"
    ).ruleset.rules
    assert rules[1].dst is not None and rules[1].dst.contains(packed("10.1.1.1"))


@pytest.mark.parametrize(
    "text", ["\ufeffversion: 1\n", "version: 1\r\n", "---\nversion: 1\n...\n", "%YAML 1.2\n---\nversion: 1"]
)
def test_forms_of_yaml(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_bytes(text.encode())
    assert len(config.load(str(path)).warnings) == 1


# --- what it refuses ---------------------------------------------------------------------------------------------


def test_every_problem_is_reported_at_once_in_the_order_of_the_file() -> None:
    found = problems("rules:\n  - {src: 1.2.3, dport: x}\nsets: {a: $b}\nversion: 3\n")
    assert [(p.line, p.column) for p in found] == sorted((p.line, p.column) for p in found)
    assert {p.line for p in found} == {0, 2, 3, 4}


def test_a_million_mistakes_are_cut_short() -> None:
    start = time.monotonic()
    text = "version: 1\nrules:\n" + "- {verdict: drop, proto: tcp, dport: htpp}\n" * 20_000
    found = problems(text)
    assert len(found) <= 1010
    assert "the rest is not shown" in found[-1].message + found[0].message
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "text",
    [
        "sets: {b: &b [10.0.0.1]}\nrules: [{verdict: drop, src: [" + "*b, " * 10 + "]}]",
        "version: 1\nrules: [{verdict: drop, dport: &x [htpp], proto: tcp, sport: [" + "*x, " * 900_000 + "]}]",
        "version: 1\nrules: [{verdict: drop, proto: tcp, sport: [&x htpp, " + "*x, " * 900_000 + "]}]",
        "version: 1\nrules: [{verdict: drop, state: '" + "NWE," * 1_000_000 + "'}]",
        "version: 1\nsets: {" + ", ".join(f"s{i}: $s{i + 1}" for i in range(20_000)) + "}",
        "version: 1\nsets: {" + ", ".join(f"s{i}: [$s{i + 1}, $s{i + 1}]" for i in range(15)) + ", s15: [eth0, eth1]}\n"
        "rules:\n" + "- {in: $s0, verdict: drop}\n" * 1000,
        "version: 1\nsets: {big: ["
        + "10.0.0.1, " * 5000
        + "]}\nrules:\n"
        + "- {src: [$big, 10.0.0.2], verdict: drop}\n" * 2000,
    ],
    ids=["nested", "aliased list", "aliased text", "commas", "chain of sets", "interfaces", "large sets"],
)
def test_hostile_size_is_refused_in_bounded_time(text: str) -> None:
    start = time.monotonic()
    assert problems(text)
    assert time.monotonic() - start < 30


def test_files_that_are_none(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(config.ConfigError) as caught:
            config.load(str(path))
        (problem,) = caught.value.problems
        assert (problem.line, problem.column) == (0, 0)
        return problem.message

    (tmp_path / "empty.yaml").touch()
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "huge.yaml", "wb") as file:
        file.truncate(1 << 30)
    assert message(tmp_path / "missing") == "cannot be read: no such file or directory"
    assert message(tmp_path) in ("is a directory", "not a regular file")
    assert message(tmp_path / "fifo") == "not a regular file"
    assert message(tmp_path / "empty.yaml") == "the file is empty"
    assert message(tmp_path / "huge.yaml") == "the file has more than 16 MiB"
    assert "embedded null" in message(tmp_path / "nul\0name")
    assert message(Path("/dev/zero")) == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; the next test covers root")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1\n")
    path.chmod(0)
    with pytest.raises(config.ConfigError, match="cannot be read: permission denied"):
        config.load(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_unreadable_file_for_another_user(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1\n")
    path.chmod(0)
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            config.load(str(path))
        except config.ConfigError as wrong:
            os._exit(0 if "cannot be read: permission denied" in str(wrong) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_garbage_collector_is_as_it_was() -> None:
    assert gc.isenabled()
    load("")
    problems("")
    assert gc.isenabled()
    gc.disable()
    try:
        load("")
        assert not gc.isenabled()
    finally:
        gc.enable()


# --- speed, the example, who imports yaml ------------------------------------------------------------------------

ONE = """  - name: rule {0}
    chain: forward
    in: lan0
    src: [192.168.{1}.0/24, $lan]
    proto: tcp
    dport: [80, 443, 8000-8099]
    state: NEW
    verdict: accept
"""


def test_ten_thousand_rules_load_fast() -> None:
    text = "sets: {lan: [10.0.0.0/8]}\nrules:\n" + "".join(ONE.format(n, n % 256) for n in range(10_000))
    start = time.process_time()
    assert len(load(text).ruleset.rules) == 10_000
    assert time.process_time() - start < 4  # about 0.8 s where it was written; a slow machine may take longer


def test_a_hundred_thousand_prefixes_load_fast() -> None:
    prefixes = "".join(f"  - {n >> 8 & 255}.{n & 255}.0.0/24\n" for n in range(65536)) + "  - fd00::/8\n" * 34464
    start = time.process_time()
    src = load("sets:\n  bad:\n" + prefixes + "rules: [{src: $bad, verdict: drop}]").ruleset.rules[0].src
    assert src is not None and src.contains(packed("200.1.0.7")) and not src.contains(packed("200.1.1.7"))
    assert time.process_time() - start < 4


def test_the_example_loads_without_a_warning() -> None:
    loaded = config.load(str(ROOT / "rules.example.yaml"))
    assert loaded.warnings == []
    assert {name for _, name in loaded.settings.helpers.items()} == {1, 2, 3}
    assert (ROOT / "rules.example.yaml").read_text().startswith("# yaml-language-server: $schema=/usr/share/ctfw/")


def test_config_document_is_the_only_importer_of_yaml() -> None:
    importers = [path.name for path in PACKAGE.rglob("*.py") if "import yaml" in path.read_text().splitlines()]
    assert importers == ["document.py"]


# --- the command -------------------------------------------------------------------------------------------------


def check(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    program = (
        "import argparse, sys; from ctfw.cli import rules; p = argparse.ArgumentParser();"
        "rules.add(p.add_subparsers()); a = p.parse_args(); sys.exit(a.handler(a))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **(env or {})}
    return subprocess.run(
        [sys.executable, "-c", program, "check", *arguments], capture_output=True, text=True, env=environment
    )


def test_check(tmp_path: Path) -> None:
    good, poor, bad = ROOT / "rules.example.yaml", tmp_path / "poor.yaml", tmp_path / "bad.yaml"
    poor.write_text("version: 1\n")
    bad.write_text(HEAD + "rules: [{verdict: rejekt}]\n")
    silent = check(str(good), str(good))
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")
    warned = check(str(poor))
    assert (warned.returncode, warned.stdout) == (0, "") and "warning: no chain has a policy" in warned.stderr
    assert check("--strict", str(poor)).returncode == 1
    failed = check(str(good), str(bad))
    assert (failed.returncode, failed.stdout) == (1, "") and failed.stderr.startswith(f"{bad}:3:19: error: ")
    assert "\x1b" not in failed.stderr


def test_check_json(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(HEAD + "rules: [{verdict: rejekt}]\n")
    result = check("--format", "json", str(bad))
    (problem,) = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (1, "")
    assert (problem["file"], problem["line"], problem["column"], problem["severity"]) == (str(bad), 3, 19, "error")


def test_check_without_locale(tmp_path: Path) -> None:
    bad = tmp_path / "bäd.yaml"
    bad.write_text(HEAD + "rules: [{name: 漢字, verdict: rejekt}]\n")
    result = check(str(bad), env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 1 and "error: 'rejekt'" in result.stderr and "Traceback" not in result.stderr


def test_color() -> None:
    (problem,) = problems(HEAD + "rules: [{verdict: rejekt}]\n")
    assert "\x1b[" in config.render(problem, color=True) and "\x1b" not in config.render(problem)


def test_zones_and_helpers_of_two_protocols() -> None:
    loaded = load("conntrack: {zones: {lan0: 1, wan0: 65535}, helpers: {sip: 5060}}")
    assert loaded.settings.zones == {"lan0": b"\0\1", "wan0": b"\xff\xff"}
    assert {proto for proto, port in loaded.settings.helpers if port == 5060} == {6, 17}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("conntrack: {helpers: {h323: 1720}}", "h323 is not supported: its messages are ASN.1"),
        ("conntrack: {helpers: {sip: 5060, tftp: 5060}}", "helpers sip and tftp both take udp port 5060"),
        ("conntrack: {zones: {lan0: 0}}", "0 is out of range"),
        ("conntrack: {zones: {lan+: 1}}", "without a wildcard"),
        ("conntrack: {zones: 1}", "is a mapping"),
    ],
)
def test_what_cannot_be_a_helper_or_a_zone(text: str, wanted: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(text)
    assert any(wanted in problem.message for problem in caught.value.problems)
