"""Writing the last good rules is given up between any two steps: the daemon that is to stop does, and in order."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from ctfw.config import Stored
from ctfw.service import last_good
from ctfw.service.aside import Abandoned, Aside
from ctfw.service.last_good import LastGood


def given_up_at(step: int, work: Callable[[], object]) -> bool:
    """Does the work, with Abandoned raised ahead of that line of Python below it; False when it has fewer lines."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == step:
                raise Abandoned
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Abandoned:
        return True
    finally:
        sys.settrace(before)
    return False


def test_it_ends_at_once_wherever_it_was(tmp_path: Path) -> None:
    stored = Stored({"rules.yaml": b"version: 1\n"})
    for step in count(1):
        directory = tmp_path / str(step)  # of its own: a thread that was left alone may still write
        directory.mkdir()
        kept = LastGood(str(directory))
        if not given_up_at(step, lambda kept=kept: kept.keep("rules.yaml", stored)):  # type: ignore[misc]
            break
    assert step > 5
    assert os.listdir(directory) == [last_good.GOOD]


def test_the_loop_turns_although_another_thread_hears_the_alarm() -> None:
    """As when it comes between the last turn and the wait for the disk: nothing interrupts that then."""
    turned, over = threading.Event(), threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})

    def work() -> None:
        if not turned.wait(10):
            raise OSError(0, "the loop stood still", "disk")

    try:
        assert Aside(turned.set).run(lambda: last_good._in_a_thread(work)) == ""
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        over.set()
        other.join()
