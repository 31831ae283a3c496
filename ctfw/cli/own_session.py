"""The connection that the admin himself sits on: would new rules cut it?

Owns the way from an SSH session (asker.py) to its connection in the daemon's table. When there is none, or ctfw does
not see that connection (`hook.keep_ssh`), there is nothing to warn of.
"""

from __future__ import annotations

import sys

from ctfw import config
from ctfw.cli.asker import Session, ssh_session
from ctfw.ruleset.ruleset import EXISTING_NAMES
from ctfw.service.client import Client, ClientError
from ctfw.tools import rule_tests
from ctfw.tools.forecast import Forecast


def warn_if_cut(path: str, existing: str | None) -> None:
    """Says on standard error when the rules in the daemon's file would end the session that asks."""
    ends = ssh_session()
    if ends is None:
        return
    try:
        text = _refusal(path, ends, existing)
    except (ClientError, config.ConfigError, OSError):  # the reload itself will say what is wrong
        return
    if text:
        print(f"ctfw: reload: warning: this session would be cut: {text}", file=sys.stderr)


def _refusal(path: str, ends: Session, existing: str | None) -> str:
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
