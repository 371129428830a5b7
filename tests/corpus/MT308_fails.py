"""MT308: the step fails on a batch."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class ReadTwice(Tiny):
    """An element of a TensorArray is read again: eagerly it is gone by then."""

    modes = ("graph",)

    def losses(self, batch):
        rows = tf.TensorArray(tf.float32, 8, element_shape=[4]).unstack(batch["x"])
        twice = rows.read(2) + rows.read(2)  # expect MT308
        return super().losses(batch) + tf.reduce_sum(twice)


class ReversedTooFar(Tiny):
    """Lengths are longer than the sequences that are reversed."""

    def losses(self, batch):
        backwards = tf.reverse_sequence(batch["x"], batch["label"] + 3, seq_axis=1)  # expect MT308 MT604
        return super().losses(batch) + backwards[:, 0]


class NegativeCounts(Tiny):
    """Labels of -1 are counted."""

    def losses(self, batch):
        counts = tf.math.bincount(batch["label"] - 1, minlength=3, maxlength=3)  # expect MT308 MT604
        return super().losses(batch) * tf.cast(counts[0], tf.float32)


class NotPositiveDefinite(Tiny):
    """A covariance that is none is factored by keras.ops."""

    def losses(self, batch):
        kernel = tf.matmul(batch["x"], batch["x"], transpose_b=True) - 5.0 * tf.eye(8)
        return super().losses(batch) + keras.ops.cholesky(kernel)[:, 0]  # expect MT308 MT604


class MaskedReshape(Tiny):
    """What is selected is reshaped to the wrong size."""

    def losses(self, batch):
        chosen = tf.boolean_mask(batch["x"][:, 0], batch["label"] != 1)
        pairs = tf.reshape(chosen, [4, 2])  # expect MT308
        return super().losses(batch) + tf.reduce_sum(pairs)


class MaskedEnsured(Tiny):
    """The number of selected examples is ensured, and is another."""

    def losses(self, batch):
        chosen = tf.ensure_shape(tf.boolean_mask(batch["x"], batch["label"] == 0), [8, 4])  # expect MT308 MT504
        return super().losses(batch) + tf.reduce_sum(chosen)
