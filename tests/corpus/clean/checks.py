"""Checks that hold."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class AssertsRightly(Tiny):
    def losses(self, batch):
        tf.debugging.assert_non_negative(batch["label"])
        tf.debugging.assert_shapes([(batch["x"], (8, 4))])
        assert batch["x"].shape[0] == 8
        return super().losses(batch)


class ChecksWhatHolds(Tiny):
    def losses(self, batch):
        tf.debugging.assert_rank(batch["x"], 2)
        tf.debugging.assert_shapes([(batch["x"], ("B", 4)), (batch["label"], ("B",))])
        tf.debugging.assert_less(batch["label"], 3)
        return tf.debugging.check_numerics(super().losses(batch), "loss")


class Asserted(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        tf.debugging.assert_non_negative(losses)
        with tf.control_dependencies([tf.debugging.assert_less(batch["label"], 3)]):
            return tf.identity(tf.debugging.check_numerics(losses, "losses"))


class StaticAsserts(Tiny):
    """Asserts and raises upon static shapes and dtypes."""

    def train_step(self, batch):
        assert batch["x"].shape[1] == 4, batch["x"].shape
        if batch["label"].dtype != tf.int32:
            raise TypeError(batch["label"].dtype)
        tf.debugging.assert_rank(batch["x"], 2)
        return self.minimize(lambda: self.losses(batch))
