"""What a worker tells the others and what it asks them, in messages; how these travel is the link's business.

Told, before the verdict on the packet that was the cause leaves, and noted by the others ahead of their next packet:
expectations, PPTP's calls and their ends, members of dynamic sets. Whatever a packet causes elsewhere finds them there.

An expectation is told as a hint: who has it, and which packets would fulfil it. A new connection that fits a hint makes
its worker ask the owner, who alone knows whether it still holds, gives it to the first who asks, and answers with what
the connection inherits from its master. So a hint may be out of date without harm, and a master that has gone needs not
be told of. In the same way an expectation that would overlap with a hint is asked about first.

Asked of all: an ICMP error about a connection that is not here. What comes back is a copy, for the rules to look at.

A question waits at most PATIENCE for its answers, and others' questions are served meanwhile, so nobody waits in a
circle. Without an answer there is none: the packet is NEW, or INVALID, as if nothing were known. As strangers can cause
questions, there are at most so many a second (QUESTION); beyond that nobody is asked. Hints are at most MOST_HINTS, and
others' calls MOST_CALLS: the message that ends one may be lost.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from typing import Any, Final, Protocol

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.expect import KNOWN, OVERLAPS, Expectation, Policy
from ctfw.conntrack.settings import PPTP
from ctfw.conntrack.siblings import Siblings
from ctfw.conntrack.state import CONFIRMED
from ctfw.conntrack.tracker import ConnTrack
from ctfw.packet import GRE, address_size, inverse
from ctfw.ruleset.limit import Limit
from ctfw.ruleset.ruleset import Ruleset

SECOND: Final = 1_000_000_000
PATIENCE: Final = 5_000_000
QUESTION: Final = SECOND // 1000
QUESTIONS: Final = 200  # at once
MOST_HINTS: Final = 4096
MOST_CALLS: Final = 16384
LONG: Final = 1000 * 86400 * SECOND

_HINT: Final = 0
_CALL: Final = 1
_FORGET: Final = 2
_END: Final = 3
_MEMBER: Final = 4
_GONE: Final = 5
_TAKE: Final = 6
_FIND: Final = 7
_CLASH: Final = 8
_ANSWER: Final = 9

_NOT_NOW: Final = 0  # there is one, but not to be fulfilled yet
_NOBODY: Final = Conn(bytes(13), bytes(13), 0)
_ANY: Final = Policy(0, "", 0, LONG)


class Link(Protocol):
    """How messages travel. ``others`` are the numbers of the other workers."""

    others: list[int]

    def is_behind(self) -> bool:
        """True when somebody has sent what was not received yet."""
        ...

    def send(self, to: int, message: bytes) -> bool:
        """False when there is no room: the message is lost."""
        ...

    def receive(self, deliver: Callable[[bytes], None], wait: int = 0) -> None:
        """Delivers what is there; waits up to ``wait`` nanoseconds when there is nothing."""
        ...

    def clock(self) -> int:
        """Nanoseconds of a steady clock, to wait by."""
        ...

    def figures(self, place: int, own: int) -> int:
        """The sum of what the others have at ``place``, where ``own`` is now ours."""
        ...


class Sibling(Siblings):
    """Worker ``number``'s side of it. Counts what it asked, what it had to ask no more, and what nobody answered."""

    def __init__(self, number: int, tracker: ConnTrack, link: Link) -> None:
        super().__init__()
        self.number = number
        self.asked = 0
        self.unasked = 0
        self.unanswered = 0
        self.lost = 0
        self._tracker = tracker
        self._link = link
        self._limit = Limit(QUESTION, QUESTIONS)
        self._hints: dict[bytes, list[tuple[int, Expectation]]] = {}
        self._hint_count = 0
        self._ghosts: dict[bytes, Conn] = {}  # of masters elsewhere that have a call
        self._ruleset: Ruleset | None = None
        self._serial = 0
        self._answers: list[Any] = []
        tracker.join(self)

    def adopt(self, ruleset: Ruleset) -> None:
        """These rules are in force now: what comes and goes in their sets is told."""
        self._ruleset = ruleset
        for one in ruleset.sets.values():
            one.siblings = self

    def tick(self) -> None:
        """Says how much is here, also when nothing new comes."""
        self.elsewhere(len(self._tracker.table))
        self.expected_elsewhere(self._tracker._expectations.count)
        self.catch_up()

    def serve(self) -> None:
        """Somebody has said something, perhaps asked."""
        self._link.receive(self._deliver)

    def catch_up(self) -> None:
        if self._link.is_behind():
            self._link.receive(self._deliver)

    def elsewhere(self, own: int) -> int:
        return self._link.figures(0, own)

    def expected_elsewhere(self, own: int) -> int:
        return self._link.figures(1, own)

    # What is told.

    def announce(self, target: bytes, src: bytes, prefix: int, sport: bytes) -> None:
        self._tell((_HINT, self.number, target, src, prefix, sport))

    def tell_call(self, master: Conn, keys: list[bytes]) -> None:
        self._tell((_CALL, master.key, master.reply_key, keys))

    def forget_call(self, master: Conn) -> None:
        self._tell((_FORGET, master.key))

    def end_call(self, keys: list[bytes]) -> None:
        self._tell((_END, keys))

    def tell_member(self, name: str, address: bytes, length: int, ttl: int, now: int) -> None:
        self._tell((_MEMBER, name, address, length, ttl, now))

    def forget_member(self, name: str, address: bytes, length: int, now: int) -> None:
        self._tell((_GONE, name, address, length, now))

    # What is asked.

    def take(self, key: bytes, now: int) -> Conn | None:
        self.assigned = 0
        size = address_size(key)
        ports = 1 + 2 * size
        target = key[0:1] + key[1 + size : ports] + key[ports + 2 :]
        for owner, hint in self._hints.get(target, [])[::-1]:
            if not hint.is_from(key[1 : 1 + size], key[ports : ports + 2]):
                continue
            answers = self._ask([owner], _TAKE, key, now)
            if answers is None or _NOT_NOW in answers:
                return None
            if answers == [None]:
                self._drop_hint(target, owner, hint)
            elif answers:
                self.assigned, master = answers[0]
                return self._ghost(master)
        return None

    def find(self, key: bytes, now: int) -> Conn | None:
        answers = self._ask(self._link.others, _FIND, key, now) or []
        return next((_conn(found) for found in answers if found is not None), None)

    def clash(self, target: bytes, src: bytes, prefix: int, sport: bytes, known_elsewhere: bool, now: int) -> int:
        one = _hint(target, src, prefix, sport)
        for owner, hint in list(self._hints.get(target, [])):
            if hint.overlaps(one):
                answers = self._ask([owner], _CLASH, (target, src, prefix, sport, known_elsewhere), now)
                if answers and answers[0]:
                    return int(answers[0])
                if answers:
                    self._drop_hint(target, owner, hint)
        return 0

    def _ask(self, whom: list[int], kind: int, about: Any, now: int) -> list[Any] | None:
        """The answers that came in time; None when there was no asking."""
        if not self._limit.take(now):
            self.unasked += 1
            return None
        self.asked += 1
        self._serial += 1
        answers: list[Any] = []
        self._answers = answers
        message = marshal.dumps((kind, self.number, self._serial, about, now))
        waiting = sum([self._send(to, message) for to in whom])
        end = self._link.clock() + PATIENCE
        while len(answers) < waiting:
            left = end - self._link.clock()
            if left <= 0:
                self.unanswered += 1
                break
            self._link.receive(self._deliver, left)
        self._answers = []
        self._serial += 1  # what comes now is late
        return answers

    def _tell(self, message: tuple[Any, ...]) -> None:
        data = marshal.dumps(message)
        for to in self._link.others:
            self._send(to, data)

    def _send(self, to: int, data: bytes) -> bool:
        sent = self._link.send(to, data)
        self.lost += not sent
        return sent

    # What comes.

    def _deliver(self, data: bytes) -> None:
        message = marshal.loads(data)
        kind = message[0]
        if kind == _ANSWER:
            if message[1] == self._serial:
                self._answers.append(message[2])
        elif kind == _HINT:
            self._note_hint(*message[1:])
        elif kind == _CALL:
            self._note_call(*message[1:])
        elif kind == _FORGET:
            ghost = self._ghosts.pop(message[1], None)
            if ghost is not None:
                self._tracker._calls.drop(ghost)
        elif kind == _END:
            for key in message[1]:
                tunnel = self._tracker.table.find(key, 0)
                if tunnel is not None:
                    self._tracker.remove(tunnel, self._link.clock())
        elif kind == _MEMBER:
            self._note_member(*message[1:])
        elif kind == _GONE:
            members = self._ruleset.sets.get(message[1]) if self._ruleset is not None else None
            if members is not None:
                members.take_out(*message[2:])
        else:
            _, asker, serial, about, now = message
            self._send(asker, marshal.dumps((_ANSWER, serial, self._answer(kind, about, now))))

    def _answer(self, kind: int, about: Any, now: int) -> Any:
        if kind == _FIND:
            conn = self._tracker.table.find(about, now)
            return _fields(conn) if conn is not None else None
        if kind == _TAKE:
            return self._give(about, now)
        target, src, prefix, sport, known_elsewhere = about
        for one in self._tracker._expectations.expecting(target, now)[::-1]:
            other = _hint(target, src, prefix, sport)
            if known_elsewhere and one.equals(other):
                return KNOWN
            if one.overlaps(other):
                return OVERLAPS
        return 0

    def _give(self, key: bytes, now: int) -> Any:
        expectations = self._tracker._expectations
        if expectations.find_exactly(key, now) is None:
            return None
        one = expectations.take(key, now)
        if one is None:
            return _NOT_NOW
        if key[0] == GRE:
            other = expectations.find_exactly(inverse(key), now)
            if other is not None:
                expectations.remove(other)
        return one.assign, _fields(one.master)

    def _note_hint(self, owner: int, target: bytes, src: bytes, prefix: int, sport: bytes) -> None:
        hint = _hint(target, src, prefix, sport)
        several = self._hints.setdefault(target, [])
        if any(other == owner and known.equals(hint) for other, known in several):
            return
        several.append((owner, hint))
        self._hint_count += 1
        while self._hint_count > MOST_HINTS:
            self._hint_count -= len(self._hints.pop(next(iter(self._hints))))

    def _drop_hint(self, target: bytes, owner: int, hint: Expectation) -> None:
        several = self._hints.get(target, [])
        if (owner, hint) in several:
            several.remove((owner, hint))
            self._hint_count -= 1
            if not several:
                del self._hints[target]

    def _note_call(self, key: bytes, reply_key: bytes, keys: list[bytes]) -> None:
        ghost = self._ghosts.get(key)
        if ghost is not None:
            self._tracker._calls.drop(ghost)
        ghost = Conn(key, reply_key, 0)
        ghost.status = CONFIRMED
        ghost.helper = PPTP
        ghost.expires = self._link.clock() + LONG
        self._ghosts[key] = ghost
        self._tracker._calls.note(ghost, keys)
        if len(self._ghosts) > MOST_CALLS:
            self._tracker._calls.drop(self._ghosts.pop(next(iter(self._ghosts))))

    def _note_member(self, name: str, address: bytes, length: int, ttl: int, now: int) -> None:
        members = self._ruleset.sets.get(name) if self._ruleset is not None else None
        if members is None:
            return
        if ttl >= 0:
            members.put(address, length, ttl, now)
        else:
            members.put_for_ever(address, length, now)

    def _ghost(self, fields: tuple[Any, ...]) -> Conn:
        """The master elsewhere: the one whose call is known here, or a copy."""
        known = self._ghosts.get(fields[0])
        if known is not None:
            known.mark = fields[4]
            return known
        return _conn(fields)


def _hint(target: bytes, src: bytes, prefix: int, sport: bytes) -> Expectation:
    hint = Expectation(_NOBODY, _ANY, target[0], src, b"", b"", 0)
    hint.prefix = prefix
    hint.sport = sport
    return hint


def _fields(conn: Conn) -> tuple[Any, ...]:
    """A connection as a message has it: what rules may ask about it, and not its protocol's memory."""
    master = conn.master
    return (
        conn.key, conn.reply_key, conn.status, conn.helper, conn.mark, conn.created, conn.expires, conn.l4state,
        conn.generation, conn.original_packets, conn.original_bytes, conn.reply_packets, conn.reply_bytes,
        _fields(master) if master is not None else None,
    )  # fmt: skip


def _conn(fields: tuple[Any, ...]) -> Conn:
    conn = Conn(fields[0], fields[1], 0)
    (
        conn.status, conn.helper, conn.mark, conn.created, conn.expires, conn.l4state, conn.generation,
        conn.original_packets, conn.original_bytes, conn.reply_packets, conn.reply_bytes,
    ) = fields[2:13]  # fmt: skip
    if fields[13] is not None:
        conn.master = _conn(fields[13])
    return conn
