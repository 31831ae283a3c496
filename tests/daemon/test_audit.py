"""The log says who changed something by the control socket."""

from collections.abc import Mapping
from typing import Any

import pytest

from ctfw.service.audit import ALTERING, MOST, Audit
from ctfw.service.journal import Journal
from ctfw.service.kinds import ALTERED, CONTROL_REFUSED
from ctfw.service.peers import Peer
from ctfw.service.session import Method, Session

PEER = Peer(4711, 1000, frozenset({1000}))


class Told(Journal):
    def __init__(self) -> None:
        super().__init__("stderr", {}, clock=lambda: 0)
        self.entries: list[tuple[str, dict[str, str]]] = []

    def _put(self, text: str, priority: int, fields: Mapping[str, str]) -> None:
        self.entries.append((text, dict(fields)))


def audited(log: Journal) -> dict[str, Method]:
    def method(params: dict[str, Any], session: Session) -> object:
        if "broken" in params:
            raise ValueError
        return {"done": params}

    return Audit(log).watched(dict.fromkeys((*ALTERING, "list"), method))


def test_a_change_is_logged_with_who_asked_for_it() -> None:
    log = Told()
    methods = audited(log)
    assert set(methods) == set(ALTERING)
    assert methods["set_add"]({"set": "banned", "member": "192.0.2.1"}, Session(PEER)) == {
        "done": {"set": "banned", "member": "192.0.2.1"}
    }
    (entry,) = log.entries
    assert entry[0] == 'set_add by uid=1000 pid=4711: {"set": "banned", "member": "192.0.2.1"}'
    assert entry[1] == {
        "MESSAGE_ID": ALTERED.id,
        "CTFW_EVENT": "altered",
        "CTFW_METHOD": "set_add",
        "CTFW_UID": "1000",
        "CTFW_PID": "4711",
    }


def test_what_changes_nothing_is_not_and_neither_is_the_rest_of_an_answer() -> None:
    log = Told()
    delete = audited(log)["delete"]
    delete({"only": {}, "dry_run": True}, Session(PEER))
    with pytest.raises(ValueError):
        delete({"broken": 1}, Session(PEER))
    assert log.entries == []
    delete({"only": {"src": "192.0.2.1"}}, Session(PEER))
    delete({"next": True}, Session(PEER))
    assert len(log.entries) == 1


def test_a_client_cannot_fill_the_log_or_forge_a_line() -> None:
    log = Told()
    add = audited(log)["set_add"]
    for _ in range(100):
        add({"member": "x\n" * 1000}, Session(PEER))
    assert len(log.entries) == ALTERED.burst
    assert len(log.entries[0][0]) < MOST + 50
    assert log.entries[0][0].isprintable()


def test_who_is_turned_away_is_told() -> None:
    log = Told()
    Audit(log).refused(PEER, "only for root")
    assert log.entries[0][0] == "control: turned away: uid=1000 pid=4711: only for root"
    assert log.entries[0][1]["MESSAGE_ID"] == CONTROL_REFUSED.id
