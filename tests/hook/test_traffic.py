"""Real packets through the hook's rules and a real ctfw: what is queued, what is not, and what happens without ctfw."""

import contextlib
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import OPEN, RULES, SHUT, Datagrams, Running, wait_until
from hook.hooked import BACKENDS, IPTABLES, backend, command, hooked, judged, needs_both_iptables, needs_nft

from ctfw.packet import FORWARD, INPUT, OUTPUT
from ctfw.service.hook import iptables as back_end
from ctfw.service.hook.nft import Nft, can_queue
from ctfw.service.hook.plan import Plan
from lab.net import CLIENT, GATEWAY, GATEWAY6, OUTSIDE, SERVER, SERVER6, Network

pytestmark = [pytest.mark.kernel, needs_nft, needs_both_iptables]

QUEUES = ("nft", *IPTABLES) if can_queue() else IPTABLES
ELSEWHERE = "198.51.100.77"  # an address whose packets the gateway's NAT sends to the server
STRICT = """
version: 1
policy: {input: drop, forward: drop, output: drop}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: neighbours, state: UNTRACKED, verdict: accept}
  - {name: own, chain: output, proto: udp, dport: 5353, state: NEW, verdict: accept}
  - {name: through, chain: forward, in: lan0, proto: udp, dport: 5353, state: NEW, verdict: accept}
  - {name: to tcp, chain: forward, in: lan0, proto: tcp, dport: 5353, state: NEW, verdict: accept}
"""


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as made:
        yield made


def counts(daemon: Running) -> dict[str, int]:
    return {rule["name"]: rule["packets"] for rule in daemon.stats()["rules"]}


def ask(net: Network, where: str, server: socket.socket) -> bool:
    """Does the gateway itself get an answer to a datagram from ``server``, asked by the address ``where``?"""
    with net.gateway, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(0.5)
        asker.connect((where, OPEN))
        asker.send(b"there?")
        try:
            data, peer = server.recvfrom(100)
            server.sendto(data, peer)
            return asker.recv(100) == b"there?"
        except TimeoutError:
            return False


@pytest.mark.parametrize("name", QUEUES)
def test_packets_pass_and_drop_by_the_rules_in_all_three_chains(net: Network, tmp_path: Path, name: str) -> None:
    with judged(net, tmp_path, name, STRICT) as daemon, Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        assert good.answered()
        assert not bad.arrives()
        assert ask(net, SERVER, good.server)
        found = counts(daemon)
        assert (found["own"], found["through"], found["replies"]) == (1, 1, 2)
        assert found["policy forward"] == 1


def test_what_waits_in_the_queue_stays_there_when_the_hook_is_asked_for_again(net: Network, tmp_path: Path) -> None:
    """The kernel empties the queues of a namespace whenever it takes back a hook there, were it only one of a check."""
    with judged(net, tmp_path, "iptables-nft") as daemon, Datagrams(net, OPEN) as good:
        daemon.freeze()
        for number in range(20):
            good.client.send(b"%d" % number)
        command(net.gateway, "apply", "--rules", str(daemon.rules), "--memory", str(tmp_path))
        command(net.gateway, "status", "--rules", str(daemon.rules))
        command(net.gateway, "heal", "--memory", str(tmp_path))
        daemon.signal(signal.SIGCONT)
        assert [int(good.server.recv(100)) for _ in range(20)] == list(range(20))


@pytest.mark.parametrize("name", QUEUES)
@pytest.mark.parametrize(("fate", "passes"), [("drop", False), ("accept", True)])
def test_no_listener(net: Network, tmp_path: Path, name: str, fate: str, passes: bool) -> None:
    """The daemon is killed with SIGKILL: the failure policy holds at once, and ctfw's own again after a restart."""
    text = RULES + f"failure: {{no_listener: {fate}}}\n"
    with hooked(net, name, text), Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        assert good.arrives() is passes
        (tmp_path / "first").mkdir()
        with Running(net, tmp_path / "first", rules=text) as daemon:
            assert good.answered()
            assert not bad.arrives()
            daemon.signal(signal.SIGKILL)
            daemon.process.wait()
        assert (good.answered(), bad.answered()) == (passes, passes)
        (tmp_path / "second").mkdir()
        with Running(net, tmp_path / "second", rules=text):
            assert good.answered()
            assert not bad.arrives()


@pytest.mark.parametrize("name", QUEUES)
def test_original_and_reply_are_inverse_under_the_kernels_nat(net: Network, tmp_path: Path, name: str) -> None:
    """A local OUTPUT DNAT and masquerade: every answer is ESTABLISHED, or the policy drop would eat it."""
    translate(net)
    with judged(net, tmp_path, name, STRICT) as daemon, Datagrams(net, OPEN) as through:
        assert ask(net, ELSEWHERE, through.server)
        assert through.answered()
        found = counts(daemon)
        assert (found["own"], found["through"], found["replies"]) == (1, 1, 2)
        assert daemon.stats()["conntrack"]["invalid"] == 0


def test_that_test_would_see_translation_between_input_and_output(
    net: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pair that the hook refuses, put up all the same: the answer is no answer to anything ctfw has seen."""
    translate(net)
    mixed = {INPUT: "security", FORWARD: "security", OUTPUT: "security"}
    monkeypatch.setitem(back_end.PLACES, back_end.NFT, mixed)
    monkeypatch.setattr(back_end, "check_sides", lambda *_: None)
    text = STRICT + "hook: {reject: off}\n"
    with judged(net, tmp_path, "iptables-nft", text) as daemon, Datagrams(net, OPEN) as through:
        assert not ask(net, ELSEWHERE, through.server)
        assert counts(daemon)["policy input"] == 1


def translate(net: Network) -> None:
    to_server = f"-A OUTPUT -d {ELSEWHERE} -j DNAT --to-destination {SERVER}"
    for rule in (to_server, "-A POSTROUTING -o wan0 -j MASQUERADE"):
        net.gateway.run("iptables-nft", "-t", "nat", *rule.split())


def test_nfts_places_see_inverse_addresses_under_the_kernels_nat(net: Network) -> None:
    """Where this kernel cannot queue, the chains note the addresses that they would hand over."""
    translate(net)
    note = "update @seen { ip saddr . udp sport . ip daddr . udp dport }"
    text = Nft(lambda plan: note).script(Plan())
    table = "table inet ctfw {"
    seen = "set seen {\ntype ipv4_addr . inet_service . ipv4_addr . inet_service\nsize 100\nflags dynamic\n}\n"
    net.gateway.run("nft", "-f", "-", input=text.replace(f"\n{table}\n", f"\n{table}\n{seen}"))
    with Datagrams(net, OPEN) as through:
        assert ask(net, ELSEWHERE, through.server)
        assert through.answered()
    listing = net.gateway.run("nft", "list", "set", "inet", "ctfw", "seen")
    words = listing[listing.index("elements") :].replace("elements = {", "").strip(" }\n\t").split(",")
    tuples = {tuple(word.split(" . ")) for word in (entry.strip(" }\n\t") for entry in words)}
    assert len(tuples) == 4
    assert tuples == {(*one[2:], *one[:2]) for one in tuples}
    # As of the network, not as the gateway's programs see it.
    assert {one[0] for one in tuples} | {one[2] for one in tuples} == {CLIENT, OUTSIDE, SERVER}


@pytest.mark.parametrize("name", QUEUES)
def test_loopback_is_never_queued(net: Network, name: str) -> None:
    """Nobody listens, so what is queued is dropped."""
    with hooked(net, name), net.gateway:
        for address in ("127.0.0.1", GATEWAY, "::1", GATEWAY6):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.create_server((address, 0), family=family) as server:
                socket.create_connection(server.getsockname()[:2], timeout=1).close()


@pytest.mark.parametrize("name", BACKENDS)
def test_ssh_from_the_named_networks_works_without_ctfw_and_no_other(net: Network, name: str) -> None:
    text = RULES + "hook: {keep_ssh: {from: [192.168.1.0/24, 'fd00:1::/64'], port: [22, 2222]}}\n"
    with hooked(net, name, text):
        for address, family, other in ((GATEWAY, socket.AF_INET, SERVER), (GATEWAY6, socket.AF_INET6, SERVER6)):
            for port, answers in ((22, True), (2222, True), (23, False)):
                with net.gateway, socket.create_server((address, port), family=family):
                    with net.client:
                        assert connects(address, port, family) is answers
                    with net.server:
                        assert not connects(address, port, family)
            with net.server, socket.create_server((other, 22), family=family), net.client:
                assert not connects(other, 22, family)  # through the gateway, not to it


def connects(address: str, port: int, family: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(0.3)
        try:
            caller.connect((address, port))
        except TimeoutError:
            return False
        return True


@pytest.mark.parametrize("name", BACKENDS)
def test_interfaces_that_are_left_alone(net: Network, name: str) -> None:
    """Nobody listens and the policy is drop, yet what has to do with the interface passes, in both directions."""
    for pattern in ("wan0", "wa+"):
        with hooked(net, name, RULES + f"hook: {{leave_alone: {pattern}}}\n"), Datagrams(net, OPEN) as through:
            assert through.answered()
            assert ask(net, SERVER, through.server)
            with net.client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
                caller.connect((GATEWAY, OPEN))
                caller.settimeout(0.3)
                caller.send(b"x")
                with pytest.raises(TimeoutError):  # no ICMP error: the gateway never got it
                    caller.recv(10)


@pytest.mark.parametrize("name", BACKENDS)
def test_only_the_chains_of_the_file_are_queued(net: Network, name: str) -> None:
    with hooked(net, name, RULES + "hook: {chains: forward}\n"), Datagrams(net, OPEN) as through:
        assert not through.arrives()
        assert ask(net, SERVER, through.server)


@pytest.mark.parametrize("name", QUEUES)
def test_fragments_come_whole_and_the_kernels_conntrack_stays_off(net: Network, tmp_path: Path, name: str) -> None:
    with judged(net, tmp_path, name) as daemon, Datagrams(net, OPEN) as good:
        assert good.arrives(b"x" * 2000)
        assert counts(daemon)["open"] == 1
        assert daemon.stats()["packets"]["forward"] == {"accept": 1, "drop": 0}
        with net.gateway, open("/proc/thread-self/net/nf_conntrack") as table:
            assert table.read() == ""


def test_nfts_never_matching_rule_makes_fragments_whole() -> None:
    # In a network of its own: what made fragments whole before goes away some time after its rule.
    with Network() as net:
        fragments = "table inet seen {\nchain f {\ntype filter hook forward priority 0\n"
        fragments += "ip frag-off & 0x3fff != 0 counter\nexthdr frag exists counter\n}\n}\n"
        net.gateway.run("nft", "-f", "-", input=fragments)
        counted = []
        for act in (
            lambda: None,
            lambda: net.gateway.run("nft", "-f", "-", input=Nft(lambda p: "accept").script(Plan())),
        ):
            act()
            for family, address in ((socket.AF_INET, SERVER), (socket.AF_INET6, SERVER6)):
                with net.client, socket.socket(family, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"x" * 4000, (address, 9))
            listing = net.gateway.run("nft", "list", "table", "inet", "seen")
            counted.append([int(number) for number in re.findall(r"packets (\d+)", listing)])
        assert counted == [[3, 3], [3, 3]]
        with net.gateway, open("/proc/thread-self/net/nf_conntrack") as table:
            assert table.read() == ""


@pytest.mark.parametrize("name", QUEUES)
def test_what_was_handed_over_is_what_was_judged(net: Network, tmp_path: Path, name: str) -> None:
    text = RULES + "failure: {queue_full: accept}\n"
    with judged(net, tmp_path, name, text) as daemon, Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        for _ in range(20):
            assert good.answered()
        assert not bad.arrives()
        assert daemon.stats()["packets"]["forward"] == {"accept": 40, "drop": 1}
        with net.gateway:
            assert backend(name).passed()["forward"] == 41


def test_what_passes_a_full_queue_is_handed_over_and_not_judged(net: Network, tmp_path: Path) -> None:
    """FAIL_OPEN's packets, which nobody else counts: handed over minus judged."""
    text = RULES + "failure: {queue_full: accept}\n"
    short = "self._kernel._command(3, (10).to_bytes(4, 'big'), acknowledge=False)"  # a queue of ten packets
    with hooked(net, "iptables-nft", text), Running(net, tmp_path, rules=text, changed=(short,)) as daemon:
        with Datagrams(net, SHUT) as bad:
            daemon.freeze()
            for _ in range(100):
                bad.client.send(b"x")
            passed = 0
            bad.server.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                while bad.server.recv(10):
                    passed += 1
            daemon.signal(signal.SIGCONT)
            wait_until(lambda: daemon.stats()["packets"]["forward"]["drop"] == 100 - passed)
            assert 80 <= passed <= 90
        with net.gateway:
            assert backend("iptables-nft").passed()["forward"] == 100
