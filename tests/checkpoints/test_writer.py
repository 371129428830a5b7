"""Jobs are done in their order while the run goes on, and what one fails with is raised at the next look, once."""

from __future__ import annotations

import threading
import time

import pytest

from modetrain.checkpoints.writer import AsyncWriter


def test_a_job_does_not_hold_up_who_submits_it():
    writer, gate, done = AsyncWriter(), threading.Event(), []
    writer.submit(lambda: (gate.wait(10), done.append(1)))
    assert done == [], "it is still waiting"
    gate.set()
    writer.wait()
    assert done == [1]
    assert writer.jobs == 1
    assert writer.seconds > 0


def test_no_more_than_two_are_on_their_way():
    writer, gates, began = AsyncWriter(), [threading.Event() for _ in range(3)], []
    for n in range(2):
        writer.submit(lambda n=n: (began.append(n), gates[n].wait(10)))
    third = threading.Thread(target=lambda: writer.submit(lambda: began.append(2)))
    third.start()
    third.join(0.1)
    assert third.is_alive(), "it waits for room"
    gates[0].set()
    third.join(10)
    assert not third.is_alive()
    gates[1].set()
    writer.wait()
    assert began == [0, 1, 2]


@pytest.mark.parametrize("background", [True, False])
def test_a_failure_is_raised_once_and_the_next_job_is_done(background):
    writer, done = AsyncWriter(background=background), []

    def fails():
        raise OSError("disk")

    if background:
        writer.submit(fails)
        while writer.jobs == 0:
            time.sleep(0.001)
        with pytest.raises(OSError, match="disk"):
            writer.check()
    else:
        with pytest.raises(OSError, match="disk"):
            writer.submit(fails)
    writer.check()
    writer.submit(lambda: done.append(1))
    writer.wait()
    assert done == [1]


def test_waiting_raises_what_was_not_looked_at():
    writer = AsyncWriter()
    writer.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.wait()
