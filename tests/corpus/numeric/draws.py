"""Draws that XLA makes by another algorithm."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class DrawsCategories(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        drawn = tf.random.stateless_categorical(logits, 1, seed=self.seed("pseudo"))  # compare xla
        return tf.nn.sparse_softmax_cross_entropy_with_logits(drawn[:, 0], logits)


class DrawsTruncated(Tiny):
    def logits(self, batch):
        noise = tf.random.stateless_truncated_normal([8, 4], seed=self.seed("noise"), stddev=0.1)  # compare xla
        return self.model(batch["x"] + noise, training=True)
