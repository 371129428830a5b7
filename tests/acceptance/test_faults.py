"""What goes wrong around a run, provoked for real: it ends with a clear error or goes on, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tensorflow as tf

from modetrain.app import report
from modetrain.app.session import _owned
from modetrain.callback import Callback
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.callbacks.log import Log
from modetrain.checkpoints import file as checkpoint
from modetrain.engine.devices import Replicas
from modetrain.errors import ConfigError, NotSavedError
from modetrain.files import run_folder
from modetrain.files.tensorboard import TensorBoardWriter
from tests.forked import forked

NOBODY = 65534


@contextlib.contextmanager
def no_file_above(size):
    """No file of this process may grow beyond this many bytes, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


class At(Callback):
    """Does something after a step."""

    def __init__(self, step, do):
        super().__init__()
        self.step, self.do = step, do

    def on_steps_end(self, trainer, rows):
        if trainer.step == self.step:
            self.do(trainer)


def whole_checkpoints(folder):
    return [checkpoint.load(run_folder.checkpoint(folder, step)).step for step in run_folder.steps(folder)]


# --- the disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_ends_the_run_with_the_checkpoint_before_and_says_what_to_do(background, make_trainer, tmp_path):
    with contextlib.ExitStack() as full:
        fills = At(3, lambda run: full.enter_context(no_file_above(500)))
        trainer = make_trainer("eager", steps=9, callbacks=[fills, Checkpoint(every=2, background=background)])
        with pytest.raises(NotSavedError) as caught:
            trainer.train()
    message = str(caught.value)
    assert "the checkpoint of step 4 could not be written" in message
    assert "File too large" in message
    assert "The newest whole one is of step 2" in message
    assert f"resume=latest run_dir={tmp_path}" in message
    assert whole_checkpoints(tmp_path) == [2]
    assert trainer.status == "failed"
    assert [*trainer.callbacks][-1].written == 1, "what failed is not counted"
    assert not list((tmp_path / "checkpoints").glob(".*partial")), "it would take the room that is needed"


def test_a_full_disk_is_one_sentence(make_trainer, tmp_path):
    with contextlib.ExitStack() as full:
        fills = At(3, lambda run: full.enter_context(no_file_above(500)))
        trainer = make_trainer("eager", steps=9, callbacks=[fills, Checkpoint(every=2, background=False)])
        with pytest.raises(NotSavedError) as caught:
            trainer.train()
    assert report.format_error(caught.value, tmp_path / "error.txt").splitlines() == [
        f"modetrain: {caught.value}",
        f"modetrain: the complete error: {tmp_path / 'error.txt'}",
    ]


def test_room_that_comes_back_is_used(make_trainer, tmp_path):
    """The write fails, the run ends, and by then there is room again: the last step is saved after all."""
    with contextlib.ExitStack() as full:
        fills = At(3, lambda run: full.enter_context(no_file_above(500)))

        class Frees(Callback):
            def on_train_end(self, trainer):
                full.close()

        trainer = make_trainer("eager", steps=9, callbacks=[fills, Frees(), Checkpoint(every=2)])
        with pytest.raises(NotSavedError):
            trainer.train()
    assert whole_checkpoints(tmp_path)[-1] == trainer.step > 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, or become another user")
def test_a_real_full_disk(make_trainer, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=40k none {disk} 2>/dev/null"):
        pytest.skip("mounting is not allowed here")
    try:
        trainer = make_trainer("eager", steps=60, folder=disk, callbacks=[Checkpoint(every=1, keep=99)])
        with pytest.raises(NotSavedError, match="No space left on device"):
            trainer.train()
        found = whole_checkpoints(disk)
        assert found == list(range(1, found[-1] + 1))
    finally:
        os.system(f"umount {disk}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_becomes_read_only(make_trainer):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        become_nobody = At(3, lambda run: os.seteuid(NOBODY))
        callbacks = [become_nobody, Checkpoint(every=2, background=False)]
        trainer = make_trainer("eager", steps=9, folder=folder, callbacks=callbacks)
        try:
            with pytest.raises(NotSavedError, match=r"Permission denied.*The newest whole one is of step 2"):
                trainer.train()
        finally:
            os.seteuid(0)
        assert whole_checkpoints(folder) == [2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_is_read_only_is_refused_before_anything_is_done():
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        os.seteuid(NOBODY)
        try:
            refused = pytest.raises(
                ConfigError, match=r"Permission denied: nothing can be written there. Type run_dir="
            )
            with refused, _owned(Path(name), Replicas()):
                pytest.fail("it is not ours")
        finally:
            os.seteuid(0)


def test_a_removed_folder_costs_the_past_and_not_the_run(make_trainer, tmp_path, said):
    folder = tmp_path / "run"
    events = TensorBoardWriter(folder)
    removes = At(3, lambda run: shutil.rmtree(folder))
    log = Log(every=1, events=events, lines=False)
    trainer = make_trainer(
        "eager", steps=6, folder=folder, callbacks=[log, removes, Checkpoint(every=2, background=False)]
    )
    trainer.train()
    events.close()
    assert trainer.status == "completed"
    assert whole_checkpoints(folder) == [4, 6]
    (line,) = [line for line in said if line.startswith("WARNING")]
    assert "was removed" in line


# --- the data --------------------------------------------------------------------------------------------------------


def reading(file):
    """A `prepare` that reads a file for each batch, as data from a network drive would be."""

    def prepare(batch, *, seed, training):
        found = tf.py_function(lambda: float(file.read_text()), [], tf.float32)
        return {**batch, "image": tf.cast(batch["image"], tf.float32) / 255.0 * tf.ensure_shape(found, [])}

    return prepare


@pytest.fixture
def drive(tmp_path):
    file = tmp_path / "drive"
    file.write_text("1.0")
    return file


def state_of(trainer):
    trainer.recipe.seek(trainer.step)
    return checkpoint.digest(trainer.recipe.state())


def test_data_that_fails_for_a_moment_changes_nothing(drive, make_trainer):
    """Bit for bit what it would have been: the same batch is asked for again."""
    data = {"prepare": reading(drive), "debug": True, "retries": 2}
    whole = make_trainer("eager", steps=6, data=data)
    whole.train()
    trainer = make_trainer("eager", steps=6, data=data, callbacks=[At(3, lambda run: drive.unlink())])
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            drive.write_text("1.0")

    trainer.loader._sleep = sleep
    trainer.train()
    assert pauses == [1.0, 2.0]
    assert len(trainer.said) == 2
    assert "the data of step 4 failed" in trainer.said[0]
    assert "data.retries=2" in trainer.said[0]
    assert state_of(trainer) == state_of(whole)


def test_data_that_stays_away_ends_the_run_with_its_step_and_a_checkpoint(drive, make_trainer, tmp_path):
    data = {"prepare": reading(drive), "debug": True, "retries": 1}
    callbacks = [At(3, lambda run: drive.unlink()), Checkpoint(every=None)]
    trainer = make_trainer("eager", steps=6, data=data, callbacks=callbacks, command="python -m modetrain recipe=mine")
    trainer.loader._sleep = lambda seconds: None
    with pytest.raises(Exception, match="No such file") as caught:
        trainer.train()
    assert any("failed in step 4 of 6" in note and "prepare" in note for note in caught.value.__notes__)
    assert whole_checkpoints(tmp_path) == [3], "the steps made so far are not lost"


def test_a_mistake_in_prepare_is_not_tried_again(make_trainer):
    def prepare(batch, *, seed, training):
        return {**batch, "image": tf.debugging.assert_less(batch["index"], 0)}

    trainer = make_trainer("eager", data={"prepare": prepare, "debug": True})
    trainer.loader._sleep = lambda seconds: pytest.fail("it will be no better in a second")
    with pytest.raises(Exception, match="did not hold"):
        trainer.train()


# --- callbacks -------------------------------------------------------------------------------------------------------


class Fussy(Callback):
    """A user's callback that fails at step 4."""

    def __init__(self, *, fails=True):
        super().__init__(every=2)
        self.fails = fails
        self.looked = []

    def on_step(self, trainer):
        if self.fails and trainer.step == 4:
            raise ZeroDivisionError
        self.looked.append(trainer.step)


def test_a_callback_that_fails_is_named_and_the_step_is_saved(make_trainer, tmp_path, recorder):
    before, after = recorder(every=2), recorder(every=4)
    keep = Checkpoint(every=None)
    trainer = make_trainer("eager", steps=9, callbacks=[before, Fussy(), after, keep])
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.train()
    assert "modetrain: Fussy.on_step failed after step 4" in caught.value.__notes__
    assert whole_checkpoints(tmp_path) == [4]
    assert (before.looks, after.looks) == ([2, 4], [])

    again, before, after = Fussy(fails=False), recorder(every=2), recorder(every=4)
    rest = make_trainer("eager", steps=9, callbacks=[before, again, after, Checkpoint(every=None)])
    found = checkpoint.load(run_folder.checkpoint(tmp_path, 4))
    rest.load_state(found.meta["carry"], step=found.step)
    rest.train()
    assert again.looked == [4, 6, 8], "it looks where it could not the last time"
    assert (before.looks, after.looks) == ([6, 8], [4, 8]), "and so does who would have come after it"


# --- from the command line -------------------------------------------------------------------------------------------

TINY = (
    "recipe=mnist",
    "model=mlp",
    "data.source=bundled",
    "data.eval_batches=1",
    "steps=8",
    "callbacks.checkpoint.every=2",
)

# Whatever the machine has: what is asked for is more than this process may have.
HUNGRY = """
import resource

import tensorflow as tf

from recipes.mnist import Digits


class Hungry(Digits):
    def train_step(self, batch):
        if self.step == 5:
            mine = resource.getrlimit(resource.RLIMIT_AS)[0]
            size = tf.cast(tf.reduce_sum(batch["image"]) * 0, tf.int64) + 2**36
            batch = {**batch, "image": batch["image"] + tf.reduce_sum(tf.zeros([size])) * 0}
        return super().train_step(batch)
"""
LIMITED = """
import resource

from modetrain import Callback


class Limited(Callback):
    def on_train_begin(self, trainer):
        resource.setrlimit(resource.RLIMIT_AS, (2**35, resource.RLIM_INFINITY))
"""
NOT_A_NUMBER = """
import tensorflow as tf

from recipes.mnist import Digits


class Nan(Digits):
    def train_step(self, batch):
        return super().train_step({**batch, "image": batch["image"] + tf.where(self.step == 5, float("nan"), 0.0)})
"""
STUCK = """
import time

from modetrain import Callback


class Stuck(Callback):
    def on_steps_end(self, trainer, metrics):
        if trainer.step == 4:
            time.sleep(600)
"""


@pytest.fixture(scope="module")
def ends(cli):
    """What became of runs that something happened to, two at a time."""
    files = {"hungry": HUNGRY, "limited": LIMITED, "nan": NOT_A_NUMBER, "stuck": STUCK}
    cli.write({f"{name}.py": text for name, text in files.items()})
    eager = (*TINY, "mode=eager")

    def locked():
        words = (*eager, "+callbacks.stuck._target_=stuck.Stuck", "run_dir=locked")
        with forked(words, cwd=cli.cwd) as process:
            while not (cli.cwd / "locked/checkpoints/step-00000002.npz").exists() and process.poll() is None:
                time.sleep(0.02)
            second = cli.run(*eager, "resume=latest", folder="locked")
        return second, cli.run(*eager, "resume=latest", folder="locked")

    jobs = {
        "hungry": lambda: cli.run(
            *eager, "recipe._target_=hungry.Hungry", "+callbacks.limited._target_=limited.Limited", folder="hungry"
        ),
        "stop": lambda: cli.run(*TINY, "mode.steps_per_call=4", "recipe._target_=nan.Nan", folder="stop"),
        "skip": lambda: cli.run(*TINY, "recipe._target_=nan.Nan", "nonfinite.policy=skip", folder="skip"),
        "deadline": lambda: cli.run(
            *TINY[:-2], "steps=100000", "callbacks.checkpoint.every=0", "stop_after=9s", folder="deadline"
        ),
        "locked": locked,
    }
    with ThreadPoolExecutor(2) as pool:
        started = {name: pool.submit(job) for name, job in jobs.items()}
        return {name: future.result() for name, future in started.items()}


def test_too_little_memory_says_what_to_type_and_the_steps_before_are_there(ends):
    run = ends["hungry"]
    assert run.code == 1
    assert "ResourceExhausted" in run.err
    assert "The step needs more memory than there is. Type optimizer.accumulate=2" in run.err
    assert "failed in step 6 of 8" in run.err
    assert whole_checkpoints(run.folder) == [2, 4]
    assert run.json["status"] == "failed"
    said = run.err.splitlines()
    command = said[said.index("modetrain: once that is fixed, resume at step 4 with:") + 1]
    assert command.startswith("  python -m modetrain recipe=mnist ")
    assert command.endswith(" resume=latest run_dir=hungry")


def test_a_nan_ends_with_a_code_of_its_own_and_the_checkpoints_before(ends):
    run = ends["stop"]
    assert run.code == 3
    # A rectifier makes 0 of NaN: the loss alone would not have shown it.
    assert "a gradient is not finite (loss is 2." in run.err
    assert "in step 6 of 8 in mode=graph" in run.err
    assert whole_checkpoints(run.folder) == [2, 4]


def test_a_skipped_nan_ends_well_and_is_counted(ends):
    run = ends["skip"]
    assert run.code == 0, run.err
    assert run.json["nonfinite"] == {"skipped": 1, "left_out": []}
    assert run.scalars["optimizer/skipped"] == {8: 0.125}
    assert "its update is skipped (nonfinite.policy=skip)" in run.out
    assert re.search(r"^skipped updates +1\b", run.out, re.MULTILINE)
    assert "skipped 0" not in run.out, "a share says less than the count"


def test_a_deadline_stops_as_sigterm_does(ends):
    run = ends["deadline"]
    assert run.code == 143
    assert run.json["status"] == "stopped"
    assert "stop_after=9s is over" in run.out
    assert whole_checkpoints(run.folder)[-1] == run.json["steps"] > 0
    assert run.json["time"]["total_s"] < 60


def test_a_folder_in_use_is_refused_and_free_again_once_its_process_is_killed(ends):
    second, third = ends["locked"]
    assert second.code == 2
    assert "is writing there. Wait for its end or stop it" in second.err
    assert "Traceback" not in second.err
    assert third.code == 0, third.err
    assert "left this run folder without an end" in third.out
    assert third.json["steps"] == 8
