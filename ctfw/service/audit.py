"""Who changed something by the control socket, and who was turned away there: a line in the log for each.

Of the methods that change connections, sets or counters; a panic and the end of a trial say themselves who asked for
them. A program may add members to sets by the hundred (as fail2ban would), so these lines have the limit of their kind,
and what a client wrote is cut to MOST characters.
"""

from __future__ import annotations

import json
from typing import Any, Final

from ctfw.service.journal import NOTICE, WARNING, Journal
from ctfw.service.kinds import ALTERED, CONTROL_REFUSED
from ctfw.service.peers import Peer
from ctfw.service.session import Method, Session

ALTERING: Final = ("delete", "kill", "flush", "set_add", "set_del", "reset_rules")
MOST: Final = 200


class Audit:
    """Writes the lines to ``journal``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def watched(self, methods: dict[str, Method]) -> dict[str, Method]:
        """The methods that change something, each with a line for whoever uses it."""
        return {name: self._watched(name, methods[name]) for name in ALTERING}

    def refused(self, peer: Peer, why: str) -> None:
        """He was turned away."""
        text = f"control: turned away: uid={peer.uid} pid={peer.pid}: {why}"
        self._journal.log(text, WARNING, _who(peer), CONTROL_REFUSED)

    def _watched(self, name: str, method: Method) -> Method:
        def watched(params: dict[str, Any], session: Session) -> object:
            answer = method(params, session)
            if not params.get("next") and not params.get("dry_run"):
                peer = session.peer
                text = f"{name} by uid={peer.uid} pid={peer.pid}: {json.dumps(params)[:MOST]}"
                self._journal.log(text, NOTICE, {"CTFW_METHOD": name, **_who(peer)}, ALTERED)
            return answer

        return watched


def _who(peer: Peer) -> dict[str, str]:
    return {"CTFW_UID": str(peer.uid), "CTFW_PID": str(peer.pid)}
