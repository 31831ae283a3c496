"""The compiled rules and the naive ones of `naive` agree: same file, same questions, same answers, same traces left."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruleset.documents import conn_of, connections, decoded, documents, hook_of, questions
from ruleset.naive import SECOND, Asked, Firewall

from ctfw import config
from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import DYING
from ctfw.ruleset.question import DRY
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.trace import trace
from ctfw.service.members import show_member

RELAXED = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def load(document: dict[str, Any]) -> Ruleset:
    return config.load("rules.yaml", json.dumps(document)).ruleset


class Question:
    """One question in the code's terms."""

    def __init__(self, asked: Asked, conn: Conn | None) -> None:
        self.packet = decoded(asked)
        self.hook = hook_of(asked)
        self.asked = asked
        self.conn = conn
        self.mac = bytes.fromhex(asked.mac.replace(":", ""))

    def trace(self, ruleset: Ruleset) -> list[tuple[Rule, str | None]]:
        asked = self.asked
        where = (self.packet, self.hook, asked.indev, asked.outdev, self.conn, asked.mark, self.mac, asked.now)
        return list(trace(ruleset, *where))

    def ask(self, ruleset: Ruleset, mode: int = 0) -> str:
        asked = self.asked
        rule = ruleset.evaluate(
            self.packet, self.hook, asked.indev, asked.outdev, self.conn, asked.mark, self.mac, asked.now, mode
        )
        if mode == 0:
            rule.packets += 1  # as the engine does
        return rule.name


@RELAXED
@given(document=documents(), data=st.data())
def test_the_compiled_rules_say_what_the_file_means(document: dict[str, Any], data: st.DataObject) -> None:
    ruleset, naive = load(document), Firewall(document)
    known = data.draw(st.lists(connections, min_size=1, max_size=3))
    conns = [conn_of(connection) for connection in known]
    now = 10 * SECOND
    for _ in range(data.draw(st.integers(1, 6))):
        now += data.draw(st.sampled_from([0, 1, SECOND // 5, SECOND, 7 * SECOND, 70 * SECOND]))
        for connection, conn in zip(known, conns, strict=True):
            if data.draw(st.integers(0, 9)) == 0:
                connection.gone = True
                conn.status |= DYING
        asked = data.draw(questions(known, now))
        conn_asked = conns[known.index(asked.connection)] if asked.connection is not None else None
        question = Question(asked, conn_asked)
        ruleset.tick(now, asked.unix)
        expected = naive.judge(asked)
        assert question.ask(ruleset) == expected.rule
        assert ruleset.mark == expected.mark
        assert [rule.name for rule in ruleset.logs] == expected.logs
        for name, members in naive.members.items():
            living = {show_member(member, length) for member, length, _ in ruleset.sets[name].members(now)}
            assert living == {_shown(member) for member, end in members.items() if end > now}
    every = [*ruleset.every, *ruleset.policies.values()]
    assert {rule.name: rule.packets for rule in every if rule.packets} == naive.counts


@RELAXED
@given(document=documents(), data=st.data())
def test_the_trace_tells_how_the_walk_went(document: dict[str, Any], data: st.DataObject) -> None:
    ruleset, naive = load(document), Firewall(document)
    known = data.draw(st.lists(connections, min_size=1, max_size=2))
    conns = [conn_of(connection) for connection in known]
    for _ in range(data.draw(st.integers(1, 4))):
        asked = data.draw(questions(known, 10 * SECOND))
        conn = conns[known.index(asked.connection)] if asked.connection is not None else None
        question = Question(asked, conn)
        ruleset.tick(asked.now, asked.unix)
        steps = question.trace(ruleset)
        decided, missed = steps[-1]
        assert missed is None
        assert question.ask(ruleset, DRY) == decided.name
        assert all(rule.packets == 0 for rule in ruleset.every) and not ruleset.logs
        by_name = {rule["name"]: rule for those in [document["rules"], *document["chains"].values()] for rule in those}
        for rule, field in steps:
            if rule.name in by_name:
                misses = naive.misses(by_name[rule.name], asked, live=False)
                implied = field == "proto" and "tcp_flags" in misses
                assert field in misses or implied if field is not None else not misses
                if field is None and "set_mark" in by_name[rule.name] and not rule.shadow:
                    assert rule.set_mark is not None
                    asked.mark = (asked.mark & ~rule.set_mark.mask) | rule.set_mark.value


def _shown(network: str) -> str:
    address, _, length = network.partition("/")
    return address if int(length) == (128 if ":" in address else 32) else network
