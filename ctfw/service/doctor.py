"""`ctfw doctor`: what on this machine keeps ctfw from working, or will surprise its admin; each with its remedy.

Nothing is changed and nothing is guessed: a check that cannot look says so as a warning. Checks are independent
generators of findings, run in the order of a packet's way: kernel and rights, the hook and who stands beside it, the
queue and who holds it, the daemon, the machine's settings. `fail` is for what makes ctfw not filter, or not run; `warn`
for what an admin should know; so the exit code can guard a start.

The neighbours (Docker, ufw, firewalld, Kubernetes, fail2ban, libvirt) are told by the names of their chains and tables.
They and ctfw get along by order: what lies ahead of the hook decides first, and what it drops ctfw never sees.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, Final

from ctfw import config
from ctfw.packet import HOOK_NAMES, INPUT
from ctfw.service import listeners, machine, units
from ctfw.service.client import Client, ClientError, NotRunning
from ctfw.service.finding import FAIL, OK, WARN, Finding
from ctfw.service.hook import install, nft, present
from ctfw.service.hook.iptables import NFT, PLACES, PREFIX, PRIORITIES, Iptables
from ctfw.service.hook.plan import Plan, make_plan
from ctfw.service.hook.programs import HookError, Place, find
from ctfw.service.status import OK as HEALTHY

ENOUGH: Final = 20  # TCP connections of an interface, so that their lack of answers means something
MANY: Final = 100  # INVALID packets, likewise

# Who it is, what his chains or tables are called, and what follows from him.
NEIGHBOURS: Final = (
    (
        "Docker",
        re.compile(r"DOCKER(?:-\w+)*|docker\S*"),
        "published ports are forwarded, not input: judge them in chain forward, or leave docker0 alone (hook)",
    ),
    ("ufw", re.compile(r"ufw6?-\S+"), "its rules and ctfw's must both accept: `ufw disable` leaves all to ctfw"),
    (
        "firewalld",
        re.compile(r"firewalld"),
        "its zones and ctfw's rules must both accept: stop it, or keep to one of the two",
    ),
    (
        "Kubernetes",
        re.compile(r"KUBE-\S+|CNI-\S+|kube-proxy|CILIUM_\S+|cali-\S+"),
        "traffic of pods is translated and forwarded: leave its interfaces alone (hook.leave_alone: cni0, cali+)",
    ),
    (
        "fail2ban",
        re.compile(r"f2b-\S+"),
        "its bans hold, for it drops first; a dynamic set and `ctfw set add` could take its place",
    ),
    (
        "libvirt",
        re.compile(r"LIBVIRT_\S+|libvirt_network"),
        "its guests are forwarded: judge them in chain forward, or leave virbr0 alone (hook.leave_alone)",
    ),
    (
        "Tailscale",
        re.compile(r"ts-(?:input|forward|postrouting)"),
        "what comes by tailscale0 is accepted ahead of ctfw or judged by its inner addresses; 41641/udp outside",
    ),
)
_CAP_NET_ADMIN: Final = 12
# What makes the kernel join fragments: whatever needs ports, in a rule of iptables or of nft.
_ASKS_TO_JOIN: Final = re.compile(
    r"-m (?:socket|conntrack|state|connmark|connlimit|connbytes|helper)\b"
    r"|-j (?:MASQUERADE|[SD]NAT|REDIRECT|TPROXY|CT|CONNMARK)\b"
    r"|\bct (?:state|mark|status|direction|id|count|helper|original|reply|zone)\b"
    r"|\bsocket (?:mark|transparent|wildcard)\b"
    r"|\b(?:masquerade|[sd]nat|redirect|tproxy)\b(?! \{)"
)


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
    standing = _standing(plan)
    yield from _hook(standing, plan, by_hand)
    yield from _neighbours(plan, saved)
    yield from listeners.examine(plan, daemon.status)
    yield from _daemon(daemon)
    yield from machine.examine(plan, daemon.copy_range)
    yield from _joining(saved)
    yield from units.examine(isinstance(standing, install.Standing) and standing.state != "absent")


class _Daemon:
    """The running daemon's own answers; empty when there is none. ``why``: what keeps us from asking."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.why = ""
        self.status: dict[str, Any] = {}
        self.stats: dict[str, Any] = {}
        self.interfaces: dict[str, dict[str, int]] = {}
        try:
            with Client(path) as client:
                self.status = client.call("status")
                self.stats = client.call("stats")
                self.interfaces = client.call("directions")["interfaces"]
        except NotRunning:
            self.why = "not running"
        except ClientError as error:
            self.why = str(error)

    @property
    def copy_range(self) -> int:
        """0 when there is no daemon."""
        return int(self.status["queue"]["copy_range"]) if self.status else 0


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


def _standing(plan: Plan) -> install.Standing | HookError:
    """What stands of the hook, or why that cannot be told."""
    try:
        return install.standing(install.in_force("auto", plan), plan)
    except HookError as error:
        return error


def _hook(standing: install.Standing | HookError, plan: Plan, by_hand: list[str]) -> Iterator[Finding]:
    if isinstance(standing, HookError):
        yield Finding(FAIL, "hook", str(standing))
        return
    if standing.state == "complete":
        yield Finding(OK, "hook", f"complete: backend={standing.backend} chains={','.join(plan.chain_names)}")
    elif standing.state == "absent" and by_hand:
        yield Finding(OK, "hook", f"rules made by hand: {', '.join(by_hand)}", "ctfw hook apply makes complete ones")
    elif standing.state == "absent":
        yield Finding(FAIL, "hook", "no rule sends packets to ctfw: nothing is filtered", "ctfw hook apply")
    queues = listeners.named(plan.queues)
    if standing.state != "absent":
        for where in by_hand:
            yield Finding(WARN, "hook", f"{where} sends to {queues} too", "delete it: packets come twice")
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
    found = [(who, advice) for who, pattern, advice in NEIGHBOURS if any(pattern.fullmatch(name) for name in names)]
    for who, advice in found:
        yield Finding(OK, "neighbours", f"{who} is here: it decides first, and ctfw on what it lets by", advice)
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
        queues = re.search(r"--queue-(?:num|balance) (\d+)(?::(\d+))?", rule)
        first, last = (int(queues[1]), int(queues[2] or queues[1])) if queues else (0, 0)
        if not chain.startswith(PREFIX) and first <= plan.queues[-1] and last >= plan.queue:
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


def _daemon(daemon: _Daemon) -> Iterator[Finding]:
    if not daemon.status:
        advice = "systemctl start ctfw, or ctfw run" if daemon.why == "not running" else "run as root or in group ctfw"
        yield Finding(FAIL, "daemon", daemon.why, advice)
        if daemon.why == "not running" and os.path.exists(daemon.path):
            text = f"{daemon.path} was left behind by a daemon that was killed, or one that hangs"
            yield Finding(WARN, "daemon", text, "is there a process? systemctl status ctfw; a start replaces the file")
        return
    status = daemon.status
    text = f"running: pid={status['pid']} uptime={status['uptime']}s health={status['health']}"
    yield Finding(OK if status["health"] == HEALTHY else WARN, "daemon", text, "; ".join(status["reasons"]))
    queue, connections = status["queue"], status["connections"]
    lost = queue["lost"] + (queue["kernel"] or {}).get("queue_dropped", 0)
    if lost:
        advice = "more than one core can judge: narrow the hook (leave_alone, chains)"
        yield Finding(WARN, "daemon", f"packets lost before they were judged: {lost}", advice)
    if queue["kernel"] is None:
        advice = "the unit's SupplementaryGroups=root lets ctfw read /proc/net/netfilter/nfnetlink_queue"
        yield Finding(WARN, "daemon", "what the queue itself drops cannot be counted", advice)
    if queue["uncheckable"]:
        text = f"checksums that nobody could verify, for packets were cut: {queue['uncheckable']}"
        advice = "no fault where fragments were joined; else restart ctfw after a change of MTU, without --copy-range"
        yield Finding(WARN, "daemon", text, advice)
    if connections["entries"] > connections["max"] * 9 // 10:
        text = f"connection table nearly full: {connections['entries']} of {connections['max']}"
        yield Finding(WARN, "daemon", text, "raise conntrack.max, or set conntrack.per_source")
    for note in status["notes"]:
        yield Finding(WARN, "daemon", note)
    yield from _directions(daemon)


def _directions(daemon: _Daemon) -> Iterator[Finding]:
    """Does each interface see both halves of its connections?"""
    advice = "do answers come another way? Route both through this machine, or use `track: loose`"
    for name, counts in sorted(daemon.interfaces.items()):
        if counts["tcp"] >= ENOUGH and counts["unanswered"] * 20 > counts["tcp"] * 19:
            whose = f"on {name}" if name else "of this machine's own connections"
            text = f"only one direction seen {whose}: {counts['unanswered']} of {counts['tcp']} TCP have no answer"
            yield Finding(WARN, "direction", text, advice)
    late = daemon.stats["reasons"].get("tcp-new", 0)
    judged = sum(daemon.stats["states"].values())
    if late >= MANY and late * 20 > judged:
        text = f"TCP of which the beginning was never seen: {late} of {judged} packets"
        yield Finding(WARN, "direction", text, f"connections older than ctfw end so, and else: {advice}")


def _joining(saved: dict[str, str]) -> Iterator[Finding]:
    """Are fragments joined before they come? Anything in the namespace that asks for it has it done for all."""
    listed = Place().attempt("nft", "list", "ruleset")[1] if find("nft") else ""
    tables = re.split(r"^table ", listed, flags=re.MULTILINE)[1:]
    for family, prefix, own in (("IPv4", "iptables-", ("ip ", "inet ")), ("IPv6", "ip6tables-", ("ip6 ", "inet "))):
        texts = [text for program, text in saved.items() if program.startswith(prefix)]
        texts += [table for table in tables if table.startswith(own)]
        if any(_ASKS_TO_JOIN.search(text) for text in texts):
            yield Finding(OK, "fragments", f"{family}: the kernel joins them")
        else:
            advice = "ctfw judges each by the first one of its packet; ctfw hook apply has them joined"
            yield Finding(WARN, "fragments", f"{family}: they come one by one", advice)
