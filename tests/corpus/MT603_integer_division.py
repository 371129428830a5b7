"""MT603: an integer is divided by zero."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class AveragesByClass(Tiny):
    def losses(self, batch):
        counts = tf.math.bincount(batch["label"] // 2, minlength=3, maxlength=3)
        share = tf.reduce_sum(batch["label"]) // counts  # expect MT603
        return super().losses(batch) * tf.cast(tf.reduce_max(share), tf.float32)


class ModuloPeriod(Tiny):
    """A phase by a modulus of zero."""

    def losses(self, batch):
        phase = tf.math.floormod(tf.range(8), batch["label"])  # expect MT603
        return super().losses(batch) + tf.cast(phase, tf.float32)


class NegativePower(Tiny):
    """Whole numbers to a negative power."""

    def losses(self, batch):
        scale = 2 ** (batch["label"] - 1)  # expect MT603
        return super().losses(batch) * tf.cast(scale, tf.float32)


class ShardsByZero(Tiny):
    def losses(self, batch):
        shards = tf.reduce_min(batch["label"])
        return super().losses(batch) + tf.cast(tf.range(8) % shards, tf.float32)  # expect MT603
