"""The option by which a command says which daemon it means."""

from __future__ import annotations

import argparse

from ctfw.service.control import DEFAULT_PATH


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Adds --socket."""
    words = f"the control socket (default: CTFW_SOCKET, else {DEFAULT_PATH})"
    parser.add_argument("--socket", metavar="PATH", help=words)
