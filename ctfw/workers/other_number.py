"""What systemd kept for another number of workers: the queues that are still ours come under our own names.

A worker's descriptors are kept under its number, those of one daemon alone under none (``queue-0``,
``worker1.queue-1``). When the rule file has another number of workers at a restart, or another first queue, a queue may
be kept under the name of somebody who does not come back. Nobody else can bind it then: it has to be taken over, with
the packets that wait in it, by whoever is to read it now. Tables are not: the kernel deals the connections out anew,
and no worker would know which of them are its own.

systemd keeps a socket once, under one name. So it is told to forget the old name before it hears the new one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ctfw.service.descriptors import FIRST
from ctfw.service.handover import QUEUE
from ctfw.service.notify import Notifier


def prefix(number: int) -> str:
    """What stands ahead of the names of descriptors that systemd keeps for this worker."""
    return f"worker{number}."


def renamed(environment: Mapping[str, str], first: int, workers: int) -> Mapping[str, str]:
    """The environment with each kept queue from ``first`` on under the name by which its reader asks for it."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return environment
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    notifier = Notifier(environment)
    for number in range(workers):
        queue = f"{QUEUE}{first + number}"
        ours = queue if workers == 1 else prefix(number) + queue
        theirs = [name for name in names if name.rpartition(".")[2] == queue]
        if theirs and ours not in theirs:
            place = names.index(theirs[0])
            notifier.drop(theirs[0])
            notifier.keep(ours, FIRST + place)
            names[place] = ours
    return {**environment, "LISTEN_FDNAMES": ":".join(names)}
