"""What the rules are asked about one packet: all that a rule may look at, and what comes back beside the verdict.

One object, used again for every packet that needs a walk along the rules. It is filled in by ``Ruleset`` alone.

``mode`` is LIVE for a packet on its way. DRY asks what would happen and leaves no trace: nothing is counted, no token
taken, nothing added to a set, nothing to be logged. AGAIN is DRY about a connection that was accepted long ago (see
``opening``): it is within every rate and number, for it does not open anything now.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.conntrack.conn import Conn
from ctfw.packet import Packet, decode

LIVE: Final = 0
DRY: Final = 1
AGAIN: Final = 2


class Question:
    """``mark`` is the packet's, and changes with the rules that set it."""

    def __init__(self) -> None:
        self.packet: Packet = decode(b"", 0)
        self.hook: i64 = 0
        self.indev: str = ""
        self.outdev: str = ""
        self.conn: Conn | None = None
        self.mark: i64 = 0
        self.mac: bytes = b""
        self.now: i64 = 0
        self.mode: i64 = LIVE
