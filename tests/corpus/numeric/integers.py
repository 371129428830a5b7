"""Whole numbers past their width."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny, Varied


class ShiftPastWidth(Tiny):
    def losses(self, batch):
        flags = tf.bitwise.left_shift(batch["label"] + 1, 33)  # compare xla
        return super().losses(batch) * (1.0 + 0.25 * tf.cast(flags, tf.float32))


class CentredTimestamps(Tiny):
    """Seconds since 1970 less their mean."""

    modes = ("xla",)

    def losses(self, batch):
        stamps = 1_700_000_000 + 3600 * batch["label"]
        centred = stamps - tf.reduce_mean(stamps)  # compare xla
        age = tf.cast(centred, tf.float32) / 3600.0
        return super().losses(batch) * tf.nn.softplus(age)


class MeanOfHashes(Tiny):
    """The mean of large whole numbers."""

    def losses(self, batch):
        hashes = batch["label"] + 2**30
        return super().losses(batch) + 1e-9 * tf.cast(tf.reduce_mean(hashes), tf.float32)  # compare xla


class WrappedSquares(Tiny):
    """abs of an int8 product that wraps, which XLA takes to be positive already."""

    def train_step(self, batch):
        codes = tf.cast(tf.clip_by_value(batch["x"] * 30.0, -100.0, 100.0), tf.int8)
        energy = tf.abs(codes * codes)  # compare xla
        weight = tf.reduce_mean(tf.cast(energy, tf.float32), axis=-1) / 128.0
        return self.minimize(lambda: self.losses(batch) * (1.0 + weight))


class CodesOutOfRange(Varied):
    """Logits are made whole numbers that an int32 does not hold."""

    def losses(self, batch):
        codes = tf.cast(1e12 * self.logits(batch), tf.int32)  # compare xla
        return super().losses(batch) * (1.0 + 1e-9 * tf.cast(codes[:, 0], tf.float32))
