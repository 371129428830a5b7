"""From outside a run shows that it lives and how fast; where it stands still, its stacks say why."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modetrain.callback import Callback
from modetrain.callbacks.deadline import Deadline
from modetrain.callbacks.memory import MemoryMonitor, resident_mb
from modetrain.callbacks.watchdog import Watchdog
from modetrain.files.tensorboard import TensorBoardWriter
from modetrain.training.timer import Timer


class Time:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def beat_of(folder, name="heartbeat.json"):
    return json.loads((folder / name).read_text())


def stalls(folder):
    return sorted(folder.glob("stall-*.txt"))


# --- heartbeat -------------------------------------------------------------------------------------------------------


def test_a_heartbeat_tells_step_rate_and_what_is_done(make_trainer, tmp_path):
    now = Time()
    watch = Watchdog(after=0, heartbeat=5.0, now=now)
    trainer = make_trainer("eager", steps=10)
    trainer.step = 4
    watch._beaten = (now.now, 0)
    now.now += 4
    watch.tick(trainer)
    assert not (tmp_path / "heartbeat.json").exists(), "not yet"
    now.now += 4
    with trainer.timer.measure("steps"):
        watch.tick(trainer)
    beat = beat_of(tmp_path)
    assert (beat["step"], beat["steps"], beat["status"], beat["doing"]) == (4, 10, "running", "steps")
    assert beat["steps_per_s"] == 0.5
    assert beat["pid"] == os.getpid()
    assert abs(beat["time"] - time.time()) < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heartbeat.json"], "written at once"


@pytest.mark.parametrize(("fails", "status"), [(False, "completed"), (True, "failed")])
def test_the_last_heartbeat_tells_how_it_ended(fails, status, make_trainer, tmp_path):
    class Fails(Callback):
        def on_steps_end(self, trainer, rows):
            if fails and trainer.step == 2:
                raise ZeroDivisionError

    trainer = make_trainer("eager", steps=3, callbacks=[Watchdog(after=0, heartbeat=60.0), Fails()])
    with contextlib.suppress(ZeroDivisionError):
        trainer.train()
    assert (beat_of(tmp_path)["status"], beat_of(tmp_path)["step"]) == (status, 2 if fails else 3)


def test_a_heartbeat_that_cannot_be_written_stops_nothing(make_trainer, tmp_path):
    (tmp_path / "heartbeat.json").mkdir()
    trainer = make_trainer("eager", steps=2, callbacks=[Watchdog(after=0, heartbeat=0.001)])
    trainer.train()
    assert trainer.status == "completed"


# --- stalls ----------------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_end_leaves_all_stacks_and_goes_on(make_trainer, tmp_path):
    class Stuck(Callback):
        def on_steps_end(self, trainer, rows):
            if trainer.step == 2:
                self.wait_for_something(tmp_path)

        def wait_for_something(self, folder):
            until = time.monotonic() + 20
            while not any("step 2" in file.read_text() for file in stalls(folder)) and time.monotonic() < until:
                time.sleep(0.01)

    # On a busy machine the first step may take as long.
    trainer = make_trainer("eager", steps=3, callbacks=[Watchdog(after=0.5, heartbeat=0), Stuck()])
    trainer.train()
    assert trainer.status == "completed"
    file = stalls(tmp_path)[-1]
    text = file.read_text()
    assert "no progress for " in text
    assert "after step 2 of 3" in text
    assert "in wait_for_something" in text
    assert "modetrain-watch" in text or "Thread 0x" in text
    assert any("no progress" in line and str(file) in line for line in trainer.said)
    assert re.search(r"doing: Stuck.on_steps_end, at \S*test_watchdog.py:\d+  \w", text), "the user's line"
    assert not (tmp_path / "heartbeat.json").exists()


def test_a_stall_is_reported_once_and_the_next_one_again(make_trainer, tmp_path):
    now = Time()
    watch = Watchdog(after=10.0, heartbeat=0, now=now)
    trainer = make_trainer("eager")
    for _ in range(3):
        now.now += 11
        watch.tick(trainer)
    assert len(stalls(tmp_path)) == len(trainer.said) == 1
    watch.on_steps_end(trainer, None)
    now.now += 9
    watch.tick(trainer)
    assert len(trainer.said) == 1
    now.now += 2
    watch.tick(trainer)
    assert len(trainer.said) == 2


HOLDS_THE_LOCK = """
import ctypes, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from modetrain.callbacks.watchdog import Watchdog

class Replicas:
    chief, worker = True, 0

class Run:
    folder, replicas, callbacks, status, step, steps = Path({folder!r}), Replicas, (), "running", 7, 9

def holds():
    ctypes.PyDLL(None).sleep(60)

watch = Watchdog(after=1.0, heartbeat=0)
watch.on_train_begin(Run)
time.sleep(0.6)
signal.alarm(4)  # kills
holds()
"""


def test_code_that_holds_pythons_lock_is_reported_too(tmp_path):
    code = HOLDS_THE_LOCK.format(tests=str(Path(__file__).parents[2]), folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == -signal.SIGALRM
    assert "in holds" in (tmp_path / "blocked.txt").read_text()


def test_nothing_is_left_where_nothing_was_blocked(make_trainer, tmp_path):
    make_trainer("eager", steps=2, callbacks=[Watchdog(after=5.0, heartbeat=0)]).train()
    assert not (tmp_path / "blocked.txt").exists()


# --- over a long run -------------------------------------------------------------------------------------------------


def test_memory_and_slow_down_are_recorded(make_trainer, tmp_path, scalars):
    kept = []

    class Leaks(Callback):
        def on_steps_end(self, trainer, rows):
            kept.append(bytearray(os.urandom(1) * 8_000_000))

    events = TensorBoardWriter(tmp_path)
    system = MemoryMonitor(every=2, events=events)
    trainer = make_trainer("eager", steps=10, callbacks=[Leaks(), system])
    trainer.train()
    events.close()
    found = scalars(tmp_path)
    assert list(found["system/rss_mb"]) == [2, 4, 6, 8, 10]
    memory = system.trends["rss_mb"]
    assert memory.last - memory.first > 30, "four windows of two steps, 8 MB each"
    assert memory.most >= memory.last > 50
    assert list(found["system/slowdown"]) == [4, 6, 8, 10]
    assert found["system/slowdown"][4] == 1.0
    assert resident_mb() > 50


# --- deadline --------------------------------------------------------------------------------------------------------


def test_a_run_stops_when_its_time_is_over(make_trainer):
    now = Time()

    class Ticks(Callback):
        def on_steps_end(self, trainer, rows):
            now.now += 10

    clock = Timer(now, start=95.0)
    trainer = make_trainer("eager", steps=20, timer=clock, callbacks=[Ticks(), Deadline(after=34.0)])
    trainer.train()
    assert (trainer.status, trainer.step, trainer.stop_signal) == ("stopped", 3, 15)
    assert [line for line in trainer.said if "stop_after" in line] == ["step 3: stop_after=34s is over; stopping"]
