"""A program is a step wrapped for a mode: any number of steps a call, nothing traced twice, and compiled where it says so."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from modetrain.engine.program import Program
from modetrain.mode import Mode
from recipes.mnist import Digits

STEPS = 7


@pytest.fixture
def make_program(make_recipe, make_data):
    """Builds (recipe, program, block of 7 batches)."""

    def make(mode, cls=Digits, **given):
        recipe = make_recipe(cls, **given)
        program = Program(recipe.run_train_step, Mode(name=mode, compile=mode), state=recipe.state)
        return recipe, program, next(make_data().train_blocks(0, STEPS))

    return make


def moved(block, first):
    """The same batches as those of the steps from `first` on."""
    numbers = first + tf.range(block.length, dtype=tf.int64)[:, tf.newaxis]
    return dataclasses.replace(block, first=first, numbers=numbers)


def values(recipe):
    return {name: variable.numpy().tobytes() for name, variable in recipe.state().items()}


# --- any number of steps a call --------------------------------------------------------------------------------------


def test_a_step_that_xla_cannot_compile_in_a_loop_is_a_program_of_its_own(make_trainer):
    class Counts(Digits):
        def train_step(self, batch):
            counts = tf.math.bincount(batch["label"], minlength=3, maxlength=3)
            return {**super().train_step(batch), "zeros": tf.cast(counts[0], tf.float32)}

    means = {}
    for mode in ("eager", "xla"):
        trainer = make_trainer(mode, Counts, steps=4, mode={"steps_per_call": 2})
        trainer.train()
        means[mode] = trainer.results["train"]["zeros"]
    assert means["xla"] == means["eager"]
    assert (trainer.programs.train.unit, trainer.programs.train.compiled) == ("step", True)


def test_all_at_once_is_one_by_one(mode, make_program):
    results = []
    many = ([0, 7], [0, 1, 2, 3, 4, 5, 6, 7], [0, 3, 4, 7])
    for cuts in many[:2] if mode == "xla" else many:
        recipe, program, block = make_program(mode, name="adam", learning_rate=0.05)
        rows = [program(block, lo, hi) for lo, hi in zip(cuts, cuts[1:], strict=False)]
        assert [len(row) for row in rows] == [hi - lo for lo, hi in zip(cuts, cuts[1:], strict=False)]
        results.append((np.concatenate(rows).tobytes(), values(recipe)))
    for result in results[1:]:
        assert result == results[0], "bitwise"


def test_nothing_is_traced_again_for_another_number_of_steps(mode, make_program):
    traced = []

    class Counting(Digits):
        def train_step(self, batch):
            traced.append(1)
            return super().train_step(batch)

    _, program, block = make_program(mode, Counting)
    for first, lo, hi in ((0, 0, 1), (0, 1, 5), (0, 0, 7), (100, 2, 4)):
        assert len(program(moved(block, first), lo, hi, watch_every=3)) == hi - lo
    if mode == "eager":
        assert (len(traced), program.traces) == (1 + 4 + 7 + 2, 0)
    else:
        assert (len(traced), program.traces) == (1, 1)


def test_a_block_of_another_shape_is_traced_once(make_program):
    _, program, block = make_program("graph")
    short = dataclasses.replace(block, arrays={name: array[:, :, :, :3] for name, array in block.arrays.items()})
    for blocks in (block, short, block, short):
        assert program(blocks, 0, 2).shape == (2, 1, len(program.names), 2)
    assert program.traces == 2


def test_rows_hold_what_each_step_returned(mode, make_program):
    class Numbered(Digits):
        def train_step(self, batch):
            super().train_step(batch)
            return {"step": self.step, "index": batch["index"]}

    _, program, block = make_program(mode, Numbered)
    rows = program(moved(block, 40), 2, 6)[:, 0]
    assert program.names[:3] == ["step", "index", "grad_norm"]
    assert rows[:, 0, 0].tolist() == [8 * n for n in (42, 43, 44, 45)]
    assert rows[:, 1, 0].tolist() == block.arrays["index"].numpy()[2:6, 0, 0].sum(axis=1).tolist()
    assert rows[:, :2, 1].tolist() == [[8, 8]] * 4


def test_a_step_is_watched_by_its_own_number(mode, make_program):
    """Not by where a call begins or ends: the norm is there after updates 4, 8, 12 and nowhere else."""
    _, program, block = make_program(mode)
    watched = []
    for first, lo, hi in ((0, 0, 3), (0, 3, 7), (7, 0, 7)):
        rows = program(moved(block, first), lo, hi, watch_every=4)[:, 0]
        norm = program.names.index("grad_norm")
        watched += [first + lo + n + 1 for n, row in enumerate(rows) if row[norm, 1]]
        assert all(row[norm, 0] > 0 for row in rows if row[norm, 1])
    assert watched == [4, 8, 12]
    assert not program(block, 0, 7)[:, 0, norm, 1].any(), "without watch_every never"


def test_the_running_step_is_known(make_program):
    for mode in ("eager", "graph"):
        _, program, block = make_program(mode)
        program(moved(block, 20), 2, 6)
        assert program.reached == 25


# --- prepare ---------------------------------------------------------------------------------------------------------


def small_cnn(image_shape, classes):
    x = inputs = keras.Input(image_shape)
    x = layers.Conv2D(2, 3, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(classes)(x))


class Counter(Digits):
    """Writes a variable of its own that it never reads."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = tf.Variable(5.0)
        self.last = tf.Variable(7.0)

    def train_step(self, batch):
        self.count.assign_add(1.0)
        found = super().train_step(batch)
        self.last.assign(tf.reduce_mean(found["loss"]))
        return found


@pytest.mark.parametrize(("model", "unit"), [("mlp", "call"), (small_cnn, "step")])
def test_xla_compiles_before_the_first_step_and_changes_nothing(make_program, mlp, model, unit):
    """Convolutions are a program a step, for XLA runs their gradients slowly inside a loop on a CPU."""
    model = mlp() if model == "mlp" else model
    settings = {"name": "adamw", "learning_rate": 0.05, "weight_decay": 0.1, "ema": 0.9, "clip_norm": 1.0}
    recipe, program, block = make_program("xla", Counter, model=model, **settings)
    assert program.unit is program.compiled is None
    before = values(recipe)
    program.prepare(block)
    assert values(recipe) == before
    assert program.unit == unit
    assert program.has(block)
    program(block, 0, 3)
    assert program.traces == 1
    assert float(recipe.count.numpy()) == 8
    assert int(recipe.optimizer.updates.numpy()) == 3


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_nothing_else_changes_anything_either(make_program, mode):
    recipe, program, block = make_program(mode, Counter, name="adamw", ema=0.9)
    before = values(recipe)
    program.prepare(block)
    assert values(recipe) == before
    assert program.has(block)
    assert program.unit is None


def test_convolutions_compute_the_same_one_by_one_under_xla(make_program):
    results = []
    for cuts in ([0, 4], [0, 1, 3, 4]):
        recipe, program, block = make_program("xla", model=small_cnn, name="adam", learning_rate=0.01)
        rows = [program(block, lo, hi) for lo, hi in zip(cuts, cuts[1:], strict=False)]
        results.append((np.concatenate(rows).tobytes(), values(recipe)))
    assert results[0] == results[1]


# --- compiled or not -------------------------------------------------------------------------------------------------


def test_what_xla_did_is_read_from_what_was_built(mode, make_program):
    _, program, block = make_program(mode)
    assert program.compiled is None
    program(block, 0, 1)
    assert program.compiled is {"eager": None, "graph": False, "xla": True}[mode]


@pytest.mark.parametrize("model", ["mlp", small_cnn])
def test_what_xla_cannot_compile_fails_and_never_runs_uncompiled(make_program, mlp, model):
    """An op without an XLA kernel is the proof that XLA had the step: a graph would run it."""

    class Uncompilable(Digits):
        def train_step(self, batch):
            found = super().train_step(batch)
            words = tf.strings.as_string(batch["label"])
            return {**found, "length": tf.cast(tf.strings.length(words), tf.float32)}

    model = mlp() if model == "mlp" else model
    recipe, program, block = make_program("xla", Uncompilable, model=model)
    before = values(recipe)
    with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
        program(block, 0, 1)
    assert values(recipe) == before
    _, program, block = make_program("graph", Uncompilable, model=model)
    assert program(block, 0, 1)[0, 0, program.names.index("length"), 0] == 8


class Helped(Digits):
    """Python over tensors in a function that the loss function calls."""

    def train_step(self, batch):
        def loss():
            logits = self.model(self.halved(batch["image"]), training=True)
            return keras.losses.sparse_categorical_crossentropy(batch["label"], logits, from_logits=True)

        return self.minimize(loss)

    def halved(self, images):
        if tf.reduce_mean(images) > 0.25:
            images = images / 2.0
        for _ in tf.range(2):
            images = images * 0.9
        return images


class Warming(Digits):
    """A branch and a loop over tensors that gradients go through."""

    def train_step(self, batch):
        def loss():
            logits = self.model(batch["image"], training=True)
            losses = keras.losses.sparse_categorical_crossentropy(batch["label"], logits, from_logits=True)
            if self.step < 1:
                losses = losses * tf.cast(self.step + 1, tf.float32) / 2.0
            for _ in tf.range(3):
                losses = losses * 0.9
            return losses

        return self.minimize(loss)


def test_gradients_go_through_branches_and_loops_under_xla_too(make_program):
    recipe, program, block = make_program("xla", Warming)
    rows = program(block, 0, 2)
    reference, eager, block = make_program("eager", Warming)
    np.testing.assert_allclose(rows, eager(block, 0, 2), rtol=1e-5)
    ours, theirs = reference.state(), recipe.state()
    for name, variable in ours.items():
        np.testing.assert_allclose(theirs[name].numpy(), variable.numpy(), rtol=1e-4, atol=1e-6)


def test_functions_that_a_loss_calls_are_converted_too(mode, make_program):
    """A `for` or `if` over tensors works in them as it does in the loss itself."""
    _, program, block = make_program(mode, Helped)
    assert np.isfinite(program(block, 0, 2)).all()
