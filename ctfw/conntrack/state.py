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
OFFLOAD: Final = 16384

# Not the kernel's. A rule wants the connection offloaded as soon as it can be.
TO_OFFLOAD: Final = 1 << 20
# Noted for listeners until a packet is accepted (``events``). The second includes the first.
UPDATED: Final = 1 << 24
STATE_UPDATED: Final = 3 << 24

# What a rule may ask for ahead of tracking, for one connection: to pick it up in its middle whatever tcp_loose says,
# and never to hold it to its windows, as tcp_be_liberal does for all. LIBERAL includes nothing of LOOSE.
LOOSE: Final = 2
LIBERAL: Final = 3

# What a protocol may answer about a packet besides 0 and reasons; ASSURE and others stand where they are used. IGNORED:
# the packet belongs to its connection, which neither counts it nor lives longer for it.
IGNORED: Final = -4


def state_name(bits: int) -> str:
    """The name of one state bit; empty when conntrack itself dropped the packet before the rules."""
    return STATE_NAMES.get(bits, "")
