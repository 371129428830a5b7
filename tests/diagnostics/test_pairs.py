"""A loss or metric of every pair of examples is refused where nobody means it, in every mode; what is square by chance is not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import modetrain
from modetrain import OptimizerSettings

APART = keras.layers.Reshape((1, 1))
N = 8  # as many examples as columns, where that is chance


def data():
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    return {"x": x, "y": x[:, 0], "column": x[:, :1], "two": x[:, :2], "class": np.arange(16, dtype=np.int32) % 3}


MISTAKES = {
    "labels [n], outputs [n, 1]": lambda z, b: tf.square(z - b["y"]),
    "labels [n, 1], outputs [n]": lambda z, b: tf.square(z[:, 0] - b["column"]),
    "a weight": lambda z, b: tf.abs(z[:, 0] - b["y"]) * b["column"],
    "by Keras": lambda z, b: keras.ops.square(keras.ops.subtract(b["y"], keras.ops.sigmoid(z))),
    "labels apart, argmax": lambda z, b: tf.cast(b["class"][:, None] == tf.argmax(z, 1, tf.int32), tf.float32) * z,
    "labels, argmax apart": lambda z, b: (
        tf.cast(tf.argmax(z, 1)[:, None] == tf.cast(b["class"], tf.int64), tf.float32) + z
    ),
    "two columns": lambda z, b: tf.square(b["two"] - APART(z)),
}
MEANT = {
    "one per example": lambda z, b: tf.square(z[:, 0] - b["y"]),
    "both columns": lambda z, b: tf.square(z - b["column"]),
    "as many frequencies": lambda z, b: tf.square(tf.sin(z * tf.linspace(0.0, 1.0, N)) - b["column"]),
    "pairs by a new axis": lambda z, b: tf.square(z - tf.transpose(z)) * (b["y"][:, None] - b["y"]),
    "alike": lambda z, b: tf.cast(tf.argmax(z, 1)[:, None] == tf.argmax(z, 1), tf.float32) + z,
    "same label": lambda z, b: tf.cast(b["class"][:, None] == b["class"], tf.float32) * z,
    "differences of scores": lambda z, b: tf.nn.relu(z - z[:, 0]),
    "products": lambda z, b: tf.matmul(z, z, transpose_b=True),
}


def trainer(mode, loss, evaluated=None):
    class Made(modetrain.Recipe):
        def train_step(self, batch):
            return self.minimize(lambda: loss(self.model(batch["x"], training=True), batch))

        def eval_step(self, batch):
            return {"error": (evaluated or loss)(self.model(batch["x"]), batch)}

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    recipe = Made(model=model, optimizer=OptimizerSettings(name="sgd", learning_rate=0.01))
    return modetrain.Trainer(recipe, {"train": data(), "eval": data()}, mode=mode, steps=2, batch_size=N)


def test_a_number_for_every_pair_is_refused_by_its_line(mode):
    for name, loss in MISTAKES.items():
        with pytest.raises(
            ValueError, match=r"'loss' has 8 numbers for each of 8 examples.*test_pairs.py:\d+: operation"
        ):
            trainer(mode, loss).train()
            pytest.fail(name)
    with pytest.raises(ValueError, match=r"'error' has 8 numbers .* outputs\[:, 0\] against labels \[n\]"):
        trainer(mode, MEANT["one per example"], MISTAKES["a weight"]).evaluate()


def test_what_is_meant_or_square_by_chance_runs(mode):
    for loss in MEANT.values():
        made = trainer(mode, loss)
        made.train()
        assert made.traces == (0 if mode == "eager" else 1)


def test_inspect_names_the_line_behind_a_mean_too():
    for loss in MISTAKES.values():
        recipe = trainer("graph", lambda z, b, loss=loss: tf.reduce_mean(loss(z, b))).recipe
        batches = [{name: array[:N] for name, array in data().items()}]
        assert {one.code for one in modetrain.inspect(recipe, batches, modes=["graph"])} == {"MT708"}
