"""What `ctfw doctor` says of systemd's units: of a machine's own, and of a gateway that has booted."""

import json

import pytest
from boot.gateway import PACKAGING, booted

from ctfw.service.finding import FAIL, OK, WARN
from ctfw.service.units import EARLY, FIREWALL, HEALER, TIMER, UNITS, judge, states
from lab.net import Network
from lab.systemd import System

WELL = {
    FIREWALL: ("active", "enabled"),
    EARLY: ("active", "enabled"),
    TIMER: ("active", "static"),
    HEALER: ("inactive", "static"),
}


def said(changes: dict[str, tuple[str, str]], is_hooked: bool = True) -> list[tuple[str, str]]:
    """The levels and remedies of what is not well."""
    return [(one.level, one.advice) for one in judge(WELL | changes, is_hooked) if one.level != OK]


def test_all_is_well() -> None:
    assert said({}) == []
    assert [one.text for one in judge(WELL, True)] == ["ctfw.service: active, enabled"]


@pytest.mark.parametrize(
    ("unit", "state", "level", "advice"),
    [
        (FIREWALL, ("failed", "enabled"), FAIL, f"systemctl status {FIREWALL}; journalctl -u {FIREWALL}"),
        (FIREWALL, ("inactive", "enabled"), WARN, f"systemctl enable --now {FIREWALL}"),
        (EARLY, ("inactive", "disabled"), WARN, f"systemctl enable {EARLY}"),
        (EARLY, ("inactive", "masked"), WARN, f"systemctl unmask {EARLY}; systemctl enable {EARLY}"),
        (EARLY, ("failed", "enabled"), WARN, f"journalctl -u {EARLY}; ctfw hook apply"),
        (TIMER, ("inactive", "static"), WARN, f"systemctl start {TIMER}"),
        (TIMER, ("inactive", "masked"), WARN, f"systemctl unmask {TIMER}; systemctl start {TIMER}"),
        (TIMER, ("inactive", "not-found"), WARN, "it belongs to ctfw: install that again"),
        (HEALER, ("failed", "static"), WARN, f"journalctl -u {HEALER}; ctfw hook apply"),
    ],
)
def test_what_is_missing_is_told(unit: str, state: tuple[str, str], level: str, advice: str) -> None:
    assert said({unit: state}) == [(level, advice)]


def test_what_is_not_wanted_is_not_missed() -> None:
    timer, early = (TIMER, ("inactive", "static")), (EARLY, ("inactive", "disabled"))
    assert said(dict([timer]), is_hooked=False) == []
    off = said({FIREWALL: ("inactive", "disabled"), **dict([timer, early])}, is_hooked=False)
    assert off == [(WARN, f"systemctl enable --now {FIREWALL}")]
    nothing = said(dict.fromkeys(UNITS, ("inactive", "not-found")))  # ctfw run by hand, from a checkout
    assert nothing == [(WARN, f"systemctl enable --now {FIREWALL}")]


def test_what_systemctl_prints_is_read() -> None:
    shown = f"""Id={FIREWALL}
LoadState=loaded
ActiveState=active
UnitFileState=enabled

Id={EARLY}
LoadState=masked
ActiveState=inactive
UnitFileState=masked

Id={TIMER}
LoadState=not-found
ActiveState=inactive
UnitFileState=
"""
    assert states(shown) == {
        FIREWALL: ("active", "enabled"),
        EARLY: ("inactive", "masked"),
        TIMER: ("inactive", "not-found"),
        HEALER: ("?", "?"),
    }


def findings(system: System, what: str) -> list[tuple[str, str]]:
    """The levels and texts of what the doctor says of something."""
    answer = json.loads(system.run("ctfw", "doctor", "-o", "json", check=False).stdout)
    return [(one["level"], one["text"]) for one in answer if one["what"] == what]


def told(system: System) -> set[str]:
    """What is not well of the units, without the words for people."""
    return {text.split(":")[0] for level, text in findings(system, "systemd") if level != OK}


@pytest.mark.kernel
@pytest.mark.systemd
def test_a_booted_gateway_whose_units_are_stopped_and_disabled() -> None:
    units = {f"/etc/systemd/system/{unit}": PACKAGING / unit for unit in (EARLY, TIMER, HEALER)}
    with Network() as net, booted(net, files=units) as system:
        system.run("systemctl", "enable", EARLY)
        assert told(system) == set()
        system.run("systemctl", "stop", TIMER)
        assert told(system) == {TIMER}
        system.run("systemctl", "disable", EARLY)
        assert told(system) == {TIMER, EARLY}
        system.run("systemctl", "restart", FIREWALL)  # the queue's socket is systemd's as well, and older than ctfw
        ((level, text),) = findings(system, "queue")
        assert level == OK and text.startswith(f"queue 0 is held by pid {system.property(FIREWALL, 'MainPID')}, ")
        system.run("systemctl", "stop", TIMER)
        system.run("ctfw", "hook", "remove")
        assert told(system) == {EARLY}
