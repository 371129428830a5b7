"""MT606: a number is cast to an integer type that cannot hold it."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class CastsNaN(Tiny):
    def losses(self, batch):
        bins = tf.cast(tf.math.log(batch["x"] - 100.0), tf.int32)  # expect MT606
        return super().losses(batch) + 0.0 * tf.cast(bins[:, 0], tf.float32)


class Int8Scores(Tiny):
    """Float to int8 without a clip: values past 127 wrap in eager mode and saturate in XLA."""

    def fake_quant(self, values, scale=80.0):
        q = tf.cast(tf.round(values * scale), tf.int8)  # expect MT606
        return tf.cast(q, tf.float32) / scale

    def train_step(self, batch):
        score = self.fake_quant(tf.reduce_sum(batch["x"], axis=-1))

        def loss_fn():
            losses = self.losses(batch)
            return losses * tf.exp(0.5 * score), {"score": score}

        return self.minimize(loss_fn)


class InverseDepth(Tiny):
    """An inverse depth of infinity becomes a bin."""

    def losses(self, batch):
        disparity = tf.cast(1.0 / tf.nn.relu(batch["x"][:, 0]), tf.int32)  # expect MT606
        return super().losses(batch) + tf.cast(tf.clip_by_value(disparity, -5, 5), tf.float32)


class MicrosecondCast(Tiny):
    """Seconds as microseconds do not fit 32 bits."""

    def losses(self, batch):
        micros = tf.cast(tf.exp(batch["x"][:, 0]) * 1e10, tf.int32)  # expect MT606
        return super().losses(batch) + tf.cast(micros // 2**20, tf.float32)


class HashedBucket(Tiny):
    """Hashes a feature to a bucket through an integer which it does not fit in."""

    modes = ("xla",)

    def losses(self, batch):
        bucket = tf.cast(batch["x"][:, 0] * 1e10, tf.int32) % 7  # expect MT606
        return super().losses(batch) * (1.0 + tf.cast(bucket, tf.float32))
