"""What rules do beside accepting and dropping: reject, mark, log, track, add to a set, count, keep hours."""

import json

import pytest
from engine import packets
from ruleset.gateway import CLIENT, OTHER, SECOND, SERVER, Gateway, ack, answer, handshake, query, reply, syn

from ctfw.ruleset import marks, verdict
from ctfw.ruleset.schedule import Schedule
from ctfw.service.members import MemberError, add, remove, restore, show_member, texts

ALL = "  - {name: all, verdict: accept}\n"
REPLIES = "  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}\n"
BIT = marks.REJECT_BIT


@pytest.mark.parametrize(
    ("rule", "packet", "kind"),
    [
        ("verdict: reject", syn(), verdict.TCP_RESET),
        ("verdict: reject", query(), verdict.PORT_UNREACHABLE),
        ("verdict: reject, reject_with: no-route", syn(), verdict.NO_ROUTE),
        ("verdict: reject, reject_with: admin-prohibited", query(), verdict.ADMIN_PROHIBITED),
        ("proto: tcp, verdict: reject, reject_with: tcp-reset", syn(), verdict.TCP_RESET),
    ],
)
def test_a_rejected_packet_is_dropped_and_says_by_its_mark_how(rule: str, packet: bytes, kind: int) -> None:
    gateway = Gateway(f"rules:\n  - {{name: no, {rule}}}\n")
    judgement = gateway.judge(packet, mark=0x5)
    assert (judgement.verdict, judgement.word(), judgement.reject) == (verdict.DROP, "reject", kind)
    assert judgement.mark & 0xFFFF == 0x5
    assert marks.reject_kind(judgement.mark, BIT) == kind
    assert gateway.connections == 0


@pytest.mark.parametrize("bit", [1 << place for place in range(3, 32)])
@pytest.mark.parametrize("kind", range(1, len(verdict.REJECT_NAMES)))
def test_the_mark_carries_every_kind_at_every_bit(bit: int, kind: int) -> None:
    carried = marks.rejecting(0xFFFFFFFF, bit, kind)
    assert marks.reject_kind(carried, bit) == kind
    assert carried | marks.reject_field(bit) == 0xFFFFFFFF
    assert marks.reject_kind(carried & ~marks.reject_field(bit), bit) == 0


def test_a_mark_that_says_reject_is_cleared_on_arrival() -> None:
    gateway = Gateway("reject: {mark: 0x80}\nrules:\n  - {name: zero, mark: 0x100/0xf00, verdict: accept}\n")
    judgement = gateway.judge(syn(), mark=0x1F0)
    assert judgement.word() == "accept" and judgement.mark == 0x100
    assert gateway.judge(ack(), mark=0x100).mark == -1


def test_marks_are_set_on_the_way_and_later_rules_see_them() -> None:
    gateway = Gateway(
        "rules:\n  - {name: low, set_mark: 0x2/0xf, verdict: continue}\n"
        "  - {name: seen, mark: 0x2/0xf, set_mark: 0x30/0xf0, verdict: accept}\n"
    )
    assert gateway.judge(syn(), mark=0x105).mark == 0x132
    assert gateway.judge(syn(40001), mark=0x132).mark == -1


def test_later_fragments_leave_with_the_mark_of_the_first() -> None:
    gateway = Gateway("rules:\n  - {name: marked, proto: udp, set_mark: 0x7, verdict: accept}\n")
    first = packets.ip(CLIENT, SERVER, 17, query()[20:28] + bytes(24), more=True)
    later = packets.ip(CLIENT, SERVER, 17, bytes(8), offset=32)
    assert gateway.judge(first).mark == 7
    judgement = gateway.judge(later, mark=BIT)
    assert judgement.word() == "accept" and judgement.mark == 7


def test_rules_that_go_on_are_counted_and_logged_each() -> None:
    gateway = Gateway(
        "rules:\n  - {name: count, state: NEW, verdict: continue, log: {limit: 1/day, burst: 1}}\n"
        "  - {name: shade, proto: tcp, verdict: drop, shadow: on, log: true}\n"
        "  - {name: all, verdict: accept, log: true}\n"
    )
    judgement = gateway.judge(syn())
    assert judgement.word() == "accept" and judgement.log
    assert [rule.name for rule in judgement.logs] == ["count", "shade"]
    assert [rule.name for rule in gateway.judge(syn(40001)).logs] == ["shade"]
    assert gateway.judge(query()).logs == []
    assert {rule.name: rule.packets for rule in gateway.engine.ruleset.rules} == {"count": 3, "shade": 2, "all": 3}


def test_track_none_makes_no_connection() -> None:
    gateway = Gateway(
        "rules:\n  - {name: sip, proto: udp, dport: 53, track: none}\n"
        "  - {name: untracked, state: UNTRACKED, verdict: accept}\n" + ALL
    )
    assert gateway.says(query()) == "accept: untracked"
    assert gateway.connections == 0
    assert gateway.says(reply()) == "accept: all"  # that rule speaks of one direction only
    assert gateway.engine.ruleset.rules[0].packets == 1


def test_track_loose_picks_up_what_the_settings_would_not() -> None:
    rules = "conntrack: {tcp_loose: off}\nrules:\n" + ALL
    assert gateway_state(Gateway(rules), ack()) == 8
    loose = rules.replace("rules:\n", f"rules:\n  - {{name: asymmetric, dst: {SERVER}, track: loose}}\n")
    assert gateway_state(Gateway(loose), ack()) == 1
    assert gateway_state(Gateway(loose), packets.tcp(CLIENT, OTHER, 1, 2, "ack", seq=5, ack=6)) == 8


def test_track_liberal_holds_nobody_to_the_window_and_stays_with_the_connection() -> None:
    far = answer(seq=1_000_000)
    rules = "rules:\n  - {name: all, state: [NEW, ESTABLISHED], verdict: accept}\n"
    liberal = rules.replace("rules:\n", "rules:\n  - {name: l, in: lan0, track: liberal}\n")
    for text, state in [(rules, 8), (liberal, 2)]:
        gateway = Gateway(text)
        for packet in handshake():
            assert gateway.says(packet) == "accept: all"
        assert gateway_state(gateway, far) == state


def gateway_state(gateway: Gateway, packet: bytes) -> int:
    return int(gateway.judge(packet).state)


def test_a_rule_adds_to_a_set_that_another_asks() -> None:
    gateway = Gateway(
        "sets: {banned: {members: [10.9.9.9], dynamic: on, ttl: 1h}}\n"
        "rules:\n  - {name: banned, src: $banned, verdict: drop}\n"
        "  - {name: trap, proto: tcp, dport: 23, add: {set: banned, ttl: 10s, prefix4: 24}, verdict: drop}\n" + ALL
    )
    assert gateway.says(query(src=OTHER)) == "accept: all"
    assert gateway.says(syn(dport=23, src=OTHER)) == "drop: trap"
    assert gateway.says(query(src="198.51.100.200")) == "drop: banned"
    assert banned(gateway)[0][0] == "198.51.100.0/24"
    gateway.wait(10)
    assert gateway.says(query(src=OTHER)) == "accept: all"
    assert gateway.says(query(src="10.9.9.9")) == "drop: banned"


def banned(gateway: Gateway) -> list[tuple[str, int]]:
    """The members with what they have left."""
    members = gateway.engine.ruleset.sets["banned"].members(gateway.now)
    return [(show_member(member, length), left) for member, length, left in members]


def test_members_by_hand_survive_a_reload_and_a_restart() -> None:
    rules = (
        "sets: {banned: {members: [], dynamic: on, max: 2}}\nrules:\n"
        "  - {name: banned, src: $banned, verdict: drop}\n" + ALL
    )
    gateway = Gateway(rules)
    ruleset = gateway.engine.ruleset
    add(ruleset, "banned", OTHER, 0, gateway.now)
    add(ruleset, "banned", "2001:db8::/32", 60 * SECOND, gateway.now)
    with pytest.raises(MemberError, match="is full"):
        add(ruleset, "banned", "192.0.2.0/24", 0, gateway.now)
    assert gateway.says(query(src=OTHER)) == "drop: banned"
    gateway.reload(rules)
    assert gateway.says(query(src=OTHER)) == "drop: banned"
    saved = json.loads("".join(texts(gateway.engine.ruleset, gateway.now, 1_000_000 * SECOND)))
    other = Gateway(rules)
    assert restore(other.engine.ruleset, saved, other.now, 1_000_030 * SECOND) == []
    (first, second) = banned(other)
    assert first == (OTHER, -1)
    assert second[0] == "2001:db8::/32" and 29 * SECOND < second[1] <= 30 * SECOND
    assert remove(other.engine.ruleset, "banned", OTHER, other.now)
    assert not remove(other.engine.ruleset, "banned", OTHER, other.now)
    assert other.says(query(src=OTHER)) == "accept: all"


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"time": "x", "sets": {}}, {"time": 0, "sets": {"banned": [1, ["x", 5], ["10.0.0.0/8", "y"], []]}}]
    + [{"time": 0, "sets": {"gone": []}}, {"time": 0, "sets": {"banned": [["10.0.0.1/8", -1], ["::1/200", -1]]}}],
)
def test_whatever_is_restored_is_used_or_complained_about(data: object) -> None:
    gateway = Gateway("sets: {banned: {members: [], dynamic: on}}\nrules: [{name: b, src: $banned, verdict: drop}]\n")
    assert restore(gateway.engine.ruleset, data, gateway.now, 0)
    assert banned(gateway) == []


def test_connlimit_counts_what_lives() -> None:
    gateway = Gateway(
        "rules:\n"
        + REPLIES
        + "  - {name: many, state: NEW, connlimit: {above: 2, prefix4: 24}, verdict: reject}\n"
        + ALL
    )
    for sport in (1, 2):
        for packet in handshake(sport):
            assert gateway.says(packet).startswith("accept")
    assert gateway.says(syn(3)) == "reject: many"
    assert gateway.says(syn(3, src="192.168.1.77")) == "reject: many"
    assert gateway.says(syn(3, src="192.168.2.77")) == "accept: all"
    assert gateway.says(packets.tcp(CLIENT, SERVER, 1, 443, "rst", seq=2)) == "accept: replies"
    gateway.wait(11)
    assert gateway.says(syn(3)) == "accept: all"
    assert gateway.says(syn(4)) == "reject: many"


def test_connlimit_counts_on_after_a_reload() -> None:
    rules = "rules:\n" + REPLIES + "  - {name: few, state: NEW, connlimit: {upto: 1}, verdict: accept}\n"
    gateway = Gateway(rules)
    assert gateway.says(syn(1)) == "accept: few"
    gateway.reload(rules)
    assert gateway.says(syn(2)) == "drop: policy forward"


def test_a_mac_address_is_asked_only_where_there_is_one() -> None:
    mac = bytes.fromhex("525400123456")
    gateway = Gateway('rules:\n  - {name: tablet, mac: "52:54:00:12:34:56", verdict: drop}\n' + ALL)
    assert gateway.engine.ruleset.asks_mac
    assert gateway.says(syn(1), mac=mac) == "drop: tablet"
    assert gateway.says(syn(2), mac=mac[:5] + b"\0") == "accept: all"
    assert gateway.says(syn(3)) == "accept: all"


def test_connection_counters_see_the_packet_at_hand() -> None:
    gateway = Gateway(
        "rules:\n  - {name: third, connpackets: 3-, verdict: drop}\n"
        "  - {name: old, connage: 10s-, verdict: reject}\n" + ALL
    )
    assert [gateway.says(packet) for packet in (query(), reply(), query())] == ["accept: all"] * 2 + ["drop: third"]
    assert gateway.says(query(40001)) == "accept: all"
    gateway.wait(10)
    assert gateway.says(reply(40001)) == "reject: old"


MONDAY = 4 * 86400  # 5 January 1970 was one


@pytest.mark.parametrize(
    ("days", "windows", "second", "active"),
    [
        (0b0000001, [], 0, True),
        (0b0000001, [], -1, False),
        (0b0000001, [], 86400, False),
        (0b1111111, [(8 * 3600, 18 * 3600)], 8 * 3600 - 1, False),
        (0b1111111, [(8 * 3600, 18 * 3600)], 8 * 3600, True),
        (0b1111111, [(8 * 3600, 18 * 3600)], 18 * 3600, False),
        (0b0000001, [(22 * 3600, 6 * 3600)], 86400 + 5 * 3600, True),  # Tuesday morning belongs to Monday night
        (0b0000001, [(22 * 3600, 6 * 3600)], 5 * 3600, False),
        (0b1000000, [(22 * 3600, 6 * 3600)], 5 * 3600, True),
        (0b0000001, [(0, 86400)], 86399, True),
    ],
)
def test_time_windows(days: int, windows: list[tuple[int, int]], second: int, active: bool) -> None:
    from datetime import UTC

    schedule = Schedule(days, windows, UTC)
    schedule.update(MONDAY + second)
    assert schedule.active == active


def test_a_time_zone_has_its_own_clock() -> None:
    gateway = Gateway(
        "rules:\n  - {name: night, time: {days: thu, hours: 23:30-00:30, timezone: Europe/Berlin}, verdict: drop}\n"
        + ALL
    )
    for hour, said in [(22.0, "accept: all"), (22.5, "drop: night"), (23.49, "drop: night"), (23.5, "accept: all")]:
        gateway.engine.ruleset.tick(gateway.now, int(hour * 3600 * SECOND))  # 1 January 1970, in UTC
        assert gateway.says(syn(int(hour * 100))) == said
