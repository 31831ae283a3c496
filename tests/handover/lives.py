"""Two lives of one gateway: what the first has put on record fills the table of the second."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from engine.conversation import Gateway

from ctfw.config import Stored
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.verdict import ACCEPT
from ctfw.service.restoring import Restored, restore
from ctfw.service.saving import Saving
from ctfw.service.snapshot import Log, read_log

BOOT: Final = b"this very boot.."
OTHER_BOOT: Final = b"another boot...."
UNIX: Final = 1_800_000_000 * 1_000_000_000
RULES: Final = b"r" * 32


class Record:
    """The two logs of a Saving, and what they hold."""

    def __init__(self) -> None:
        self.descriptors = [os.memfd_create(f"log-{number}") for number in range(2)]

    def data(self, number: int) -> bytes:
        return os.pread(self.descriptors[number], 1 << 28, 0)

    def logs(self) -> list[Log]:
        """Those that were begun, the newest first."""
        found = [read_log(data) for data in (self.data(0), self.data(1)) if data]
        return sorted(found, key=lambda log: -log.header.cycle)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


@contextmanager
def saving(gateway: Gateway) -> Iterator[tuple[Saving, Record]]:
    """Somebody who puts the gateway's table on record, by the gateway's own clock: one step is a whole cycle."""
    record = Record()
    try:
        yield Saving(gateway.engine, record.descriptors, 0, BOOT, Stored, lambda: gateway.now), record
    finally:
        record.close()


def exact_log(gateway: Gateway) -> Log:
    """The log of a clean end."""
    with saving(gateway) as (saver, record):
        saver.finish(gateway.now)
        (log,) = record.logs()
        return log


def reborn(
    gateway: Gateway, *logs: Log, exact: bool = False, boot: bytes = BOOT, rules: Ruleset | None = None
) -> Restored:
    """The gateway goes on with an empty table and another secret, into which the logs are put."""
    tracker = ConnTrack(gateway.tracker.settings, bytes(reversed(range(256))))
    engine = Engine(tracker, rules or Ruleset([], {FORWARD: ACCEPT}))
    done = restore(logs, engine, gateway.now, UNIX, BOOT, exact, RULES)
    gateway.tracker, gateway.engine = tracker, engine
    return done
