"""MT501: a Python loop is unrolled."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class IteratesInALayer(Tiny):
    class Rows(keras.layers.Layer):
        def call(self, x):
            return tf.stack([tf.nn.softmax(row) for row in tf.unstack(x)])  # expect MT501

    def __init__(self, **given):
        super().__init__(**given)
        self.rows = self.Rows()

    def losses(self, batch):
        return super().losses({**batch, "x": self.rows(batch["x"])})


class UnrollsByRange(Tiny):
    def losses(self, batch):
        x = batch["x"]
        for _ in range(300):  # expect MT501
            x = x + 0.01 * tf.sin(x)
        return super().losses({**batch, "x": x})


class UnrollsByWhile(Tiny):
    def losses(self, batch):
        x, n = batch["x"], 0
        while n < 40:  # expect MT501
            x = x * 1.01
            n += 1
        return super().losses({**batch, "x": x})


class PowerIteration(Tiny):
    def losses(self, batch):
        kernel = self.model.trainable_variables[0].value
        vector = tf.ones([4, 1])
        for _ in range(100):  # expect MT501
            vector = tf.math.l2_normalize(kernel @ (tf.transpose(kernel) @ vector))
        return super().losses(batch) + 0.01 * tf.norm(tf.transpose(kernel) @ vector)


class UnrollsAFilter(Tiny):
    def smooth(self, x, steps=32):
        return functools.reduce(lambda y, k: 0.9 * y + 0.1 * tf.roll(y, k % 4, axis=1), range(steps), x)  # expect MT501

    def losses(self, batch):
        return super().losses({**batch, "x": self.smooth(batch["x"])})
