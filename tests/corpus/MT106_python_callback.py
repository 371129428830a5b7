"""MT106: calls back into Python (py_function, numpy_function)."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny


class CallsNumpyFunction(Tiny):
    def losses(self, batch):
        x = tf.numpy_function(lambda a: a * 2.0, [batch["x"]], tf.float32)  # expect MT106
        return super().losses({**batch, "x": tf.ensure_shape(x, [8, 4])})


class PyFunctionInEval(Tiny):
    def eval_step(self, batch):
        logits = self.model(batch["x"], training=False)
        share = tf.py_function(  # expect MT106
            lambda y, z: np.mean(y.numpy() == z.numpy().argmax(1)), [batch["label"], logits], tf.float32
        )
        return {"accuracy": tf.reshape(share, [])}


class NumpyMetric(Tiny):
    """A metric computed in numpy by tf.numpy_function."""

    @staticmethod
    def accuracy(label, logits):
        return np.equal(label, np.argmax(logits, -1)).astype(np.float32)

    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            hit = tf.numpy_function(self.accuracy, [batch["label"], logits], tf.float32)  # expect MT106
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            return losses, {"accuracy": tf.ensure_shape(hit, [8])}

        return self.minimize(loss_fn)


class CallsNumpyInALayer(Tiny):
    class Sort(keras.layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.numpy_function(np.sort, [x], tf.float32), [8, 4])  # expect MT106

    def __init__(self, **given):
        super().__init__(**given)
        self.sort = self.Sort()

    def losses(self, batch):
        return super().losses({**batch, "x": self.sort(batch["x"])})
