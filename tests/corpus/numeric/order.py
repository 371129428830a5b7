"""Ranks of equal and unsorted values."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class RanksMasked(Tiny):
    def logits(self, batch):
        scores = tf.where(batch["x"][:, 0] > 1.0, batch["x"][:, 0], 0.0 * batch["x"][:, 0])
        order = tf.argsort(scores)  # compare xla
        return self.model(tf.gather(batch["x"], order), training=True)


class HardestMasked(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        masked = tf.where(batch["label"] == 1, batch["x"][:, 1], 0.0 * batch["x"][:, 1])
        _, hardest = tf.math.top_k(masked, k=6)  # compare xla
        return tf.reduce_mean(tf.gather(losses, hardest) * tf.range(1.0, 7.0))


class SignedZeroRank(Tiny):
    """Ranks rounded values, among them zeros of both signs."""

    modes = ("xla",)

    def losses(self, batch):
        rank = tf.argsort(tf.round(0.3 * batch["x"][:, 0]))  # compare xla
        return super().losses(batch) * (1.0 + tf.cast(rank, tf.float32)) * tf.square(batch["x"][:, 1])


class UnsortedEdges(Tiny):
    """Edges of bins are searched that are not in order."""

    def losses(self, batch):
        bins = tf.searchsorted(batch["x"][:, 0], batch["x"][:, 1])  # compare xla
        return super().losses(batch) * tf.cast(bins, tf.float32)


class UnsortedTopK(Tiny):
    """The order of an unsorted top-k is relied upon."""

    def losses(self, batch):
        values, _ = tf.math.top_k(batch["x"], 3, sorted=False)  # compare xla
        return super().losses(batch) + values[:, 0]
