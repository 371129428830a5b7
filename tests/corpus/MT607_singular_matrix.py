"""MT607: a matrix cannot be inverted or factored."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class InvertsSingular(Tiny):
    def losses(self, batch):
        inverse = tf.linalg.inv(tf.zeros([2, 2]) * tf.reduce_mean(batch["x"]))  # expect MT607
        return super().losses(batch) + tf.reduce_sum(inverse)


class SolvesForMeans(Tiny):
    def losses(self, batch):
        design = tf.one_hot(batch["label"], 4)
        normal = tf.transpose(design) @ design
        means = tf.linalg.solve(normal, tf.transpose(design) @ batch["x"])  # expect MT607
        return super().losses(batch) + 1e-3 * tf.reduce_sum((batch["x"] - design @ means) ** 2, axis=1)


class SingularLaplacian(Tiny):
    """A graph Laplacian is inverted."""

    def losses(self, batch):
        same = tf.cast(batch["label"][:2, None] != batch["label"][None, :2], tf.float32)
        laplacian = tf.linalg.diag(tf.reduce_sum(same, -1)) - same
        return super().losses(batch) + tf.tanh(tf.reduce_sum(tf.linalg.inv(laplacian)))  # expect MT607
