"""What a conversation is made of."""

from random import Random
from typing import Final

CLIENT: Final = 0
SERVER: Final = 1


class Step:
    """One packet from ``side``, what the rules are to say to it, and what it is, in words."""

    __slots__ = ("accept", "data", "side", "text", "watch")

    def __init__(self, side: int, data: bytes, text: str, accept: bool = True, watch: bool = False) -> None:
        self.side = side
        self.data = data
        self.text = f"{'cs'[side]} {text}"
        self.accept = accept
        self.watch = watch  # does it come out on the other side? (a helper may eat it)


class Pair:
    """The two ends: ``address[side]``, the family, and on each side somebody else who is not part of it."""

    def __init__(self, client: bytes, server: bytes, client_other: bytes, server_other: bytes) -> None:
        self.address = (client, server)
        self.other = (client_other, server_other)
        self.ipv6 = len(client) == 16


Conversation = list[Step]


def spoil(rng: Random, steps: Conversation, refuse: float = 0.04, twice: float = 0.05, swap: float = 0.03) -> None:
    """What happens to packets on their way: the rules refuse some, some come twice, some too late."""
    at = 0
    while at < len(steps):
        if rng.random() < refuse:
            steps[at].accept = False
            steps[at].text += " (refused)"
        if rng.random() < twice:
            step = steps[at]
            later = min(len(steps), at + rng.choice((1, 1, 2, 4)))
            steps.insert(later, Step(step.side, step.data, step.text[2:] + " (again)", watch=step.watch))
        if at and rng.random() < swap:
            steps[at - 1], steps[at] = steps[at], steps[at - 1]
        at += 1
