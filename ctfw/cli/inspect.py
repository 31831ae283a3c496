"""`ctfw list`, `ctfw stats`: what the running daemon knows, printed.

`list` prints what people and programs know from the kernel: the lines of /proc/net/nf_conntrack, or those of
`conntrack -L`, whose filters it takes; with --compare-kernel it holds them against the kernel's own.
`stats` begins with the line of `conntrack -S`. Everything is also there as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ctfw import __version__
from ctfw.cli.selecting import FILTERS, add_filters, selected
from ctfw.cli.socket_option import add_socket
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import as_dict, conntrack_line, proc_line
from ctfw.service.client import Client, ClientError, socket_path
from ctfw.service.packed import unpacked
from ctfw.tools.compare import Comparison, KernelTableError, compare, kernel_lines

# The columns of `conntrack -S`, in its order.
_CONNTRACK: Final = (
    "found", "invalid", "insert", "insert_failed", "drop", "early_drop", "error", "search_restart",
)  # fmt: skip

_FORMS: Final[dict[str, Callable[[Conn, int, bool], Any]]] = {
    "proc": proc_line, "conntrack": conntrack_line, "json": as_dict, "jsonl": as_dict,
}  # fmt: skip


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to the parser."""
    parser = subparsers.add_parser(
        "list",
        help="list the connections",
        description="Lists the connections that the daemon tracks, as /proc/net/nf_conntrack does.",
    )
    parser.add_argument(
        "-o", "--output", choices=("proc", "conntrack", "json", "jsonl"), default="proc", help="form of the output"
    )
    parser.add_argument("--expect", action="store_true", help="the connections that helpers expect, instead")
    add_filters(parser)
    parser.add_argument(
        "--compare-kernel",
        action="store_true",
        help="what differs from the kernel's own table, where the kernel tracks the same traffic; exit 1 if anything",
    )
    parser.add_argument(
        "--tolerance", type=int, default=2, metavar="SECONDS", help="of --compare-kernel, for time-outs (default: 2)"
    )
    add_socket(parser)
    parser.set_defaults(handler=list_connections)

    parser = subparsers.add_parser(
        "stats",
        help="print the counters",
        description="Prints the counters: connection tracking, packets by chain and verdict, states, reasons for "
        "INVALID and drop, the queue with everything lost, and the rules.",
    )
    _add_output(parser)
    add_socket(parser)
    parser.set_defaults(handler=stats)


def list_connections(arguments: argparse.Namespace) -> int:
    """`ctfw list`; returns the exit code."""
    only = selected(arguments)
    with Client(socket_path(arguments.socket)) as client:
        if arguments.compare_kernel:
            return _compare_kernel(client, only, arguments.tolerance)
        if arguments.expect:
            entries: Iterable[Any] = client.pages("expect")
        else:
            form = _FORMS[arguments.output]
            pages = client.pages("list", form="packed", only=only)
            entries = (form(conn, 0, acct) for one in pages for conn, acct in unpacked(one))
        if arguments.output == "json":
            json.dump(list(entries), sys.stdout, indent=2)
            print()
            return 0
        shown = 0
        for entry in entries:
            print(entry if arguments.output in ("proc", "conntrack") else json.dumps(entry))
            shown += 1
    if arguments.output == "conntrack":
        what = "expectations" if arguments.expect else "flow entries"
        print(f"ctfw {__version__}: {shown} {what} have been shown.", file=sys.stderr)
    return 0


def _compare_kernel(client: Client, only: dict[str, str], tolerance: int) -> int:
    """Both tables, side by side; 1 when anything differs. The filters mean the same on both sides."""
    options = {name: several[0] for several, name, _, _ in FILTERS}
    try:
        kernel = kernel_lines([word for name, value in only.items() for word in (options[name], value)])
    except KernelTableError as error:
        raise ClientError(str(error)) from error
    found = compare(kernel, client.pages("list", form="proc", only=only), tolerance)
    _print_comparison(found)
    return 0 if found.is_equal() else 1


def _print_comparison(found: Comparison) -> None:
    for record in found.only_kernel:
        print(f"only in the kernel: {record.line}")
    for record in found.only_ours:
        print(f"only in ctfw:       {record.line}")
    for theirs, mine, differences in found.differing:
        print(f"differs, kernel / ctfw: {', '.join(differences)}\n  {theirs.line}\n  {mine.line}")
    print(
        f"same={found.same} differing={len(found.differing)} only_kernel={len(found.only_kernel)}"
        f" only_ctfw={len(found.only_ours)}"
    )


def stats(arguments: argparse.Namespace) -> int:
    """`ctfw stats`; returns the exit code."""
    with Client(socket_path(arguments.socket)) as client:
        answer = client.call("stats")
        answer["rules"] = list(client.pages("rules"))
    if arguments.output == "json":
        json.dump(answer, sys.stdout, indent=2)
        print()
        return 0
    conntrack = answer["conntrack"]
    print("cpu=0 " + " ".join(f"{name}={conntrack[name]}" for name in _CONNTRACK))
    print(f"entries={conntrack['entries']} max={conntrack['max']} expectations={conntrack['expectations']}")
    packets = [(chain, count["accept"], count["drop"]) for chain, count in answer["packets"].items()]
    _table(("CHAIN", "ACCEPT", "DROP"), [row for row in packets if row[1] or row[2]])
    _table(("STATE", "PACKETS"), list(answer["states"].items()))
    _table(("REASON", "PACKETS"), sorted(answer["reasons"].items(), key=lambda row: -row[1]))
    _table(("QUEUE", "PACKETS"), _queue_rows(answer["queue"]))
    rules = [(rule["packets"], rule["bytes"], rule["verdict"], rule["name"]) for rule in answer["rules"]]
    _table(("PACKETS", "BYTES", "VERDICT", "RULE"), rules)
    return 0


def _queue_rows(queue: dict[str, Any]) -> list[tuple[str, Any]]:
    rows = [(name, value) for name, value in queue.items() if name != "kernel"]
    kernel = queue["kernel"] or dict.fromkeys(("waiting", "queue_dropped", "socket_dropped", "numbered"), "unavailable")
    return rows + [(f"kernel {name}", value) for name, value in kernel.items()]


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns, numbers to the right, the last one as long as it is; nothing at all without rows."""
    if not rows:
        return
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    right = [isinstance(cell, int) for cell in rows[0]]
    print()
    for row in cells:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the output")
