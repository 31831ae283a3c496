"""Several workers give the same answers as one: in the conversations of tests/engine, and in random ones."""

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from engine import packets
from engine.test_gre_pptp import DISCONNECT, OUT, OUT_REPLY, START, START_REPLY, message
from workers.team import Team, said

from ctfw import config
from ctfw.conntrack.state import ESTABLISHED, INVALID, NEW, RELATED
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.reason import ICMP_ERROR_UNKNOWN
from ctfw.ruleset.dynamic import DynamicSet
from ctfw.workers.sibling import MOST_CALLS, MOST_HINTS, PATIENCE, QUESTIONS

ENGINE = Path(__file__).parents[1] / "engine"
CONVERSATIONS = (
    "test_gre_pptp", "test_icmp", "test_helpers", "test_helpers_others", "test_helpers_sip", "test_helpers_ftp",
    "test_udp", "test_sctp", "test_fragments",
)  # fmt: skip
# They reach into the engine beside its packets, which the team does not notice.
INSIDE = "not takes_its_tunnel_along and not follows_its_table"
SECOND = 1_000_000_000
HOSTS = ("192.168.1.2", "192.168.1.3", "203.0.113.2", "203.0.113.9", "198.51.100.7")
ROUTER = "203.0.113.77"
RULES = """
version: 1
policy: {input: drop, forward: drop, output: drop}
conntrack: {helpers: {irc: 6667, ftp: 21, pptp: 1723}}
sets:
  knocked: {dynamic: on, ttl: 1m}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: garbage, state: INVALID, verdict: drop}
  - {name: knock, proto: udp, dport: 7000, add: {set: knocked}, verdict: drop}
  - {name: open, src: $knocked, proto: tcp, dport: 22, state: NEW, verdict: accept}
  - {name: udp, proto: udp, state: NEW, verdict: accept}
  - {name: tcp, proto: tcp, dport: [21, 443, 1723, 6667], state: NEW, verdict: accept}
"""


def test_every_conversation_gets_the_same_answers() -> None:
    files = [str(ENGINE / f"{name}.py") for name in CONVERSATIONS]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "workers.mirror", "-k", INSIDE]
        + files,
        env=os.environ | {"MIRROR_WORKERS": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]


class Pair:
    """One engine and a team, under the same rules, that see the same packets."""

    def __init__(self, workers: int, seed: int = 0, rules: str = RULES) -> None:
        loaded = config.load("rules.yaml", rules)
        self.alone = Engine(ConnTrack(loaded.settings), loaded.ruleset)
        self.team = Team(workers, lambda: config.load("rules.yaml", rules).ruleset, seed=seed)
        for engine in self.team.engines:
            engine.tracker.reconfigure(config.load("rules.yaml", rules).settings)
        self.now = 1_000_000 * SECOND

    def sees(self, data: bytes) -> tuple[str, int, int, int, str]:
        self.now += 1_000_000
        alone = said(self.alone.handle(data, len(data), FORWARD, "lan0", "wan0", 0, False, self.now))
        assert said(self.team.handle(data, len(data), self.now, FORWARD, False)) == alone
        return alone

    def keys(self) -> tuple[list[bytes], int]:
        """What all of the team has in its tables, and how many connections it expects."""
        engines = self.team.engines
        found = sorted(key for engine in engines for key in self.tables(engine))
        return found, sum(map(self.expected, engines))

    def tables(self, engine: Engine) -> list[bytes]:
        for _ in range(32):
            engine.tracker.sweep(self.now)
        table = engine.tracker.table
        return sorted(conn.key for number in range(table.shards) for conn in table.shard(number))

    def expected(self, engine: Engine) -> int:
        return len(engine.tracker.expectations())


class Talk:
    """One TCP connection's segments, in the order in which they are asked for."""

    def __init__(self, src: str, dst: str, sport: int, dport: int) -> None:
        self.ends = ((src, sport), (dst, dport))
        self.at = [1, 100]
        self.said = [self._segment(0, "syn", ack=0)]
        self.at[0] += 1
        self.said.append(self._segment(1, "syn ack"))
        self.at[1] += 1
        self.said.append(self._segment(0, "ack"))

    def _segment(self, side: int, flags: str, data: bytes = b"", ack: int | None = None) -> bytes:
        (src, sport), (dst, dport) = self.ends[side], self.ends[1 - side]
        acked = self.at[1 - side] if ack is None else ack
        return packets.tcp(src, dst, sport, dport, flags, seq=self.at[side], ack=acked, data=data)

    def says(self, side: int, data: bytes) -> "Talk":
        self.said.append(self._segment(side, "psh ack", data))
        self.at[side] += len(data)
        return self

    def ends_(self) -> "Talk":
        for side in (0, 1):
            self.said.append(self._segment(side, "fin ack"))
            self.at[side] += 1
        self.said.append(self._segment(0, "ack"))
        return self


def error_about(packet: bytes) -> bytes:
    """What a router on the way says of a packet: to its sender, from an address that nobody else has."""
    sender = ".".join(str(byte) for byte in packet[12:16])
    return packets.icmp_message(ROUTER, sender, bytes([3, 1, 0, 0, 0, 0, 0, 0]) + packet[:28])


def chat(chance: random.Random, sport: int) -> list[bytes]:
    """IRC, and the file transfer from somebody else that it announces; then once more, which nobody expects."""
    host, server, friend = chance.sample(HOSTS, 3)
    port = chance.choice((5000, 5001))
    address = int.from_bytes(packets.packed(host), "big")
    offer = b"PRIVMSG bob :\1DCC SEND file %d %d 1234\1\r\n" % (address, port)
    talk = Talk(host, server, sport, 6667).says(0, offer)
    if chance.random() < 0.3:
        talk.ends_()
    return [*talk.said, *Talk(friend, host, sport, port).said, *Talk(friend, host, sport + 1, port).said]


def tunnel(chance: random.Random, sport: int) -> list[bytes]:
    """PPTP: a call, its tunnel in both directions, the end of the call, and the tunnel after that."""
    host, server = chance.sample(HOSTS, 2)
    own, peer = chance.randrange(1, 1 << 16), chance.randrange(1, 1 << 16)
    talk = Talk(host, server, sport, 1723).says(0, message(START)).says(1, message(START_REPLY, b"\1\0\1"))
    talk.says(0, message(OUT, struct.pack(">H", own)))
    talk.says(1, message(OUT_REPLY, struct.pack(">HHB", peer, own, 1)))
    gre = [packets.gre(host, server, peer), packets.gre(server, host, own)]
    chance.shuffle(gre)
    talk.said += gre + [error_about(gre[0])] + gre
    if chance.random() < 0.7:
        talk.says(1, message(DISCONNECT))
    talk.said += gre
    return talk.said


def lookup(chance: random.Random, sport: int) -> list[bytes]:
    host, server = chance.sample(HOSTS, 2)
    question = packets.udp(host, server, sport, 53, b"?")
    return [question, packets.udp(server, host, 53, sport, b"!"), error_about(question), question]


def knock(chance: random.Random, sport: int) -> list[bytes]:
    host, server = chance.sample(HOSTS, 2)
    ssh = Talk(host, server, sport, 22).said
    return [ssh[0], packets.udp(host, chance.choice(HOSTS), sport, 7000), *ssh]


def transfer(chance: random.Random, sport: int) -> list[bytes]:
    """FTP with its data connection, which stays with the same worker."""
    host, server = chance.sample(HOSTS, 2)
    port = chance.randrange(1024, 1 << 16)
    where = server.replace(".", ",") + f",{port >> 8},{port & 255}"
    talk = Talk(host, server, sport, 21).says(0, b"PASV\r\n").says(1, f"227 Entering ({where})\r\n".encode())
    return [*talk.said, *Talk(host, server, sport + 1, port).ends_().said, *talk.ends_().said]


@pytest.mark.parametrize("seed", range(8))
def test_random_conversations_get_the_same_answers(seed: int) -> None:
    chance = random.Random(seed)
    pair = Pair(chance.choice((2, 3, 7)), seed)
    kinds = (chat, tunnel, lookup, knock, transfer)
    running = [chance.choice(kinds)(chance, 40000 + 10 * number) for number in range(40)]
    seen: list[bytes] = []
    states = set()
    while running:
        one = chance.choice(running[:6])
        seen.append(one.pop(0))
        states.add(pair.sees(seen[-1])[1])
        if chance.random() < 0.1:
            pair.sees(error_about(chance.choice(seen)))
        if chance.random() < 0.1:
            here, there = chance.sample(HOSTS, 2)
            pair.sees(error_about(packets.udp(here, there, 1, 2)))  # about nothing that there was
        if chance.random() < 0.02:
            pair.now += chance.choice((1, 40, 400)) * SECOND
            pair.alone.tracker.sweep(pair.now)
            pair.team.sweep(pair.now)
        running = [rest for rest in running if rest]
    assert states >= {NEW, ESTABLISHED, RELATED}
    assert pair.keys() == (pair.tables(pair.alone), pair.expected(pair.alone))


def apart(make: Callable[[random.Random, int], list[bytes]], workers: int = 3) -> tuple[Pair, list[bytes]]:
    """A conversation some packets of which go to another worker than its first one, and a pair that will see it."""
    for seed in range(1000):
        pair = Pair(workers, seed)
        said = make(random.Random(seed), 40000)
        if len({pair.team.chosen(packet) for packet in said}) > 1:
            return pair, said
    raise AssertionError


def test_what_is_expected_elsewhere_is_taken_once() -> None:
    pair, said = apart(chat)
    states = [pair.sees(packet)[1] for packet in said if packet[33] & 2 and not packet[33] & 16]  # each SYN
    assert NEW in states
    assert sum(sibling.asked for sibling in pair.team.wire.siblings) <= 4


def test_without_an_answer_a_packet_is_what_it_is_without_siblings() -> None:
    for seed in range(1000):
        pair = Pair(2, seed)
        question = lookup(random.Random(seed), 40000)[0]
        if pair.team.chosen(question) != pair.team.chosen(error_about(question)):
            break
    pair.sees(question)
    error = error_about(question)
    assert pair.sees(error)[1] == RELATED
    pair.team.wire.deaf = True
    judgement = pair.team.handle(error, len(error), pair.now, FORWARD, False)
    assert (judgement.state, judgement.reason) == (INVALID, ICMP_ERROR_UNKNOWN)
    assert pair.team.wire.waited == PATIENCE
    asker = pair.team.wire.siblings[pair.team.chosen(error)]
    assert (asker.asked, asker.unanswered) == (2, 1)


def test_strangers_cannot_have_more_asked_than_so_much() -> None:
    pair = Pair(2)
    for number in range(2000):
        error = error_about(packets.udp(HOSTS[0], HOSTS[2], number + 1, 9))
        pair.team.handle(error, len(error), pair.now, FORWARD, False)
    siblings = pair.team.wire.siblings
    assert sum(one.asked for one in siblings) == QUESTIONS
    assert sum(one.unasked for one in siblings) == 2000 - QUESTIONS


def test_the_limit_of_the_table_is_for_all_together() -> None:
    rules = RULES.replace("conntrack: {", "conntrack: {max: 10, ")
    pair = Pair(3, 0, rules)
    for number in range(30):
        pair.sees(packets.udp(HOSTS[0], f"198.51.100.{number}", 40000, 53))
        assert sum(len(engine.tracker.table) for engine in pair.team.engines) <= 10
    assert sum(len(engine.tracker.table) for engine in pair.team.engines) >= 8


def test_hints_are_limited() -> None:
    team = Team(2, lambda: config.load("rules.yaml", RULES).ruleset)
    sibling = team.wire.siblings[1]
    for number in range(MOST_HINTS + 100):
        sibling._note_hint(0, number.to_bytes(8, "big"), b"", 0, b"")
    assert sibling._hint_count == sum(len(several) for several in sibling._hints.values()) == MOST_HINTS


def test_calls_of_others_are_limited() -> None:
    team = Team(2, lambda: config.load("rules.yaml", RULES).ruleset)
    sibling = team.wire.siblings[1]
    for number in range(MOST_CALLS + 100):
        ends = packets.packed(HOSTS[0]) + packets.packed(HOSTS[1]) + number.to_bytes(4, "big")
        sibling._note_call(b"\x06" + ends, b"", [b"\x2f" + ends, b"\x2f" + ends])
    assert len(sibling._ghosts) == MOST_CALLS
    assert team.engines[1].tracker._calls.count == 2 * MOST_CALLS


def test_a_member_that_is_taken_out_is_out_everywhere() -> None:
    pair = Pair(3)
    sets = [engine.ruleset.sets["knocked"] for engine in pair.team.engines]
    sets[0].add(packets.packed(HOSTS[0]), 32, 0, pair.now)
    sets[1].add_for_ever(packets.packed(HOSTS[1]), 32, pair.now)
    pair.team.sweep(pair.now)
    assert [sorted(one.members(pair.now)) for one in sets] == [sorted(sets[0].members(pair.now))] * 3
    assert [len(one) for one in sets] == [2, 2, 2]
    sets[2].remove(packets.packed(HOSTS[0]), 32, pair.now)
    pair.team.sweep(pair.now)
    assert [len(one) for one in sets] == [1, 1, 1]


def test_members_that_old_rules_take_back_are_told_to_nobody() -> None:
    """A roll-back happens at every worker, and each takes its own."""
    pair = Pair(2)
    engine = pair.team.engines[0]
    tried = DynamicSet("knocked")
    for number in range(100):
        tried.add(packets.packed(f"198.51.100.{number}"), 32, 0, pair.now)
    engine.ruleset.sets["knocked"].inherit(tried, pair.now)
    assert len(engine.ruleset.sets["knocked"]) == 100
    assert not any(pair.team.wire.inboxes)
