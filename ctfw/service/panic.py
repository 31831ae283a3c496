"""Panic: for a while everything is dropped, whatever the rules say.

Owns the rules that do it and the time that they stay. While panic is on they stand in the engine in the place of those
in force, which wait untouched; so a packet pays nothing for the possibility. It ends by itself after the time that was
given: nobody can shut a gateway for good by mistake.

What passes all the same: what never comes to ctfw (loopback, `hook.leave_alone`, `hook.keep_ssh`), and the one
connection that the admin who asked sits on, when he says which (``session``). What a rule has offloaded to the kernel
is taken back within a tick or two, for these rules offload nothing (service/offload.py). A reload during a panic
changes the rules that come back. A restart of the daemon ends it: it is a switch for people, and what comes up after a
crash should be what the rule file says.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

from ctfw import config
from ctfw.engine import Engine
from ctfw.ruleset.ruleset import Ruleset
from ctfw.service.journal import NOTICE, WARNING, Journal
from ctfw.service.kinds import PANIC
from ctfw.service.session import INVALID_PARAMS, Refused, Session

SECOND: Final = 1_000_000_000
LONGEST: Final = 86_400  # seconds

_RULES: Final = "version: 1\npolicy: {input: drop, forward: drop, output: drop}\n"
_SESSION: Final = """rules:
  - {{name: panic, chain: input, proto: tcp, src: "{src}", sport: {sport}, dst: "{dst}", dport: {dport},
     verdict: accept}}
  - {{name: panic back, chain: output, proto: tcp, src: "{dst}", sport: {dport}, dst: "{src}", dport: {sport},
     verdict: accept}}
"""


class Panic:
    """The switch of one engine."""

    def __init__(self, engine: Engine, journal: Journal) -> None:
        self._engine = engine
        self._journal = journal
        self._until = 0
        self._covered: Ruleset | None = None  # what comes back; None: off
        self._shut: Ruleset | None = None  # what drops everything

    def method(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """``on`` for ``seconds``, or off; ``session`` (src, sport, dst, dport) is the TCP connection that may stay."""
        if not params.get("on"):
            self._off(f"uid={session.peer.uid}")
            return {"seconds": 0}
        seconds = params.get("seconds")
        if not isinstance(seconds, int) or isinstance(seconds, bool) or not 1 <= seconds <= LONGEST:
            raise Refused(INVALID_PARAMS, f"seconds is a number from 1 to {LONGEST}")
        shut = config.load("panic", text=_RULES + _session_rules(params.get("session"))).ruleset
        self._until = time.monotonic_ns() + seconds * SECOND
        covered = self._covered if self._covered is not None else self._engine.ruleset
        self._cover(covered, shut)
        self._journal.log(f"PANIC: everything is dropped for {seconds} s: uid={session.peer.uid}", WARNING, kind=PANIC)
        return {"seconds": seconds}

    def tick(self, now: int) -> None:
        """Opens again when the time is over."""
        if self._covered is not None and now >= self._until:
            self._off("the time is over")

    def stay(self) -> None:
        """Other rules have come into force: they wait like those before."""
        if self._covered is not None and self._shut is not None:
            self._cover(self._engine.ruleset, self._shut)

    def left(self) -> int | None:
        """Seconds that it lasts; None when it is off."""
        if self._covered is None:
            return None
        return max(-(-(self._until - time.monotonic_ns()) // SECOND), 0)

    def _cover(self, covered: Ruleset, shut: Ruleset) -> None:
        # Numbers and members are those of the covered rules: no connection is judged again, and sets can be changed.
        shut.generation, shut.floor, shut.floor_means = covered.generation, covered.floor, covered.floor_means
        shut.sets = covered.sets
        self._shut = shut
        self._covered = covered
        self._engine.ruleset = shut

    def _off(self, why: str) -> None:
        if self._covered is not None:
            self._engine.ruleset = self._covered
            self._covered = None
            self._journal.log(f"panic is over, the rules hold again: {why}", NOTICE, kind=PANIC)


def _session_rules(session: object) -> str:
    """The rules that let one TCP connection to this machine live; none without one."""
    if session is None:
        return ""
    try:
        if not isinstance(session, Mapping):
            raise ValueError
        ends = {name: ip_address(str(session[name]).partition("%")[0]) for name in ("src", "dst")}
        ports = {name: int(session[name]) for name in ("sport", "dport")}
        if ends["src"].version != ends["dst"].version or not all(0 < port < 65536 for port in ports.values()):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Refused(INVALID_PARAMS, "session is src, sport, dst and dport of a TCP connection") from None
    return _SESSION.format(**ends, **ports)
