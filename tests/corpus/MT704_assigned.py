"""MT704: replicas assign different values to a variable."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Shared


class AssignsAMean(Shared):
    def __init__(self, **given):
        super().__init__(**given)
        self.mean = tf.Variable(0.0, trainable=False)

    def losses(self, batch):
        found = super().losses(batch)
        self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(found))  # expect MT704
        return found


class AdaptsAThreshold(Shared):
    def __init__(self, **given):
        super().__init__(**given)
        self.threshold = tf.Variable(0.5, trainable=False)

    def train_step(self, batch):
        values = super().train_step(batch)
        self.threshold.assign(tf.reduce_mean(values["loss"]))  # expect MT704
        return values
