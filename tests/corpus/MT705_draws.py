"""MT705: replicas draw equal, or unrelated, random numbers."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Shared


class DrawsAlike(Shared):
    def losses(self, batch):
        return super().losses(batch) * tf.random.uniform([8])  # expect MT705 MT305


class GammaOfEach(Shared):
    def losses(self, batch):
        weights = tf.random.stateless_gamma([len(batch["x"])], self.seed("weights"), alpha=2.0)  # expect MT705
        return weights * super().losses(batch)


class DrawsAlikeWithASeed(Shared):
    """With a seed every replica draws the same numbers: no note, a mistake."""

    def losses(self, batch):
        return super().losses(batch) * tf.random.uniform([8], seed=3)  # expect MT705 MT305
