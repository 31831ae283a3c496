"""The hook in nft's words: one table of our own, `inet ctfw`, for IPv4 and IPv6, changed in one transaction.

::

    table inet ctfw
      defrag          prerouting -300   never matches; that it stands makes the kernel join fragments
      input           input        10   lo, others' interfaces, kept SSH: left alone; the rest: counted, queued
      forward         forward      10   the same
      output          output       10   the same, and the answers of the last one
      offload         forward      12   saves the mark of what rules offload; only where they do
      reject_*        each         11   packets that come back from ctfw with the order to answer them
      reject_40000000                   answers them

Priority 10 lies behind the filter chains of others (0), so their bans and drops still hold and none of their accepts
hides a packet from ctfw; and on the network's side of address translation, see plan.py. An accepted packet goes on in
the next base chain.

The transaction begins by deleting what stands there: so a second one changes nothing, whatever the table looked like,
and there is no moment without rules. Counters begin anew with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Final

from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service.hook import reject
from ctfw.service.hook.plan import LOOPBACK, Plan
from ctfw.service.hook.programs import HookError, Place, Scratch, find

TABLE: Final = "inet ctfw"
PRIORITY: Final = 10


class Nft:
    """The back end. ``judge`` gives the statement that hands a packet over; tests put another in its place."""

    name: Final = "nft"

    def __init__(self, judge: Callable[[Plan], str] | None = None) -> None:
        self.judge = judge or queue_statement

    def script(self, plan: Plan) -> str:
        """The whole text, for `nft -f -`."""
        body = [*_defrag()]
        if plan.reject_bit:
            body = [*reject.sets(plan), *body]
        for chain in plan.chains:
            body += self._queue_chain(plan, chain)
        if plan.offload_bit:
            body += _saving(plan.offload_bit)
        if plan.reject_bit:
            body += reject.chains(plan, lambda chain: PRIORITY + 1, lambda chain: exempt(plan, chain))
        return table_text(body)

    def why_not(self, plan: Plan) -> str:
        """Why this machine cannot, in words; "" when it can. Raises HookError without the right to try.

        Tried in a scratch namespace, not by ``--check`` in our own: for a check the kernel registers the base chains
        and takes them back, and whenever it takes back a hook of a namespace it drops what waits in its queues.
        """
        if not find("nft"):
            return "nft is not installed"
        with Scratch() as scratch:
            code, _, err = scratch.attempt("nft", "--file", "-", text=self.script(plan))
        if not code:
            return ""
        if self.judge is queue_statement and not can_queue():
            return "this kernel's nft has no `queue` (CONFIG_NFT_QUEUE)"
        return " ".join(err.split())[:300]

    def apply(self, plan: Plan) -> None:
        """Put the plan into force. Raises HookError, and then nothing has changed."""
        Place().run("nft", "--file", "-", text=self.script(plan))

    def remove(self) -> bool:
        """Take our table away; whether it was there."""
        return delete(Place())

    def is_there(self) -> bool:
        return bool(listing(Place()))

    def differences(self, plan: Plan) -> list[str]:
        """How the kernel's rules differ from the plan, a line each; empty when they do not."""
        now = listing(Place())
        if not now:
            return [f"table {TABLE}: missing"]
        with Scratch() as scratch:
            scratch.run("nft", "--file", "-", text=self.script(plan))
            return compare(f"table {TABLE}", listing(scratch), now)

    def passed(self) -> dict[str, int]:
        """Packets that went to the queue, by chain, both families together."""
        return counted(Place(), HOOK_NAMES[INPUT], HOOK_NAMES[FORWARD], HOOK_NAMES[OUTPUT])

    def _queue_chain(self, plan: Plan, chain: int) -> list[str]:
        name = HOOK_NAMES[chain]
        rules = exempt(plan, chain)
        if plan.reject_bit and chain == OUTPUT:
            rules += reject.is_answer("return")
        if plan.offload_bit and chain == FORWARD:
            rules += _offloaded(plan.offload_bit)
        if plan.own:
            rules.append(f"meta mark & {plan.own:#x} != 0 meta mark set {clear(plan.own)}")
        return [
            f"chain {name} {{",
            f"\ttype filter hook {name} priority {PRIORITY}; policy accept;",
            *(f"\t{rule}" for rule in rules),
            f"\tcounter {self.judge(plan)}",
            "}",
        ]


def can_queue() -> bool:
    """Whether nft's `queue` works here; found by having it checked, which changes nothing: there is no base chain."""
    probe = "table inet ctfw-probe {\n\tchain probe {\n\t\tqueue to 0\n\t}\n}\n"
    return bool(find("nft")) and Place().attempt("nft", "--check", "--file", "-", text=probe)[0] == 0


def queue_statement(plan: Plan) -> str:
    """The statement that hands a packet to ctfw."""
    queues = f"{plan.queue}-{plan.queue + plan.workers - 1}" if plan.workers > 1 else str(plan.queue)
    return f"queue flags bypass to {queues}" if plan.bypass else f"queue to {queues}"


def table_text(body: list[str], table: str = TABLE) -> str:
    """The text that makes a table of ours of this, in whatever state it is."""
    lines = "".join(f"\t{line}\n" for line in body)
    return f"table {table}\ndelete table {table}\ntable {table} {{\n{lines}}}\n"


def clear(bits: int) -> str:
    """The mark without these bits."""
    return f"meta mark & {~bits & 0xFFFFFFFF:#x}"


def exempt(plan: Plan, chain: int) -> list[str]:
    """The rules for what is never queued: loopback, interfaces to leave alone, SSH that is kept."""
    ways = {INPUT: ["iifname"], OUTPUT: ["oifname"], FORWARD: ["iifname", "oifname"]}[chain]
    rules = [] if chain == FORWARD else [f'{ways[0]} "{LOOPBACK}" return']
    for name in plan.leave_alone:
        pattern = name[:-1] + "*" if name.endswith("+") else name
        rules += [f'{way} "{pattern}" return' for way in ways]
    if chain != FORWARD:
        port, address = ("dport", "saddr") if chain == INPUT else ("sport", "daddr")
        ports = ", ".join(map(str, plan.ssh_ports))
        for family, ip in ((4, "ip"), (6, "ip6")):
            networks = plan.ssh(family)
            if networks:
                rules.append(f"{ip} {address} {{ {', '.join(networks)} }} tcp {port} {{ {ports} }} return")
        if plan.ssh(6):  # without its neighbours' addresses IPv6 finds no way, kept or not
            rules.append("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } return")
    return rules


def listing(place: Place, table: str = TABLE) -> str:
    """A table of ours as the kernel has it, without counters; "" when there is none. Raises HookError."""
    if not find("nft"):
        return ""
    code, out, err = place.attempt("nft", "--stateless", "list", "table", *table.split())
    if not code:
        return _without_elements(out)
    if "No such file" in err:
        return ""
    raise HookError(f"nft: {' '.join(err.split())}", denied="not permitted" in err)


def delete(place: Place, table: str = TABLE) -> bool:
    """Delete a table of ours; whether it was there."""
    if not listing(place, table):
        return False
    place.run("nft", "--file", "-", text=f"table {table}\ndelete table {table}\n")
    return True


def counted(place: Place, *chains: str) -> dict[str, int]:
    """The packets of the last rule with a counter, of each of these chains of our table."""
    answer = json.loads(place.run("nft", "--json", "list", "table", *TABLE.split()))
    counts = {}
    for entry in answer["nftables"]:
        rule = entry.get("rule", {})
        for statement in rule.get("expr", []):
            if rule["chain"] in chains and statement.get("counter"):
                counts[rule["chain"]] = int(statement["counter"]["packets"])
    return counts


def compare(what: str, wanted: str, found: str) -> list[str]:
    """The lines that one has and the other has not; when it is the order alone, that."""
    expected = [line.strip() for line in wanted.splitlines() if line.strip(" \t}")]
    actual = [line.strip() for line in found.splitlines() if line.strip(" \t}")]
    lines = [f"{what}: missing: {line}" for line in (Counter(expected) - Counter(actual)).elements()]
    lines += [f"{what}: not ours: {line}" for line in (Counter(actual) - Counter(expected)).elements()]
    if not lines and expected != actual:
        lines.append(f"{what}: the same rules in another order")
    return lines


def _offloaded(bit: int) -> list[str]:
    """What passes the queue by: packets of connections whose mark has the bit; what may end one takes it away."""
    ours = f"ct mark & {bit:#x} != 0"
    return [
        f"{ours} ct state established tcp flags & (fin | syn | rst) == 0x0 return",
        f"{ours} ct state established meta l4proto != tcp return",
        f"{ours} tcp flags & (fin | syn | rst) != 0x0 ct mark set ct mark & {~bit & 0xFFFFFFFF:#x}",
    ]


def _saving(bit: int) -> list[str]:
    """Saves the bit of a packet that ctfw accepted to its connection, unless the kernel translates both its ends."""
    save = f"ct mark set ct mark | {bit:#x}"
    return [
        "chain offload {",
        f"\ttype filter hook forward priority {PRIORITY + 2}; policy accept;",
        f"\tmeta mark & {bit:#x} != 0 ct status & snat == 0x0 {save}",
        f"\tmeta mark & {bit:#x} != 0 ct status & dnat == 0x0 {save}",
        f"\tmeta mark & {bit:#x} != 0 meta mark set {clear(bit)}",
        "}",
    ]


def _defrag() -> list[str]:
    # No source is both. tproxy, which needs whole packets, makes the kernel join fragments as soon as it stands there;
    # unlike `ct` it does so without turning on connection tracking.
    return [
        "chain defrag {",
        "\ttype filter hook prerouting priority raw; policy accept;",
        "\tip saddr 0.0.0.0 ip saddr 255.255.255.255 meta l4proto tcp tproxy ip to :1",
        "\tip6 saddr :: ip6 saddr ::1 meta l4proto tcp tproxy ip6 to :1",
        "}",
    ]


def _without_elements(text: str) -> str:
    """A listing without what the sets hold at the moment."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        inside = inside or line.strip().startswith("elements =")
        if not inside:
            lines.append(line)
        inside = inside and not line.rstrip().endswith("}")
    return "\n".join(lines)
