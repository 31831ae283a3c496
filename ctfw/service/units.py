"""What systemd does for ctfw and what it leaves undone: a part of `ctfw doctor`.

Four units belong together (packaging/systemd): the firewall itself; the early one that has the hook stand before the
network; the timer that looks after the hook, and what it starts. The firewall is the one that people name, and the
others are easily missing: disabled with it and not enabled again, stopped, masked, never installed. Asks systemctl once
and changes nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from typing import Final

from ctfw.service.finding import FAIL, OK, WARN, Finding
from ctfw.service.hook.programs import find

FIREWALL: Final = "ctfw.service"
EARLY: Final = "ctfw-early.service"
TIMER: Final = "ctfw-hook.timer"
HEALER: Final = "ctfw-hook.service"
UNITS: Final = (FIREWALL, EARLY, TIMER, HEALER)

NOT_FOUND: Final = "not-found"
_PROPERTIES: Final = "Id,LoadState,ActiveState,UnitFileState"
_PATIENCE: Final = 10.0


def examine(is_hooked: bool) -> Iterator[Finding]:
    """Every finding; none where systemd does not run. ``is_hooked``: the hook's rules stand, if only some of them."""
    if not os.path.isdir("/run/systemd/system") or not find("systemctl"):
        return
    command = ["systemctl", "show", f"--property={_PROPERTIES}", *UNITS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding(WARN, "systemd", f"cannot be asked: {error}")
        return
    if done.returncode:
        yield Finding(WARN, "systemd", f"cannot be asked: {' '.join(done.stderr.split())}")
        return
    yield from judge(states(done.stdout), is_hooked)


def states(shown: str) -> dict[str, tuple[str, str]]:
    """What `systemctl show` printed of UNITS: of each, whether it is active, and enabled."""
    found = {}
    for block in shown.split("\n\n"):
        words = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        load = words.get("LoadState", "")
        found[words.get("Id", "")] = (
            words.get("ActiveState", "?"),
            words.get("UnitFileState", "") if load == "loaded" else load or "?",
        )
    return {unit: found.get(unit, ("?", "?")) for unit in UNITS}


def judge(units: Mapping[str, tuple[str, str]], is_hooked: bool) -> Iterator[Finding]:
    """The findings of ``states``."""
    active, enabled = units[FIREWALL]
    text = f"{FIREWALL}: {active}, {enabled}"
    if active == "active" and enabled == "enabled":
        yield Finding(OK, "systemd", text)
    elif active == "failed":
        yield Finding(FAIL, "systemd", text, f"systemctl status {FIREWALL}; journalctl -u {FIREWALL}")
    else:
        yield Finding(WARN, "systemd", text, f"systemctl enable --now {FIREWALL}")
    if units[EARLY][1] != "enabled" and enabled == "enabled":
        text = f"{EARLY}: {units[EARLY][1]}: at boot nothing sends packets to ctfw before it runs"
        yield Finding(WARN, "systemd", text, _remedy(EARLY, units[EARLY][1], "enable"))
    if units[TIMER][0] != "active" and is_hooked and enabled != NOT_FOUND:
        text = f"{TIMER}: {units[TIMER][0]}, {units[TIMER][1]}: nobody puts the hook back where something removes it"
        yield Finding(WARN, "systemd", text, _remedy(TIMER, units[TIMER][1], "start"))
    for unit, said in ((EARLY, "the hook was not made at boot"), (HEALER, "the hook could not be looked after")):
        if units[unit][0] == "failed":
            yield Finding(WARN, "systemd", f"{unit}: failed: {said}", f"journalctl -u {unit}; ctfw hook apply")


def _remedy(unit: str, enabled: str, verb: str) -> str:
    if enabled == NOT_FOUND:
        return "it belongs to ctfw: install that again"
    return f"systemctl unmask {unit}; systemctl {verb} {unit}" if "masked" in enabled else f"systemctl {verb} {unit}"
