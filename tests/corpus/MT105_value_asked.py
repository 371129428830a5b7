"""MT105: asks a tensor for its value."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny


class AsksByItem(Tiny):
    def losses(self, batch):
        return super().losses(batch) * batch["label"][0].item()  # expect MT105


class TakesASqrt(Tiny):
    def losses(self, batch):
        return super().losses(batch) / math.sqrt(tf.reduce_sum(batch["x"] ** 2))  # expect MT105 MT107


class IteratesInAComprehension(Tiny):
    def losses(self, batch):
        rows = [tf.reduce_sum(row) for row in batch["x"]]  # expect MT105 MT107 MT501
        return super().losses(batch) + tf.stack(rows)


class IndexesListByTensor(Tiny):
    weights = [0.5, 1.0, 2.0]

    def losses(self, batch):
        commonest = int(tf.reduce_max(batch["label"]))
        return super().losses(batch) * self.weights[commonest]  # expect MT105 MT107


class WhileTrueBreak(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        rounds = 0
        while True:  # expect MT105 MT107
            losses = losses * 0.5
            rounds += 1
            if tf.reduce_max(losses) < 0.1:
                break
        return losses * 2.0**rounds


class AsksNumpy(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        threshold = np.quantile(losses, 0.9)  # expect MT105 MT107
        return tf.minimum(losses, float(threshold))


class RoundsByPython(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return found * round(tf.reduce_mean(found), 2)  # expect MT105 MT107
