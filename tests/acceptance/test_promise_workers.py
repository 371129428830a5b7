"""A run in several processes outlives its workers: killed or frozen ones are noticed, and the end is the uninterrupted one's.

Real workers and real signals. `pytest --long tests/acceptance/test_promise_workers.py` kills and freezes twenty of them at random
moments and prints how long it took to notice and to start again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modetrain.checkpoints import file
from modetrain.files import run_folder, run_json

WORDS = (
    "recipe=mnist",
    "model=mlp",
    "model.hidden=[16]",
    "model.dropout=0.2",
    "recipe.shift=0",
    "mode=multiworker",
    "mode.workers=2",
    "data.source=bundled",
    "data.batch_size=32",
    "steps=1200",
    "callbacks.log.every=400",
    "callbacks.evaluate.every=0",
    "callbacks.checkpoint.every=100",
    "callbacks.checkpoint.best=null",
)
ROOT = Path(__file__).parents[2]


class Launched:
    """A launcher and its two workers, in a folder; `words` go before those of all runs here."""

    def __init__(self, cwd: Path, name: str, *words: str):
        self.folder = cwd / name
        typed = {word.partition("=")[0]: word for word in (*WORDS, *words)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "modetrain", *typed.values(), f"run_dir={name}"],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def workers(self) -> dict[int, int]:
        """Process numbers of the workers that run, by index."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environ = (entry / "environ").read_bytes().split(b"\0")
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                index = next((e.partition(b"=")[2] for e in environ if e.startswith(b"MODETRAIN_WORKER=")), None)
                if index is not None and f"run_dir={self.folder}".encode() in command:
                    found[int(index)] = int(entry.name)
        return found

    def wait_for_checkpoint(self, step: int) -> None:
        deadline = time.monotonic() + 600
        while (run_folder.steps(self.folder) or [0])[-1] < step:
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self) -> str:
        self.out, _ = self.process.communicate(timeout=600)
        self.code = self.process.returncode
        self.json = run_json.read(self.folder)
        return self.out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> str:
    run = Launched(tmp_path_factory.mktemp("whole"), "whole")
    run.end()
    assert run.code == 0, run.out
    return run.json["results"]["state_digest"]


@pytest.mark.parametrize("worker", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_killed_worker_is_replaced_and_the_run_ends_as_if_nothing_had_happened(worker, tmp_path, uninterrupted):
    run = Launched(tmp_path, "killed")
    run.wait_for_checkpoint(100)
    os.kill(run.workers()[worker], signal.SIGKILL)
    out = run.end()
    assert run.code == 0, out
    assert f"restart 1 of 3: worker {worker} was killed by SIGKILL; all workers start again from step " in out
    assert "left this run folder without an end" not in out, "nobody else has left the run folder"
    assert run.json["results"]["state_digest"] == uninterrupted
    assert run.json["status"] == "completed"
    (restart,) = run.json["restarts"]
    assert restart["workers"] == [worker]
    assert run.json["resumed_at"] >= 100
    assert run.workers() == {}, "nobody is left behind"


def test_sigterm_to_one_worker_stops_all_with_a_checkpoint(tmp_path, uninterrupted):
    run = Launched(tmp_path, "stopped")
    run.wait_for_checkpoint(100)
    os.kill(run.workers()[1], signal.SIGTERM)
    out = run.end()
    assert run.code == 143, out
    assert (run.json["status"], run.json["restarts"]) == ("stopped", [])
    assert "SIGTERM reached a worker: all workers have stopped" in out
    assert run_folder.steps(run.folder)[-1] == run.json["steps"]
    assert run.workers() == {}
    again = Launched(tmp_path, "stopped", "resume=latest")
    again.end()
    assert again.code == 0, again.out
    assert again.json["results"]["state_digest"] == uninterrupted


BAD = """
import tensorflow as tf

from recipes.mnist import Digits, cross_entropy


class Bad(Digits):
    \"\"\"An example of the tenth batch, which worker 1 has, has a loss that is NaN.\"\"\"

    def train_step(self, batch):
        ink = tf.reduce_sum(batch["image"], axis=[1, 2, 3]) * 255.0
        bad = tf.logical_and(ink > 9500.0, ink < 9800.0)

        def loss():
            each = cross_entropy(batch["label"], self.model(batch["image"], training=True))
            return each * tf.where(bad, float("nan"), 1.0)

        return self.minimize(loss)
"""
OF_BAD = ("recipe._target_=bad.Bad", "steps=14", "callbacks.checkpoint.every=4", "callbacks.checkpoint.keep=9")


def ended(folder: Path) -> file.CheckpointFile:
    return file.load(run_folder.newest(folder))


@pytest.mark.long
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_nan_on_one_worker_leads_to_what_it_leads_to_on_one_device(policy, tmp_path):
    (tmp_path / "bad.py").write_text(BAD)
    words = (*OF_BAD, f"nonfinite.policy={policy}", "optimizer=sgd")
    runs = [Launched(tmp_path, "one", *words, "mode=graph", "mode.workers=auto"), Launched(tmp_path, "two", *words)]
    for run in runs:
        out = run.end()
        assert run.code == 0, out
        assert ("Going back to step 8" in out) == (policy == "rollback"), out
    one, two = (ended(run.folder) for run in runs)
    assert (one.step, two.step) == (14, 14)
    for key in ("left_out", "nonfinite"):
        assert one.meta["carry"][key] == two.meta["carry"][key], key
    assert two.meta["carry"]["left_out"] == ([[8, 2]] if policy == "rollback" else [])
    assert two.meta["carry"]["nonfinite"]["skipped"] == (1 if policy == "skip" else 0)
    for name, array in one.arrays.items():
        np.testing.assert_allclose(two.arrays[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_nan_on_one_worker_stops_all_with_exit_code_3(tmp_path):
    (tmp_path / "bad.py").write_text(BAD)
    run = Launched(tmp_path, "stops", *OF_BAD)
    out = run.end()
    assert run.code == 3, out
    assert "in step 10 of 14" in out
    assert (run.json["status"], run.json["restarts"]) == ("failed", [])
    assert run_folder.steps(run.folder)[-1] == 8
    assert run.workers() == {}


def test_an_error_of_the_users_own_is_named_and_not_repeated(tmp_path):
    (tmp_path / "breaking.py").write_text(
        "import os\n\nfrom modetrain import Callback\n\n\nclass Break(Callback):\n"
        "    def on_step(self, trainer):\n        if os.environ['MODETRAIN_WORKER'] == '1':\n"
        "            raise ValueError('of the user, in worker 1')\n"
    )
    run = Launched(tmp_path, "broken", "+callbacks.mine._target_=breaking.Break", "+callbacks.mine.every=150")
    out = run.end()
    assert run.code == 1, out
    assert "worker 1 failed first: ValueError: of the user, in worker 1" in out
    assert "worker 0 stopped because of it" in out
    assert "breaking.py" in out
    assert (run.json["status"], run.json["restarts"]) == ("failed", [])
    assert "of the user, in worker 1" in run.json["error"]
    assert run.workers() == {}


CALLS_BACK = """
import os

import tensorflow as tf

from recipes.mnist import Digits


def look(step):
    if int(step) == 12 and os.environ["MODETRAIN_WORKER"] == "1":
        raise RuntimeError("of the user, in worker 1")


class CallsBack(Digits):
    def train_step(self, batch):
        tf.py_function(look, [self.step], [])
        return super().train_step(batch)
"""


def test_a_step_that_fails_on_one_worker_is_reported_by_the_users_lines_and_replayed_by_that_workers_part(tmp_path):
    (tmp_path / "calls_back.py").write_text(CALLS_BACK)
    run = Launched(tmp_path, "step", "recipe._target_=calls_back.CallsBack", "steps=40")
    lines = [line.removeprefix("modetrain: ") for line in run.end().splitlines()]
    assert run.code == 1, lines
    told = "RuntimeError: of the user, in worker 1 (calls_back.py:11)"
    began = lines.index(f"worker 1 failed first: {told}")
    assert run.json["error"] == f"worker 1 failed: {told}"
    frames = [line for line in lines if line.startswith("[worker 1]   File ")]
    assert all("/calls_back.py" in frame for frame in frames), "the user's own lines alone"
    assert frames[-1].endswith("line 11, in look")
    assert len(lines) - began < 20
    assert not (run.folder / "capsules").exists(), "none by a worker that has only lost its peer"
    assert lines[-3].endswith("do=replay replay.from=step replay.step=13 replay.replica=1 mode=eager")
    whole = (run.folder / "error.txt").read_text()
    assert "modetrain/trainer.py" in whole
    assert "RuntimeError: of the user, in worker 1" in whole


def test_workers_that_do_not_join_leave_the_cause(tmp_path):
    run = Launched(tmp_path, "late", "mode.startup_timeout=0.1", "mode.restarts=0")
    run.end()
    assert run.code == 1, run.out
    told = (run.folder / "error.txt").read_text().splitlines()
    assert told[0].startswith("workers 0 and 1 did not join within 0.1 s")
    assert told[1] == "The output of all workers: late/workers"


def test_kill_9_of_the_launcher_leaves_no_worker(tmp_path):
    run = Launched(tmp_path, "orphans")
    run.wait_for_checkpoint(100)
    assert len(run.workers()) == 2
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 10
    while run.workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert run.workers() == {}


@pytest.mark.long
def test_twenty_kills_and_freezes_at_random_moments(tmp_path, uninterrupted, capsys):
    random.seed(time.time_ns())
    noticed = []
    for number in range(20):
        run = Launched(tmp_path, f"random-{number}")
        signum = random.choice([signal.SIGKILL, signal.SIGSTOP])
        worker = random.randrange(2)
        while len(run.workers()) < 2:
            time.sleep(0.05)
        time.sleep(random.uniform(0, 12))
        there = run.workers()
        if worker in there:
            os.kill(there[worker], signum)
        at = time.monotonic()
        for line in run.process.stdout:
            if "restart 1 of 3" in line:
                noticed.append((signum.name, time.monotonic() - at))
        run.end()
        assert run.code == 0, (number, signum, worker)
        assert run.json["results"]["state_digest"] == uninterrupted, (number, signum, worker)
        for restart in run.json["restarts"]:
            with capsys.disabled():
                print(f"\n{number}: {signum.name} of worker {worker}: noticed after {noticed[-1][1]:.1f} s, {restart}")
