"""MT203: keeps a tensor of the step beyond the step."""

from __future__ import annotations

import collections
import functools

import keras
import tensorflow as tf

from tests.corpus import trackers
from tests.corpus.base import Tiny, varied

CURVES = collections.defaultdict(list)


class TracksCurves(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        CURVES["loss"].append(found)  # expect MT202 MT203
        return found


class CachesAMask(Tiny):
    @functools.cached_property
    def mask(self):
        return tf.linalg.band_part(tf.ones([8, 8]), -1, 0)  # expect MT203 MT204

    def losses(self, batch):
        return super().losses(batch) * self.mask[:, 0]


class CachesByShape(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.grids = {}

    def grid(self, n):
        if n not in self.grids:
            self.grids[n] = tf.linspace(0.0, 1.0, n)  # expect MT203
        return self.grids[n]

    def losses(self, batch):
        return super().losses(batch) * self.grid(8)


class CachesATensor(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.cache = {}

    def losses(self, batch):
        if "mask" not in self.cache:
            self.cache["mask"] = tf.ones([8]) * tf.reduce_mean(batch["x"])  # expect MT203
        return super().losses(batch) * self.cache["mask"]


class KeepsTheLastBatch(Tiny):
    previous = None

    def train_step(self, batch):
        x = batch["x"] if self.previous is None else 0.5 * (batch["x"] + self.previous)
        self.previous = batch["x"]  # expect MT203
        return super().train_step({**batch, "x": x})


class SpectralNormVector(Tiny):
    """A helper keeps the power iteration's vector as a tensor."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sigma = trackers.SpectralNorm(3)

    def losses(self, batch):
        logits = self.logits(batch) / self.sigma(self.model.trainable_variables[0])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class RunningMoments(Tiny):
    """Observations are normalized by moments that a helper keeps."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.moments = trackers.RunningMeanStd()

    def losses(self, batch):
        self.moments.update(batch["x"])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(self.moments(batch["x"])))


def stacked(*layers):
    """A model: the layers, and a dense one after them."""

    def build(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                *(make() for make in layers),
                keras.layers.Dense(classes, kernel_initializer="glorot_uniform"),
            ]
        )

    return staticmethod(build)


class AuxiliaryLossList(Tiny):
    """Sums the penalties which a layer keeps in a list."""

    modes = ("graph",)
    build_model = stacked(trackers.ActivityPenalty)

    def losses(self, batch):
        losses = super().losses(batch)
        return losses + tf.add_n(self.model.layers[0].penalties)
