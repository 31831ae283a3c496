"""`ctfw doctor`: what on this machine keeps ctfw from working, or will surprise its admin; each with its remedy.

Nothing is changed and nothing is guessed: a check that cannot look says so as a warning. Checks are independent
generators of findings, run in the order of a packet's way: kernel and rights, the hook and who stands beside it, the
queue and who holds it, the daemon, the machine's settings. `fail` is for what makes ctfw not filter, or not run; `warn`
for what an admin should know; so the exit code can guard a start.

The neighbours (Docker, ufw, firewalld, Kubernetes, fail2ban, libvirt) are told by the names of their chains and tables.
They and ctfw get along by order: what lies ahead of the hook decides first, and what it drops ctfw never sees.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ctfw import config
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT
from ctfw.service.client import Client, ClientError, NotRunning
from ctfw.service.hook import install, nft, present
from ctfw.service.hook.iptables import NFT, PLACES, PREFIX, PRIORITIES, Iptables
from ctfw.service.hook.plan import Plan, make_plan
from ctfw.service.hook.programs import HookError, Place, find

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"

UNIT: Final = "ctfw.service"
SAMPLE: Final = 2000  # connections looked at for their answers
ENOUGH: Final = 20  # of TCP, so that their lack of answers means something

# Who it is -> what his chains or tables are called.
NEIGHBOURS: Final = (
    ("Docker", re.compile(r"DOCKER(?:-\w+)*|docker\S*")),
    ("ufw", re.compile(r"ufw6?-\S+")),
    ("firewalld", re.compile(r"firewalld")),
    ("Kubernetes", re.compile(r"KUBE-\S+|CNI-\S+|kube-proxy|CILIUM_\S+|cali-\S+")),
    ("fail2ban", re.compile(r"f2b-\S+")),
    ("libvirt", re.compile(r"LIBVIRT_\S+|libvirt_network")),
    ("Tailscale", re.compile(r"ts-(?:input|forward|postrouting)")),
)
_CAP_NET_ADMIN: Final = 12
_NETLINK_NETFILTER: Final = "12"
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GFLAGS: Final = 0x25
_ETH_FLAG_LRO: Final = 1 << 15


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do next ("" when there is nothing to do)."""

    level: str
    what: str
    text: str
    advice: str = ""


def examine(rules: str, control: str) -> Iterator[Finding]:
    """Every finding, for the rule file and the control socket at these paths. Never raises."""
    plan = Plan()
    try:
        plan = make_plan(config.load(rules))
        yield Finding(OK, "rules", f"{rules}: good")
    except config.ConfigError as error:
        yield Finding(FAIL, "rules", f"{rules}: problems={len(error.problems)}", f"see them: ctfw check {rules}")
    daemon = _Daemon(control)
    for check in (_kernel, _rights):
        yield from check()
    saved = _saved()
    by_hand = [where for program, text in saved.items() for where in other_queues(program, text, plan)]
    yield from _hook(plan, by_hand)
    yield from _neighbours(plan, saved)
    yield from _queue(plan, daemon)
    yield from _daemon(daemon)
    yield from _machine(plan)
    yield from _systemd()


class _Daemon:
    """The running daemon's own answers; empty when there is none. ``why``: what keeps us from asking."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.why = ""
        self.status: dict[str, Any] = {}
        self.connections: list[str] = []
        try:
            with Client(path) as client:
                self.status = client.call("status")
                for line in client.pages("list", form="proc"):
                    self.connections.append(line)
                    if len(self.connections) >= SAMPLE:
                        break
        except NotRunning:
            self.why = "not running"
        except ClientError as error:
            self.why = str(error)


def _kernel() -> Iterator[Finding]:
    if not os.path.exists("/proc/thread-self/net/netfilter/nfnetlink_queue"):
        advice = "modprobe nfnetlink_queue, or a kernel with CONFIG_NETFILTER_NETLINK_QUEUE"
        yield Finding(FAIL, "kernel", "no NFQUEUE", advice)
    else:
        yield Finding(OK, "kernel", "has NFQUEUE")
    if nft.can_queue():
        yield Finding(OK, "kernel", "nft has `queue`")
    elif all(find(program) for program in Iptables().programs):
        yield Finding(OK, "kernel", "nft has no `queue` here; the hook is made by iptables")
    else:
        yield Finding(FAIL, "kernel", "neither nft's `queue` nor iptables", "install nftables or iptables")


def _rights() -> Iterator[Finding]:
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
        effective = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    if effective >> _CAP_NET_ADMIN & 1:
        yield Finding(OK, "rights", "CAP_NET_ADMIN")
    else:
        yield Finding(FAIL, "rights", "no CAP_NET_ADMIN: nothing below could be looked at for sure", "run as root")


def _saved() -> dict[str, str]:
    """What each iptables-save prints, by the program that would change it."""
    texts = {}
    for program in ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"):
        if find(f"{program}-save"):
            code, out, _ = Place().attempt(f"{program}-save")
            texts[program] = "" if code else out
    return texts


def _hook(plan: Plan, by_hand: list[str]) -> Iterator[Finding]:
    try:
        standing = install.standing(install.in_force("auto", plan), plan)
    except HookError as error:
        yield Finding(FAIL, "hook", str(error))
        return
    if standing.state == "complete":
        yield Finding(OK, "hook", f"complete: backend={standing.backend} chains={','.join(plan.chain_names)}")
    elif standing.state == "absent" and by_hand:
        yield Finding(OK, "hook", f"rules made by hand: {', '.join(by_hand)}", "ctfw hook apply makes complete ones")
    elif standing.state == "absent":
        yield Finding(FAIL, "hook", "no rule sends packets to ctfw: nothing is filtered", "ctfw hook apply")
    if standing.state != "absent":
        for where in by_hand:
            yield Finding(WARN, "hook", f"{where} sends to queue {plan.queue} too", "delete it: packets come twice")
    for line in standing.differences if standing.state == "incomplete" else []:
        yield Finding(FAIL, "hook", line, "ctfw hook apply")
    for note in standing.notes:
        yield Finding(WARN, "hook", note)
    if (
        standing.state == "complete"
        and plan.reject_bit
        and not present.is_answering(plan.reject_bit)
        and not standing.notes
    ):
        yield Finding(WARN, "hook", "nothing answers rejected packets: they are dropped", "ctfw hook apply")
    if INPUT in plan.chains and os.environ.get("SSH_CONNECTION") and not plan.ssh_from:
        advice = "keep a console at hand, or set hook.keep_ssh to the networks you administer from"
        yield Finding(WARN, "hook", "you came by SSH, and SSH goes through the rules", advice)


def _neighbours(plan: Plan, saved: dict[str, str]) -> Iterator[Finding]:
    names = {name for text in saved.values() for name in re.findall(r"^:(\S+)", text, re.MULTILINE)}
    chains = _base_chains()
    if chains is None:
        yield Finding(WARN, "neighbours", "nft's chains cannot be seen", "install nftables and run as root")
        chains = []
    names |= {name for chain in chains for name in (chain["table"], chain["name"])}
    found = [who for who, pattern in NEIGHBOURS if any(pattern.fullmatch(name) for name in names)]
    for who in found:
        yield Finding(OK, "neighbours", f"{who} is here: it decides first, and ctfw on what it lets by", "")
    for chain in chains:
        where = f"{chain['family']} {chain['table']} {chain['name']}"
        ours = _our_priority(chain)
        if ours is None or chain["table"] in present.TABLES or HOOK_NAMES.index(chain["hook"]) not in plan.chains:
            continue
        if chain.get("policy") == "drop":
            side = "ahead of" if chain["prio"] < ours else "behind"
            text = f"{where} ({chain['hook']} {chain['prio']}) drops by policy, {side} ctfw ({ours})"
            yield Finding(WARN, "neighbours", text, "what passes has to be accepted there too")
    if not found:
        yield Finding(OK, "neighbours", "no Docker, ufw, firewalld, Kubernetes, fail2ban, libvirt or Tailscale")


def other_queues(program: str, saved: str, plan: Plan) -> list[str]:
    """Where rules that are not the hook's send packets to our queue."""
    found = []
    for chain, rule in re.findall(r"^-A (\S+) (.*-j NFQUEUE.*)$", saved, re.MULTILINE):
        number = re.search(r"--queue-num (\d+)", rule)
        if not chain.startswith(PREFIX) and int(number[1] if number else 0) == plan.queue:
            found.append(f"{program} {chain}")
    return found


def _base_chains() -> list[dict[str, Any]] | None:
    """nft's chains that hang on INPUT, FORWARD or OUTPUT of IP; None when they cannot be listed."""
    if not find("nft"):
        return None
    code, out, _ = Place().attempt("nft", "--json", "list", "chains")
    if code:
        return None
    chains = [entry["chain"] for entry in json.loads(out)["nftables"] if "chain" in entry]
    wanted = ("input", "forward", "output")
    return [c for c in chains if c.get("hook") in wanted and c["family"] in ("ip", "ip6", "inet")]


def _our_priority(chain: dict[str, Any]) -> int | None:
    """Where ctfw stands in the hook of that chain; None when it does not stand beside it."""
    if nft.listing(Place()):
        return nft.PRIORITY
    table = PLACES[NFT].get(HOOK_NAMES.index(chain["hook"]))
    return None if table is None or chain["table"] == table else PRIORITIES[NFT][table]


def _queue(plan: Plan, daemon: _Daemon) -> Iterator[Finding]:
    port = queue_holder(plan.queue)
    fate = "passes" if plan.bypass else "is dropped"
    if port is None:
        yield Finding(WARN, "queue", "who listens cannot be seen", "run as root")
    elif port == 0:
        yield Finding(FAIL, "queue", f"nobody listens on queue {plan.queue}: what is sent there {fate}", "start ctfw")
    else:
        who = process_of(port)
        if daemon.status and who[0] != daemon.status["pid"]:
            advice = f"stop it, or set queue.number; ctfw is pid {daemon.status['pid']}"
            yield Finding(FAIL, "queue", f"queue {plan.queue} is held by {_named(who)}, not by ctfw", advice)
        else:
            yield Finding(OK, "queue", f"queue {plan.queue} is held by {_named(who)}")


def _daemon(daemon: _Daemon) -> Iterator[Finding]:
    if not daemon.status:
        advice = "systemctl start ctfw, or ctfw run" if daemon.why == "not running" else "run as root or in group ctfw"
        yield Finding(FAIL, "daemon", daemon.why, advice)
        return
    queue, connections = daemon.status["queue"], daemon.status["connections"]
    yield Finding(OK, "daemon", f"running: pid={daemon.status['pid']} uptime={daemon.status['uptime']}s")
    lost = queue["lost"] + (queue["kernel"] or {}).get("queue_dropped", 0)
    if lost:
        advice = "more than one core can judge: narrow the hook (leave_alone, chains)"
        yield Finding(WARN, "daemon", f"packets lost before they were judged: {lost}", advice)
    if connections["entries"] > connections["max"] * 9 // 10:
        text = f"connection table nearly full: {connections['entries']} of {connections['max']}"
        yield Finding(WARN, "daemon", text, "raise conntrack.max, or set conntrack.per_source")
    tcp = [line for line in daemon.connections if " tcp " in line]
    silent = [line for line in tcp if "[UNREPLIED]" in line]
    if len(tcp) >= ENOUGH and len(silent) * 20 > len(tcp) * 19:
        text = f"only one direction seen: {len(silent)} of {len(tcp)} TCP connections have no answer"
        advice = "do answers come another way? Route both through this machine, or use `track: loose`"
        yield Finding(WARN, "daemon", text, advice)


def _machine(plan: Plan) -> Iterator[Finding]:
    if FORWARD in plan.chains:
        for knob, family in (("ipv4/ip_forward", "IPv4"), ("ipv6/conf/all/forwarding", "IPv6")):
            if _sysctl(knob) == 0:
                name = "net." + knob.replace("/", ".")
                yield Finding(WARN, "machine", f"{family} is not forwarded", f"a gateway needs sysctl -w {name}=1")
    for _, name in socket.if_nameindex():
        strict = max(_sysctl("ipv4/conf/all/rp_filter") or 0, _sysctl(f"ipv4/conf/{name}/rp_filter") or 0) == 1
        if strict and name != "lo":
            advice = f"right with one way out; with two: sysctl -w net.ipv4.conf.{name}.rp_filter=2"
            yield Finding(OK, "machine", f"{name}: rp_filter drops what would not be answered by it", advice)
        if _has_lro(name):
            advice = f"ethtool -K {name} lro off; what LRO joined cannot be forwarded as it came"
            yield Finding(FAIL if FORWARD in plan.chains else WARN, "machine", f"{name}: large receive offload", advice)
    bridged = _sysctl("bridge/bridge-nf-call-iptables")
    if bridged:
        text = "bridged packets go through iptables, and so through ctfw (bridge-nf-call-iptables=1)"
        yield Finding(WARN, "machine", text, "if that is not meant: sysctl -w net.bridge.bridge-nf-call-iptables=0")
    count = _sysctl("netfilter/nf_conntrack_count")
    if count:
        text = f"the kernel tracks connections too: {count}"
        yield Finding(OK, "machine", text, "it is needed for NAT; without NAT a rule that matches on ct turns it on")


def _systemd() -> Iterator[Finding]:
    if not os.path.isdir("/run/systemd/system") or not find("systemctl"):
        return
    state = {}
    for question in ("is-active", "is-enabled"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(["systemctl", question, UNIT], capture_output=True, text=True, timeout=10)
            state[question] = " ".join((done.stdout or done.stderr).split()) or "?"
    active, enabled = state.get("is-active", "?"), state.get("is-enabled", "?")
    text = f"{UNIT}: {active}, {enabled}"
    if active == "active" and enabled == "enabled":
        yield Finding(OK, "systemd", text)
    elif active == "failed":
        yield Finding(FAIL, "systemd", text, f"systemctl status {UNIT}; journalctl -u {UNIT}")
    else:
        yield Finding(WARN, "systemd", text, f"systemctl enable --now {UNIT}")


def queue_holder(number: int) -> int | None:
    """The netlink port that is bound to the queue, 0 for nobody; None when it may not be read."""
    try:
        with open("/proc/thread-self/net/netfilter/nfnetlink_queue", encoding="ascii") as proc:
            ports = {int(line.split()[0]): int(line.split()[1]) for line in proc}
    except OSError:
        return None
    return ports.get(number, 0)


def process_of(port: int) -> tuple[int, str]:
    """Process number and name of the owner of a netlink port of netfilter; (0, "") when it cannot be found.

    The port is the process's number for its first netlink socket only, so the socket itself is looked for.
    """
    with open("/proc/thread-self/net/netlink", encoding="ascii") as table:
        rows = [line.split() for line in table]
    inodes = {row[9] for row in rows if row[1] == _NETLINK_NETFILTER and row[2] == str(port)}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdecimal()), key=lambda pid: pid != port):
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                if os.readlink(entry.path) in wanted:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                        return pid, comm.read().strip()
    return 0, ""


def _named(who: tuple[int, str]) -> str:
    return f"pid {who[0]}, {who[1]}" if who[0] else "a process that cannot be seen from here"


def _sysctl(path: str) -> int | None:
    try:
        with open(f"/proc/sys/net/{path}", encoding="ascii") as knob:
            return int(knob.read())
    except (OSError, ValueError):
        return None


def _has_lro(name: str) -> bool:
    """Whether the interface joins what it receives in a way that cannot be undone."""
    value = array.array("B", struct.pack("=II", _ETHTOOL_GFLAGS, 0))
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        fcntl.ioctl(asker, _SIOCETHTOOL, struct.pack("16sP16x", os.fsencode(name), value.buffer_info()[0]))
        return bool(struct.unpack("=II", value.tobytes())[1] & _ETH_FLAG_LRO)
    return False
