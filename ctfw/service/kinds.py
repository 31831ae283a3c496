"""The kinds of lines in the log, one row each: its name, its identity in the journal, how often it may be said.

An id is the journal's MESSAGE_ID (sd-id128(3)): people filter by it (``journalctl MESSAGE_ID=...``), alarms match on
it, and the catalog (packaging/systemd/ctfw.catalog, shown by ``journalctl -x``) explains it. So a row is for ever: its
text may change, its id and its name never do, and an id is never used again. The name is also the field CTFW_EVENT.

A new kind is one row here (``python3 -c 'import uuid; print(uuid.uuid4().hex)'`` draws the id), one entry in the
catalog, and then ``journal.log(text, WARNING, fields, kinds.NAME)``. A test holds table, catalog and documentation
against each other.

``interval`` and ``burst`` are for what somebody outside can cause: so many lines at once, then one each ``interval``
nanoseconds; the journal tells how many it held back. Lines about packets have the limit of the rule that wants them
(``packet_log``); what only an admin or the machine itself can cause has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of line. ``interval`` 0: as often as it happens."""

    name: str
    id: str
    interval: int = 0
    burst: int = 1


# The daemon's life.
STARTED: Final = Kind("started", "825a7df1cf88428fb9d8a23acf0195b5")
STOPPED: Final = Kind("stopped", "2fe335e6f5f247f49c534f4a364ab3aa")
SETTING: Final = Kind("setting", "cc4e9ee115334f6f9faa6772b83699c6")  # not as asked for: a buffer, an MTU, an option
INTERNAL_ERROR: Final = Kind("internal-error", "e0b4b50b06db47d9b8316e7fe76646de", 10 * SECOND, 5)

# What it remembers over a restart.
TAKEN_OVER: Final = Kind("taken-over", "2a8abdcf5208415f8a56aa3354304bb5")  # queue or table of the process before
STATE_REFUSED: Final = Kind("state-refused", "58a5590a0ce34d79abefbb6277b21984")  # snapshot or sets cannot be used
STATE_NOT_SAVED: Final = Kind("state-not-saved", "70ebaf4df67a496893ebfce49c62a021", 60 * SECOND)

# The rules.
RULES_PROBLEM: Final = Kind("rules-problem", "7f768fc4d91f48edbc8a80ce59951aaf")  # a warning or an error of the file
RELOADED: Final = Kind("reloaded", "33e7064540fc40a1b0986123d36bbd8c")
RELOAD_FAILED: Final = Kind("reload-failed", "309ddef88fab48d79c496a69b4b57edd")
RELOAD_CONFIRMED: Final = Kind("reload-confirmed", "62fb005c10a642949cabef99ebd7de3f")
ROLLED_BACK: Final = Kind("rolled-back", "ce8ede3e70ce486384c2b231aee84e95")
LAST_GOOD: Final = Kind("last-good", "fd2c33a8461c41438840965a37013ff4")  # the file is broken, the last good one runs
PANIC: Final = Kind("panic", "e41db3b532564c2c940b2d5fdc85adee")  # everything is shut, or open again
ALTERED: Final = Kind("altered", "f182edd0a47c4212943f47c2983d9078", SECOND, 20)  # by somebody's command

# Packets.
PACKET: Final = Kind("packet", "3379a90db4e543d1a354bff224f71c35")
TABLE_FULL: Final = Kind("table-full", "7bc11916dfe4477983d00bb54f1f1d85")
SOURCE_FULL: Final = Kind("source-full", "f7bf8307af7041c7b01708af00477a56")
QUEUE_OVERRUN: Final = Kind("queue-overrun", "2eb405d0565f49fe9690e31560fc0368")
FAILURE_POLICY: Final = Kind("failure-policy", "2f2ff82f63894984abf2e5b33dc561b0", 5 * SECOND)

# The log and its neighbours.
SUPPRESSED: Final = Kind("suppressed", "fcc41a66c6e34404bb9861280fd290bc")
CONTROL_REFUSED: Final = Kind("control-refused", "be0325c5834f4ecf91e7a466e849d8bb", 10 * SECOND, 5)
SINK_FAILED: Final = Kind("sink-failed", "45c1073bb0f94445991f083a1bd1739c")  # a file that is written beside the log
SINK_WORKS: Final = Kind("sink-works", "5d74e013b6914efeac02b827ca84a710")
HOOK_CHANGED: Final = Kind("hook-changed", "6a094eeb34314d659900cdc6c51ec55f")
HOOK_HEALED: Final = Kind("hook-healed", "de9823d382d04701879d7fafa7b67b20")

ALL: Final = tuple(value for value in list(globals().values()) if isinstance(value, Kind))
