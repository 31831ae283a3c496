"""What a rule does with a packet, and how a rejected one is answered.

The first two numbers are the kernel's NF_DROP and NF_ACCEPT, and the only ones that leave the engine. REJECT is a drop
that wants an answer. The other three only steer the walk along the rules.
"""

from typing import Final

DROP: Final = 0
ACCEPT: Final = 1
REJECT: Final = 2
JUMP: Final = 3  # go on in another chain, and behind this rule when that ends without a verdict
RETURN: Final = 4  # leave the chain; in the main list: what the policy says
CONTINUE: Final = 5  # do what the rule says beside its verdict, and go on
NAMES: Final = ("drop", "accept", "reject", "jump", "return", "continue")

# How a rejected packet is answered. The numbers travel to the kernel's rules in three bits of the packet's mark, see
# ``ctfw.ruleset.marks``; the names are those of nft's icmpx, which mean the right thing in both families.
AUTOMATIC: Final = 0  # TCP: a reset; everything else: port-unreachable
TCP_RESET: Final = 1
PORT_UNREACHABLE: Final = 2
HOST_UNREACHABLE: Final = 3
NO_ROUTE: Final = 4
ADMIN_PROHIBITED: Final = 5
REJECT_NAMES: Final = ("", "tcp-reset", "port-unreachable", "host-unreachable", "no-route", "admin-prohibited")

# What a rule before tracking asks for. The packet is not tracked at all; a connection may begin in its middle
# (tcp_loose); its windows bind nobody (tcp_be_liberal).
TRACK_NONE: Final = 1
TRACK_LOOSE: Final = 2
TRACK_LIBERAL: Final = 3
TRACK_NAMES: Final = ("", "none", "loose", "liberal")
