"""The hook in iptables' words, for kernels whose nft has no `queue`: own chains, and one jump to each.

Where the chains stand, by what `iptables` is on the machine (the two differ in the priority of `security`):

===================  ==================  ==================  =====================================================
chain                iptables-nft        iptables-legacy     why there
===================  ==================  ==================  =====================================================
CTFW-INPUT           security  150       security  50        behind `filter` (0): others' bans still hold, and
CTFW-FORWARD         security  150       security  50        their accepts hide nothing from ctfw
CTFW-OUTPUT          mangle   -150       security  50        on the same side of NAT as INPUT (plan.py)
CTFW-DEFRAG          mangle   -150       mangle  -150        PREROUTING; never matches, makes fragments whole
CTFW-OFFLOAD         mangle   -150       mangle  -150        POSTROUTING, the next place behind FORWARD's queue; only
                                                             where rules offload
===================  ==================  ==================  =====================================================

The priorities are nominal; where nft can be asked, what iptables-nft really made in a scratch namespace is looked at,
and a pair of INPUT and OUTPUT with NAT between them is refused.

A packet that ctfw accepts goes on in the next table, not behind our jump. So in `security`, which is nearly always
empty, the jump stands first: nobody's ACCEPT ahead of it lets packets by. In mangle's OUTPUT it stands last: what
others do there (marks for policy routing, DSCP) has to be done before, or it would be done never.

REJECT is a target of `filter` alone, which lies ahead of us; so the answering is nft's also here (reject.py), in a
table of ours that holds nothing else. Its chains stand right behind ours, and one of them right ahead of CTFW-OUTPUT.
With legacy iptables there is none: another's `nft flush ruleset` would take the answering away and leave the queue, and
then rejected packets would pass. What the rules reject is dropped there.

A change is one `iptables-restore --noflush` a family, in which each table is one transaction. Before it, the same text
was loaded in a scratch namespace, for both families. When the second family fails all the same, the first one is put
back to what it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service.hook import nft, reject
from ctfw.service.hook.plan import LOOPBACK, Plan, is_one_sided
from ctfw.service.hook.programs import LOCK, HookError, Place, Scratch, find

NFT: Final = "nft"
LEGACY: Final = "legacy"
PREFIX: Final = "CTFW-"
DEFRAG: Final = "PREROUTING"
SAVE: Final = "POSTROUTING"
NEIGHBOURS: Final = (135, 136)  # solicitation, advertisement

# Variant -> chain -> table. The order of tables is the order of change: what closes the gateway comes first.
PLACES: Final = {
    NFT: {INPUT: "security", FORWARD: "security", OUTPUT: "mangle"},
    LEGACY: {INPUT: "security", FORWARD: "security", OUTPUT: "security"},
}
TABLES: Final = ("security", "mangle")
PRIORITIES: Final = {NFT: {"security": 150, "mangle": -150}, LEGACY: {"security": 50, "mangle": -150}}
COMPANION: Final = "inet ctfw_reject"
LAST: Final = ("mangle", "OUTPUT")  # where our jump stands last; anywhere else it stands first

_DECLARED: Final = re.compile(r":(\S+) \S+ \[\d+:\d+\]")
_RULE: Final = re.compile(r"(?:\[(\d+):\d+\] )?-A (\S+) ?(.*)")
_TARGET: Final = re.compile(r"-[jg] (\S+)")
_VARIANT: Final = re.compile(r"\((nf_tables|legacy)\)")


@dataclass
class Table:
    """What is ours in one table: chains with their rules, jumps as (chain, rule), and where each jump stands."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    jumps: list[tuple[str, str]] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)  # chains whose jump does not stand where it should


State = dict[str, Table]  # by table


class Family:
    """One of the two families of addresses with the programs for it."""

    def __init__(self, number: int, program: str) -> None:
        self.number = number
        self.program = program
        found = _VARIANT.search(Place().run(program, "--version"))
        self.variant = NFT if found is not None and found[1] == "nf_tables" else LEGACY

    def state(self, place: Place) -> State:
        """What of ours is in force there."""
        return parse(place.run(f"{self.program}-save"))

    def restore(self, place: Place, script: str) -> None:
        if script:
            place.run(f"{self.program}-restore", "--noflush", "--wait", LOCK, text=script)


class Iptables:
    """The back end for one choice of programs. ``notes`` say what it leaves out."""

    def __init__(self, suffix: str = "") -> None:
        """``suffix`` chooses: -nft, -legacy, or "" for what `iptables` is on this machine."""
        self.suffix = suffix
        self.name = f"iptables{suffix}"
        self.programs = (f"iptables{suffix}", f"ip6tables{suffix}")
        self.notes: list[str] = []

    def families(self) -> list[Family]:
        return [Family(number, program) for number, program in zip((4, 6), self.programs, strict=True)]

    def why_not(self, plan: Plan) -> str:
        """Why this machine cannot, in words; "" when it can."""
        lacking = [name for name in self.programs if not find(name)]
        return f"{', '.join(lacking)}: not installed" if lacking else ""

    def script(self, plan: Plan) -> str:
        """Everything that would be loaded where nothing of ours stands yet."""
        families = self.families()
        plan, texts = self._possible(plan, families), []
        if plan.reject_bit:
            texts.append(f"# nft -f -\n{companion(plan)}")
        for family in families:
            command = f"{family.program}-restore --noflush --wait {LOCK}"
            texts.append(f"# {command}\n{change({}, wanted(plan, family))}")
        return "\n".join(texts)

    def apply(self, plan: Plan) -> None:
        """Put the plan into force. Raises HookError, and then everything is as it was."""
        families = self.families()
        plan = self._possible(plan, families)
        with Scratch() as scratch:
            self._rehearse(plan, families, scratch)
        here = Place()
        had_companion = nft.listing(here, COMPANION)
        done: list[tuple[Family, State]] = []
        try:
            if plan.reject_bit:  # ahead of the queue: nothing may come marked from ctfw that nobody answers
                here.run("nft", "--file", "-", text=companion(plan))
            for family in families:
                before = family.state(here)
                done.append((family, before))
                family.restore(here, change(before, wanted(plan, family)))
            if not plan.reject_bit:
                nft.delete(here, COMPANION)
        except HookError as error:
            left = self._take_back(done, had_companion)
            raise HookError(f"{error}; {left}", error.denied) from error

    def remove(self) -> bool:
        """Take away what is ours; whether there was anything."""
        found = False
        families = self.families()
        for family in families:
            state = family.state(Place())
            if state:
                found = True
                family.restore(Place(), change(state, {}))
                _tidy(family, state)
        if any(family.variant == NFT for family in families):
            found = nft.delete(Place(), COMPANION) or found
        return found

    def variants(self) -> tuple[str, ...]:
        """What the programs are, so that two names for the same ones can be told."""
        return tuple(family.variant for family in self.families())

    def is_there(self) -> bool:
        return any(family.state(Place()) for family in self.families())

    def differences(self, plan: Plan) -> list[str]:
        """How the kernel's rules differ from the plan, a line each; empty when they do not."""
        families = self.families()
        plan = self._possible(plan, families)
        lines: list[str] = []
        with Scratch() as scratch:
            self._rehearse(plan, families, scratch)
            for family in families:
                lines += differences(family.program, family.state(scratch), family.state(Place()))
            if plan.reject_bit:
                what, found = f"table {COMPANION}", nft.listing(Place(), COMPANION)
                lines += nft.compare(what, nft.listing(scratch, COMPANION), found) if found else [f"{what}: missing"]
        return lines

    def passed(self) -> dict[str, int]:
        """Packets that went to the queue, by chain, both families together."""
        counts: dict[str, int] = {}
        for family in self.families():
            for line in Place().run(f"{family.program}-save", "-c").splitlines():
                rule = _RULE.fullmatch(line)
                if rule is not None and rule[2].startswith(PREFIX) and " NFQUEUE " in f" {rule[3]}":
                    name = rule[2].removeprefix(PREFIX).lower()
                    counts[name] = counts.get(name, 0) + int(rule[1])
        return {name: counts[name] for name in HOOK_NAMES if name in counts}

    def _possible(self, plan: Plan, families: Iterable[Family]) -> Plan:
        """The plan as far as these programs can; what cannot be is told in ``notes``."""
        self.notes = []
        if not plan.reject_bit:
            return plan
        if any(family.variant == LEGACY for family in families):
            self.notes.append("iptables-legacy cannot answer rejected packets: they are dropped")
        elif not find("nft"):
            self.notes.append("without nft nothing answers rejected packets: they are dropped; install nftables")
        else:
            return plan
        return plan.without_reject()

    def _rehearse(self, plan: Plan, families: Iterable[Family], scratch: Place) -> None:
        if plan.reject_bit:
            scratch.run("nft", "--file", "-", text=companion(plan))
        for family in families:
            family.restore(scratch, change({}, wanted(plan, family)))
            check_sides(plan, family, priorities(family, scratch))

    def _take_back(self, done: list[tuple[Family, State]], had_companion: str) -> str:
        """Undo what an apply did; in words, how that went. The queue goes before what answers behind it."""
        failed = []
        here = Place()
        for family, before in reversed(done):
            try:
                after = family.state(here)
                family.restore(here, change(after, before))
                _tidy(family, {table: ours for table, ours in after.items() if table not in before})
            except HookError as error:
                failed.append(str(error))
        try:
            nft.delete(here, COMPANION)
            if had_companion:
                here.run("nft", "--file", "-", text=had_companion + "\n")
        except HookError as error:
            failed.append(str(error))
        if failed:
            return f"taking back what was done failed too: {'; '.join(failed)}"
        return "what was done before it was taken back"


def wanted(plan: Plan, family: Family) -> State:
    """The plan in the words of this family's programs."""
    state: State = {}
    for table in TABLES:
        ours = Table()
        for chain in plan.chains:
            if PLACES[family.variant][chain] == table:
                builtin = HOOK_NAMES[chain].upper()
                ours.chains[PREFIX + builtin] = _queue_rules(plan, family, chain)
                ours.jumps.append((builtin, f"-j {PREFIX}{builtin}"))
        if table == "mangle":
            nobody = "0.0.0.0/32" if family.number == 4 else "::/128"
            ours.chains[PREFIX + "DEFRAG"] = [f"-s {nobody} -m socket --nowildcard -j RETURN"]
            ours.jumps.append((DEFRAG, f"-j {PREFIX}DEFRAG"))
            if plan.offload_bit:
                ours.chains[PREFIX + "OFFLOAD"] = _saving(plan.offload_bit)
                ours.jumps.append((SAVE, f"-j {PREFIX}OFFLOAD"))
        if ours.chains:
            state[table] = ours
    return state


def change(before: State, after: State) -> str:
    """The text for iptables-restore that makes the one of the other; "" when there is nothing to do.

    What opens the gateway comes last: tables in TABLES' order to put up, in the other one to take away.
    """
    tables = TABLES if after else TABLES[::-1]
    lines: list[str] = []
    for name in (*tables, *sorted((before.keys() | after.keys()) - set(TABLES))):
        old, new = before.get(name, Table()), after.get(name, Table())
        if not old.chains and not old.jumps and not new.chains:
            continue
        lines.append(f"*{name}")
        lines += [f":{chain} - [0:0]" for chain in new.chains]  # made, or emptied
        lines += [f"-D {chain} {rule}" for chain, rule in old.jumps]
        for chain, rules in new.chains.items():
            lines += [f"-A {chain} {rule}" for rule in rules]
        for chain, rule in new.jumps:
            lines.append(f"-A {chain} {rule}" if (name, chain) == LAST else f"-I {chain} 1 {rule}")
        stale = [chain for chain in old.chains if chain not in new.chains]
        lines += [f"-F {chain}" for chain in stale]
        lines += [f"-X {chain}" for chain in stale]
        lines.append("COMMIT")
    return "".join(line + "\n" for line in lines)


def parse(text: str) -> State:
    """What is ours in the output of iptables-save."""
    state: State = {}
    ours = Table()
    rules: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table, ours, rules = line[1:], Table(), {}
        elif line == "COMMIT":
            for chain, others in rules.items():
                _note_places(ours, table, chain, others)
            if ours.chains or ours.jumps:
                state[table] = ours
        elif (declared := _DECLARED.fullmatch(line)) is not None:
            if declared[1].startswith(PREFIX):
                ours.chains[declared[1]] = []
        elif (rule := _RULE.fullmatch(line)) is not None:
            chain, words = rule[2], rule[3]
            if chain in ours.chains:
                ours.chains[chain].append(words)
            else:
                rules.setdefault(chain, []).append(words)
    return state


def differences(program: str, expected: State, found: State) -> list[str]:
    """A line for each rule that is missing, not ours or out of place."""
    lines = []
    for table in sorted(expected.keys() | found.keys()):
        want, have = expected.get(table, Table()), found.get(table, Table())
        what = f"{program} -t {table}"
        for chain in sorted(want.chains.keys() | have.chains.keys()):
            if chain not in have.chains:
                lines.append(f"{what}: missing: chain {chain}")
            elif chain not in want.chains:
                lines.append(f"{what}: not in the plan: chain {chain}")
            elif want.chains[chain] != have.chains[chain]:
                lines += nft.compare(f"{what} {chain}", "\n".join(want.chains[chain]), "\n".join(have.chains[chain]))
        for chain, rule in want.jumps:
            if have.jumps.count((chain, rule)) != 1:
                problem = "several times" if (chain, rule) in have.jumps else "missing"
                lines.append(f"{what}: {problem}: -A {chain} {rule}")
        lines += [f"{what}: not in the plan: -A {c} {r}" for c, r in have.jumps if (c, r) not in want.jumps]
        where = {chain: "last" if (table, chain) == LAST else "first" for chain in have.misplaced}
        lines += [f"{what}: our jump does not stand {where[chain]} in {chain}" for chain in have.misplaced]
    return lines


def companion(plan: Plan) -> str:
    """nft's part: the chains that answer what ctfw rejects, around the places of our iptables chains."""
    places, priority = PLACES[NFT], PRIORITIES[NFT]
    body = reject.sets(plan)
    if OUTPUT in plan.chains:
        mark = f"meta mark set {nft.clear(plan.field)}"
        ahead = priority[places[OUTPUT]] - 1
        body += [
            "chain answers {",
            f"\ttype filter hook output priority {ahead}; policy accept;",
            *(f"\t{rule}" for rule in nft.exempt(plan, OUTPUT)),
            f"\tmeta mark & {plan.field:#x} != 0 {mark}",
            *(f"\t{rule}" for rule in reject.is_answer(f"meta mark set meta mark | {reject.answer_mark(plan):#x}")),
            "}",
        ]
    body += reject.chains(plan, lambda chain: priority[places[chain]] + 1, lambda chain: nft.exempt(plan, chain))
    if OUTPUT in plan.chains:
        at = body.index("chain reject_output {")
        end = body.index("}", at)
        body.insert(end, f"\tmeta mark & {plan.field:#x} == {reject.answer_mark(plan):#x} {mark}")
    return nft.table_text(body, COMPANION)


def priorities(family: Family, place: Place) -> dict[str, int]:
    """The priority of each table's chains, as made there; nominal where it cannot be seen."""
    found = dict(PRIORITIES[family.variant])
    if family.variant == NFT and find("nft"):
        name = "ip" if family.number == 4 else "ip6"
        for entry in json.loads(place.run("nft", "--json", "list", "chains"))["nftables"]:
            chain = entry.get("chain", {})
            if chain.get("family") == name and chain.get("table") in found and "prio" in chain:
                found[chain["table"]] = int(chain["prio"])
    return found


def check_sides(plan: Plan, family: Family, found: dict[str, int]) -> None:
    """Raises HookError when address translation lies between INPUT and OUTPUT."""
    if INPUT not in plan.chains or OUTPUT not in plan.chains:
        return
    places = PLACES[family.variant]
    inward, outward = found[places[INPUT]], found[places[OUTPUT]]
    if not is_one_sided(inward, outward):
        raise HookError(
            f"{family.program}: INPUT of {places[INPUT]} at {inward} and OUTPUT of {places[OUTPUT]} at {outward} have"
            " address translation between them; queue only one of the two, or use nft"
        )


def _queue_rules(plan: Plan, family: Family, chain: int) -> list[str]:
    ways = {INPUT: ["-i"], OUTPUT: ["-o"], FORWARD: ["-i", "-o"]}[chain]
    rules = [] if chain == FORWARD else [f"{ways[0]} {LOOPBACK} -j RETURN"]
    rules += [f"{way} {name} -j RETURN" for name in plan.leave_alone for way in ways]
    if chain != FORWARD:
        port, address = ("dport", "-s") if chain == INPUT else ("sport", "-d")
        ports = f"-m tcp --{port} {plan.ssh_ports[0]}"
        if len(plan.ssh_ports) > 1:
            ports = f"-m multiport --{port}s {','.join(map(str, plan.ssh_ports))}"
        rules += [f"{address} {network} -p tcp {ports} -j RETURN" for network in plan.ssh(family.number)]
        if family.number == 6 and plan.ssh(6):  # without its neighbours' addresses IPv6 finds no way, kept or not
            rules += [f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in NEIGHBOURS]
    if plan.reject_bit and chain == OUTPUT:
        rules.append(f"-m mark --mark {reject.answer_mark(plan):#x}/{plan.field:#x} -j RETURN")
    if plan.offload_bit and chain == FORWARD:
        rules += _offloaded(plan.offload_bit)
    if plan.own:
        rules.append(f"-j MARK --set-xmark 0x0/{plan.own:#x}")
    queues = f"--queue-num {plan.queue}"
    if plan.workers > 1:
        queues = f"--queue-balance {plan.queue}:{plan.queue + plan.workers - 1}"
    return [*rules, f"-j NFQUEUE {queues}{' --queue-bypass' if plan.bypass else ''}"]


def _offloaded(bit: int) -> list[str]:
    """What passes the queue by: packets of connections whose mark has the bit; what may end one takes it away."""
    ours = f"-m connmark --mark {bit:#x}/{bit:#x}"
    known = f"{ours} -m conntrack --ctstate ESTABLISHED -j RETURN"
    return [
        f"-p tcp -m tcp --tcp-flags FIN,SYN,RST NONE {known}",
        f"! -p tcp {known}",
        f"-p tcp {ours} -m tcp ! --tcp-flags FIN,SYN,RST NONE -j CONNMARK --set-xmark 0x0/{bit:#x}",
    ]


def _saving(bit: int) -> list[str]:
    """Saves the bit of a packet that ctfw accepted to its connection, unless the kernel translates both its ends."""
    ours = f"-m mark --mark {bit:#x}/{bit:#x}"
    save = f"-j CONNMARK --save-mark --nfmask {bit:#x} --ctmask {bit:#x}"
    return [
        f"{ours} -m conntrack ! --ctstate SNAT {save}",
        f"{ours} -m conntrack ! --ctstate DNAT {save}",
        f"{ours} -j MARK --set-xmark 0x0/{bit:#x}",
    ]


def _tidy(family: Family, state: State) -> None:
    """Take away iptables-nft's built-in chains where nothing but our jumps was in them: it makes them when needed.

    Its -X refuses one that has rules, atomically. `nft delete chain` must not be used: it takes the rules along.
    """
    if family.variant != NFT:
        return
    for table in state:
        used = {HOOK_NAMES[chain].upper() for chain, place in PLACES[NFT].items() if place == table}
        for chain in sorted(used | ({DEFRAG, SAVE} if table == "mangle" else set())):
            Place().attempt(family.program, "--wait", LOCK, "--table", table, "-X", chain)


def _note_places(ours: Table, table: str, chain: str, rules: list[str]) -> None:
    """Find our jumps among all rules of a chain that is not ours."""
    jumps = [at for at, rule in enumerate(rules) if any(t.startswith(PREFIX) for t in _TARGET.findall(rule))]
    ours.jumps += [(chain, rules[at]) for at in jumps]
    place = len(rules) - 1 if (table, chain) == LAST else 0
    if jumps and jumps != [place]:
        ours.misplaced.append(chain)
