"""MT205: takes the next item of an iterator."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny, varied

ids = itertools.count()


class NumbersItsSteps(Tiny):
    def losses(self, batch):
        n = next(ids)  # expect MT205
        return super().losses(batch) + 0.1 * n


class TakesFromAGenerator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rates = (0.1 * n for n in range(100))

    def losses(self, batch):
        return super().losses(batch) * next(self.rates)  # expect MT205


class TakesFromACycle(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.signs = itertools.cycle([1.0, -1.0])

    def losses(self, batch):
        return super().losses(batch) * next(self.signs)  # expect MT205


class TakesFromADataset(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.noise = iter(tf.data.Dataset.range(100).map(lambda n: tf.cast(n, tf.float32)))

    def losses(self, batch):
        return super().losses(batch) * next(self.noise)  # expect MT205


class LazyRegularized(Tiny):
    """A decorator runs the regularizer at every second call only."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.regularizer = elsewhere.every(2)(self.path_penalty)

    def path_penalty(self):
        kernel = self.model.trainable_variables[0]
        return 0.1 * tf.reduce_mean(tf.square(kernel))

    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch) + self.regularizer())


class AverageCoroutine(Tiny):
    """A coroutine keeps the sum of what is sent to it."""

    @staticmethod
    def averager():
        total, count = tf.zeros([4]), 0
        while True:
            value = yield total / max(count, 1)
            total, count = total + value, count + 1

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.average = self.averager()
        next(self.average)

    def train_step(self, batch):
        mean = self.average.send(tf.reduce_mean(batch["x"], axis=0))  # expect MT205

        def loss_fn():
            logits = self.model(batch["x"] - mean, training=True)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


class UnlabeledIterator(Tiny):
    """Unlabeled arrays come from an iterator of the recipe's own."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        arrays = np.random.default_rng(5).normal(size=(3, 8, 4)).astype(np.float32)
        self.unlabeled = itertools.cycle(arrays)

    def losses(self, batch):
        extra = next(self.unlabeled)  # expect MT205
        p = tf.nn.softmax(self.model(extra, training=True))
        return super().losses(batch) - tf.reduce_sum(p * tf.math.log(p + 1e-6), -1)


class Cycled(keras.layers.Layer):
    def __init__(self, **given):
        super().__init__(**given)
        self.scales = itertools.cycle((1.0, 0.5, 0.25))

    def call(self, inputs):
        return inputs * next(self.scales)  # expect MT205 (CycleInLayer)


class CycleInLayer(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), Cycled(), keras.layers.Dense(classes)])
