"""Defects: tensors asked for their values, and callbacks into Python."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny


class AsksByNumpy(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        mean = found.numpy().mean()  # expect MT105
        return found / mean


class AsksByFloat(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return found * math.exp(tf.reduce_mean(found))  # expect MT105


class AsksByAsarray(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return found * np.asarray(batch["x"]).mean()  # expect MT105


class AsksByNumpyFunction(Tiny):
    def losses(self, batch):
        return super().losses(batch) * np.max(batch["x"])  # expect MT105


class AsksByIndex(Tiny):
    def losses(self, batch):
        weights = [0.1, 0.2, 0.3]
        return super().losses(batch) * weights[batch["label"][0]]  # expect MT105


class AsksByRange(Tiny):
    def losses(self, batch):
        rows = [n for n in range(batch["label"][0])]  # expect MT105
        return super().losses(batch) + len(rows)


class AsksByItem(Tiny):
    def losses(self, batch):
        return super().losses(batch) * batch["label"][0].item()  # expect MT105


class AsksByFormat(Tiny):
    def losses(self, batch):
        return super().losses(batch) * len(f"{tf.reduce_mean(batch['x']):.3f}")  # expect MT105


class AsksInALayer(Tiny):
    class Gate(keras.layers.Layer):
        def call(self, x):
            if tf.reduce_mean(x) > 0:  # expect MT105
                return x
            return -x

    def __init__(self, **given):
        super().__init__(**given)
        self.gate = self.Gate()

    def losses(self, batch):
        return super().losses({**batch, "x": self.gate(batch["x"])})


class CallsNumpyFunction(Tiny):
    def losses(self, batch):
        x = tf.numpy_function(lambda a: a * 2.0, [batch["x"]], tf.float32)  # expect MT106
        return super().losses({**batch, "x": tf.ensure_shape(x, [8, 4])})


class CallsPyFunction(Tiny):
    def losses(self, batch):
        x = tf.py_function(func=lambda a: a + 1.0, inp=[batch["x"]], Tout=tf.float32)  # expect MT106
        return super().losses({**batch, "x": tf.ensure_shape(x, [8, 4])})
