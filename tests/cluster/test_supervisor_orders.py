"""The verdict over several workers is the same in whatever order they announce what ended them, and end."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from modetrain.cluster.launcher.supervisor import Action, Limits, Supervisor
from modetrain.cluster.protocol import Report

LIMITS = Limits(startup=120, grace=3, term=1, silence=20, stop=300, kill=10)
LOST = "UnavailableError: Task /job:worker/task:1 stopped sending heartbeats"
NAN, CONFIG, OWN = "NonFiniteError: loss is nan", "ConfigError: steps=x", "ValueError: bad"
_CODES = {"NonFiniteError": 3, "ConfigError": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """What a worker does: it announces an error, or ends with a code, or (worker None) the launcher gets SIGTERM."""

    worker: int | None
    error: str | None = None
    code: int = 0
    printed: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a launch ends with."""

    code: int
    cause: str | None
    restartable: bool


def fails(worker: int, error: str, code: int) -> tuple[Event, ...]:
    """It announces an error and ends."""
    return Event(worker=worker, error=error), Event(worker=worker, code=code)


def ends(worker: int, code: int, printed: str = "") -> tuple[Event, ...]:
    """It says nothing, or nothing but what it printed."""
    return (Event(worker=worker, code=code, printed=printed),)


SIGTERM_TO_THE_LAUNCHER = (Event(worker=None),)


def orders(*threads: Sequence[Event]) -> Iterator[tuple[Event, ...]]:
    """All orders of what several do, where each announces before it ends."""
    names = [number for number, thread in enumerate(threads) for _ in thread]
    for order in sorted(set(itertools.permutations(names))):
        left = [iter(thread) for thread in threads]
        yield tuple(next(left[number]) for number in order)


def verdict(workers: int, events: Sequence[Event], *, apart: float, joined: bool) -> Verdict:
    """What is found where so much time is between two events, and workers obey the signals that the launcher sends."""
    watch = Supervisor(workers, now=0, limits=LIMITS)
    for worker in range(workers):
        watch.waiting(worker)
        if joined:
            watch.ready(worker, 1)
    now, obeyed = 10.0, 0
    ended: set[int] = set()

    def look(until: float) -> bool:
        nonlocal now, obeyed
        while True:
            action = watch.next(now)
            if action is Action.DONE:
                return True
            if action in (Action.TERMINATE, Action.KILL):
                obeyed = -15 if action is Action.TERMINATE else -9
            if now >= until:
                return False
            now = min(now + 0.5, until)

    for event in events:
        if event.worker is None:
            watch.signalled(15)
        elif event.worker in ended:
            continue
        elif obeyed:
            ended.add(event.worker)
            watch.exited(event.worker, obeyed, now)
        elif event.error is not None:
            type, _, message = event.error.partition(": ")
            code = _CODES.get(type, 1)
            watch.failed(event.worker, Report(at=now, type=type, message=message, traceback="", code=code))
        else:
            ended.add(event.worker)
            watch.exited(event.worker, event.code, now, event.printed)
        if look(now + apart):
            break
    assert watch.next(now) is Action.DONE
    cause = watch.cause.sentence if watch.cause else None
    return Verdict(code=watch.code, cause=cause, restartable=watch.restartable)


Does = tuple[Event, ...]


def loses(worker: int) -> Does:
    """What becomes of a worker whose peer is gone."""
    return fails(worker, LOST, 1)


def aborts(worker: int) -> Does:
    """The same, where TensorFlow's C++ side ends it before Python knows."""
    return ends(worker, -6, LOST)


def finishes(worker: int) -> Does:
    return ends(worker, 0)


def stories(workers: int) -> Mapping[str, tuple[Sequence[Does], Verdict]]:
    """What each worker does, and what is to be found; where one differs from the others, it is the last."""
    last = workers - 1
    all_nan = Verdict(code=3, cause=f"all workers stopped: {NAN}", restartable=False)
    all_config = Verdict(code=2, cause=f"all workers stopped: {CONFIG}", restartable=False)
    own = Verdict(code=1, cause=f"worker {last} failed: {OWN}", restartable=False)
    left = Verdict(code=1, cause=f"worker {last} exited with code 4", restartable=False)
    crash = Verdict(code=1, cause=f"worker {last} was killed by SIGSEGV", restartable=True)
    lost, late = {
        2: ("workers 0 and 1 lost their peers", "worker 0 lost its peers after worker 1 had finished"),
        3: ("workers 0, 1 and 2 lost their peers", "workers 0 and 1 lost their peers after worker 2 had finished"),
    }[workers]
    stopped = Verdict(code=143, cause=None, restartable=False)

    def each(do: Callable[[int], Does]) -> list[Does]:
        return [do(worker) for worker in range(workers)]

    def last_and_others(one: Does, do: Callable[[int], Does]) -> list[Does]:
        return [*(do(worker) for worker in range(last)), one]

    return {
        "NaN": (each(lambda k: fails(k, NAN, 3)), all_nan),
        "NaN, and all abort as they leave": (each(lambda k: fails(k, NAN, -6)), all_nan),
        "NaN, and the others lose who leaves": (last_and_others(fails(last, NAN, 3), loses), all_nan),
        "NaN, and the others abort": (last_and_others(fails(last, NAN, 3), aborts), all_nan),
        "ConfigError": (each(lambda k: fails(k, CONFIG, 2)), all_config),
        "ConfigError on one": (last_and_others(fails(last, CONFIG, 2), loses), all_config),
        "step error on one": (last_and_others(fails(last, OWN, 1), loses), own),
        "step error on one, and the others abort": (last_and_others(fails(last, OWN, 1), aborts), own),
        "step error on one, and the others finish": (last_and_others(fails(last, OWN, 1), finishes), own),
        "exit code of one": (last_and_others(ends(last, 4), loses), left),
        "crash": (last_and_others(ends(last, -11), loses), crash),
        "crash, and the others abort": (last_and_others(ends(last, -11), aborts), crash),
        "crash, and the others finish": (last_and_others(ends(last, -11), finishes), crash),
        "lost peers": (each(loses), Verdict(code=1, cause=f"{lost}: {LOST}", restartable=True)),
        "lost peer that had finished": (
            last_and_others(finishes(last), loses),
            Verdict(code=1, cause=f"{late}: {LOST}", restartable=True),
        ),
        "SIGTERM to one, and all stop": (each(lambda k: ends(k, 143)), stopped),
        "SIGTERM to one, and the others lose it": (last_and_others(ends(last, -15), loses), stopped),
        "SIGTERM to one, and SIGINT to the others": (last_and_others(ends(last, 143), lambda k: ends(k, 130)), stopped),
        "SIGTERM to the launcher": ([*each(lambda k: ends(k, 143)), SIGTERM_TO_THE_LAUNCHER], stopped),
        "clean end": (each(finishes), Verdict(code=0, cause=None, restartable=False)),
    }


def assert_found_in_every_order(
    threads: Sequence[Does], right: Verdict, *, workers: int, apart: float, joined: bool = True
) -> None:
    found = {order: verdict(workers, order, apart=apart, joined=joined) for order in orders(*threads)}
    assert len(found) > 1
    wrong = [(order, one) for order, one in found.items() if one != right]
    assert not wrong, f"{len(wrong)} of {len(found)} orders, such as {wrong[0]}"


# With 3.5 s between two events the launcher ends the others before they come to their own end.
@pytest.mark.parametrize("apart", [0.0, 0.1, 3.5])
@pytest.mark.parametrize(("workers", "name"), [(workers, name) for workers in (2, 3) for name in stories(workers)])
def test_the_verdict_is_the_same_in_every_order(workers, name, apart):
    threads, right = stories(workers)[name]
    assert_found_in_every_order(threads, right, workers=workers, apart=apart)


@pytest.mark.parametrize("apart", [0.0, 0.1, 3.5])
@pytest.mark.parametrize(
    "name", ["ConfigError", "ConfigError on one", "step error on one", "exit code of one", "crash"]
)
def test_so_it_is_before_all_have_joined(name, apart):
    threads, right = stories(2)[name]
    assert_found_in_every_order(threads, right, workers=2, apart=apart, joined=False)


TWO_CAUSES = {
    "NaN, and a crash": ((fails(0, NAN, 3), ends(1, -9)), 3, f"all workers stopped: {NAN}"),
    "NaN, and another error on the way out": (
        (fails(0, NAN, 3), fails(1, "OSError: no space left", 1)),
        *(3, f"all workers stopped: {NAN}"),
    ),
    "NaN, and a ConfigError": ((fails(0, NAN, 3), fails(1, CONFIG, 2)), 3, f"all workers stopped: {NAN}"),
    "ConfigError, and a crash": ((fails(0, CONFIG, 2), ends(1, -9)), 2, f"all workers stopped: {CONFIG}"),
    "ConfigError, and another error": ((fails(0, CONFIG, 2), fails(1, OWN, 1)), 2, f"all workers stopped: {CONFIG}"),
    "the same error": ((fails(0, OWN, 1), fails(1, OWN, 1)), 1, f"workers 0 and 1 failed: {OWN}"),
    "the same exit code": ((ends(0, 4), ends(1, 4)), 1, "workers 0 and 1 exited with code 4"),
}


@pytest.mark.parametrize("name", TWO_CAUSES)
def test_which_of_two_causes_is_named_depends_on_no_order(name):
    threads, code, cause = TWO_CAUSES[name]
    assert_found_in_every_order(threads, Verdict(code=code, cause=cause, restartable=False), workers=2, apart=0.1)


def test_two_crashes_alike_are_one_cause():
    right = Verdict(code=1, cause="workers 0 and 1 were killed by SIGKILL", restartable=True)
    assert_found_in_every_order((ends(0, -9), ends(1, 137)), right, workers=2, apart=0.1)
