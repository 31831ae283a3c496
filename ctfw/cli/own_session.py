"""The connection that the admin himself sits on: would new rules cut it?

Owns the way from an SSH session to its connection in the daemon's table. SSH_CONNECTION names both ends; sudo and su
take it out of the environment, so it is looked for in that of the parents too. When there is none, or ctfw does not see
that connection (`hook.keep_ssh`), there is nothing to warn of.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from ctfw import config
from ctfw.ruleset.ruleset import EXISTING_NAMES
from ctfw.service.client import Client, ClientError
from ctfw.tools import rule_tests
from ctfw.tools.forecast import Forecast

_MOST_PARENTS = 32


def warn_if_cut(path: str, existing: str | None) -> None:
    """Says on standard error when the rules in the daemon's file would end the session that asks."""
    ends = ssh_ends(os.environ, os.getpid())
    if ends is None:
        return
    try:
        text = _refusal(path, ends, existing)
    except (ClientError, config.ConfigError, OSError):  # the reload itself will say what is wrong
        return
    if text:
        print(f"ctfw: reload: warning: this session would be cut: {text}", file=sys.stderr)


def ssh_ends(environment: Mapping[str, str], pid: int) -> tuple[str, int, str, int] | None:
    """Address and port of the client, then of the server, of the SSH session that a process runs in."""
    text = environment.get("SSH_CONNECTION", "")
    for _ in range(_MOST_PARENTS):
        if text or pid <= 1:
            break
        text, pid = _of_process(pid)
    words = text.split()
    if len(words) != 4 or not (words[1].isdecimal() and words[3].isdecimal()):
        return None
    return words[0], int(words[1]), words[2], int(words[3])


def _of_process(pid: int) -> tuple[str, int]:
    """What a process's environment says, and its parent."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = [word for word in file.read().split(b"\0") if word.startswith(b"SSH_CONNECTION=")]
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return "", 0
    return (words[0].partition(b"=")[2].decode(errors="replace") if words else ""), parent


def _refusal(path: str, ends: tuple[str, int, str, int], existing: str | None) -> str:
    """Which of the new rules would cut the connection, in words; "" when none does."""
    src, sport, dst, dport = ends
    only = {"proto": "tcp", "src": src, "sport": sport, "dst": dst, "dport": dport}
    with Client(path) as client:
        clock = client.call("clock")
        entries = list(client.pages("live", only=only))
        if not entries:
            return ""
        loaded = rule_tests.load(client.call("status")["rules"]["path"])
        if existing is not None:
            loaded.ruleset.existing = EXISTING_NAMES.index(existing)
        forecast = Forecast(loaded, clock["unix"] - clock["now"], clock["generation"])
        for name, network, length, left in client.pages("members"):
            forecast.add_member(name, bytes.fromhex(network), length, left, clock["now"])
    for entry in entries:
        fate = forecast.fate(entry, clock["now"])
        if fate is not None and fate.is_cut:
            return f"{fate.packet}: {fate.side.verdict} by {fate.side.rule!r}"
    return ""
