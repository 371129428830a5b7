"""Promise 5: a failure names recipe, step, mode, batch shapes and the exact command that steps through it eagerly."""

from __future__ import annotations

import math
import shlex
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes.mnist import Digits

COMMAND = "python -m modetrain recipe=mine mode=graph steps=20 mode.steps_per_call=5"


def notes(error) -> str:
    return "\n".join(error.value.__notes__)


# --- what the note says ----------------------------------------------------------------------------------------------


class Fails(Digits):
    """Fails in the step after 7 updates, the eighth, by what TensorFlow itself raises."""

    def train_step(self, batch):
        row = tf.where(self.step == 7, 1000, 3)
        return {**super().train_step(batch), "picked": tf.gather(tf.range(10), row)}

    def eval_step(self, batch):
        row = tf.where(self.step == 1, 1000, 3)
        return {**super().eval_step(batch), "picked": tf.gather(tf.range(10), row)}


@pytest.mark.parametrize(("mode", "cap"), [("eager", 1), ("eager", 5), ("graph", 1), ("graph", 5), ("graph", 100)])
def test_a_failing_step_is_named_exactly(mode, cap, make_trainer):
    trainer = make_trainer(mode, Fails, steps=20, command=COMMAND, mode={"steps_per_call": cap})
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"indices = 1000 is not in \[0, 10\)") as caught:
        trainer.train()
    assert (
        f"modetrain: failed in step 8 of 20: Fails.train_step in mode={mode} (compile={mode}, precision=float32); "
        "batch {image: uint8 (8, 4, 4, 1), label: int32 (8,), index: int32 (8,)}"
    ) in notes(caught)


def test_it_is_named_exactly_every_time(make_trainer):
    """What fails and what tells the step run in one graph: their order must not be left to chance."""
    for _ in range(8):
        trainer = make_trainer("graph", Fails, steps=20, command=COMMAND)
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            trainer.train()
        assert "failed in step 8 of 20" in notes(caught)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_failing_evaluation_is_named_with_its_batch(mode, make_trainer):
    trainer = make_trainer(mode, Fails, steps=3, command=COMMAND)
    trainer.train()
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        trainer.evaluate()
    assert f"modetrain: failed in evaluation batch 2 after step 3 of 3: Fails.eval_step in mode={mode}" in notes(caught)


def test_a_failure_while_tracing_is_named_with_the_first_step(make_trainer):
    class Broken(Digits):
        def train_step(self, batch):
            raise ValueError("mine")

    for mode in ("graph", "xla"):
        with pytest.raises(ValueError, match="mine") as caught:
            make_trainer(mode, Broken, steps=20, command=COMMAND).train()
        assert f"modetrain: failed in step 1 of 20: Broken.train_step in mode={mode}" in notes(caught)


def test_a_failing_prepare_is_named_too(make_trainer, make_data):
    bad = int(make_data().batch(3)["index"][0])

    def prepare(batch, *, seed, training):
        row = tf.where(tf.reduce_any(batch["index"] == bad), 1000, 3)
        return {**batch, "picked": tf.fill([8], tf.gather(tf.range(10), row))}

    trainer = make_trainer("graph", steps=20, command=COMMAND, data={"prepare": prepare}, mode={"steps_per_call": 1})
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        trainer.train()
    assert "modetrain: failed in step 4 of 20: Digits.prepare in mode=graph" in notes(caught)
    assert caught.value.__notes__[-1].endswith(f" replay.from={trainer.folder} replay.step=4 mode=eager")


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_failing_prepare_is_named_by_its_own_step_within_a_block(mode, make_trainer, make_data):
    bad = int(make_data().batch(3)["index"][0])

    def prepare(batch, *, seed, training):
        row = tf.where(tf.reduce_any(batch["index"] == bad), 1000, 3)
        return {**batch, "picked": tf.fill([8], tf.gather(tf.range(10), row))}

    trainer = make_trainer(mode, steps=20, command=COMMAND, data={"prepare": prepare}, mode={"steps_per_call": 5})
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        trainer.train()
    assert f"modetrain: failed in step 4 of 20: Digits.prepare in mode={mode}" in notes(caught)


def test_a_failing_prepare_in_evaluation_is_named_too(make_trainer):
    def prepare(batch, *, seed, training):
        return batch if training else {**batch, "picked": tf.gather(tf.range(10), batch["index"])}

    trainer = make_trainer("graph", steps=2, command=COMMAND, data={"prepare": prepare}, mode={"steps_per_call": 1})
    trainer.train()
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        trainer.evaluate()
    assert "modetrain: failed in evaluation batch 2 after step 2 of 2: Digits.prepare in mode=graph" in notes(caught)


def test_the_note_ends_with_the_command(make_trainer, tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        make_trainer("graph", Fails, steps=20, command=COMMAND).train()
    words = shlex.split(caught.value.__notes__[-1].splitlines()[-1])
    assert words == ["python", "-m", "modetrain", "do=replay", f"replay.from={tmp_path}", "replay.step=8", "mode=eager"]


# --- in a real process -----------------------------------------------------------------------------------------------

RECIPE = """
import tensorflow as tf

from recipes.mnist import Digits


class Picks(Digits):
    def train_step(self, batch):
        found = super().train_step(batch)
        row = tf.where(self.step == 7, 1000, 3)
        return {**found, "picked": tf.gather(tf.range(10), row)}
"""
CONFIG = """# @package _global_
# Fails after 7 updates.
defaults:
  - override /model: mlp
recipe:
  _target_: recipes.picks.Picks
model:
  hidden: [4]
"""
LINE = 'return {**found, "picked": tf.gather(tf.range(10), row)}'


@pytest.fixture(scope="module")
def failed(cli):
    """A run of 20 steps in graph mode, in one call of up to 100 but for the checkpoint after 5."""
    cli.write({"recipes/picks.py": RECIPE, "conf/recipe/picks.yaml": CONFIG})
    words = ("recipe=picks", "data.source=bundled", "steps=20", "optimizer.warmup=15", "callbacks.checkpoint.every=5")
    return cli.run(*words, "callbacks.checkpoint.best=null", folder="failed")


@pytest.fixture(scope="module")
def stepped(cli, failed):
    """The command that was printed, run as it was printed, with something typed into its debugger."""
    printed = failed.err.splitlines()[-1]
    assert printed.startswith("  python -m modetrain ")
    return cli.run(*shlex.split(printed)[3:], typed="c\np 'at', int(self.step), int(row)\np batch['label'].shape\nq\n")


def test_a_failed_run_says_where_and_how_to_step_through_it(failed):
    assert failed.code == 1
    said = failed.err.splitlines()
    assert said[-3] == (
        "modetrain: failed in step 8 of 20: Picks.train_step in mode=graph (compile=graph, precision=float32); "
        "batch {image: uint8 (64, 28, 28, 1), label: int32 (64,)}"
    )
    assert said[-2] == "modetrain: to run that step again, line by line, in the debugger:"
    assert "recipes/picks.py" in failed.err, "the user's own file"


def test_a_failed_run_is_on_record(failed):
    found = failed.json
    assert found["status"] == "failed"
    assert found["steps"] == 5
    assert found["error"] == "InvalidArgumentError: indices = 1000 is not in [0, 10)"
    assert found["results"]["state_digest"] is None
    assert [path.name for path in (failed.folder / "checkpoints").glob("*.npz")] == ["step-00000005.npz"]


def test_the_complete_error_is_in_the_run_folder(failed):
    assert failed.err.splitlines()[-4] == "modetrain: the complete error: failed/error.txt"
    kept = (failed.folder / "error.txt").read_text()
    assert "Traceback (most recent call last):" in kept
    assert "modetrain/trainer.py" in kept, "the library's frames too"
    assert kept.rstrip().endswith(failed.err.splitlines()[-1]), "and the notes"


def test_the_check_of_numbers_names_the_operation_and_the_line(cli):
    code = RECIPE.replace("tf.gather(tf.range(10), row)", "tf.math.log(tf.cast(row - 3, tf.float32))")
    cli.write({"recipes/logs.py": code, "conf/recipe/logs.yaml": CONFIG.replace("picks", "logs")})
    run = cli.run(
        "recipe=logs", "data.source=bundled", "steps=20", "optimizer.warmup=15", "debug=nan", folder="numbers"
    )
    said = run.err.splitlines()
    assert said[:4] == [
        "Traceback (most recent call last):",
        f'  File "{cli.cwd}/recipes/logs.py", line 11, in train_step',
        '    return {**found, "picked": tf.math.log(tf.cast(row - 3, tf.float32))}',
        "InvalidArgumentError: operation Log made -Inf: output 0, float32 of shape ()",
    ]
    assert run.json["error"] == said[3]


def test_going_on_after_a_failure_takes_its_text_away(cli, failed):
    shutil.copytree(failed.folder, cli.cwd / "again")
    words = ("recipe=picks", "data.source=bundled", "steps=6", "resume=latest", "callbacks.checkpoint.best=null")
    again = cli.run(*words, folder="again")
    assert again.json["status"] == "completed"
    assert not (again.folder / "error.txt").exists()


def test_the_printed_command_reaches_the_failing_step_and_stops_at_its_line(stepped):
    assert "do=replay of step 8 from failed/capsules/step-8-error.npz in mode=eager" in stepped.out
    assert "-> found = super().train_step(batch)" in stepped.out, "first at the step's first line"
    assert f"-> {LINE}" in stepped.out
    assert "('at', 7, 1000)" in stepped.out
    assert "TensorShape([64])" in stepped.out


def test_what_is_printed_of_the_traceback_is_the_users(stepped):
    files = [line for line in stepped.err.splitlines() if line.lstrip().startswith("File ")]
    assert files
    assert all("recipes/picks.py" in line for line in files)


# --- everyday mistakes -----------------------------------------------------------------------------------------------


class MakesVariable(Digits):
    def train_step(self, batch):
        scale = tf.Variable(1.0)
        return {"loss": super().train_step(batch)["loss"] * scale}


class MakesLayer(Digits):
    def train_step(self, batch):
        return {**super().train_step(batch), "more": keras.layers.Dense(1)(tf.ones([8, 3]))}


class AsksForNumpy(Digits):
    def train_step(self, batch):
        found = super().train_step(batch)
        return {"loss": tf.constant(float(found["loss"].numpy().mean()))}


class AsksForFloat(Digits):
    def train_step(self, batch):
        found = super().train_step(batch)
        return {"loss": tf.constant(float(tf.reduce_mean(found["loss"])))}


class AsksMath(Digits):
    def train_step(self, batch):
        return {"loss": math.exp(tf.reduce_mean(super().train_step(batch)["loss"]))}


class AsksNumPy(Digits):
    def train_step(self, batch):
        return {"loss": np.mean(super().train_step(batch)["loss"])}


class ReadsIterator(Digits):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.more = iter(tf.data.Dataset.range(1000))

    def train_step(self, batch):
        return {**super().train_step(batch), "more": tf.cast(next(self.more), tf.float32)}


class DecidesOnTensor(Digits):
    """In a function that AutoGraph may not convert, as those of most libraries."""

    def train_step(self, batch):
        return {"loss": halved(super().train_step(batch)["loss"])}


@tf.autograph.experimental.do_not_convert
def halved(loss):
    return loss / 2 if tf.reduce_mean(loss) > 1 else loss


class LoopsOverTensor(Digits):
    """In a comprehension, which AutoGraph does not convert."""

    def train_step(self, batch):
        return {"loss": tf.stack([2 * loss for loss in super().train_step(batch)["loss"]])}


class CannotCompile(Digits):
    def train_step(self, batch):
        words = tf.strings.as_string(batch["label"])
        return {**super().train_step(batch), "length": tf.strings.length(words)}


class KeepsTensor(Digits):
    def train_step(self, batch):
        found = super().train_step(batch)
        self.kept = tf.reduce_mean(found["loss"])
        return found

    def eval_step(self, batch):
        return {**super().eval_step(batch), "train_loss": self.kept}


SENTENCES = {
    "variable": "A step made a variable (or a layer, optimizer or metric, which make variables)",
    "value": "A step asked for the value of a tensor (.numpy(), float(), np.asarray)",
    "iterator": "A step read from an iterator: no iterator can be inside a compiled program.",
    "bool": "A step used a tensor where Python needs a plain value (if, for, and, len, int)",
    "compile": "A step uses an operation that XLA cannot compile",
    "leak": "A tensor of one trace was kept and used in another",
}
MISTAKES = [
    (MakesVariable, "graph", "variable"),
    (MakesVariable, "xla", "variable"),
    (MakesLayer, "graph", "variable"),
    (AsksForNumpy, "graph", "value"),
    (AsksForFloat, "graph", "value"),
    (AsksMath, "graph", "value"),
    (AsksNumPy, "graph", "value"),
    (ReadsIterator, "xla", "iterator"),
    (DecidesOnTensor, "graph", "bool"),
    (LoopsOverTensor, "graph", "bool"),
    (CannotCompile, "xla", "compile"),
    (KeepsTensor, "graph", "leak"),
]


@pytest.mark.parametrize(("cls", "mode", "sentence"), MISTAKES, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_an_everyday_mistake_gets_its_one_plain_sentence(cls, mode, sentence, make_trainer):
    trainer = make_trainer(mode, cls, steps=2, command=COMMAND)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        trainer.train()
        trainer.evaluate()
    said = [name for name, text in SENTENCES.items() if f"modetrain: {text}" in notes(caught)]
    assert said == [sentence], f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(
    "cls", [MakesVariable, AsksForNumpy, ReadsIterator, DecidesOnTensor, CannotCompile], ids=lambda cls: cls.__name__
)
def test_in_eager_mode_none_of_them_is_a_mistake(cls, make_trainer):
    trainer = make_trainer("eager", cls, steps=2)
    trainer.train()
    assert trainer.status == "completed"


def test_an_error_of_the_users_own_gets_no_sentence(make_trainer):
    class Broken(Digits):
        def train_step(self, batch):
            raise ValueError("the batch is too small")

    with pytest.raises(ValueError, match="too small") as caught:
        make_trainer("graph", Broken, command=COMMAND).train()
    assert not [text for text in SENTENCES.values() if text in notes(caught)]
