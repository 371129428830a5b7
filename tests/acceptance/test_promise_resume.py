"""Promise 2: N steps = k steps + kill -9 + resume + N-k steps, bit for bit, in every mode, twice in one epoch.

Real processes and real signals, sent as soon as a checkpoint is there: wherever the run is then.
"""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from modetrain.checkpoints import file
from modetrain.files import run_folder

# Calls are followed by a pause, so that a run of a second is not over before it is noticed.
SLOW = """
import os
import signal
import time

from modetrain import Callback


class Slow(Callback):
    def on_steps_end(self, trainer, metrics):
        time.sleep(0.25)


class DiesLast(Callback):
    def on_train_end(self, trainer):
        os.kill(os.getpid(), signal.SIGKILL)
"""
SLOWLY = "+callbacks.slow._target_=slow.Slow"


@pytest.fixture(scope="module")
def interrupted(cli, training):
    """Per mode what became of each process of one training, in which each but the last was interrupted."""
    cli.write({"slow.py": SLOW})

    def killed(mode, step, signum, *more):
        return cli.signal_after(step, signum, *training, f"mode={mode}", SLOWLY, *more, folder=mode)

    def finished(mode):
        return cli.run(*training, f"mode={mode}", "resume=latest", folder=mode)

    def graph():
        parts = [killed("graph", 4, signal.SIGKILL)]
        for signum in (signal.SIGKILL, signal.SIGTERM):
            there = run_folder.steps(parts[0].folder)[-1]
            parts.append(killed("graph", there + 1, signum, "resume=latest"))
        return [*parts, finished("graph")]

    def once(mode):
        return [killed(mode, 4, signal.SIGKILL), finished(mode)]

    with ThreadPoolExecutor(2) as pool:
        started = {"graph": pool.submit(graph), **{mode: pool.submit(once, mode) for mode in ("xla", "eager")}}
        return {mode: future.result() for mode, future in started.items()}


def resumed_at(run) -> int:
    (line,) = (line for line in run.out.splitlines() if line.startswith("resumed at step "))
    return int(line.split()[3])


@pytest.mark.parametrize(("mode", "kills"), [("eager", 1), ("graph", 2), ("xla", 1)])
def test_killed_and_resumed_it_ends_bit_for_bit_where_the_whole_run_does(mode, kills, interrupted, trainings):
    parts = interrupted[mode]
    assert [part.code for part in parts].count(-signal.SIGKILL) == kills
    assert parts[-1].code == 0, parts[-1].err
    assert parts[-1].json["status"] == "completed"
    assert parts[-1].json["steps"] == 24
    steps = [resumed_at(part) for part in parts[1:]]
    assert steps == sorted(set(steps)), "each goes on where the one before left off"
    assert steps[0] >= 4
    assert steps[-1] < 24
    assert parts[-1].digest == trainings(mode).digest
    assert parts[-1].json["results"]["eval"] == trainings(mode).json["results"]["eval"]


def test_it_was_killed_within_an_epoch_each_time(interrupted):
    last = interrupted["graph"][-1].json
    assert resumed_at(interrupted["graph"][-1]) * last["data"]["batch_size"] < last["data"]["train_examples"]


def test_nothing_differs_from_the_run_it_resumes(interrupted):
    for parts in interrupted.values():
        for part in parts[1:]:
            assert "differs" not in part.out


def test_a_killed_run_leaves_whole_checkpoints_and_a_record_that_it_was_running(interrupted):
    for parts in interrupted.values():
        assert parts[0].json["status"] == "running"
        for step in run_folder.steps(parts[-1].folder):
            assert file.load(run_folder.checkpoint(parts[-1].folder, step)).step == step


def test_a_terminated_run_ends_with_a_checkpoint_and_says_so(interrupted):
    stopped, after = interrupted["graph"][2:]
    assert stopped.code == 128 + signal.SIGTERM == 143
    assert (stopped.json["status"], stopped.json["steps"]) == ("stopped", resumed_at(after)), "nothing was lost"
    assert len(stopped.json["results"]["state_digest"]) == 64
    assert "SIGTERM: stopping after this call" in stopped.out
    assert "resume=latest run_dir=graph" in stopped.out, "how to go on"
    assert "Traceback" not in stopped.err


def test_one_killed_after_its_last_checkpoint_is_ended_once(cli, interrupted, training, trainings):
    words = [*training, "mode=graph"]
    killed = cli.run(*words, "+callbacks.dies._target_=slow.DiesLast", folder="late")
    assert (killed.code, killed.json["status"]) == (-signal.SIGKILL, "running")
    assert run_folder.steps(killed.folder)[-1] == 24
    ended = cli.run(*words, "resume=latest", folder="late")
    assert (ended.code, ended.json["status"]) == (0, "completed"), ended.err
    assert ended.digest == trainings("graph").digest
    assert ended.json["results"]["train"] == trainings("graph").json["results"]["train"]
    assert ended.json["results"]["eval"] == trainings("graph").json["results"]["eval"]
    points = {tag: steps for tag, steps in ended.scalars.items() if tag.startswith(("train/", "eval/"))}
    assert points == {tag: steps for tag, steps in trainings("graph").scalars.items() if tag in points}
    assert "already finished" in cli.run(*words, "resume=latest", folder="late").out


def test_the_points_in_tensorboard_go_on_without_a_gap(interrupted, trainings):
    for mode in ("eager", "graph", "xla"):
        resumed, whole = interrupted[mode][-1].scalars["train/loss"], trainings(mode).scalars["train/loss"]
        last = resumed_at(interrupted[mode][-1])
        assert {step: value for step, value in resumed.items() if step > last} == {
            step: value for step, value in whole.items() if step > last
        }
