"""Long work beside the loop: the loop turns meanwhile, and both end well whatever happens in either."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from ctfw.service.aside import Abandoned, Aside


def busy_until(condition: Callable[[], bool]) -> str:
    """Work that only calculates, as loading rules does."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        sum(range(100))
    return "done"


def test_the_loop_turns_while_the_work_goes_on() -> None:
    turns: list[int] = []
    aside = Aside(lambda: turns.append(len(turns)))
    assert aside.run(lambda: busy_until(lambda: len(turns) >= 5)) == "done"
    assert turns[:5] == [0, 1, 2, 3, 4]
    assert aside.longest > 0
    assert not aside.is_busy


def test_nothing_interrupts_when_the_work_is_over() -> None:
    turns: list[int] = []
    aside = Aside(lambda: turns.append(1))
    aside.run(lambda: busy_until(lambda: bool(turns)))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    after = len(turns)
    end = time.monotonic() + 0.01
    busy_until(lambda: time.monotonic() > end)
    assert len(turns) == after


def test_what_the_work_raises_comes_out() -> None:
    aside = Aside(lambda: None)
    with pytest.raises(ZeroDivisionError):
        aside.run(lambda: 1 // 0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_work_that_is_abandoned_ends_where_it_is_although_it_catches_exceptions() -> None:
    aside = Aside(lambda: aside.abandon())

    def stubborn() -> None:
        try:
            busy_until(lambda: False)
        except Exception:
            pytest.fail("the work took it for its own")

    with pytest.raises(Abandoned):
        aside.run(stubborn)


def test_a_loop_that_fails_is_not_silenced_by_the_work() -> None:
    def fail() -> None:
        raise KeyError("the loop")

    with pytest.raises(KeyError, match="the loop"):
        Aside(fail).run(lambda: busy_until(lambda: False))


def test_a_wait_of_the_work_for_another_thread_does_not_stop_the_loop() -> None:
    turns: list[int] = []
    aside = Aside(lambda: turns.append(1))
    aside.run(lambda: time.sleep(0.05))
    assert len(turns) >= 5


def test_an_alarm_that_comes_late_does_not_end_the_process() -> None:
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        Aside(lambda: None).run(lambda: None)
        os.kill(os.getpid(), signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_work_is_given_up_even_when_python_drops_the_first_word_of_it() -> None:
    class Last:
        def __del__(self) -> None:
            busy_until(lambda: bool(turns))
            sum(range(1000))

    def turn() -> None:
        turns.append(1)
        aside.abandon()

    def work() -> None:
        Last()  # what is raised in the end of an object is dropped
        busy_until(lambda: False)

    turns: list[int] = []
    aside = Aside(turn)
    with pytest.raises(Abandoned):
        aside.run(work)
    assert turns == [1]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_loops_failure_comes_out_even_then() -> None:
    def turn() -> None:
        raise OSError("the queue is gone")

    with pytest.raises(OSError, match="the queue is gone"):
        Aside(turn).run(lambda: busy_until(lambda: False))
