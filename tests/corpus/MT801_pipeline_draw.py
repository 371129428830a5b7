"""MT801: the input pipeline draws from a stateful generator."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class StatefulNoise(Tiny):
    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + tf.random.normal(tf.shape(batch["x"]))}  # expect MT801


class PrepareKerasRandom(Tiny):
    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + keras.random.normal((4,))}  # expect MT801 MT305


class PrepareKerasLayer(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.noise = keras.layers.GaussianNoise(0.1)

    def prepare(self, batch, *, seed, training):
        return {**batch, "x": self.noise(batch["x"], training=training)}  # expect MT801 MT805


class PrepareGenerator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.generator = tf.random.Generator.from_seed(1)

    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + self.generator.normal([4])}  # expect MT801


class PreparesWithContrast(Tiny):
    def prepare(self, batch, *, seed, training):
        images = tf.reshape(batch["x"], [-1, 2, 2, 1])
        images = tf.image.random_contrast(images, 0.8, 1.2)  # expect MT801
        return {**batch, "x": tf.reshape(images, [-1, 4])}
