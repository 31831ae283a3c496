"""Panic: for a while everything is dropped, whatever the rules say.

Owns the rules that do it and the time that they stay. While panic is on they stand in the engine in the place of those
in force, which wait untouched; so a packet pays nothing for the possibility. It ends by itself after the time that was
given: nobody can shut a gateway for good by mistake.

What passes all the same: what never comes to ctfw (loopback, `hook.leave_alone`, `hook.keep_ssh`), and the one
connection that the admin who asked sits on, when he says which (``session``). What a rule has offloaded to the kernel
is taken back within a tick or two, for these rules offload nothing (service/offload.py). A reload during a panic
changes the rules that come back.

Who restarts the daemon ends it; a crash does not, for nobody wanted that, and what the panic is about may well be its
cause. So it is noted in a file beside the control socket, which is memory and gone with a reboot, for as long as it is
on. With workers each notes its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

from ctfw import config
from ctfw.engine import Engine
from ctfw.ruleset.ruleset import Ruleset
from ctfw.service.boot import boot_id
from ctfw.service.journal import NOTICE, WARNING, Journal
from ctfw.service.kinds import PANIC, STATE_NOT_SAVED
from ctfw.service.session import INVALID_PARAMS, Refused, Session
from ctfw.service.whole_file import replacing

SECOND: Final = 1_000_000_000
LONGEST: Final = 86_400  # seconds

_NAME: Final = "panic"
_MOST_BYTES: Final = 4096

_RULES: Final = "version: 1\npolicy: {input: drop, forward: drop, output: drop}\n"
_SESSION: Final = """rules:
  - {{name: panic, chain: input, proto: tcp, src: "{src}", sport: {sport}, dst: "{dst}", dport: {dport},
     verdict: accept}}
  - {{name: panic back, chain: output, proto: tcp, src: "{dst}", sport: {dport}, dst: "{src}", dport: {sport},
     verdict: accept}}
"""


def file_of(directory: str, queue: int) -> str:
    """Where the panic of the daemon on this queue is noted."""
    return os.path.join(directory, f"{_NAME}.{queue}")


class Panic:
    """The switch of one engine."""

    def __init__(self, engine: Engine, journal: Journal) -> None:
        self._engine = engine
        self._journal = journal
        self._until = 0
        self._covered: Ruleset | None = None  # what comes back; None: off
        self._shut: Ruleset | None = None  # what drops everything
        self._path = ""  # of the file; "": none

    def begin(self, path: str) -> None:
        """Once, before the first packet: notes in this file from now on, and goes on with what a crash left in it."""
        self._path = path
        noted = _noted(path)
        if noted is None:
            return
        self._until, session = noted
        if _seconds_to(self._until) == 0:
            self.end()
            return
        try:
            shut = _shut(session)
        except Refused:  # not as we wrote it
            shut = _shut(None)
        self._cover(self._engine.ruleset, shut)
        text = f"PANIC goes on, everything is dropped for {self.left()} s: the daemon before ended in the midst of it"
        self._journal.log(text, WARNING, kind=PANIC)

    def end(self) -> None:
        """The daemon ends because somebody wants it to: the next one knows nothing of this."""
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def method(self, params: dict[str, Any], session: Session) -> dict[str, Any]:
        """``on`` for ``seconds``, or off; ``session`` (src, sport, dst, dport) is the TCP connection that may stay."""
        if not params.get("on"):
            self._off(f"uid={session.peer.uid}")
            return {"seconds": 0}
        seconds = params.get("seconds")
        if not isinstance(seconds, int) or isinstance(seconds, bool) or not 1 <= seconds <= LONGEST:
            raise Refused(INVALID_PARAMS, f"seconds is a number from 1 to {LONGEST}")
        shut = _shut(params.get("session"))
        self._until = time.monotonic_ns() + seconds * SECOND
        covered = self._covered if self._covered is not None else self._engine.ruleset
        self._cover(covered, shut)
        self._note(params.get("session"))
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
        return _seconds_to(self._until)

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
            self.end()
            self._journal.log(f"panic is over, the rules hold again: {why}", NOTICE, kind=PANIC)

    def _note(self, session: object) -> None:
        if not self._path:
            return
        noted = {"boot": boot_id().hex(), "until": self._until, "session": session}
        try:
            with replacing(self._path, durable=False) as file:
                file.write(json.dumps(noted).encode())
        except OSError as error:
            text = f"panic: a crash would end it: {error.filename or self._path}: {error.strerror or error}"
            self._journal.log(text, WARNING, kind=STATE_NOT_SAVED)


def _seconds_to(until: int) -> int:
    return max(-(-(until - time.monotonic_ns()) // SECOND), 0)


def _noted(path: str) -> tuple[int, object] | None:
    """Until when the panic lasts that is noted there, and which session stays; None when there is none of this boot."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            noted = json.loads(file.read(_MOST_BYTES))
        if noted["boot"] != boot_id().hex():
            return None
        return min(int(noted["until"]), time.monotonic_ns() + LONGEST * SECOND), noted["session"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _shut(session: object) -> Ruleset:
    """Rules that drop everything but this session. Raises Refused when it is none."""
    return config.load("panic", text=_RULES + _session_rules(session)).ruleset


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
