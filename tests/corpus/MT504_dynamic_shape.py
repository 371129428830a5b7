"""MT504: a shape depends on the data."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny


class RepeatsByData(Tiny):
    def losses(self, batch):
        return tf.reduce_mean(tf.repeat(super().losses(batch), batch["label"]))  # expect MT504


class UsesRagged(Tiny):
    def losses(self, batch):
        ragged = tf.RaggedTensor.from_row_lengths(batch["x"][:, 0], tf.ones([8], tf.int32))
        dense = ragged.to_tensor()  # expect MT504 MT505
        return super().losses(batch) * tf.reduce_sum(dense)


class SelectedCount(Tiny):
    """The static shape of tf.where's result is taken for the number of hits."""

    def train_step(self, batch):
        count = tf.where(batch["x"][:, 0] > 0).shape[0] or 1  # expect MT504

        def loss_fn():
            positive = tf.cast(batch["x"][:, 0] > 0, tf.float32)
            return tf.reduce_sum(self.losses(batch) * positive) / count

        return self.minimize(loss_fn)


class RaggedMean(Tiny):
    """The sum over a ragged tensor of the positive features."""

    def train_step(self, batch):
        positive = batch["x"] > 0
        total = tf.reduce_sum(tf.ragged.boolean_mask(batch["x"], positive), axis=1)  # expect MT504
        lengths = tf.reduce_sum(tf.cast(positive, tf.float32), axis=1)
        return self.minimize(lambda: self.losses(batch) * (1.0 + total / tf.maximum(lengths, 1.0)))


class ExpertOverflow(Tiny):
    """A mixture of experts routes to one expert too many."""

    def losses(self, batch):
        parts = elsewhere.route(batch["x"], batch["label"], 2)
        return super().losses(batch) + sum(tf.reduce_sum(part) for part in parts)


class MaskedReturnsToGo(Tiny):
    """A helper sums from the end over selected elements."""

    def losses(self, batch):
        returns = elsewhere.returns_to_go(batch["x"][:, 1], batch["label"] == 2)
        return super().losses(batch) + tf.reduce_max(returns)


class HardestShare(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        many = 1 + tf.reduce_sum(tf.cast(losses > 1.0, tf.int32))
        return tf.reduce_mean(tf.sort(losses, direction="DESCENDING")[:many])  # expect MT504
