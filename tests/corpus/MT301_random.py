"""MT301: a Python or NumPy random number is frozen."""

from __future__ import annotations

import random

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import elsewhere, trackers
from tests.corpus.base import Tiny, varied

rng = np.random.default_rng(0)


class FrozenGenerator(Tiny):
    def losses(self, batch):
        return super().losses(batch) * rng.uniform()  # expect MT301


class FrozenFreshGenerator(Tiny):
    def losses(self, batch):
        return super().losses(batch) * np.random.default_rng().normal()  # expect MT301


class ShufflesInPlace(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.order = np.arange(8)

    def losses(self, batch):
        np.random.shuffle(self.order)  # expect MT301 MT202 MT201
        return super().losses({**batch, "x": tf.gather(batch["x"], self.order)})


class RandAugmentNames(Tiny):
    """A helper object draws the names of augmentations."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.augment = trackers.RandAugment(seed=7)

    def losses(self, batch):
        x = self.augment(batch["x"])
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(x * [1.0, 2.0, 3.0, 4.0]))


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


class LambdaJitter(Tiny):
    """A Lambda layer which draws from numpy."""

    modes = ("graph",)
    build_model = stacked(lambda: keras.layers.Lambda(lambda x: x * np.random.uniform(0.5, 1.5)))  # expect MT301


class RowNoise(Tiny):
    """A draw of numpy for every row, in a mapped function."""

    modes = ("graph",)

    def jittered(self, row):
        return row * np.float32(np.random.uniform(0.0, 2.0))  # expect MT301

    def logits(self, batch):
        return self.model(tf.map_fn(self.jittered, batch["x"]), training=True)

    build_model = stacked()


class GradientNoise(Tiny):
    """Adds noise to the gradient, from numpy in a custom gradient."""

    modes = ("graph",)

    def logits(self, batch):
        return elsewhere.noisy_gradient(super().logits(batch))


class System(Tiny):
    def losses(self, batch):
        return super().losses(batch) * random.SystemRandom().random()  # expect MT301 MT303
