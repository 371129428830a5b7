"""An evaluation changes no variable: training is the same to the last bit however often it evaluates."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from modetrain import Callback, Recipe
from recipes.mnist import Digits, cross_entropy

BESIDE = tf.Variable(0.0, trainable=False)


class Plain:
    """Keeps a variable where no checkpoint looks for it."""

    def __init__(self, value):
        self.value = value


class Everything(Recipe):
    """Trains with what its eval_step assigns: batch statistics, counters wherever they are kept, a state of an LSTM."""

    def __init__(self, *, optimizer, info, model):
        self.info = info
        inputs = keras.Input((4, 4, 1), batch_size=info.batch_size or None)
        x = keras.layers.Reshape((4, 4))(inputs)
        x = keras.layers.LSTM(3, stateful=bool(info.batch_size))(x)
        x = keras.layers.Dropout(0.3)(keras.layers.BatchNormalization()(x))
        self.model = keras.Model(inputs, keras.layers.Dense(3)(x))
        self.optimizer = optimizer(self.model.trainable_variables)
        self.seen = tf.Variable(0.0, trainable=False)
        self.last = {"label": tf.Variable(0, trainable=False)}
        self.plain = Plain(keras.Variable(0.0, trainable=False, name="plain"))
        self.scores = []

    def train_step(self, batch):
        def loss():
            loss = cross_entropy(batch["label"], self.model(batch["image"], training=True))
            counted = self.seen + self.plain.value + BESIDE + tf.cast(self.last["label"], tf.float32)
            return loss / (1.0 + tf.cast(counted, loss.dtype))

        return self.minimize(loss)

    def eval_step(self, batch):
        for _ in tf.range(2):  # assigned in a loop of the graph
            self.seen.assign_add(0.5)
        self.plain.value.assign(self.plain.value + 1.0)
        BESIDE.assign_add(1.0)
        self.last["label"].assign(tf.cast(batch["label"][0], tf.int32) + 1)
        return {"loss": cross_entropy(batch["label"], self.model(batch["image"], training=True)), "seen": self.seen}

    def show(self):
        self.seen.assign_add(1.0)
        return {}


class Looks(Callback):
    def on_step(self, trainer):
        trainer.evaluate()


def weights(trainer):
    return {name: variable.numpy() for name, variable in trainer.recipe.state().items()}


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}])
def test_training_does_not_depend_on_how_often_it_evaluates(mode, settings, make_trainer, said):
    if settings and mode != "graph":
        return
    found = []
    for every in (None, 2):
        callbacks = [Looks(every=every)] if every else []
        data = {"eval_batch_size": 8, "eval_batches": 2}
        trainer = make_trainer(mode, Everything, steps=6, callbacks=callbacks, data=data, **settings)
        trainer.train()
        found.append(weights(trainer))
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)
    # Within an evaluation the counters count, and each evaluation starts at zero.
    assert [means["seen"] for means in trainer.history.evaluations.values()] == [1.5, 1.5, 1.5]
    (line,) = [line for line in said if "eval_step assigns" in line]
    assert "moving_mean" in line
    assert "rnn_state" in line  # Keras lists it nowhere, and a checkpoint holds it
    assert "more: an evaluation gives each its value back" in line


def test_an_ordinary_evaluation_assigns_nothing(mode, make_trainer, said):
    trainer = make_trainer(mode, Digits, steps=4, callbacks=[Looks(every=2)])
    trainer.train()
    assert not [line for line in said if "eval_step assigns" in line]


def test_an_evaluation_that_fails_gives_values_back_too(make_trainer):
    class Fails(Digits):
        def __init__(self, **given):
            super().__init__(**given)
            self.seen = tf.Variable(0, trainable=False)

        def eval_step(self, batch):
            self.seen.assign_add(1)
            with tf.control_dependencies([tf.debugging.assert_less(self.seen, 2)]):
                return super().eval_step(batch)

    trainer = make_trainer("graph", Fails, steps=1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        trainer.evaluate()
    assert int(trainer.recipe.seen) == 0
