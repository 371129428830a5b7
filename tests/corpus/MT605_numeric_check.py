"""MT605: a numeric check that XLA leaves out."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class ChecksNumerics(Tiny):
    def losses(self, batch):
        logs = tf.math.log(batch["x"] * 0.0)
        return super().losses(batch) + tf.reduce_sum(tf.debugging.check_numerics(logs, "logs"))  # expect MT605


class FiniteLayer(keras.layers.Layer):
    def call(self, inputs):
        tf.debugging.assert_all_finite(tf.math.log(inputs), "features")  # expect MT605 (ChecksInLayer)
        return inputs


class ChecksInLayer(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), FiniteLayer(), keras.layers.Dense(classes)])


class AssertsFinite(Tiny):
    def losses(self, batch):
        ratio = batch["x"] / tf.cast(batch["label"], tf.float32)[:, None]
        tf.debugging.assert_all_finite(ratio, "ratio")  # expect MT605
        return super().losses(batch)


class ChecksInAFunction(Tiny):
    @staticmethod
    @tf.function
    def checked(x):
        return tf.debugging.check_numerics(tf.sqrt(x), "sqrt")  # expect MT605

    def losses(self, batch):
        return super().losses({**batch, "x": self.checked(batch["x"])})
