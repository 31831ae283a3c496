"""A rule that is remembered on its connection is the one that would be found anew, whatever happened in between."""

from engine.packets import udp
from hypothesis import given
from hypothesis import strategies as st

from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ANY, ESTABLISHED, NEW
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import FORWARD, INPUT, OUTPUT
from ctfw.ruleset import memory
from ctfw.ruleset.effects import SetMark
from ctfw.ruleset.limit import RateLimit
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.sets import InterfaceSet, MaskedSet, NumberSet
from ctfw.ruleset.verdict import ACCEPT, CONTINUE, DROP

EVERYWHERE = 1 << INPUT | 1 << FORWARD | 1 << OUTPUT
OPEN = Rule("open", "", ACCEPT, EVERYWHERE, NEW)
CLIENT, SERVER = "192.168.1.2", "203.0.113.2"
ASK, ANSWER = udp(CLIENT, SERVER, 4000, 53), udp(SERVER, CLIENT, 53, 4000)
SECOND = 1_000_000_000


class Gateway:
    """An engine that has a connection with an answered question."""

    def __init__(self, *rules: Rule) -> None:
        self.engine = Engine(ConnTrack(Settings()), Ruleset([*rules, OPEN], {}))
        self.now = SECOND
        self.send(ASK)
        self.send(ANSWER)

    def send(self, packet: bytes, hook: int = FORWARD, indev: str = "lan0", outdev: str = "wan0", mark: int = 0) -> str:
        """The name of the rule that decided."""
        self.now += 1
        judgement = self.engine.handle(packet, len(packet), hook, indev, outdev, mark, False, self.now)
        assert judgement.rule is not None
        return judgement.rule.name


def rule(name: str, **fields: object) -> Rule:
    return Rule(name, "", ACCEPT, EVERYWHERE, ANY, **fields)  # type: ignore[arg-type]  # the names of its fields


def test_each_packet_is_counted_by_the_remembered_rule() -> None:
    gateway = Gateway(rule("other", dport=NumberSet([(1, 1)])), rule("dns", dport=NumberSet([(53, 53)])))
    assert [gateway.send(ASK) for _ in range(5)] == ["dns"] * 5
    assert gateway.engine.ruleset.rules[1].packets == 6


def test_the_two_directions_are_remembered_apart() -> None:
    gateway = Gateway(rule("asks", dport=NumberSet([(53, 53)])), rule("answers", sport=NumberSet([(53, 53)])))
    for _ in range(3):
        assert (gateway.send(ASK), gateway.send(ANSWER)) == ("asks", "answers")


def test_another_way_is_another_rule() -> None:
    gateway = Gateway(
        rule("lan", indev=InterfaceSet(["lan0"])), rule("vpn", outdev=InterfaceSet(["vpn0"])), rule("rest")
    )
    for _ in range(3):
        assert gateway.send(ASK) == "lan"
        assert gateway.send(ASK, indev="dmz0", outdev="vpn0") == "vpn"
        assert gateway.send(ASK, indev="dmz0") == "rest"


def test_another_hook_is_another_rule() -> None:
    local = Rule("local", "", ACCEPT, 1 << INPUT, ANY)
    gateway = Gateway(local, rule("through"))
    for _ in range(3):
        assert (gateway.send(ASK), gateway.send(ASK, hook=INPUT)) == ("through", "local")


def test_new_rules_are_asked_after_a_reload() -> None:
    gateway = Gateway(rule("old"))
    assert gateway.send(ASK) == "old"
    new = Ruleset([rule("new"), OPEN], {})
    new.succeed(gateway.engine.ruleset, gateway.now)
    gateway.engine.ruleset = new
    assert (gateway.send(ASK), gateway.send(ASK), gateway.send(ANSWER)) == ("new", "new", "new")


def test_what_does_not_hang_on_the_tuple_is_asked_each_time() -> None:
    gateway = Gateway(
        rule("marked", mark=MaskedSet([(7, 0xFF)])), rule("few", limit=RateLimit(SECOND, 2)), rule("rest")
    )
    gateway.now += 10 * SECOND
    assert [gateway.send(ASK) for _ in range(3)] == ["few", "few", "rest"]
    assert gateway.send(ASK, mark=7) == "marked"


def test_what_is_done_on_the_way_is_done_each_time() -> None:
    passing = Rule("mark", "", CONTINUE, EVERYWHERE, ANY, set_mark=SetMark(5, 0xFF))
    gateway = Gateway(passing, rule("rest"))
    for seen in (3, 4):
        judgement = gateway.engine.handle(ASK, len(ASK), FORWARD, "lan0", "wan0", 0, False, gateway.now)
        assert judgement.mark == 5
        assert passing.packets == seen


def test_more_places_than_can_be_numbered() -> None:
    gateway = Gateway(rule("lan", indev=InterfaceSet(["lan0"])), rule("rest"))
    for number in range(memory.MOST + 2):
        assert gateway.send(ASK, indev=f"tun{number}") == "rest"
    assert gateway.send(ASK) == "lan"


def test_a_place_for_which_there_is_no_number_is_not_the_first_one() -> None:
    gateway = Gateway(rule("lan", indev=InterfaceSet(["lan0"])), rule("rest"))
    assert gateway.send(ANSWER) == "lan"  # remembered for the first place, which has number 0
    for number in range(memory.MOST - 1):
        gateway.send(ASK, indev=f"tun{number}")
    assert gateway.send(ANSWER, indev="one more") == "rest"


DEVICES = st.sampled_from(["lan0", "wan0", "vpn0"])
RULES = st.lists(
    st.tuples(
        st.sampled_from([ESTABLISHED, NEW, ANY]),
        st.sampled_from([None, 53, 4000]),
        st.sampled_from([None, "lan0", "wan0"]),
        st.sampled_from([None, "wan0", "vpn0"]),
        st.sampled_from([None, 7]),
    ),
    max_size=5,
)


@given(rules=RULES, sent=st.lists(st.tuples(st.booleans(), DEVICES, DEVICES, st.sampled_from([0, 7])), max_size=20))
def test_it_is_the_rule_that_would_be_found_anew(
    rules: list[tuple[int, int | None, str | None, str | None, int | None]], sent: list[tuple[bool, str, str, int]]
) -> None:
    made = [
        Rule(
            str(at), "", DROP, EVERYWHERE, states,
            dport=None if port is None else NumberSet([(port, port)]),
            indev=None if indev is None else InterfaceSet([indev]),
            outdev=None if outdev is None else InterfaceSet([outdev]),
            mark=None if mark is None else MaskedSet([(mark, 0xFF)]),
        )
        for at, (states, port, indev, outdev, mark) in enumerate(rules)
    ]  # fmt: skip
    gateway = Gateway()
    gateway.engine.ruleset = Ruleset(made, {})
    asked = Ruleset(made, {})
    for is_question, indev, outdev, mark in sent:
        packet = ASK if is_question else ANSWER
        judgement = gateway.engine.handle(packet, len(packet), FORWARD, indev, outdev, mark, False, gateway.now)
        anew = asked.evaluate(judgement.packet, FORWARD, indev, outdev, judgement.conn, mark)
        assert judgement.rule is not None and judgement.rule.name == anew.name
