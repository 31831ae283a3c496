"""`ctfw import`: rules of other firewalls -> a rule file.

The file goes to standard output and stands for itself: what could not be carried over is in it, as comments. Standard
error has a line for each of those that may let packets pass, and a summary. 0 as long as a file came out; with
`--strict` 1 when there was a warning.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ctfw import config
from ctfw.cli.problems import print_problems
from ctfw.config.problems import clean
from ctfw.tools.iptables import document
from ctfw.tools.iptables.convert import Imported, convert


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "import",
        help="make a rule file from another firewall's rules",
        description="Makes a rule file from the rules of another firewall.",
    )
    commands = parser.add_subparsers(metavar="WHAT", required=True)
    iptables = commands.add_parser(
        "iptables-save",
        help="what iptables-save and ip6tables-save print",
        description="Makes a rule file that means the same as the filter table of FILE, and prints it. What rules "
        "cannot say stands in it as a comment, with the reason; when packets may pass for want of it, it is a warning "
        "on standard error as well. FILE may hold the output of iptables-save, of ip6tables-save, or of both.",
    )
    iptables.add_argument("file", metavar="FILE", help="output of iptables-save; - is standard input")
    iptables.add_argument("--ipv6", metavar="FILE6", help="output of ip6tables-save")
    iptables.add_argument("--strict", action="store_true", help="exit 1 when packets may pass that did not")
    iptables.set_defaults(handler=iptables_save)


def iptables_save(arguments: argparse.Namespace) -> int:
    """`ctfw import iptables-save`; returns the exit code."""
    texts: list[tuple[str, str, int]] = []
    for path, family in ((arguments.file, 4), (arguments.ipv6, 6)):
        if path is None:
            continue
        try:
            data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        except OSError as error:
            print(f"ctfw: import: {clean(path)}: {error.strerror}", file=sys.stderr)
            return 1
        texts.append((path if path != "-" else "standard input", data.decode("utf-8", "replace"), family))
    imported = convert(texts)
    if not imported.families:
        print("ctfw: import: no filter table there: is this what iptables-save prints?", file=sys.stderr)
        return 1
    try:
        config.load("imported rules", imported.text)
    except config.ConfigError as wrong:
        print("ctfw: import: the file that came out is not one that ctfw reads:", file=sys.stderr)
        print_problems(wrong.problems[:20])
        return 1
    sys.stdout.write(imported.text)
    _report(imported)
    return int(arguments.strict and bool(imported.warnings))


def _report(imported: Imported) -> None:
    for finding in imported.warnings:
        line = finding.line
        print(f"{clean(line.file)}:{line.number}: warning: {document.visible(line.text)}", file=sys.stderr)
        print(f"    {document.visible(finding.why)}", file=sys.stderr)
    left = [finding for finding in (*imported.warnings, *imported.notes) if finding.left_out]
    lines = len({(finding.line.file, finding.line.number) for finding in left})
    said = f"ctfw: import: {imported.rules} rules; {lines} lines not carried over, comments in the file say why"
    if imported.warnings:
        said += f"; {len(imported.warnings)} warnings: more may pass than before"
    print(said, file=sys.stderr)
    if len(imported.families) == 1:
        other = 10 - next(iter(imported.families))
        print(
            f"ctfw: import: no rules for IPv{other} were given: the file drops it until you say more", file=sys.stderr
        )
