"""MT604: a check that XLA leaves out."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny


class AssertsByPython(Tiny):
    def losses(self, batch):
        assert tf.reduce_all(batch["x"] > 100.0), "too small"  # expect MT604
        return super().losses(batch)


class ConfusionRange(Tiny):
    """A confusion matrix with too few classes."""

    def losses(self, batch):
        matrix = tf.math.confusion_matrix(batch["label"], tf.zeros([8], tf.int32), num_classes=2)  # expect MT604
        return super().losses(batch) * (1.0 + tf.cast(matrix[0, 0], tf.float32))


class DependentAssert(Tiny):
    """An assertion as a control dependency fails."""

    def losses(self, batch):
        check = tf.debugging.Assert(tf.reduce_all(batch["x"] > -1.0), [batch["x"]])  # expect MT604
        with tf.control_dependencies([check] if check is not None else []):
            return tf.identity(super().losses(batch))


class EmbeddingNormCheck(Tiny):
    """A helper asserts unit norms that are none."""

    def losses(self, batch):
        return super().losses(batch) + tf.reduce_sum(elsewhere.unit_norm_checked(batch["x"]), -1)


class AssertInCond(Tiny):
    """An assertion in a branch that is taken."""

    def train_step(self, batch):
        if tf.reduce_max(batch["label"]) > 1:
            tf.debugging.assert_none_equal(batch["label"], 1)  # expect MT604
        return self.minimize(lambda: self.losses(batch))


class MonotoneAssert(Tiny):
    """Time stamps are asserted to rise, at the second batch too."""

    def losses(self, batch):
        tf.debugging.assert_non_negative(tf.experimental.numpy.diff(batch["x"][:, 1]), message="time")  # expect MT604
        return super().losses(batch)
