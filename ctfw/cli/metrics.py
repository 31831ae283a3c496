"""`ctfw metrics`: the daemon's figures as Prometheus reads them; docs/metrics.md explains each."""

from __future__ import annotations

import argparse
import sys

from ctfw.cli.socket_option import add_socket
from ctfw.service.client import Client, socket_path


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "metrics",
        help="print the figures for Prometheus",
        description="Prints what the daemon counts in Prometheus' text format. The key `metrics` of the rule file has "
        "the daemon write the same to a file for node_exporter.",
    )
    add_socket(parser)
    parser.set_defaults(handler=metrics)


def metrics(arguments: argparse.Namespace) -> int:
    """`ctfw metrics`; returns the exit code."""
    with Client(socket_path(arguments.socket)) as client:
        for line in client.pages("metrics"):
            sys.stdout.write(line)
    return 0
