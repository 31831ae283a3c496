"""`ctfw hook` against the real kernel's rules: put up, put right, taken away, and nothing of others touched."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from daemon.running import RULES
from hook.hooked import BACKENDS, IPTABLES, backend, command, everything, hooked, needs_both_iptables, needs_nft, plan

from ctfw.service.hook import install
from ctfw.service.hook.iptables import Family, check_sides
from ctfw.service.hook.nft import Nft, can_queue
from ctfw.service.hook.plan import Plan
from ctfw.service.hook.present import is_answering
from ctfw.service.hook.programs import HookError, Place, find
from lab.net import Namespace, Network

pytestmark = [pytest.mark.kernel, needs_nft, needs_both_iptables]

# What others keep on a gateway, in iptables' words (Docker, ufw, a ban list) and in nft's (firewalld, an admin's own).
FOREIGN = """
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:f2b-sshd - [0:0]
:ufw-before-input - [0:0]
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A INPUT -j ufw-before-input
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A DOCKER-USER -s 198.51.100.66/32 -j DROP
-A f2b-sshd -s 198.51.100.7/32 -j REJECT --reject-with icmp-port-unreachable
-A ufw-before-input -i lo -j ACCEPT
COMMIT
*nat
-A OUTPUT -d 198.51.100.77/32 -j DNAT --to-destination 203.0.113.2
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*mangle
-A OUTPUT -p udp -m udp --dport 53 -j MARK --set-xmark 0x7/0xffffffff
-A PREROUTING -i docker0 -j CONNMARK --restore-mark
COMMIT
*security
:OTHERS - [0:0]
-A INPUT -j OTHERS
-A OTHERS -s 198.51.100.99/32 -j DROP
COMMIT
"""
FOREIGN_NFT = """
table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		iifname "lo" accept
		ct state invalid drop
	}
}
table inet mine {
	set banned {
		type ipv4_addr
		elements = { 192.0.2.1 }
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		ip saddr @banned drop
	}
}
"""


@pytest.fixture
def gateway() -> Iterator[Namespace]:
    namespace = Namespace()
    yield namespace
    namespace.close()


def furnish(gateway: Namespace) -> None:
    """A namespace full of others' rules, of every kind."""
    for kind in IPTABLES:
        gateway.run(f"{kind}-restore", input=FOREIGN)
        gateway.run(f"{kind.replace('ip', 'ip6', 1)}-restore", input=re.sub(r"\n-A .*\d\.\d.*", "", FOREIGN))
    gateway.run("nft", "-f", "-", input=FOREIGN_NFT)


@pytest.mark.parametrize("name", BACKENDS)
def test_put_up_put_up_again_and_taken_away_twice(gateway: Namespace, name: str) -> None:
    before = everything(gateway)
    with gateway:
        assert install.standing(backend(name), plan()).state == "absent"
        assert install.apply(backend(name), plan())
        up = everything(gateway)
        assert up != before
        assert not install.apply(backend(name), plan())
        assert everything(gateway) == up
        assert install.standing(backend(name), plan()).differences == []
        assert install.remove()
        assert not install.remove()
    assert everything(gateway) == before


@pytest.mark.parametrize("name", BACKENDS)
def test_rules_of_others_stay_byte_for_byte(gateway: Namespace, name: str) -> None:
    furnish(gateway)
    before = everything(gateway)
    with gateway:
        assert install.apply(backend(name), plan())
        assert install.standing(backend(name), plan()).differences == []
    up = everything(gateway).splitlines()
    assert [line for line in before.splitlines() if line not in up] == []
    with gateway:
        assert install.remove()
    assert everything(gateway) == before


@pytest.mark.parametrize("name", BACKENDS)
def test_removal_works_in_any_state(gateway: Namespace, name: str) -> None:
    furnish(gateway)
    before = everything(gateway)
    with gateway:
        install.apply(backend(name), plan())
    for spoil in SPOILED[name]:
        gateway.run(*spoil.split())
    with gateway:
        assert install.remove()
    assert everything(gateway) == before


SPOILED = {
    "nft": ["nft flush chain inet ctfw input", "nft delete chain inet ctfw defrag"],
    "iptables-nft": [
        "iptables-nft -t security -D INPUT -j CTFW-INPUT",
        "iptables-nft -t security -I INPUT -s 10.0.0.1 -j CTFW-INPUT",
        "iptables-nft -t mangle -A PREROUTING -g CTFW-OUTPUT",
        "iptables-nft -t raw -N CTFW-OLD",
        "ip6tables-nft -t security -F CTFW-FORWARD",
        "nft delete table inet ctfw_reject",
    ],
    "iptables-legacy": [
        "iptables-legacy -t security -D INPUT -j CTFW-INPUT",
        "iptables-legacy -t security -I INPUT -s 10.0.0.1 -j CTFW-INPUT",
        "iptables-legacy -t security -A INPUT -j CTFW-INPUT",
        "ip6tables-legacy -t security -F CTFW-FORWARD",
    ],
}
# What may happen to the rules -> what status says of it.
HAPPENED = [
    ("nft", "nft delete table inet ctfw", "nothing is queued"),
    ("nft", "nft flush chain inet ctfw input", "table inet ctfw: missing: counter"),
    ("nft", "nft insert rule inet ctfw forward accept", "table inet ctfw: not ours: accept"),
    ("iptables-nft", "nft flush ruleset", "nothing is queued"),
    ("iptables-nft", "iptables-nft -t security -F", "iptables-nft -t security: missing: -A INPUT -j CTFW-INPUT"),
    ("iptables-nft", "nft delete table inet ctfw_reject", "table inet ctfw_reject: missing"),
    ("iptables-nft", "iptables-nft -t security -I INPUT -j ACCEPT", "does not stand first in INPUT"),
    ("iptables-nft", "ip6tables-nft -t mangle -A OUTPUT -j ACCEPT", "does not stand last in OUTPUT"),
    ("iptables-nft", "iptables-nft -t security -I CTFW-INPUT -j ACCEPT", "CTFW-INPUT: not ours: -j ACCEPT"),
    ("iptables-legacy", "iptables-legacy -t security -F FORWARD", "missing: -A FORWARD -j CTFW-FORWARD"),
    ("iptables-legacy", "ip6tables-legacy -t mangle -F", "missing: -A PREROUTING -j CTFW-DEFRAG"),
    ("iptables-legacy", "iptables-legacy -t security -A INPUT -j CTFW-INPUT", "several times: -A INPUT -j CTFW-INPUT"),
]


@pytest.mark.parametrize(("name", "happens", "says"), HAPPENED)
def test_other_software_changes_the_rules(gateway: Namespace, name: str, happens: str, says: str) -> None:
    """status says what differs, apply puts it right; and no more than that happens (FIELD: moby#22054)."""
    with gateway:
        install.apply(backend(name), plan())
        gateway.run(*happens.split())
        standing = install.standing(backend(name), plan())
        assert standing.state == ("absent" if says == "nothing is queued" else "incomplete")
        assert [line for line in standing.differences if says in line], standing.differences
        assert install.apply(backend(name), plan())
        assert install.standing(backend(name), plan()).differences == []


def test_a_new_rule_file_is_a_difference_and_replaces_the_old_rules(gateway: Namespace) -> None:
    text = RULES + "hook: {chains: [forward], leave_alone: tun+, reject: off}\nfailure: {no_listener: accept}\n"
    for name in BACKENDS:
        with gateway:
            install.apply(backend(name), plan())
            assert install.standing(backend(name), plan(text)).state == "incomplete"
            assert install.apply(backend(name), plan(text))
            assert install.standing(backend(name), plan(text)).state == "complete"
            assert not is_answering(plan().reject_bit)
            install.remove()


def test_another_back_end_takes_over_and_nothing_of_the_first_is_left(gateway: Namespace) -> None:
    with gateway:
        for name in (*BACKENDS, *BACKENDS[::-1]):
            install.apply(backend(name), plan())
            there = [other for other in BACKENDS if backend(other).is_there()]
            assert there == [name]
        install.remove()


@pytest.mark.parametrize("name", IPTABLES)
@pytest.mark.parametrize("before", ["nothing", "an older hook"])
def test_a_failure_in_one_family_changes_nothing(gateway: Namespace, tmp_path: Path, name: str, before: str) -> None:
    furnish(gateway)
    if before == "an older hook":
        with gateway:
            install.apply(backend(name), plan(RULES + "queue: {number: 7}\nhook: {keep_ssh: {from: 10.0.0.0/8}}\n"))
    untouched = everything(gateway)
    program = name.replace("ip", "ip6", 1) + "-restore"
    with gateway:
        real = os.readlink("/proc/thread-self/ns/net")
    # It works where things are tried, and fails once where it matters, as on a machine in trouble.
    (tmp_path / program).write_text(
        f"#!/bin/sh\n[ $(readlink /proc/self/ns/net) = '{real}' ] && mkdir {tmp_path}/failed 2>/dev/null &&"
        f' echo "no memory" >&2 && exit 4\nexec {find(program)} "$@"\n'
    )
    (tmp_path / program).chmod(0o755)
    (tmp_path / "rules.yaml").write_text(RULES)
    done = command(
        gateway, "apply", "--rules", f"{tmp_path}/rules.yaml", "--backend", name, code=1,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )  # fmt: skip
    assert done.stderr == f"ctfw: hook apply: {program}: no memory; what was done before it was taken back\n"
    assert everything(gateway) == untouched


def test_what_the_kernel_refuses_is_refused_before_anything_is_touched(gateway: Namespace) -> None:
    with gateway:
        before = everything(gateway)
        with pytest.raises(HookError):
            install.apply(Nft(lambda plan: "queue to 99999"), plan())
        assert everything(gateway) == before


def test_the_real_priorities_are_looked_at(gateway: Namespace) -> None:
    with gateway:
        for name, pair in (("iptables-nft", (150, -150)), ("iptables-legacy", (50, 50))):
            family = Family(4, name)
            check_sides(Plan(), family, {"security": pair[0], "mangle": pair[1]})
        with pytest.raises(HookError, match="address translation between them"):
            check_sides(Plan(), Family(4, "iptables-nft"), {"security": 50, "mangle": -150})


@pytest.mark.skipif(can_queue(), reason="this nft has `queue`")
def test_without_nft_queue_auto_is_iptables_and_nft_says_why(gateway: Namespace, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    done = command(gateway, "apply", "--rules", str(rules), "--backend", "nft", code=1)
    assert done.stderr == "ctfw: hook apply: back end nft: this kernel's nft has no `queue` (CONFIG_NFT_QUEUE)\n"
    done = command(gateway, "apply", "--rules", str(rules))
    assert done.stdout == "hook in force: backend=iptables queue=0 chains=input,forward,output no_listener=drop\n"
    assert done.stderr == "ctfw: hook: nobody listens on queue 0: packets are dropped until ctfw runs\n"
    assert command(gateway, "apply", "--rules", str(rules)).stdout == ""
    assert command(gateway, "status", "--rules", str(rules)).stdout.startswith("hook:        complete backend=iptables")
    assert '"state": "complete"' in command(gateway, "status", "--rules", str(rules), "-o", "json").stdout
    gateway.run("iptables", "-t", "security", "-F", "CTFW-INPUT")
    assert "differs:" in command(gateway, "status", "--rules", str(rules), code=1).stdout
    assert command(gateway, "remove").stdout == "hook removed: packets pass unfiltered by ctfw\n"
    assert command(gateway, "remove").stdout == ""
    assert command(gateway, "status", "--rules", str(rules), code=1).stdout.startswith("hook:        absent")


@pytest.mark.skipif(can_queue(), reason="this nft has `queue`: everything above was the real text")
def test_nfts_text_has_no_mistake_but_the_queue_that_this_kernel_lacks(gateway: Namespace) -> None:
    full = plan(RULES + "hook: {keep_ssh: {from: [10.0.0.0/8, 'fd00::/8']}, leave_alone: [a, b+]}\n")
    for wanted, queue in (
        (full, "queue to 0"),
        (replace(full, bypass=True), "queue flags bypass to 0"),
        (replace(full, bypass=True, queue=3, workers=4), "queue flags bypass to 3-6"),
    ):
        text = Nft().script(wanted)
        with gateway:
            code, _, err = Place().attempt("nft", "--check", "--file", "-", text=text)
        assert code == 1
        problems = re.findall(r"^/dev/stdin:(\d+):\d+-\d+: Error: (.*)$", err, re.MULTILINE)
        assert {message for _, message in problems} == {"Could not process rule: No such file or directory"}
        assert {text.splitlines()[int(line) - 1].strip() for line, _ in problems} == {f"counter {queue}"}


@pytest.mark.parametrize("name", IPTABLES)
def test_one_queue_for_each_worker(gateway: Namespace, name: str) -> None:
    with gateway:
        several = replace(plan(), queue=3, workers=4)
        install.apply(backend(name), several)
        assert "-j NFQUEUE --queue-balance 3:6\n" in gateway.run(f"{name}-save")
        assert install.standing(backend(name), several).state == "complete"
        assert install.standing(backend(name), plan()).state == "incomplete"


@pytest.mark.parametrize("name", ["nft", "iptables-nft"])
def test_the_daemon_can_ask_whether_rejects_are_answered(name: str) -> None:
    with Network() as net:
        with net.gateway:
            assert not is_answering(plan().reject_bit)
        with hooked(net, name) as wanted, net.gateway:
            assert is_answering(wanted.reject_bit)
            assert not is_answering(wanted.reject_bit >> 1)
        with net.gateway:
            assert not is_answering(plan().reject_bit)
