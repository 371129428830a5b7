"""Guards raise from a compiled program what XLA drops, with the user's line and the exact step."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from modetrain.engine.guards.guard import GuardError
from modetrain.engine.guards.step_guards import find_unguarded
from recipes.mnist import Digits

FAILS_AT = 4  # updates completed before the step that fails


class Bad(Digits):
    """In step 5 `self.bad(...)` is true, and what is planted goes wrong."""

    def train_step(self, batch):
        values = super().train_step(batch)
        return {**values, "planted": tf.cast(self.planted(batch, tf.equal(self.step, FAILS_AT)), tf.float32)}


class Gathers(Bad):
    def planted(self, batch, bad):
        return tf.gather(tf.range(10), tf.where(bad, 10, 3))  # here


class Negative(Bad):
    def planted(self, batch, bad):
        return tf.gather(tf.range(10), tf.where(bad, -1, 3))  # here


class Embeds(Bad):
    def __init__(self, **given):
        super().__init__(**given)
        self.table = tf.Variable(tf.ones([5, 2]))

    def planted(self, batch, bad):
        return tf.reduce_sum(tf.nn.embedding_lookup(self.table, tf.where(bad, 5, 4)))  # here


class ByPairs(Bad):
    def planted(self, batch, bad):
        return tf.gather_nd(tf.ones([3, 3]), [[0, tf.where(bad, 3, 2)]])[0]  # here


class ReadsItems(Bad):
    def planted(self, batch, bad):
        items = tf.TensorArray(tf.float32, size=3).unstack([1.0, 2.0, 3.0])
        return items.read(tf.where(bad, 3, 2))  # here


class Divides(Bad):
    def planted(self, batch, bad):
        return 7 // tf.where(bad, 0, 1)  # here


class Labels(Bad):
    def planted(self, batch, bad):
        logits = self.model(batch["image"])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"] + tf.where(bad, 3, 0), logits)  # here


class Asserts(Bad):
    def planted(self, batch, bad):
        tf.debugging.assert_equal(bad, False)  # here
        return 0.0


class Checks(Bad):
    def planted(self, batch, bad):
        return tf.debugging.check_numerics(tf.where(bad, np.nan, 1.0), "planted")  # here


class Inverts(Bad):
    def planted(self, batch, bad):
        return tf.reduce_sum(tf.linalg.inv(tf.eye(2) * tf.where(bad, 0.0, 1.0)))  # here


class InABranch(Bad):
    def planted(self, batch, bad):
        if self.step >= 0:
            return tf.gather(tf.range(10), tf.where(bad, 10, 3))  # here
        return tf.constant(0)


class InALoopOfABranch(Bad):
    def planted(self, batch, bad):
        if self.step >= 0:
            for _ in tf.range(2):
                tf.debugging.assert_equal(bad, False)  # here
        return 0.0


class InALoop(Bad):
    def planted(self, batch, bad):
        total = 0
        for n in tf.range(3):
            total += 7 // tf.where(tf.logical_and(bad, n == 1), 0, 1)  # here
        return total


class InAMap(Bad):
    def planted(self, batch, bad):
        ids = tf.where(bad, [0, 1, 2], [0, 1, 1])
        rows = tf.map_fn(lambda n: tf.gather(tf.range(2), n), ids)  # here
        return tf.reduce_sum(rows)


class InAScan(Bad):
    def planted(self, batch, bad):
        values = tf.where(bad, [1.0, np.nan], [1.0, 2.0])
        return tf.scan(lambda a, x: a + tf.debugging.check_numerics(x, "x"), values)[-1]  # here


class InAFunction(Bad):
    @staticmethod
    @tf.function
    def of(bad):
        return tf.gather(tf.range(10), tf.where(bad, 10, 3))  # here

    def planted(self, batch, bad):
        return self.of(bad)


class InALoss(Bad):
    """Where gradients are taken through the branch."""

    def planted(self, batch, bad):
        def loss():
            scale = tf.reduce_mean(self.model(batch["image"]))
            if self.step >= 0:
                scale *= tf.gather(tf.constant([1.0, 2.0]), tf.where(bad, 2, 1))  # here
            return scale

        return self.minimize(loss)["loss"]


CASES = {
    InABranch: "MT601",
    InALoopOfABranch: "MT604",
    InALoop: "MT603",
    InAMap: "MT601",
    InAScan: "MT605",
    InAFunction: "MT601",
    InALoss: "MT601",
    Gathers: "MT601",
    Negative: "MT601",
    Embeds: "MT601",
    ByPairs: "MT601",
    ReadsItems: "MT601",
    Divides: "MT603",
    Labels: "MT602",
    Asserts: "MT604",
    Checks: "MT605",
    Inverts: "MT607",
}


def planted_line(cls) -> int:
    lines = Path(__file__).read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"class {cls.__name__}("))
    return next(n for n in range(start, len(lines)) if lines[n].endswith("# here")) + 1


@pytest.mark.parametrize("cls", CASES)
@pytest.mark.sampled(9)
def test_what_xla_drops_is_raised_at_its_step_inside_a_call_of_many(cls, make_trainer, mlp):
    trainer = make_trainer(
        "xla", cls, steps=8, model=mlp(units=0, dropout=0.0), command="python -m modetrain recipe=bad"
    )
    with pytest.raises(GuardError) as caught:
        trainer.train()
    assert caught.value.step == FAILS_AT
    assert str(caught.value).startswith(CASES[cls])
    assert (caught.value.place.file, caught.value.place.line) == (__file__, planted_line(cls))
    assert f"failed in step {FAILS_AT + 1} of 8" in "\n".join(caught.value.__notes__)


def test_what_no_guard_reaches_is_named():
    @tf.function(jit_compile=True)
    def picked(ids):
        return tf.gather(tf.range(3.0), ids) / 2.0

    outer = tf.function(lambda ids: picked(ids) * 2.0).get_concrete_function(tf.TensorSpec([4], tf.int32))
    assert [place.text for place in find_unguarded(outer.graph)] == ["return tf.gather(tf.range(3.0), ids) / 2.0"]


def test_without_guards_xla_goes_on(make_trainer, mlp):
    trainer = make_trainer("xla", Gathers, steps=8, model=mlp(units=0, dropout=0.0), mode={"guards": False})
    trainer.train()
    assert trainer.step == 8


class DividesInOnePart(Bad):
    row = 0  # number of an example that only one micro-batch of step 5 has

    def planted(self, batch, bad):
        there = tf.reduce_any(batch["index"] == self.row)
        return 7 // tf.where(tf.logical_and(bad, there), 0, 1)


@pytest.mark.parametrize("position", [0, 7])
def test_a_micro_batch_that_fails_is_reported_whichever_it_is(position, make_trainer, make_data, mlp):
    trainer = make_trainer("xla", DividesInOnePart, steps=8, model=mlp(units=0, dropout=0.0), accumulate=2)
    trainer.recipe.row = int(make_data().batch(FAILS_AT)["index"][position])
    with pytest.raises(GuardError) as caught:
        trainer.train()
    assert caught.value.step == FAILS_AT


def test_a_step_that_is_a_program_of_its_own_is_guarded_too(make_trainer):
    def cnn(image_shape, classes):
        layers = keras.layers
        return keras.Sequential(
            [keras.Input(image_shape), layers.Conv2D(2, 2), layers.Flatten(), layers.Dense(classes)]
        )

    trainer = make_trainer("xla", Gathers, steps=8, model=cnn)
    with pytest.raises(GuardError) as caught:
        trainer.train()
    assert trainer.programs.train.unit == "step"
    assert caught.value.step == FAILS_AT


def test_guards_change_no_number(make_trainer, recorder):
    seen = []
    for guards in (True, False):
        recording = recorder()
        make_trainer("xla", Digits, steps=4, callbacks=[recording], mode={"guards": guards}).train()
        seen.append(recording.values("loss"))
    assert seen[0] == seen[1]
