"""MT702: statistics of the batch are those of each replica's share."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Shared


class NormalisesByHand(Shared):
    def losses(self, batch):
        mean, variance = tf.nn.moments(batch["x"], axes=[0])  # expect MT702
        return super().losses({**batch, "x": (batch["x"] - mean) / tf.sqrt(variance + 1e-3)})


class CentresTheBatch(Shared):
    def losses(self, batch):
        x = batch["x"] - tf.reduce_mean(batch["x"], axis=0, keepdims=True)  # expect MT702
        return super().losses({**batch, "x": x})


class ContrastsTheBatch(Shared):
    def losses(self, batch):
        z = tf.math.l2_normalize(self.logits(batch), axis=1)
        similar = tf.matmul(z, z, transpose_b=True)  # expect MT701 MT702
        return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(tf.shape(z)[0]), similar)


class SubtractsTheMax(Shared):
    def losses(self, batch):
        found = super().losses(batch)
        return tf.exp(found - tf.reduce_max(found))  # expect MT702 MT701
