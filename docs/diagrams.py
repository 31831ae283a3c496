"""Draws the tables of the code into docs/state-machine.md: diagrams, transitions, time-outs, helpers, reasons.

    python docs/diagrams.py            writes every block anew
    python docs/diagrams.py --check    writes nothing; exits 1 and shows what is stale

The ctfw that Python imports is the one that is drawn. A block stands between ``<!-- generated: NAME -->`` and
``<!-- end -->``, and BLOCKS says what belongs there. All functions but ``main`` take data and return text, and know no
file. What the code has no words for, the meaning of a knob for instance, stands in WORDS below: a knob or helper that
has none there is an error, so that nothing can be added to the code and stay out of the documentation.

Diagrams leave out what would make them unreadable: steps that change nothing, and the cells IV and IG. The tables have
every cell.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from ctfw import reason
from ctfw.config.schema import CONNTRACK, Kind
from ctfw.conntrack import sctp, settings, tcp
from ctfw.conntrack.expect import Policy
from ctfw.packet import ORIGINAL, REPLY

PAGE: Final = Path(__file__).parent / "state-machine.md"
COMMAND: Final = "python docs/diagrams.py"

Rows = tuple[tuple[tuple[str, str], ...], ...]


class Machine(NamedTuple):
    """A protocol's table as the code has it. ``abbreviations`` are those of its cells, the states first."""

    transitions: Rows
    states: tuple[str, ...]
    abbreviations: tuple[str, ...]


class Step(NamedTuple):
    direction: int
    event: str
    before: str
    after: str  # a state, INVALID or IGNORED


INVALID: Final = "IV"
IGNORED: Final = "IG"
NONE: Final = "NONE"

TCP: Final = Machine(tcp.TRANSITIONS, tcp.STATE_NAMES, tcp._ABBREVIATIONS)
SCTP: Final = Machine(sctp.TRANSITIONS, sctp.STATE_NAMES, sctp._ABBREVIATIONS)

# Lives without surprises, from the first packet on: > is the opener's direction, < that of the answers.
TCP_LIVES: Final = (
    "> syn, < synack, > ack, > fin, < ack, < fin, > ack",
    "> syn, < synack, > ack, < fin, > ack, > fin, < ack",
    "> syn, < synack, > ack, > fin, < fin, > ack",
    "> syn, < synack, > ack, < fin, > fin, < ack",
    "> syn, < synack, > ack, > rst",
    "> syn, < synack, > ack, < rst",
)
SCTP_LIVES: Final = (
    "> init, < init_ack, > cookie_echo, < cookie_ack, > shutdown, < shutdown_ack, > shutdown_complete",
    "> init, < init_ack, > cookie_echo, < cookie_ack, < shutdown, > shutdown_ack, < shutdown_complete",
    "> init, < init_ack, > cookie_echo, < cookie_ack, > abort",
    "> init, < init_ack, > cookie_echo, < cookie_ack, < abort",
    "> init, < init_ack, > cookie_echo, < error",
    "> heartbeat, < heartbeat_ack",
)

EVENTS: Final = {"synack": "SYN+ACK", "none": "none of these"}  # others: in capitals, with blanks

# What the sentences of the tables say; the code's tables have the names and numbers.
WORDS: Final[Mapping[str, str]] = {
    "max": "connections in the table; see [When the table is full](#when-the-table-is-full)",
    "expect_max": "expectations of all helpers together",
    "per_source": "connections that one source may have; 0: no limit. See [One source](#one-source)",
    "checksum": "verify transport checksums; a wrong one makes the packet INVALID",
    "acct": "show the packets and bytes of each connection",
    "tcp_loose": "take up connections in the middle, from a segment with ACK",
    "tcp_be_liberal": "do not judge windows: only what the transition table says is INVALID",
    "tcp_max_retrans": "so many identical ACK segments shorten the life to `tcp_timeout_max_retrans`",
    "tcp_ignore_invalid_rst": "do not call a reset INVALID because its sequence number is too low",
    "tcp_timeout_syn_sent": "a SYN has been seen (state SYN_SENT), or one from each side (SYN_SENT2)",
    "tcp_timeout_syn_recv": "the SYN was answered with SYN+ACK",
    "tcp_timeout_established": "open, and all data acknowledged",
    "tcp_timeout_fin_wait": "one side has sent FIN",
    "tcp_timeout_close_wait": "that FIN was acknowledged",
    "tcp_timeout_last_ack": "both sides have sent FIN",
    "tcp_timeout_time_wait": "both FINs were acknowledged",
    "tcp_timeout_close": "a reset has been seen",
    "tcp_timeout_max_retrans": "instead of a longer time, while a side repeats itself or announces a window of zero",
    "tcp_timeout_unacknowledged": "instead of a longer time, while data is not acknowledged",
    "udp_timeout": "no answer yet, or younger than two seconds",
    "udp_timeout_stream": "answered, and older than two seconds",
    "icmp_timeout": "after each query or answer",
    "icmpv6_timeout": "after each query or answer",
    "gre_timeout": "no answer yet",
    "gre_timeout_stream": "answered",
    "generic_timeout": "after each packet of a protocol that has no tracker of its own",
    "sctp_timeout_closed": "INIT seen, or ended by ABORT or SHUTDOWN COMPLETE",
    "sctp_timeout_cookie_wait": "INIT ACK seen",
    "sctp_timeout_cookie_echoed": "COOKIE ECHO seen",
    "sctp_timeout_established": "open",
    "sctp_timeout_shutdown_sent": "the opener has sent SHUTDOWN",
    "sctp_timeout_shutdown_recd": "the other side has sent SHUTDOWN",
    "sctp_timeout_shutdown_ack_sent": "the SHUTDOWN was acknowledged",
    "sctp_timeout_heartbeat_sent": "only a HEARTBEAT seen: perhaps another path of an association",
    "helper ftp": "TCP to the port that PORT, EPRT or the answer to PASV or EPSV names",
    "helper irc": "TCP from anywhere to the port that a client offers by DCC; IPv4",
    "helper tftp": "UDP from any port of the server to the port that asked",
    "helper sip": "UDP to the media ports (RTP, RTCP) that a session description names; calls to a registered phone",
    "helper amanda": "TCP from the backup server to the ports that the client names in its answer",
    "helper sane": "TCP to the port of the image data that the scanner's host names",
    "helper netbios-ns": "UDP answers of a whole network to a broadcast of the gateway itself; IPv4",
    "helper snmp": "UDP answers of a whole network to a broadcast of the gateway itself; IPv4",
    "helper pptp": "the GRE tunnel of a call, by the two call numbers; IPv4",
}

# Which table of time-outs a knob belongs to; the first prefix that fits.
GROUPS: Final = {
    "tcp-timeouts": ("tcp_timeout_",),
    "tcp-knobs": ("tcp_",),
    "udp-timeouts": ("udp_",),
    "icmp-timeouts": ("icmp_", "icmpv6_"),
    "gre-timeouts": ("gre_",),
    "sctp-timeouts": ("sctp_",),
    "generic-timeouts": ("generic_",),
    "knobs": ("",),
}

# Reasons for which connection tracking drops a packet; all others only make it INVALID.
BEFORE_RULES: Final = ("table-full", "source-full", "tcp-reopen", "killed")
AFTER_RULES: Final = ("helper-partial", "expect-full", "clash")

BLOCKS: Final[Mapping[str, Callable[[], str]]] = {
    "tcp-life": lambda: diagram(walk(TCP, TCP_LIVES), "LR"),
    "tcp": lambda: diagram(steps(TCP), "TB"),
    "tcp-table": lambda: transition_table(TCP),
    "sctp-life": lambda: diagram(walk(SCTP, SCTP_LIVES), "LR"),
    "sctp-table": lambda: transition_table(SCTP),
    "helpers": lambda: helper_table(settings.HELPERS, settings.UNSUPPORTED),
    "reasons": lambda: reason_table(reason.NAMES, reason.TEXTS),
    **{group: lambda group=group: knob_table(group, settings.DEFAULTS) for group in GROUPS},  # type: ignore[misc]  # a lambda's default has no type
}


def steps(machine: Machine) -> Iterator[Step]:
    """Every cell of the table."""
    for direction, rows in enumerate(machine.transitions):
        for event, row in rows:
            for before, cell in zip(machine.states, row.split(), strict=True):
                yield Step(direction, event, before, _state(machine, cell))


def walk(machine: Machine, lives: Iterable[str]) -> Iterator[Step]:
    """The steps of some lives, each of which must lead from state to state."""
    table = {(step.direction, step.event, step.before): step for step in steps(machine)}
    for life in lives:
        state = NONE
        for word in life.split(", "):
            arrow, event = word.split()
            step = table[ORIGINAL if arrow == ">" else REPLY, event, state]
            if step.after in (INVALID, IGNORED):
                raise ValueError(f"{life}: {event} in {state} is {step.after}")
            yield step
            state = step.after


def diagram(which: Iterable[Step], direction: str) -> str:
    """A Mermaid diagram of the steps that lead somewhere else; an arrow of it may stand for several events."""
    edges: dict[tuple[str, str], list[Step]] = {}
    for step in which:
        if step.after not in (step.before, INVALID, IGNORED):
            edges.setdefault((step.before, step.after), []).append(step)
    lines = ["```mermaid", "stateDiagram-v2", f"    direction {direction}"]
    for (before, after), several in edges.items():
        lines.append(f"    {_node(before)} --> {_node(after)} : {_label(several)}")
    return "\n".join([*lines, "```"])


def _node(state: str) -> str:
    return "[*]" if state == NONE else state


def _label(several: Sequence[Step]) -> str:
    """``→`` the opener sends it, ``←`` the other side does, no arrow: either."""
    by_event: dict[str, set[int]] = {}
    for step in several:
        by_event.setdefault(step.event, set()).add(step.direction)
    by_arrow: dict[str, list[str]] = {}
    for event, directions in by_event.items():
        arrow = "" if len(directions) == 2 else "→ " if ORIGINAL in directions else "← "
        by_arrow.setdefault(arrow, []).append(event_name(event))
    return ", ".join(arrow + ", ".join(events) for arrow, events in by_arrow.items())


def event_name(event: str) -> str:
    """How people write it."""
    return EVENTS.get(event, event.upper().replace("_", " "))


def transition_table(machine: Machine) -> str:
    """The whole table, a part for each direction; bold where the state changes."""
    names = machine.abbreviations[: len(machine.states)]
    lines = []
    for title, rows in zip(("original →", "reply ←"), machine.transitions, strict=True):
        table = [[event_name(event), *map(_cell, names, row.split())] for event, row in rows]
        lines += [markdown([title, *names], table), ""]
    key = ", ".join(f"{short} {name}" for short, name in zip(names, machine.states, strict=True))
    last = [key + ".", f"Bold: the state changes. {INVALID}: the packet is INVALID and the connection stays as it was."]
    if IGNORED in machine.abbreviations:
        last.append(f"{IGNORED}: the segment passes and changes nothing.")
    return "\n".join([*lines, " ".join(last)])


def _cell(before: str, after: str) -> str:
    return after if after in (before, INVALID, IGNORED) else f"**{after}**"


def _state(machine: Machine, cell: str) -> str:
    return cell if cell in (INVALID, IGNORED) else machine.states[machine.abbreviations.index(cell)]


def knob_table(group: str, defaults: Mapping[str, int]) -> str:
    """The knobs of a group, each with its default and its meaning."""
    chosen = [name for name in defaults if group_of(name) == group]
    table = [[f"`{name}`", _value(name, defaults[name]), words(name)] for name in chosen]
    return markdown(["knob", "default", "in force" if "timeouts" in group else "meaning"], table)


def group_of(knob: str) -> str:
    """The table that a knob stands in."""
    return next(group for group, prefixes in GROUPS.items() if knob.startswith(prefixes))


def _value(knob: str, value: int) -> str:
    kind = CONNTRACK.keys[knob].kind
    if kind is Kind.SWITCH:
        return "on" if value else "off"
    return duration(value) if kind is Kind.DURATION else str(value)


def duration(seconds: int) -> str:
    """Seconds, and beyond five minutes in words, too."""
    for size, word in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds > 300 and seconds % size == 0:
            return f"{seconds} s ({seconds // size} {word})"
    return f"{seconds} s"


def helper_table(helpers: Mapping[str, tuple[str, int]], unsupported: Mapping[str, str]) -> str:
    """The helpers with their usual ports, and what and how much a connection of each may announce."""
    table = [
        [f"`{name}`", f"{proto} {port}", words(f"helper {name}"), *_limits(policies(name))]
        for name, (proto, port) in helpers.items()
    ]
    table += [[f"`{name}`", "", f"not supported: {why}", "", ""] for name, why in unsupported.items()]
    return markdown(["helper", "usual port", "what it announces", "at once", "for"], table)


def policies(helper: str) -> list[Policy]:
    """The classes of expectations that a helper's module defines."""
    module = import_module("ctfw.conntrack.helpers." + helper.replace("-", "_"))
    found = [value for value in vars(module).values() if isinstance(value, Policy)]
    return [policy for policy in found if settings.HELPER_NAMES[policy.helper] == helper]


def _limits(several: Sequence[Policy]) -> tuple[str, str]:
    """How many expectations a connection may have at once, by class, and how long they wait."""
    most = ", ".join(f"{policy.most} {policy.name}".strip() for policy in several)
    lifetimes = sorted({policy.lifetime // settings.SECOND for policy in several})
    return most, ", ".join(duration(seconds) for seconds in lifetimes)


def reason_table(names: Sequence[str], texts: Sequence[str]) -> str:
    """Every reason with its sentence, and what becomes of the packet."""
    table = [[f"`{name}`", text, _fate(name)] for name, text in zip(names, texts, strict=True) if name]
    return markdown(["reason", "what is wrong", "the packet is"], table)


def _fate(name: str) -> str:
    if name in BEFORE_RULES:
        return "dropped, no rule is asked"
    return "dropped, although a rule accepted it" if name in AFTER_RULES else "INVALID"


def words(name: str) -> str:
    """The sentence about a knob or helper. Raises LookupError when nobody has written one."""
    if name not in WORDS:
        raise LookupError(f"docs/diagrams.py: nothing is written about {name}: add it to WORDS")
    return WORDS[name]


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


BLOCK: Final = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def rewrite(page: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """The page with every block as the code has it now. Raises LookupError when a block is unknown or missing."""
    there = [name for _, name, _, _ in BLOCK.findall(page)]
    if sorted(there) != sorted(blocks):
        odd = sorted(set(there) ^ set(blocks)) or [name for name in there if there.count(name) > 1]
        raise LookupError(f"{PAGE.name}: each block stands there once; look for: {', '.join(odd)}")
    return BLOCK.sub(lambda found: f"{found[1]}\n{blocks[found[2]]()}\n\n{found[4]}", page)


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print(f"usage: {COMMAND} [--check]", file=sys.stderr)
        return 2
    old = PAGE.read_text(encoding="utf-8")
    try:
        new = rewrite(old, BLOCKS)
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    if not arguments:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        changes = difflib.unified_diff(old.splitlines(), new.splitlines(), "written", "in the code", lineterm="", n=0)
        print(*changes, f"docs/{PAGE.name} is stale. Bring it up to date: {COMMAND}", sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
