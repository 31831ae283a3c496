"""Random conversations, and the named ones that chance would not find: what is said to the kernel and to the engine.

A conversation is a list of steps, made in advance from a random generator: nothing in it depends on what either side
answers, so that leaving steps out leaves a conversation, and one that differs can be made short. ``random`` picks a
kind; each kind has a file.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from kernel.conversations.datagram import generic, icmp, udp, udplite
from kernel.conversations.errors import errors
from kernel.conversations.gre import gre, pptp
from kernel.conversations.helpers import ftp, irc, tftp
from kernel.conversations.odd import odd
from kernel.conversations.sctp import sctp
from kernel.conversations.step import Conversation, Pair
from kernel.conversations.tcp import tcp

# Kinds by how often chance picks them.
KINDS: Final[dict[str, tuple[int, Callable[[Random, Pair], Conversation]]]] = {
    "tcp": (50, tcp),
    "udp": (8, udp),
    "udplite": (4, udplite),
    "icmp": (8, icmp),
    "errors": (9, errors),
    "generic": (4, generic),
    "odd": (5, odd),
    "ftp": (7, ftp),
    "tftp": (3, tftp),
    "irc": (2, irc),
    "sctp": (6, sctp),
    "gre": (3, gre),
    "pptp": (4, pptp),
}


def random(rng: Random, pair: Pair, kind: str = "", checksum: bool = True) -> Conversation:
    """A conversation between ``pair``; of ``kind``, or whatever chance gives.

    ``checksum``: sums are verified. Then there is no UDP-Lite: the kernel's conntrack takes its sum as if it were
    UDP's, and finds every one of them wrong (docs/deviations.md).
    """
    weights = [weight for weight, _ in KINDS.values()]
    kind = kind or rng.choices(list(KINDS), weights)[0]
    if kind == "udplite" and checksum:
        kind = "udp"
    return KINDS[kind][1](rng, pair)
