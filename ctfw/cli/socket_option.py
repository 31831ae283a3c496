"""The option by which a command says which daemon it means."""

from __future__ import annotations

import argparse


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Adds --socket."""
    parser.add_argument("--socket", metavar="PATH", help="the control socket (default: CTFW_SOCKET or the usual one)")
