"""The options by which commands say which connections they mean: the filters of `conntrack -L`, for all of them alike.

What they become is the words of a Selection (service/selection.py); what a word means, and which values are none, is
said there.
"""

from __future__ import annotations

import argparse
from typing import Final

# Option, its name in a Selection, its value and what it means.
FILTERS: Final = (
    (("-f", "--family"), "family", "FAMILY", "ipv4 or ipv6"),
    (("-p", "--proto"), "proto", "PROTO", "protocol, by name or number"),
    (("-s", "--src", "--orig-src"), "src", "ADDRESS", "source of the original direction; a network is fine"),
    (("-d", "--dst", "--orig-dst"), "dst", "ADDRESS", "destination of the original direction"),
    (("-r", "--reply-src"), "reply_src", "ADDRESS", "source of the reply direction"),
    (("-q", "--reply-dst"), "reply_dst", "ADDRESS", "destination of the reply direction"),
    (("--sport", "--orig-port-src"), "sport", "PORT", "source port of the original direction"),
    (("--dport", "--orig-port-dst"), "dport", "PORT", "destination port of the original direction"),
    (("--state",), "state", "STATE", "the protocol's own state, such as ESTABLISHED or TIME_WAIT"),
    (("-u", "--status"), "status", "STATUS", "ASSURED, SEEN_REPLY, EXPECTED, OFFLOAD or UNREPLIED"),
    (("-m", "--mark"), "mark", "MARK[/MASK]", "the connection's mark"),
)


def add_filters(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Adds the options to a command; an option in ``without`` means something else there."""
    only = parser.add_argument_group("only those", "as `conntrack -L` has these options; all that are given must agree")
    for options, name, metavar, text in FILTERS:
        kept = [option for option in options if option not in without]
        only.add_argument(*kept, dest=name, metavar=metavar, help=text)


def selected(arguments: argparse.Namespace) -> dict[str, str]:
    """The words of the Selection that the command line asks for."""
    words = {name: getattr(arguments, name) for _, name, _, _ in FILTERS}
    return {name: word for name, word in words.items() if word is not None}
