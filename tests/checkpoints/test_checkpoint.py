"""A checkpoint is whole or not there, comes back bit by bit, and what does not fit is said by name."""

from __future__ import annotations

import os
import re
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from modetrain.callback import Callback
from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.checkpoints import file as checkpoint
from modetrain.checkpoints.file import CheckpointError
from modetrain.errors import ConfigError
from modetrain.files import run_folder
from modetrain.training.metric_direction import Monitored
from recipes.mnist import Digits


def some(**more):
    return {
        "model/0/kernel": tf.Variable([[1.5, -2.0], [np.inf, np.nan]]),
        "model/1/half": tf.Variable([1.0, 3.140625], dtype=tf.bfloat16),
        "seeds/state": tf.Variable([2**62, 1], dtype=tf.int64),
        "flag": tf.Variable(True),
        "scalar": keras.Variable(2.5),
        "empty": tf.Variable(tf.zeros([0, 3])),
        **more,
    }


def blank(state):
    return {name: tf.Variable(tf.zeros(v.shape, v.dtype)) for name, v in state.items()}


def contents(state):
    return {name: (v.numpy().dtype.name, v.numpy().tobytes()) for name, v in state.items()}


@pytest.fixture
def path(tmp_path):
    return run_folder.checkpoint(tmp_path, 7)


# --- there and back --------------------------------------------------------------------------------------------------


def test_every_variable_comes_back_bit_by_bit(path):
    state = some()
    checkpoint.save(path, state, step=7, meta={"config": {"seed": 3}, "best_value": None})
    found = checkpoint.load(path)
    assert found.step == 7
    assert found.meta == {"config": {"seed": 3}, "best_value": None}
    other = blank(state)
    checkpoint.restore(found, other, path)
    assert contents(other) == contents(state)
    assert checkpoint.digest(other) == checkpoint.digest(state)


def test_every_precision_comes_back(path):
    kinds = (tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.int8, tf.uint8, tf.int32, tf.int64, tf.uint64)
    state = {kind.name: tf.Variable(tf.cast([1, 2, 100], kind)) for kind in kinds}
    checkpoint.save(path, state, step=7, meta={})
    other = blank(state)
    checkpoint.restore(checkpoint.load(path), other, path)
    assert contents(other) == contents(state)


def test_a_whole_recipe_comes_back(path, make_trainer):
    settings = {"name": "adamw", "ema": 0.9, "accumulate": 2, "loss_scaling": True}
    one, other = (make_trainer("graph", steps=3, seed=seed, **settings) for seed in (0, 1))
    one.train()
    checkpoint.save(path, one.recipe.state(), step=7, meta={})
    assert checkpoint.digest(one.recipe.state()) != checkpoint.digest(other.recipe.state())
    checkpoint.restore(checkpoint.load(path), other.recipe.state(), path)
    assert contents(other.recipe.state()) == contents(one.recipe.state())


def test_numpy_opens_it(path):
    checkpoint.save(path, some(), step=7, meta={})
    with np.load(path) as archive:
        assert archive["model/0/kernel"][0].tolist() == [1.5, -2.0]


# --- whole or not there ----------------------------------------------------------------------------------------------


def test_a_file_cut_short_anywhere_is_never_taken(path):
    checkpoint.save(path, some(), step=7, meta={})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            checkpoint.load(path)


@pytest.mark.parametrize("bit", [0, 6])
def test_a_flipped_bit_is_found_or_harmless(path, bit):
    """Some bytes of an archive say nothing (times, attributes); no other may change without being noticed."""
    state = {"w": tf.Variable([1.0, 2.0]), "half": tf.Variable([1.5], dtype=tf.bfloat16)}
    checkpoint.save(path, state, step=7, meta={"config": {"seed": 3}})
    whole = path.read_bytes()
    found_out = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
        try:
            found = checkpoint.load(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            found_out += 1
            continue
        other = blank(state)
        checkpoint.restore(found, other, path)
        assert (found.step, found.meta) == (7, {"config": {"seed": 3}})
        assert contents(other) == contents(state), f"byte {position}"
    assert found_out > len(whole) / 2


def test_a_large_array_that_claims_to_be_shorter_is_found_out(path):
    state = {"w": tf.Variable(tf.zeros([90_000]))}
    checkpoint.save(path, state, step=7, meta={})
    whole = path.read_bytes()
    assert whole.count(b"(90000,)") == 1
    path.write_bytes(whole.replace(b"(90000,)", b"(10000,)"))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 and no more"])
def test_what_is_no_checkpoint_is_said_to_be_none(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged or no checkpoint of modetrain: .*[^.]\.$"):
        checkpoint.load(path)
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(CheckpointError, match="damaged or no checkpoint of modetrain"):
        checkpoint.load(path)


def test_a_missing_file_is_said_to_be_missing(path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(path)
    assert issubclass(CheckpointError, ConfigError), "so the command line ends with exit code 2 and no traceback"


def test_a_failure_while_writing_leaves_the_file_before_and_no_other(path):
    checkpoint.save(path, some(), step=7, meta={})
    before = path.read_bytes()

    class Lost:
        def numpy(self):
            raise ZeroDivisionError

    for state, meta in ((some(lost=Lost()), {}), (some(), {"meta": object()})):
        with pytest.raises((ZeroDivisionError, TypeError)):
            checkpoint.save(path, state, step=8, meta=meta)
        assert path.read_bytes() == before
        assert [found.name for found in path.parent.iterdir() if not found.name.startswith(".")] == [path.name]


def test_a_reader_never_sees_a_part_of_it(tmp_path):
    """Loaded over and over while it is written over and over."""
    path = tmp_path / "best.npz"  # the one name that is written to again and again
    states = [{"w": tf.Variable(tf.fill([50_000], float(n)))} for n in range(2)]
    checkpoint.save(path, states[0], step=0, meta={})
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            checkpoint.save(path, states[n % 2], step=n % 2, meta={})
            n += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            found = checkpoint.load(path)
            assert set(found.arrays["w"].tolist()) == {float(found.step)}
    finally:
        stop.set()
        writer.join()


def test_a_half_written_file_is_no_checkpoint_and_is_cleared_away(tmp_path, make_trainer):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in (".step-00000009.npz.partial", "step-9.npz.bak", "notes.txt"):
        (folder / name).write_bytes(b"PK")
    assert run_folder.steps(tmp_path) == []
    assert run_folder.newest(tmp_path) is None
    make_trainer("eager", steps=1, callbacks=[Checkpoint(every=1)]).train()
    assert sorted(found.name for found in folder.iterdir()) == [
        *("index.json", "notes.txt", "step-00000001.npz", "step-9.npz.bak")
    ]


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_listed_and_nothing_is_assigned(path):
    checkpoint.save(path, {"a": tf.Variable([1.0]), "b": tf.Variable([1.0, 2.0]), "c": tf.Variable(1)}, step=7, meta={})
    run = {
        "a": tf.Variable([0.0]),
        "b": tf.Variable([[0.0, 0.0]]),
        "c": tf.Variable(0, dtype=tf.int64),
        "d": tf.Variable(0.0),
    }
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(checkpoint.load(path), {**run, "d": tf.Variable(0.0)}, path)
    assert str(caught.value).splitlines() == [
        f"{path} belongs to another model or optimizer:",
        "  d: not in the checkpoint",
        "  b: float32 (2,) in the checkpoint, float32 (1, 2) in this run",
        "  c: int32 () in the checkpoint, int64 () in this run",
        "Resume with the recipe, model, optimizer and precision of that run (its config.yaml has them).",
    ]
    assert run["a"].numpy().tolist() == [0.0]
    with pytest.raises(CheckpointError, match="c: in the checkpoint only"):
        checkpoint.restore(checkpoint.load(path), {"a": run["a"], "b": tf.Variable([0.0, 0.0])}, path)


def test_a_long_list_is_cut(path):
    checkpoint.save(path, {}, step=7, meta={})
    with pytest.raises(CheckpointError, match="and 15 more"):
        checkpoint.restore(checkpoint.load(path), {f"v{n}": tf.Variable(0.0) for n in range(25)}, path)


# --- which are kept --------------------------------------------------------------------------------------------------


class Scores(Callback):
    """Plays an evaluation with these accuracies, one every 2 steps."""

    def __init__(self, scores, name="accuracy"):
        super().__init__(every=2)
        self.scores = dict(zip(range(2, 100, 2), scores, strict=False))
        self.name = name

    def on_step(self, trainer):
        trainer.history.add_evaluation(trainer.step, {self.name: self.scores[trainer.step], "other": 1.0})


def kept(folder):
    return [os.path.basename(file) for file in sorted((folder / "checkpoints").glob("*.npz"))]


@pytest.mark.parametrize(("keep", "steps"), [(1, [10]), (2, [8, 10]), (9, [2, 4, 6, 8, 10])])
def test_the_last_so_many_are_kept(tmp_path, make_trainer, keep, steps):
    make_trainer("graph", steps=10, callbacks=[Checkpoint(every=2, keep=keep)]).train()
    assert run_folder.steps(tmp_path) == steps
    assert run_folder.newest(tmp_path) == run_folder.checkpoint(tmp_path, 10)
    assert run_folder.newest(tmp_path, at_most=9) == (run_folder.checkpoint(tmp_path, 8) if 8 in steps else None)


def test_the_last_step_is_kept_whatever_the_interval(tmp_path, make_trainer):
    make_trainer("graph", steps=7, callbacks=[Checkpoint(every=3)]).train()
    assert run_folder.steps(tmp_path) == [3, 6, 7]
    make_trainer("graph", steps=2, folder=tmp_path / "b", callbacks=[Checkpoint(every=None)]).train()
    assert run_folder.steps(tmp_path / "b") == [2]


@pytest.mark.parametrize(
    ("scores", "name", "best"),
    [
        ([0.1, 0.9, 0.5, 0.9, 0.2], "accuracy", 4),  # a tie does not count as better
        ([0.1, 0.2, 0.3, 0.4, 0.5], "accuracy", 10),
        ([3.0, 1.0, 2.0, 0.5, 0.7], "loss", 8),
        ([3.0, 1.0, 2.0, 0.5, 0.7], "-perplexity", 8),
        ([3.0, 1.0, 2.0, 0.5, 0.7], "+lossless_share", 2),
    ],
)
def test_the_best_is_kept_too(tmp_path, make_trainer, scores, name, best):
    keep = Checkpoint(every=2, keep=1, best=name)
    name, larger = name.lstrip("+-"), name in ("accuracy", "+lossless_share")
    make_trainer("eager", steps=10, callbacks=[Scores(scores, name), keep]).train()
    assert kept(tmp_path) == ["best.npz", "step-00000010.npz"]
    found = checkpoint.load(tmp_path / "checkpoints" / "best.npz")
    assert found.step == best
    assert found.meta["best_value"] == (max if larger else min)(scores)
    assert found.meta["results"]["eval"][name] == found.meta["best_value"]


def test_only_a_better_one_than_before_a_resume_becomes_the_best(tmp_path, make_trainer):
    make_trainer("graph", steps=4, callbacks=[Scores([0.5, 0.8]), Checkpoint(every=2, best="accuracy")]).train()
    resumed = Checkpoint(every=2, best="accuracy")
    rest = make_trainer("graph", steps=8, step=4, callbacks=[Scores([0.0, 0.0, 0.7, 0.75]), resumed])
    found = checkpoint.load(run_folder.checkpoint(tmp_path, 4))
    rest.load_state(found.meta["carry"], step=found.step)
    rest.train()
    assert checkpoint.load(tmp_path / "checkpoints" / "best.npz").step == 4


@pytest.mark.parametrize("harm", ["damaged", "exchanged"])
def test_a_best_that_is_not_whole_is_said_and_replaced_by_the_next(tmp_path, make_trainer, harm):
    make_trainer("graph", steps=4, callbacks=[Scores([0.8, 0.5]), Checkpoint(every=2, best="accuracy")]).train()
    best = run_folder.best(tmp_path)
    content = best.read_bytes()[:-9] if harm == "damaged" else run_folder.checkpoint(tmp_path, 4).read_bytes()
    best.unlink()  # a hard link to the step's
    best.write_bytes(content)
    resumed = Checkpoint(every=2, best="accuracy")
    rest = make_trainer("graph", steps=6, step=4, callbacks=[Scores([0.0, 0.0, 0.7]), resumed])
    found = checkpoint.load(run_folder.checkpoint(tmp_path, 4))
    rest.load_state(found.meta["carry"], step=found.step)
    rest.train()
    (line,) = [line for line in rest.said if line.startswith("WARNING")]
    assert "best.npz" in line
    assert line.endswith("The best value so far is forgotten: the next evaluation replaces it.")
    assert checkpoint.load(best).step == 6


def test_the_best_of_another_metric_is_no_measure(tmp_path, make_trainer):
    make_trainer("graph", steps=4, callbacks=[Scores([2.3, 2.5], "loss"), Checkpoint(every=2, best="loss")]).train()
    resumed = Checkpoint(every=2, best="accuracy")
    rest = make_trainer("graph", steps=8, step=4, callbacks=[Scores([0.0, 0.0, 0.7, 0.6]), resumed])
    found = checkpoint.load(run_folder.checkpoint(tmp_path, 4))
    rest.load_state(found.meta["carry"], step=found.step)
    rest.callbacks.pending = []  # of that evaluation's metrics
    rest.train()
    assert checkpoint.load(tmp_path / "checkpoints" / "best.npz").step == 6


def test_the_best_by_the_other_end_is_no_measure(tmp_path, make_trainer):
    make_trainer("eager", steps=4, callbacks=[Scores([0.2, 0.9], "m"), Checkpoint(every=2, best="+m")]).train()
    rest = make_trainer(
        "eager", steps=6, step=4, callbacks=[Scores([0, 0, 0.5], "m"), Checkpoint(every=2, best="m", best_is="min")]
    )
    found = checkpoint.load(run_folder.checkpoint(tmp_path, 4))
    rest.load_state(found.meta["carry"], step=found.step)
    rest.train()
    assert checkpoint.load(run_folder.best(tmp_path)).step == 6, (
        "0.5 is no better than 0.9 by the end of the run before"
    )


def test_an_old_evaluation_does_not_make_a_new_checkpoint_the_best(tmp_path, make_trainer):
    make_trainer("graph", steps=5, callbacks=[Scores([0.5, 0.8]), Checkpoint(every=5, best="accuracy")]).train()
    assert kept(tmp_path) == ["step-00000005.npz"]


def test_a_metric_that_is_not_there_is_named_with_those_that_are(make_trainer):
    trainer = make_trainer("graph", steps=2, callbacks=[Scores([0.5]), Checkpoint(every=2, best="+acuracy")])
    with pytest.raises(Exception, match=r"best=\+acuracy") as caught:
        trainer.train()
    message = str(caught.value)
    assert "the evaluation returned accuracy, other" in message
    assert "Did you mean 'accuracy'?" in message
    assert "callbacks.checkpoint.best=null" in message


@pytest.mark.parametrize(("name", "best"), [("accuracy", 4), ("loss", 2), ("recall", None)])
def test_auto_is_accuracy_else_loss_else_none(tmp_path, make_trainer, name, best):
    scores = Scores([0.5, 0.8], name)
    trainer = make_trainer("graph", steps=4, callbacks=[scores, Checkpoint(every=2, best="auto")])
    trainer.train()
    assert ("best.npz" in kept(tmp_path)) is (best is not None)
    if best is not None:
        assert checkpoint.load(tmp_path / "checkpoints" / "best.npz").step == best
    said = [line for line in trainer.said if "callbacks.checkpoint.best=auto" in line]
    assert len(said) == 1
    assert (f"best {name}" if best else "no accuracy and no loss") in said[0]


@pytest.mark.parametrize(("ends", "steps"), [("stop", [3]), ("callback", [3]), ("step", [])])
def test_a_run_that_ends_early_is_saved_where_its_variables_are_whole(tmp_path, make_trainer, ends, steps):
    class End(Callback):
        def on_steps_end(self, trainer, rows):
            if trainer.step == 3:
                if ends == "callback":
                    raise ZeroDivisionError
                trainer.stop()

    class Fails(Digits):
        def train_step(self, batch):
            if ends == "step" and self.step == 2:
                raise ZeroDivisionError
            return super().train_step(batch)

    trainer = make_trainer("eager", Fails, steps=9, callbacks=[End(), Checkpoint(every=None)])
    if ends == "stop":
        trainer.train()
    else:
        with pytest.raises(ZeroDivisionError):
            trainer.train()
    assert run_folder.steps(tmp_path) == steps


def test_saving_is_booked_to_its_own_account(make_trainer):
    trainer = make_trainer("graph", steps=2, callbacks=[Checkpoint(every=1)])
    trainer.train()
    assert trainer.timer.seconds["checkpoint"] > 0


# --- the digest ------------------------------------------------------------------------------------------------------


def test_a_digest_is_of_names_dtypes_shapes_and_bytes():
    base = {"a": tf.Variable([1.0, 2.0]), "b": tf.Variable(3)}
    digests = [
        checkpoint.digest(state)
        for state in (
            base,
            {"a": tf.Variable([1.0, 2.0]), "c": tf.Variable(3)},
            {"a": tf.Variable([1.0, 2.0000002]), "b": tf.Variable(3)},
            {"a": tf.Variable([[1.0, 2.0]]), "b": tf.Variable(3)},
            {"a": tf.Variable([1.0, 2.0]), "b": tf.Variable(3, dtype=tf.uint32)},
            {"a": tf.Variable([1.0, 2.0])},
        )
    ]
    assert len(set(digests)) == 6
    assert all(len(digest) == 64 for digest in digests)
    assert checkpoint.digest(dict(reversed(base.items()))) == digests[0]


# --- proven to be what was written -----------------------------------------------------------------------------------


def test_another_steps_content_under_this_name_is_found_out(tmp_path):
    for step in (2, 4):
        checkpoint.save(run_folder.checkpoint(tmp_path, step), some(), step=step, meta={})
    os.replace(run_folder.checkpoint(tmp_path, 2), run_folder.checkpoint(tmp_path, 4))
    with pytest.raises(CheckpointError, match=r"step-00000004.npz is another file under this name: it holds step 2"):
        checkpoint.load(run_folder.checkpoint(tmp_path, 4))


def test_another_runs_file_of_the_same_step_is_found_out(tmp_path, make_trainer):
    for name, seed in (("a", 0), ("b", 1)):
        make_trainer("eager", steps=2, seed=seed, folder=tmp_path / name, callbacks=[Checkpoint(every=1)]).train()
    os.replace(run_folder.checkpoint(tmp_path / "b", 2), run_folder.checkpoint(tmp_path / "a", 2))
    with pytest.raises(CheckpointError, match=r"is another file under this name: SHA-256 .* in index.json"):
        checkpoint.load(run_folder.checkpoint(tmp_path / "a", 2))


def test_content_that_was_changed_with_its_checksums_is_found_out(path):
    """Another program has opened the archive, changed a weight, and written it again: CRC and shapes are right."""
    checkpoint.save(path, {"w": tf.Variable([1.0, 2.0])}, step=7, meta={})
    with np.load(path) as archive:
        changed = {**archive, "w": np.array([1.0, 3.0], np.float32)}
    np.savez(path, **changed)
    with pytest.raises(CheckpointError, match=r"is damaged: its SHA-256 is \w+... and was \w+... when it was written"):
        checkpoint.load(path)


def test_an_index_that_is_lost_or_damaged_costs_nothing(tmp_path, make_trainer):
    make_trainer("eager", steps=2, callbacks=[Checkpoint(every=1)]).train()
    index = tmp_path / "checkpoints" / checkpoint.INDEX
    assert set(checkpoint.read_index(index.parent)) == {"step-00000001.npz", "step-00000002.npz"}
    for content in (b"", b"[1]", b"\xff", b'{"step-00000002.npz": 3}'):
        index.write_bytes(content)
        assert checkpoint.load(run_folder.checkpoint(tmp_path, 2)).step == 2
    index.unlink()
    assert checkpoint.load(run_folder.checkpoint(tmp_path, 2)).step == 2


def test_a_crash_between_a_file_and_its_index_makes_neither_wrong(tmp_path, make_trainer):
    """The index as it was before the last file was written, and before `best` was replaced."""
    trainer = make_trainer("eager", steps=4, callbacks=[Scores([0.5, 0.8]), Checkpoint(every=2, best="accuracy")])
    trainer.train()
    folder = tmp_path / "checkpoints"
    index = checkpoint.read_index(folder)
    checkpoint.remove_from_index(folder, index, ["step-00000004.npz", "best.npz"])
    for name in ("step-00000002.npz", "step-00000004.npz", "best.npz"):
        checkpoint.load(folder / name)


# --- while the run goes on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_copy_is_not_changed_by_later_steps(mode, make_trainer):
    kept = []

    class Copies(Callback):
        def on_step(self, trainer):
            state = trainer.recipe.state()
            kept.append((checkpoint.copy_values(state), checkpoint.digest(state)))

    trainer = make_trainer(mode, steps=6, callbacks=[Copies(every=1)], name="adam", ema=0.9)
    trainer.train()
    digests = [digest for _, digest in kept]
    assert len(set(digests)) == 6
    again = [checkpoint.digest({name: tf.constant(v) for name, v in copy.items()}) for copy, _ in kept]
    assert again == digests


def test_steps_do_not_wait_for_the_disk(make_trainer, tmp_path):
    """A disk that takes a second: the run goes on, and what is booked to checkpoints is the copy alone."""

    class SlowDisk(Checkpoint):
        def _write(self, *args, **given):
            time.sleep(1.0)
            super()._write(*args, **given)

    steps = []

    class Notes(Callback):
        def on_steps_end(self, trainer, rows):
            steps.append((trainer.step, keep.writer.jobs))

    keep = SlowDisk(every=2)
    trainer = make_trainer("eager", steps=5, callbacks=[Notes(), keep])
    booked = []

    class Books(Callback):
        def on_step(self, trainer):
            booked.append(trainer.timer.seconds["checkpoint"])

    trainer.callbacks.append(Books(every=3))
    trainer.train()
    assert (3, 0) in steps, "the first one is still being written"
    assert booked[0] < 0.5
    assert keep.writer.seconds > 2.9
    assert run_folder.steps(tmp_path) == [2, 4, 5]
    assert trainer.timer.seconds["checkpoint"] > 0.5, "the end waits for the last one"


def test_those_of_each_multiple_are_kept_for_good(tmp_path, make_trainer):
    make_trainer("eager", steps=11, callbacks=[Checkpoint(every=1, keep=2, keep_every=4)]).train()
    assert run_folder.steps(tmp_path) == [4, 8, 10, 11]


def test_what_a_rollback_goes_back_to_is_kept_though_a_later_one_was_asked_for(tmp_path, make_trainer):
    """Where `keep=1` would leave the newest alone, which a run that was not interrupted does not have."""

    class Asks(Callback):
        def on_steps_end(self, trainer, rows):
            if trainer.step == 4:
                trainer.save()

    steps = {}
    for first in (True, False):
        folder = tmp_path / str(first)
        callbacks = [Asks(), Checkpoint(every=3, keep=1, first=first, background=False)]
        trainer = make_trainer("eager", steps=5, folder=folder, callbacks=callbacks)
        [*trainer.callbacks][-1].on_train_end = lambda trainer: None  # what there is before the run ends
        trainer.train()
        steps[first] = run_folder.steps(folder)
    assert steps == {True: [3, 5], False: [5]}


# Names that stand for one end by themselves; and those that only look as if they did, or that nothing settles.
SMALLER = ["loss", "Loss", "val_loss", "mae", "MSE", "eval/mean_absolute_error", "perplexity", "wer", "nll", "fid"]
LARGER = ["accuracy", "val_accuracy", "AUC", "f1", "top5_accuracy", "BLEU", "mean-iou"]
UNSETTLED = [
    "lossless_share",
    "error_free",
    "terror_recall",
    "glossary_hits",
    "accuracy_loss_ratio",
    "neg_log_loss",
    "score",
]


def test_the_better_end_is_stated_or_known_and_never_guessed():
    ends = {name: Monitored.parse(name).best_is for name in SMALLER + LARGER}
    assert ends == {**dict.fromkeys(SMALLER, "min"), **dict.fromkeys(LARGER, "max")}
    for name in UNSETTLED:
        with pytest.raises(ConfigError, match=f"Type callbacks.checkpoint.best=-{name} where smaller is"):
            Monitored.parse(name)
    stated = {"score": "min", "accuracy": "min"}
    assert Monitored.parse("score", stated=stated).best_is == "min"
    assert Monitored.parse("accuracy", stated=stated).best_is == "min", "the recipe knows better than a table"
    assert Monitored.parse("score", "max", stated).best_is == "max", "the configuration counts first"
    assert Monitored.parse("+score", stated=stated) == Monitored(name="score", best_is="max")
    with pytest.raises(ConfigError, match="Write 'min' or 'max' there"):
        Monitored.parse("score", stated={"score": "lower"})


def test_a_run_whose_best_nothing_settles_ends_before_its_first_step(make_trainer):
    trainer = make_trainer("eager", steps=2, callbacks=[Checkpoint(every=2, best="score")])
    with pytest.raises(ConfigError, match="in class Digits"):
        trainer.train()
    assert trainer.step == 0
