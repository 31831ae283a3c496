"""`ctfw rules`: the rules in force with what they counted, how hot they are, and when they last decided.

Heat is the share of all packets judged that a rule has had in the last ten seconds and in the last minute; a rule that
only counts, or jumps, has its share beside that of the one that decides. With --reset the counters are read and set to
zero in one go, rule by rule, so that no packet is lost between the two.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ctfw.cli.socket_option import add_socket
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service.client import Client, ClientError, socket_path

BAR: Final = 10  # columns
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_HOOKS: Final = [HOOK_NAMES[hook] for hook in (INPUT, FORWARD, OUTPUT)]
_HEADS: Final = ("PACKETS", "BYTES", "10S", "60S", "LAST", "GEN", "CHAIN", "VERDICT", "RULE", "ORIGIN")
_RIGHT: Final = {"PACKETS", "BYTES", "10S", "60S", "GEN"}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "rules",
        help="print the rules with their counters",
        description="Prints the rules in force in their order, then those of the chains, then the policies: packets "
        "and bytes, their share of all packets in the last 10 and 60 seconds, the last one, and since which generation "
        "of the rules there is one of this name. Counters live through a reload by the rule's name.",
    )
    parser.add_argument("--chain", metavar="NAME", help="only those of input, forward, output, or of a chain of yours")
    parser.add_argument("--reset", action="store_true", help="set all counters to zero; prints what they were")
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "jsonl"), default="table", help="form of the output"
    )
    add_socket(parser)
    parser.set_defaults(handler=rules)


def rules(arguments: argparse.Namespace) -> int:
    """`ctfw rules`; returns the exit code."""
    if arguments.reset and arguments.chain is not None:
        print("ctfw: rules: --reset is for all rules, not for --chain", file=sys.stderr)
        return 2
    with Client(socket_path(arguments.socket)) as client:
        found = list(client.pages("reset_rules" if arguments.reset else "rules"))
    if arguments.chain is not None:
        found = _of_chain(found, arguments.chain)
    if arguments.output == "json":
        json.dump(found, sys.stdout, indent=2)
        print()
    elif arguments.output == "jsonl":
        for rule in found:
            print(json.dumps(rule))
    else:
        for line in table_lines(found, sys.stdout.isatty()):
            print(line)
    return 0


def table_lines(found: Sequence[dict[str, Any]], with_bars: bool) -> list[str]:
    """The table. `with_bars`: the share in the last minute is also drawn."""
    rows: list[tuple[str, ...]] = [_HEADS, *(_row(rule) for rule in found)]
    bars = ["HEAT", *(bar(_share(rule, "60s") or 0.0) for rule in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = []
    for row, drawn in zip(rows, bars, strict=True):
        cells = [
            cell.rjust(width) if head in _RIGHT else cell.ljust(width)
            for head, cell, width in zip(_HEADS, row, widths, strict=True)
        ]
        if with_bars:
            cells.insert(4, drawn.ljust(BAR))
        lines.append("  ".join(cells).rstrip())
    return lines


def bar(share: float) -> str:
    """A share from 0 to 1 as a bar of at most BAR columns; the smallest one that is not nothing is still seen."""
    eighths = min(round(share * BAR * 8), BAR * 8)
    if share > 0:
        eighths = max(eighths, 1)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _row(rule: dict[str, Any]) -> tuple[str, ...]:
    last = "-"
    if rule["last"] is not None:
        last = datetime.fromtimestamp(rule["last"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    shadow = " (shadow)" if rule["shadow"] else ""
    hooks = "all" if rule["hooks"] == _HOOKS else ",".join(rule["hooks"])
    return (
        str(rule["packets"]),
        str(rule["bytes"]),
        _percent(_share(rule, "10s")),
        _percent(_share(rule, "60s")),
        last,
        str(rule["generation"]),
        rule["chain"] or hooks,
        rule["verdict"] + shadow,
        rule["name"],
        rule["origin"] or "-",
    )


def _share(rule: dict[str, Any], span: str) -> float | None:
    """Of the packets judged; None when nothing is known yet, or there were none."""
    heat = rule["heat"][span]
    return heat["packets"] / heat["of"] if heat is not None and heat["of"] else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _of_chain(found: list[dict[str, Any]], chain: str) -> list[dict[str, Any]]:
    if chain in _HOOKS:
        return [rule for rule in found if rule["chain"] is None and chain in rule["hooks"]]
    those = [rule for rule in found if rule["chain"] == chain]
    if not those:
        raise ClientError(f"rules: no rule stands in a chain {chain!r}")
    return those
