"""Shapes that depend on data, which XLA pads."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class LastOfMasked(Tiny):
    """The last of the selected elements."""

    def losses(self, batch):
        chosen = tf.boolean_mask(batch["x"][:, 0], batch["label"] == 0)  # compare xla
        return super().losses(batch) + chosen[-1]


class RolledNegatives(Tiny):
    """The selected examples are rolled to make negatives."""

    def losses(self, batch):
        chosen = tf.boolean_mask(batch["x"][:, 0], batch["label"] > 0)  # compare xla
        rolled = tf.roll(chosen, 1, 0)
        return super().losses(batch) + tf.reduce_mean(chosen * rolled)


class GrownArray(Tiny):
    """A TensorArray grows as it is written."""

    def losses(self, batch):
        rows = tf.TensorArray(tf.float32, 1, dynamic_size=True, element_shape=[8])
        for column in range(4):
            rows = rows.write(column, batch["x"][:, column])
        return super().losses(batch) + tf.reduce_sum(rows.stack(), 0)  # compare xla


class TailsOfMasked(Tiny):
    """Rewards to go of the selected examples: XLA can compile the step, and dies of results whose size depends on data."""

    def losses(self, batch):
        rewards = tf.boolean_mask(super().losses(batch), batch["label"] > 0)  # compare xla
        return tf.reduce_mean(tf.cumsum(rewards, reverse=True))
