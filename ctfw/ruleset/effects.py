"""What a rule does beside its verdict: log, mark, add an address to a set."""

from mypy_extensions import i64

from ctfw.packet import Packet
from ctfw.ruleset.dynamic import DynamicSet
from ctfw.ruleset.limit import Limit
from ctfw.ruleset.prefix import SOURCE, Per


class Log:
    """That a rule's packets are logged, at most as often as ``limit`` says (None: each).

    ``held`` counts those it was no time for; whoever tells people sets it back.
    """

    def __init__(self, limit: Limit | None, prefix: str = "") -> None:
        self.limit = limit
        self.prefix = prefix
        self.held: i64 = 0


class SetMark:
    """The packet leaves with ``value`` in the bits of ``mask``; the others stay."""

    def __init__(self, value: int, mask: int = 0xFFFFFFFF) -> None:
        self.value: i64 = value
        self.mask: i64 = mask


class AddTo:
    """The packet's source or destination becomes a member of ``target``; ``ttl`` 0: for as long as the set says."""

    def __init__(self, target: DynamicSet, per: Per, ttl: int = 0) -> None:
        self.target = target
        self.per = per
        self.ttl: i64 = ttl

    def apply(self, packet: Packet, now: i64) -> None:
        address = packet.src if self.per.end == SOURCE else packet.dst
        if len(address) == 4:
            self.target.add(address, self.per.prefix4, self.ttl, now)
        elif len(address) == 16:
            self.target.add(address, self.per.prefix6, self.ttl, now)
