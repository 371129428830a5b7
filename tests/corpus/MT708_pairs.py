"""MT708: a number for every pair of examples."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class LabelsAgainstAColumn(Tiny):
    def losses(self, batch):
        value = self.logits(batch)[:, :1]
        error = tf.cast(batch["label"], tf.float32) - value  # expect MT708
        return tf.reduce_mean(tf.square(error))


class WeightsAgainstAColumn(Tiny):
    def losses(self, batch):
        weight = tf.cast(batch["label"] > 0, tf.float32)
        found = keras.ops.sum(self.logits(batch) ** 2, axis=1, keepdims=True)
        return tf.reduce_sum(weight * found) / 8.0  # expect MT708
