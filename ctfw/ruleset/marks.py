"""The packet's mark as a carrier: which of its bits are ours, and what they say.

A packet that is to be rejected leaves ctfw accepted, with one bit of its mark set; a rule of the kernel behind the
queue answers it and drops it there (docs/hook.md). The three bits below that one say how, so a single number in
the rule file places all four. They are ours alone: on arrival they are cleared, so that nobody carries a mark into the
rules that makes the kernel answer in our name, and no rule may set or ask for them.

One bit more is ours where a rule offloads (ctfw.ruleset.offload): on a packet that leaves it asks the kernel to
remember it for the connection.
"""

from typing import Final

from mypy_extensions import i64

REJECT_BIT: Final = 0x40000000
OFFLOAD_BIT: Final = 0x04000000


def reject_field(bit: i64) -> i64:
    """The four bits that belong to us when ``bit`` is the one that says "reject"."""
    return bit | (bit >> 1) | (bit >> 2) | (bit >> 3)


def rejecting(mark: i64, bit: i64, kind: i64) -> i64:
    """``mark`` with the order to reject in the way ``kind`` (ctfw.ruleset.verdict)."""
    return (mark & ~reject_field(bit)) | bit | (kind * (bit >> 3))


def reject_kind(mark: i64, bit: i64) -> i64:
    """The way in which a packet with ``mark`` is to be rejected; 0 when it is not."""
    if mark & bit == 0:
        return 0
    return (mark & (reject_field(bit) & ~bit)) // (bit >> 3)
