"""A firewall that is asked about each packet before it gets it: what ``explain`` says must be what then happens."""

import json
from typing import Any

from tools.spoken import CLIENT, SERVER

from ctfw import reason
from ctfw.config.packet_words import parse
from ctfw.conntrack.record import as_dict
from ctfw.conntrack.settings import SECOND, Settings
from ctfw.conntrack.state import ANY, INVALID, NEW, RELATED, state_name
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import DIRECTION_NAMES, FORWARD, INPUT, OUTPUT
from ctfw.ruleset.limit import Limit, RateLimit
from ctfw.ruleset.rule import Log, Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import InterfaceSet, NumberSet
from ctfw.ruleset.verdict import ACCEPT, DROP, NAMES, REJECT, TRACK_LIBERAL, TRACK_LOOSE, TRACK_NONE
from ctfw.tools.build_packet import Talk
from ctfw.tools.explain import Situation, document, explain, lines

EVERYWHERE = 1 << INPUT | 1 << FORWARD | 1 << OUTPUT


def numbers(*wanted: int) -> NumberSet:
    return NumberSet([(one, one) for one in wanted])


def rules() -> list[Rule]:
    """A little of everything that a verdict can hang on."""
    return [
        Rule("untracked", "f:1", ACCEPT, EVERYWHERE, ANY, numbers(17), dport=numbers(9), track=TRACK_NONE),
        Rule("liberal", "f:2", ACCEPT, EVERYWHERE, ANY, numbers(6), dport=numbers(9), track=TRACK_LIBERAL),
        Rule("loose", "f:2", ACCEPT, EVERYWHERE, ANY, numbers(6), dport=numbers(10), track=TRACK_LOOSE),
        Rule("replies", "f:3", ACCEPT, EVERYWHERE, 2 | RELATED),
        Rule("garbage", "f:4", DROP, EVERYWHERE, INVALID, log=Log(Limit(SECOND, 1))),
        Rule("ssh", "f:5", ACCEPT, EVERYWHERE, NEW, numbers(6), dport=numbers(22), limit=RateLimit(60 * SECOND, 2)),
        Rule("no mail", "f:6", REJECT, EVERYWHERE, NEW, numbers(6, 17), dport=numbers(25)),
        Rule("lan", "f:7", ACCEPT, 1 << FORWARD, NEW | RELATED, indev=InterfaceSet(["lan0"], [])),
    ]


def picture(one: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    """All that an object holds, as plain data; the same object twice is a number."""
    if isinstance(one, int | str | bytes | float | None):
        return one
    if id(one) in seen:
        return ("seen", seen[id(one)][0])
    seen[id(one)] = (len(seen), one)  # held, so that nothing else gets its identity
    if isinstance(one, dict):
        return [(picture(key, seen), picture(value, seen)) for key, value in one.items()]
    if isinstance(one, list | tuple):
        return [picture(each, seen) for each in one]
    names = [name for name in dir(type(one)) if not name.startswith("__")]
    held = {n: getattr(one, n) for n in names if not callable(getattr(type(one), n)) and hasattr(one, n)}
    return (type(one).__name__, picture({**held, **getattr(one, "__dict__", {})}, seen))


class Gateway:
    def __init__(self, ruleset: Ruleset | None = None, **values: int) -> None:
        self.engine = Engine(
            ConnTrack(Settings(values, {"ftp": [21], "tftp": [69], "pptp": [1723]})), ruleset or Ruleset(rules(), {})
        )
        self.talk = Talk()
        self.now = 1000 * SECOND

    def ask(self, text: str, hook: int = FORWARD, indev: str = "lan0", outdev: str = "wan0") -> dict[str, Any]:
        """Explains the packet, then sends it. What was said is what happens, and saying it changed nothing."""
        wording = parse(text)
        data = self.talk.build(wording)
        return self.ask_bytes(data, hook, indev, outdev, wording.mark)

    def ask_bytes(
        self, data: bytes, hook: int = FORWARD, indev: str = "lan0", outdev: str = "wan0", mark: int = 0
    ) -> dict[str, Any]:
        asked = Situation(data, len(data), hook, indev, outdev, mark)
        engine = self.engine
        judged = {"engine": engine.tracker, "rules": engine.ruleset.every, "f": engine._fragments, "c": engine.counters}
        before = picture(judged, {})
        told = list(explain(engine, asked, self.now))
        assert picture(judged, {}) == before
        said = document(json.loads(json.dumps(told)))
        done = engine.handle(data, len(data), hook, indev, outdev, mark, True, self.now)
        verdict = {"reject": "drop"}.get(said["verdict"]["verdict"], said["verdict"]["verdict"])
        assert (said["state"]["state"] or "", verdict) == (state_name(done.state), NAMES[done.verdict]), list(
            lines(told)
        )
        assert said["verdict"]["rule"] == (done.rule.name if done.rule is not None else None), list(lines(told))
        assert said["state"]["direction"] == (DIRECTION_NAMES[done.direction] if done.direction >= 0 else None)
        why = reason.NAMES[done.reason] or None
        assert why == (said["verdict"].get("reason") or said["state"]["reason"]), list(lines(told))
        if done.verdict == ACCEPT:
            self.talk.arrived()
        self._check_after(said["after"], done.conn, done.verdict)
        said["text"] = "\n".join(lines(told))
        return said

    def _check_after(self, after: dict[str, Any], conn: Any, verdict: int) -> None:
        if conn is not None and conn.is_confirmed() and not conn.status & 512:
            expected = json.loads(json.dumps(as_dict(conn, self.now, True)))
            assert {name: after.get(name) for name in expected} == expected
        elif verdict == ACCEPT:
            assert after["line"] is None


def established(**values: int) -> Gateway:
    gateway = Gateway(None, **values)
    for text in (f"{CLIENT} syn", f"{SERVER} syn ack", f"{CLIENT} ack"):
        gateway.ask(text)
    return gateway
