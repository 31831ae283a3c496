"""The words that rules match on: a packet's state and a connection's status, as iptables and conntrack name them."""

from typing import Final

# What ``--state`` matches. A bit each, so that a rule's states are one mask. 0 on a packet: conntrack dropped it.
NEW: Final = 1
ESTABLISHED: Final = 2
RELATED: Final = 4
INVALID: Final = 8
UNTRACKED: Final = 16
ANY: Final = 31
STATE_NAMES: Final = {1: "NEW", 2: "ESTABLISHED", 4: "RELATED", 8: "INVALID", 16: "UNTRACKED"}

# A connection's status (IPS_* of the kernel's user interface).
EXPECTED: Final = 1
SEEN_REPLY: Final = 2
ASSURED: Final = 4
CONFIRMED: Final = 8
DYING: Final = 512


def state_name(bits: int) -> str:
    """The name of one state bit; empty when conntrack itself dropped the packet before the rules."""
    return STATE_NAMES.get(bits, "")
