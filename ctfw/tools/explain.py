"""Explain: what an engine would say about a packet, and every step of the way there.

The question leaves no trace in the engine that is asked, so it may be the running one: tracking goes by a copy of what
the packet meets (``rehearsal``), the rules are asked dry (``ruleset.trace``). The order of the steps is that of
``Engine.handle``, written down a second time, because there each step is done and here it is told; a test holds the
verdicts of both against each other.

The answer is plain data (JSON carries it from the daemon to the command), one dictionary for each step, in order:
``packet``, ``connection``, ``tracking`` when there are rules before tracking, ``state``, ``again`` when new rules judge
an old connection, a ``rule`` for each rule asked, ``verdict``, ``after``. ``lines`` prints them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from ctfw import reason
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.record import as_dict, conntrack_line
from ctfw.conntrack.settings import HELPER_NAMES
from ctfw.conntrack.state import CONFIRMED, DYING, ESTABLISHED, NEW, UNTRACKED, state_name
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.fragments import Fragments, payload_size, place
from ctfw.packet import DIRECTION_NAMES, HOOK_NAMES, REPLY, TCP, Packet, decode
from ctfw.packet_text import address_text, describe, proto_name
from ctfw.ruleset.opening import opening, opening_hook
from ctfw.ruleset.rule import Rule, hop_limit, read_flags, service
from ctfw.ruleset.ruleset import KILL
from ctfw.ruleset.trace import Step, trace
from ctfw.ruleset.verdict import (
    ACCEPT,
    AUTOMATIC,
    NAMES,
    PORT_UNREACHABLE,
    REJECT,
    REJECT_NAMES,
    TCP_RESET,
    TRACK_NAMES,
    TRACK_NONE,
)
from ctfw.tools.arithmetic import Arithmetic, reckon
from ctfw.tools.rehearsal import clone, clone_datagram, met, rehearse

Told = dict[str, Any]

_WIDTH: Final = 12  # of the first column
_FLAGS: Final = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")


@dataclass(frozen=True)
class Situation:
    """A packet and how it comes: as ``Engine.handle`` takes it."""

    data: bytes
    length: int
    hook: int
    indev: str = ""
    outdev: str = ""
    mark: int = 0
    check: bool = True
    mac: bytes = b""


def explain(engine: Engine, asked: Situation, now: int) -> Iterator[Told]:
    """The steps, see above. Nothing in ``engine`` is changed."""
    packet = decode(asked.data, asked.length)
    yield {"step": "packet", "text": describe(packet), "length": asked.length, **_where(asked)}
    if packet.fragment and packet.reason == reason.FRAGMENT:
        yield from _explain_fragment(engine, asked, packet, now)
        return
    live = met(engine.tracker, packet, asked.indev, now)
    before = clone(live, {}) if live is not None else None
    yield {"step": "connection", **_connection(before, now)}
    yield from _Trial(engine, asked, packet, before, now).steps()


class _Trial:
    """One packet's way through copies."""

    def __init__(self, engine: Engine, asked: Situation, packet: Packet, before: Conn | None, now: int) -> None:
        self.ruleset = engine.ruleset
        self.live = engine.tracker
        self.tracker = rehearse(engine.tracker, packet, asked.indev, now)
        self.asked = asked
        self.before = before
        self.now = now
        self.mark = asked.mark & ~int(self.ruleset.own_field)

    def steps(self) -> Iterator[Told]:
        asked, ruleset, now = self.asked, self.ruleset, self.now
        packet = decode(asked.data, asked.length)
        self.tracker.zone = self.tracker.settings.zones.get(asked.indev, b"")
        conn: Conn | None = None
        wanted = 0
        if ruleset.tracks and packet.reason == 0:
            for early, missed in self._trace(packet, asked.hook, None):
                yield _rule(early, missed, packet, asked, None, "tracking")
                wanted = early.track if missed is None else 0
        if wanted == TRACK_NONE:
            packet.state = UNTRACKED
        else:
            self.tracker.leniency = wanted
            conn = self.tracker.track(packet, asked.check, now)
            self.tracker.leniency = 0
        is_old = False
        if conn is not None and conn.generation < ruleset.floor and _is_known(conn, packet):
            if ruleset.floor_means == KILL:
                yield {
                    "step": "again",
                    "text": "accepted by older rules, which 'existing: kill' forgets: tracked as new",
                }
                self.tracker.remove(conn, now)
                packet = decode(asked.data, asked.length)
                self.tracker.leniency = conn.track
                conn = self.tracker.track(packet, asked.check, now)
            elif packet.state == ESTABLISHED:
                is_old = True
        yield self._state(packet)
        if packet.state == 0:
            yield {"step": "verdict", "verdict": "drop", "rule": None, "by": "connection tracking, before the rules"}
            yield self._after(None)
            return
        if is_old and conn is not None:
            is_over = yield from self._judge_again(conn, packet)
            if is_over:
                yield self._after(None)
                return
        rule: Rule | None = None
        for rule, missed in self._trace(packet, asked.hook, conn):
            yield _rule(rule, missed, packet, asked, conn, "rule")
        assert rule is not None  # the chain's policy, if nothing else
        yield from self._verdict(packet, conn, rule)

    def _trace(self, packet: Packet, hook: int, conn: Conn | None) -> Iterator[Step]:
        asked = self.asked
        return trace(
            self.ruleset, packet, hook, asked.indev, asked.outdev, conn, self.mark, asked.mac, self.now
        )  # fmt: skip

    def _judge_again(self, conn: Conn, packet: Packet) -> Generator[Told, None, bool]:
        """As ``Engine._judge_again``: the first packet of an old connection, made up, under the new rules.

        Returns whether that ends the connection, and with it the packet's way.
        """
        asked = self.asked
        began, at = opening(conn, packet), opening_hook(asked.hook, packet.direction)
        yield {
            "step": "again",
            "text": f"accepted by older rules; by 'existing: recheck' these judge {describe(began)}",
        }
        is_reply = packet.direction == REPLY
        turned = Situation(
            asked.data, asked.length, at, *((asked.outdev, asked.indev) if is_reply else (asked.indev, asked.outdev))
        )
        mark, mac = (0, b"") if is_reply else (self.mark, asked.mac)
        rule: Rule | None = None
        for rule, missed in trace(
            self.ruleset, began, at, turned.indev, turned.outdev, conn, mark, mac, self.now, True
        ):  # fmt: skip
            yield _rule(rule, missed, began, turned, conn, "again-rule")
        assert rule is not None
        if rule.verdict == ACCEPT:
            return False
        self.tracker.remove(conn, self.now)
        yield self._decided(packet, rule, 0)
        return True

    def _state(self, packet: Packet) -> Told:
        why = int(packet.reason)
        fullness = (len(self.live.table), self.live.table.count_of_source(packet.key) if packet.key else 0)
        reckoned = reckon(packet, why, self.before, self.live.settings, fullness)
        return {
            "step": "state",
            "state": state_name(packet.state) or None,
            "direction": DIRECTION_NAMES[packet.direction] if packet.direction >= 0 else None,
            "reason": reason.NAMES[why] or None,
            "sentence": reason.TEXTS[why] or None,
            "arithmetic": reckoned.as_dict(),
        }

    def _verdict(self, packet: Packet, conn: Conn | None, rule: Rule) -> Iterator[Told]:
        if rule.verdict == ACCEPT and conn is not None:
            why = self.tracker.confirm(packet, conn, self.now)
            if why:
                yield {
                    "step": "verdict",
                    "verdict": "drop",
                    "rule": None,
                    "by": f"connection tracking, after {rule.name!r} accepted",
                    "reason": reason.NAMES[why],
                    "sentence": reason.TEXTS[why],
                }
                yield self._after(None)
                return
        if rule.verdict == ACCEPT and packet.state == NEW and conn is not None:
            conn.generation = self.ruleset.generation
        yield self._decided(packet, rule, packet.proto)
        yield self._after(conn)

    def _decided(self, packet: Packet, rule: Rule, proto: int) -> Told:
        told: Told = {"step": "verdict", "verdict": NAMES[rule.verdict], "rule": rule.name, "origin": rule.origin}
        if rule.verdict == REJECT:
            kind = int(rule.reject_with)
            if kind == AUTOMATIC:
                kind = TCP_RESET if packet.proto == TCP else PORT_UNREACHABLE
            told["with"] = REJECT_NAMES[kind]
        if rule.offload:
            told["offload"] = True
        return told

    def _after(self, conn: Conn | None) -> Told:
        """The connection as it is then: of a dropped packet that of the table, if it still is there."""
        found = conn
        if found is None and self.before is not None:
            found = self.tracker.table._shard(self.before.key).get(self.before.key)
        if found is not None and (not found.status & CONFIRMED or found.status & DYING):
            found = None
        expected = [one for one in self.tracker.expectations() if found is not None and one.master is found]
        return {"step": "after", **_connection(found, self.now), "expects": len(expected)}


def _explain_fragment(engine: Engine, asked: Situation, packet: Packet, now: int) -> Iterator[Told]:
    """A later fragment is not tracked: it gets what its datagram's first one got."""
    fragments = Fragments()
    fragments._datagrams = {name: clone_datagram(one) for name, one in engine._fragments._datagrams.items()}
    first = fragments.follow(packet, place(asked.hook, asked.indev), now, engine.ruleset.floor)
    if first is not None:
        packet.direction = first.direction
    yield {"step": "connection", **_connection(first.conn if first is not None else None, now)}
    if first is None:
        trial = _Trial(engine, asked, packet, None, now)
        trial.tracker.track(packet, asked.check, now)
        yield trial._state(packet)
        rule: Rule | None = None
        for rule, missed in trial._trace(packet, asked.hook, None):
            yield _rule(rule, missed, packet, asked, None, "rule")
        assert rule is not None
        yield from trial._verdict(packet, None, rule)
        return
    text = f"the first fragment of its datagram, {payload_size(packet)} bytes of which this one brings"
    yield {
        "step": "state", "state": state_name(first.state) or None,
        "direction": DIRECTION_NAMES[first.direction] if first.direction >= 0 else None,
        "reason": None, "sentence": None, "arithmetic": Arithmetic().as_dict(),
    }  # fmt: skip
    told: Told = {"step": "verdict", "verdict": NAMES[first.verdict], "rule": None, "by": text}
    if first.rule is not None:
        told |= {"rule": first.rule.name, "origin": first.rule.origin}
    yield told
    if first.conn is not None and first.verdict == ACCEPT:
        ConnTrack(engine.tracker.settings).extend(first.conn, packet, first.end, payload_size(packet))
    yield {"step": "after", **_connection(first.conn, now), "expects": 0}


def _is_known(conn: Conn, packet: Packet) -> bool:
    return conn.is_confirmed() and packet.key in (conn.key, conn.reply_key)


def _where(asked: Situation) -> Told:
    return {"chain": HOOK_NAMES[asked.hook], "in": asked.indev, "out": asked.outdev, "mark": asked.mark}


def _connection(conn: Conn | None, now: int) -> Told:
    if conn is None:
        return {"line": None}
    master = conn.master
    told = {"line": conntrack_line(conn, now, True), **as_dict(conn, now, True)}
    if master is not None:
        told["master"] = conntrack_line(master, now)
    return told


def _rule(rule: Rule, missed: str | None, packet: Packet, asked: Situation, conn: Conn | None, step: str) -> Told:
    told: Told = {
        "step": step,
        "rule": rule.name,
        "origin": rule.origin,
        "verdict": NAMES[rule.verdict],
        "missed": missed,
    }
    if step == "tracking":
        told["verdict"] = f"track {TRACK_NAMES[rule.track]}"
    if missed is not None:
        told["has"] = _value(missed, packet, asked, conn)
    elif rule.shadow:
        told["shadow"] = True
    return told


def _value(name: str, packet: Packet, asked: Situation, conn: Conn | None) -> str:
    """What the packet has in the field that a rule did not find in it; empty where that is no single value."""
    if name == "chain":
        return HOOK_NAMES[asked.hook]
    if name == "state":
        return state_name(packet.state)
    if name in ("in", "out"):
        return (asked.indev if name == "in" else asked.outdev) or "no interface"
    if name == "proto":
        return proto_name(packet.proto)
    if name in ("src", "dst"):
        return address_text(packet.src if name == "src" else packet.dst)
    if name in ("sport", "dport"):
        return str((packet.sport if name == "sport" else packet.dport) or "no port")
    if name in ("icmp", "icmpv6"):
        at = packet.l4
        if proto_name(packet.proto) != name or packet.fragment or len(packet.data) < at + 2:
            return proto_name(packet.proto)
        return f"{packet.data[at]}/{packet.data[at + 1]}"
    if name == "direction":
        return DIRECTION_NAMES[packet.direction] if packet.direction >= 0 else "no direction"
    if name == "tcp_flags":
        bits = read_flags(packet)
        return " ".join(word for bit, word in enumerate(_FLAGS) if bits >> bit & 1) or "none" if bits >= 0 else "none"
    if name == "helper":
        return HELPER_NAMES[conn.master.helper] if conn is not None and conn.master is not None else "none"
    simple = {
        "fragment": "yes" if packet.more or packet.fragment else "no", "ttl": str(hop_limit(packet)),
        "dscp": str(service(packet)), "length": str(packet.length), "mark": f"{asked.mark:#x}",
        "mac": asked.mac.hex(":") or "no mac",
    }  # fmt: skip
    if conn is not None:
        simple["connpackets"] = str(conn.original_packets + conn.reply_packets)
        simple["connbytes"] = str(conn.original_bytes + conn.reply_bytes)
    return simple.get(name, "")


def lines(told: Iterable[Told]) -> Iterator[str]:
    """The steps as people read them."""
    for one in told:
        step = one["step"]
        if step == "packet":
            yield _line("packet", one["text"])
            where = f"chain={one['chain']} in={one['in'] or '-'} out={one['out'] or '-'} mark={one['mark']:#x}"
            yield _line("where", f"{where} length={one['length']}")
        elif step in ("connection", "after"):
            text = one["line"] or ("none is known" if step == "connection" else "no connection")
            yield _line(step, text.rstrip())
            if one.get("master"):
                yield _line("", f"expected by: {one['master'].rstrip()}")
            if one.get("expects"):
                yield _line("", f"expects {one['expects']} connection{'s' * (one['expects'] > 1)}")
        elif step == "state":
            yield from _state_lines(one)
        elif step == "again":
            yield _line("again", one["text"])
        elif step == "verdict":
            by = f"by {one['rule']!r}" if one["rule"] else f"by {one['by']}"
            origin = f" ({one['origin']})" if one.get("origin") else ""
            how = f" with {one['with']}" if one.get("with") else ""
            yield _line("verdict", f"{one['verdict']}{how} {by}{origin}")
            if one.get("offload"):
                yield _line("", "offload: once the connection is open, its packets pass in the kernel")
            if one.get("reason"):
                yield _line("", f"{one['reason']}: {one['sentence']}")
        else:
            yield _rule_line(one)


def _state_lines(one: Told) -> Iterator[str]:
    words = [one["state"] or "dropped by connection tracking", one["direction"] or ""]
    yield _line("state", " ".join(word for word in words if word))
    if one["reason"]:
        yield _line("reason", f"{one['reason']}: {one['sentence']}")
    reckoned = one["arithmetic"]
    if not one["reason"] and all(check["holds"] for check in reckoned["checks"]):
        return  # nobody asks why it is in the window
    for what, facts in reckoned["facts"].items():
        yield _line("", f"{what}: " + " ".join(f"{name}={value}" for name, value in facts.items()))
    for check in reckoned["checks"]:
        yield _line("", f"{'holds' if check['holds'] else 'FAILS'}  {check['what']}: {check['numbers']}")


def _rule_line(one: Told) -> str:
    heads = {"rule": "rule", "tracking": "tracking", "again-rule": "again"}
    if one["missed"] is None:
        text = f"{one['rule']!r} matches: {one['verdict']}" + (" (shadow)" if one.get("shadow") else "")
    else:
        has = f": the packet has {one['has']}" if one["has"] else ""
        text = f"{one['rule']!r} differs in {one['missed']}{has}"
    return _line(heads[one["step"]], text)


def _line(head: str, text: str) -> str:
    return f"{head:<{_WIDTH}} {text}".rstrip()


def document(told: Iterable[Told]) -> Told:
    """All steps as one JSON object: rules in lists, everything else under its own name."""
    found: Told = {"rules": []}
    for one in told:
        step = one["step"]
        rest = {name: value for name, value in one.items() if name != "step"}
        if step in ("rule", "tracking", "again-rule"):
            found.setdefault({"rule": "rules", "tracking": "tracking", "again-rule": "again_rules"}[step], []).append(
                rest
            )
        else:
            found[step] = rest
    return found
