"""The rules of one generation, and the question that they answer: which one decides about this packet?

The rules are asked in their order. The first that matches and has a verdict decides; one that jumps hands over to a
chain of the user's, which may decide, or end (or ``return``) and give back; one that continues, or is a shadow, does
what it says and the walk goes on. When nothing decides, the chain's policy does, which is a rule like any other (so it
is counted and can be named). How a packet's candidates are found without looking at each rule: ``chain``, ``index``.

What the walk does on its way it does at once: counts, marks, logs, members of sets. Only the rule that decides is
counted by the caller, who may overrule it (a helper can drop what the rules accept). A packet for which a rule is
certain never gets that far.

A ruleset succeeds another (``succeed``): counters, buckets, counted connections and members of dynamic sets live on by
the name of their rule or set, and ``existing`` says what becomes of connections that older rules accepted. Whether one
has to be looked at is a single comparison, of its generation with ``floor``: every generation below it must be, and
``keep`` leaves the floor where it was. So one that slept through two reloads gets what the first of them asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.conntrack.state import ANY
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT, Packet
from ctfw.ruleset.breath import hold_breath
from ctfw.ruleset.chain import HOOKS, STATES, Chain
from ctfw.ruleset.dynamic import DynamicSet
from ctfw.ruleset.marks import OFFLOAD_BIT, REJECT_BIT, reject_field
from ctfw.ruleset.question import LIVE, Question
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.schedule import SECOND
from ctfw.ruleset.verdict import CONTINUE, DROP, JUMP, RETURN

MOST_DEPTH: Final = 16

# What becomes of a connection that older rules accepted, at its next packet.
KEEP: Final = 0  # nothing: the rules see an ESTABLISHED packet
RECHECK: Final = 1  # it goes on when these rules would have accepted its first packet
KILL: Final = 2  # it is forgotten, and the packet tracked as if it were the first one
EXISTING_NAMES: Final = ("keep", "recheck", "kill")


class Ruleset:
    """``policy`` gives the verdict of a chain whose rules do not match; a chain that it does not name drops.

    ``chains``: the user's, by name. ``sets``: the dynamic ones, for whoever adds and removes members. ``breathe``: see
    breath. Raises ValueError for a jump to a chain that is not there, and for chains that lead back to themselves or
    too deep.
    """

    def __init__(
        self,
        rules: list[Rule],
        policy: Mapping[int, int],
        generation: int = 0,
        *,
        chains: Mapping[str, list[Rule]] | None = None,
        sets: Sequence[DynamicSet] = (),
        existing: int = KEEP,
        reject_bit: int = REJECT_BIT,
        offload_bit: int = OFFLOAD_BIT,
        breathe: Callable[[], None] = hold_breath,
    ) -> None:
        self.rules = rules
        self.generation: i64 = generation
        self.existing: i64 = existing
        self.floor: i64 = 0
        self.floor_means: i64 = KEEP
        self.reject_bit: i64 = reject_bit
        self.sets: dict[str, DynamicSet] = {one.name: one for one in sets}
        self.policies: dict[int, Rule] = {}
        for hook in (INPUT, FORWARD, OUTPUT):
            name = "policy " + HOOK_NAMES[hook]
            self.policies[hook] = Rule(name, "", policy.get(hook, DROP), 1 << hook, ANY)
        places = {name: at for at, name in enumerate(chains or {})}
        self.main = Chain("", rules, places, breathe)
        self.chains: list[Chain] = [Chain(name, list(those), places, breathe) for name, those in (chains or {}).items()]
        _check_jumps(self.main, self.chains)
        self.every: list[Rule] = [*rules, *[rule for chain in self.chains for rule in chain.rules]]
        # 0 when no rule offloads. ``own_field``: the bits of the mark that are ours, cleared on arrival.
        self.offload_bit: i64 = offload_bit if any(rule.offload for rule in self.every) else 0
        self.own_field: i64 = reject_field(reject_bit) | self.offload_bit
        self._connlimits = [rule.connlimit for rule in self.every if rule.connlimit is not None]
        self.schedules = [rule.schedule for rule in self.every if rule.schedule is not None]
        # What nobody uses costs nothing: whoever judges packets asks these first.
        self.tracks: bool = any(rule.track for rule in rules)
        self.asks_mac: bool = any(rule.mac is not None for rule in self.every)
        # Beside the verdict, valid until the next ``evaluate``: the mark that the packet leaves with, the rules other
        # than the one that decided which want a line in the log, and whether each packet with the same state, tuple,
        # hook and interfaces will get the same rule and no other effect.
        self.mark: i64 = 0
        self.logs: list[Rule] = []
        self.lasting: bool = False
        self._policy: list[Rule] = [self.policies[hook if hook in self.policies else FORWARD] for hook in range(HOOKS)]
        self._certain: list[Rule | None] = []
        for row in range(HOOKS * STATES):
            first = self.main.certain[row]
            self._certain.append(first if self.main.among[row] else self._policy[row // STATES])
        self._question = Question()
        self._ancestors: list[Rule | None] = []  # of all rules and the policies, for ``succeed``

    def evaluate(
        self,
        packet: Packet,
        hook: i64,
        indev: str,
        outdev: str,
        conn: Conn | None = None,
        mark: i64 = 0,
        mac: bytes = b"",
        now: i64 = 0,
        mode: i64 = LIVE,
    ) -> Rule:
        """The rule, or the policy, that decides about the packet. ``packet.state`` is one of the state bits.

        ``conn`` is the packet's connection, ``mark`` its mark, ``mac`` the source address of its frame (6 bytes, or
        none), ``mode`` as in ``question``.
        """
        self.mark = mark
        if self.logs:
            self.logs.clear()
        row = hook * STATES + packet.state
        certain = self._certain[row]
        self.lasting = True
        if certain is not None:
            return certain
        candidates = self.main.candidates(row, packet, indev, outdev)
        if candidates == 0:
            return self._policy[hook]
        first = self.main.rules[(candidates & -candidates).bit_length() - 1]
        if first.is_plain and not first.has_rest:
            return first
        self.lasting = False
        question = self._ask(packet, hook, indev, outdev, conn, mark, mac, now, mode)
        found = self._walk(self.main, candidates, question)
        self.mark = question.mark
        return found if found is not None else self._policy[hook]

    def tracking(self, packet: Packet, hook: i64, indev: str, outdev: str, mark: i64, mac: bytes, now: i64) -> i64:
        """How the packet is to be tracked: TRACK_NONE and its neighbours, or 0. To be asked when ``tracks`` says so."""
        candidates = self.main.candidates(hook * STATES, packet, indev, outdev)
        if candidates == 0:
            return 0
        question = self._ask(packet, hook, indev, outdev, None, mark, mac, now, LIVE)
        while candidates != 0:
            lowest = candidates & -candidates
            rule = self.main.rules[lowest.bit_length() - 1]
            if not rule.has_rest or rule.first_miss(question) == 0:
                _count(rule, packet, now)
                return rule.track
            candidates ^= lowest
        return 0

    def policy_of(self, hook: int) -> Rule:
        """The policy that holds for packets of this hook."""
        return self._policy[hook]

    def tick(self, now: i64, unix: int) -> None:
        """Time has passed: works out the time windows and takes small steps of cleaning up.

        ``now`` is that of the packets, ``unix`` the calendar's time, both in nanoseconds.
        """
        for schedule in self.schedules:
            schedule.update(unix // SECOND)
        for members in self.sets.values():
            members.sweep(now)
        for connlimit in self._connlimits:
            connlimit.sweep(now)

    def follow(self, generation: i64, floor: i64, floor_means: i64) -> None:
        """Becomes the generation after ``generation``, whose connections it has to deal with as ``existing`` says."""
        self.generation = generation + 1
        if self.existing == KEEP:
            self.floor = floor
            self.floor_means = floor_means
        else:
            self.floor = self.generation
            self.floor_means = self.existing

    def succeed(self, old: "Ruleset", now: i64) -> None:
        """Takes over from ``old`` what must outlive a reload. ``existing`` may be set otherwise before."""
        self.follow(old.generation, old.floor, old.floor_means)
        for name, members in self.sets.items():
            before = old.sets.get(name)
            if before is not None:
                members.inherit(before, now)
        if not self._ancestors:
            self.find_ancestors(old)
        rules = [*self.every, *self.policies.values()]
        for at in range(len(rules)):
            ancestor = self._ancestors[at]
            if ancestor is not None:
                _inherit(rules[at], ancestor)
        self._ancestors = []

    def find_ancestors(self, old: "Ruleset", breathe: Callable[[], None] = hold_breath) -> None:
        """Which rules these are in ``old``: most of the time that ``succeed`` takes, when it was not done before."""
        former: dict[str, Rule] = {}
        for rule in [*old.every, *old.policies.values()]:
            breathe()
            former[rule.name] = rule
        found: list[Rule | None] = []
        for rule in [*self.every, *self.policies.values()]:
            breathe()
            found.append(former.get(rule.name))
        self._ancestors = found

    def _ask(
        self,
        packet: Packet,
        hook: i64,
        indev: str,
        outdev: str,
        conn: Conn | None,
        mark: i64,
        mac: bytes,
        now: i64,
        mode: i64,
    ) -> Question:
        question = self._question
        question.packet = packet
        question.hook = hook
        question.indev = indev
        question.outdev = outdev
        question.conn = conn
        question.mark = mark
        question.mac = mac
        question.now = now
        question.mode = mode
        return question

    def number_rules(self, most: int) -> list[Rule]:
        """Numbers the first ``most`` rules of the main list and the policies; returns them at their numbers.

        None has number 0, where some rule stands so that the list has no hole.
        """
        numbered = [*self.policies.values(), *self.rules][:most]
        for number, rule in enumerate(numbered, 1):
            rule.number = number
        return [numbered[0], *numbered]

    def _walk(self, chain: Chain, candidates: int, question: Question) -> Rule | None:
        """The rule that decides, of this chain's ``candidates`` or in a chain that they jump to, or None."""
        packet = question.packet
        while candidates != 0:
            lowest = candidates & -candidates
            rule = chain.rules[lowest.bit_length() - 1]
            candidates ^= lowest
            if rule.has_rest and rule.first_miss(question) != 0:
                continue
            if rule.is_plain:
                return rule
            live = question.mode == LIVE
            if not rule.shadow:
                if rule.set_mark is not None:
                    question.mark = (question.mark & ~rule.set_mark.mask) | rule.set_mark.value
                if live and rule.add is not None:
                    rule.add.apply(packet, question.now)
                if rule.verdict < JUMP:
                    return rule
            if live:
                self._pass(rule, packet, question.now)
            if rule.shadow or rule.verdict == CONTINUE:
                continue
            if rule.verdict == RETURN:
                return None
            target = self.chains[rule.target]
            row = question.hook * STATES + packet.state
            found = self._walk(target, target.candidates(row, packet, question.indev, question.outdev), question)
            if found is not None:
                return found
        return None

    def _pass(self, rule: Rule, packet: Packet, now: i64) -> None:
        """Counts and logs a rule that matched and does not decide."""
        _count(rule, packet, now)
        log = rule.log
        if log is not None:
            limit = log.limit
            if limit is None or limit.take(now):
                self.logs.append(rule)
            else:
                log.held += 1


def _count(rule: Rule, packet: Packet, now: i64) -> None:
    rule.packets += 1
    rule.bytes += packet.length
    rule.last = now


def _inherit(rule: Rule, former: Rule) -> None:
    rule.packets = former.packets
    rule.bytes = former.bytes
    rule.last = former.last
    if rule.limit is not None:
        rule.limit.inherit(former.limit)
    if rule.connlimit is not None:
        rule.connlimit.inherit(former.connlimit)


def _check_jumps(main: Chain, chains: list[Chain]) -> None:
    heights: dict[int, int] = {}
    for chain in (main, *chains):
        _height(chain, 0, chains, heights)


def _height(chain: Chain, depth: int, chains: list[Chain], heights: dict[int, int]) -> int:
    """How deep jumps lead from this chain; ``heights`` are those that are known, by the number of the chain."""
    highest = 0
    if depth > MOST_DEPTH:
        raise ValueError("chains are nested more than 16 deep, or lead back to themselves")
    for rule in chain.rules:
        if rule.verdict != JUMP or rule.track:
            continue
        if rule.target < 0:
            raise ValueError("no such chain: " + rule.jump)
        if rule.target not in heights:
            heights[rule.target] = _height(chains[rule.target], depth + 1, chains, heights)
        highest = max(highest, heights[rule.target] + 1)
    if highest > MOST_DEPTH:
        raise ValueError("chains are nested more than 16 deep")
    return highest
