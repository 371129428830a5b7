"""Random numbers that are a function of seed and step."""

from __future__ import annotations

import random

import keras
import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny, Varied


class StepAndSeed(Tiny):
    def losses(self, batch):
        noise = tf.random.stateless_normal([8, 4], seed=self.seed("noise"))
        warm = tf.minimum(1.0, tf.cast(self.step, tf.float32) / 100.0)
        if self.step > 3:
            warm = warm * 0.9
        return super().losses({**batch, "x": batch["x"] + 0.1 * noise}) * warm


class Dropouts(Tiny):
    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.3),
                keras.layers.GaussianNoise(0.1),
                keras.layers.Dense(classes),
            ]
        )


class SeededInStep(Tiny):
    def losses(self, batch):
        weights = np.random.default_rng(3).uniform(size=8).astype(np.float32)
        other = random.Random(0).random()
        return super().losses(batch) * weights * other


class Beta(Tiny):
    def losses(self, batch):
        a = tf.nn.softplus(self.logits(batch)) + 0.1
        return (
            super().losses(batch)
            + 0.1 * tf.reduce_sum(tf.math.lbeta(tf.stack([a, a + 1.0], axis=-1)), axis=1)
            + 0.01 * tf.reduce_sum(tf.math.digamma(a), axis=1)
        )


class SeededAnew(Varied):
    """NumPy's and Python's generators are made in each step with a fixed seed: they draw the same each time."""

    def losses(self, batch):
        projection = np.random.default_rng(7).normal(size=(3, 3)).astype(np.float32)
        order = random.Random(3).sample(range(4), 4)
        x = tf.gather(batch["x"], order, axis=1)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch["label"], tf.matmul(self.model(x, training=True), projection)
        )


class SeedGeneratorDraws(Varied):
    """Whole numbers drawn with a SeedGenerator that is part of the state."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(13)

    def losses(self, batch):
        shift = keras.random.randint((8,), 0, 5, seed=self.seeds)
        return super().losses(batch) * (1.0 + tf.cast(shift, tf.float32))


class StatelessMixup(Tiny):
    """Mixup whose seed is a variable that counts the steps."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.draws = tf.Variable(0, dtype=tf.int32, trainable=False)

    def train_step(self, batch):
        seed = tf.stack([self.draws, 17])
        share = tf.cast(tf.random.stateless_uniform((8, 1), seed, 0, 1001, tf.int32, alg="philox"), tf.float32) / 1000.0
        self.draws.assign_add(1)
        x = share * batch["x"] + (1.0 - share) * tf.reverse(batch["x"], [0])
        return self.minimize(lambda: self.losses({"x": x, "label": batch["label"]}))


class CounterDropout(Tiny):
    """Dropout by a stateless mask, with a variable as its seed."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.masks = tf.Variable(0, dtype=tf.int32, trainable=False)

    def logits(self, batch):
        self.masks.assign_add(1)
        draw = tf.random.stateless_uniform((8, 4), tf.stack([self.masks, 3]), 0, 10, tf.int32, alg="philox")
        return self.model(tf.where(draw < 8, batch["x"] / 0.8, 0.0), training=True)


class StatelessDraw(Tiny):
    """Noise of a stateless generator: the same seed, and other numbers."""

    modes = ("xla",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.draws = tf.Variable(0, dtype=tf.int32, trainable=False)

    def logits(self, batch):
        self.draws.assign_add(1)
        noise = tf.random.stateless_uniform((8, 4), tf.stack([self.draws, 2]))
        return self.model(batch["x"] + noise, training=True) * tf.constant([1.0, 2.0, 3.0])


class DropsBlocks(Tiny):
    def losses(self, batch):
        keep = tf.random.stateless_uniform([8, 1], seed=self.seed("blocks")) > 0.2
        return super().losses({**batch, "x": tf.where(keep, batch["x"] / 0.8, 0.0)})


class PreparesWithSeed(Tiny):
    def prepare(self, batch, *, seed, training):
        if not training:
            return batch
        noise = tf.random.stateless_normal(tf.shape(batch["x"]), seed=seed, stddev=0.1)
        keep = tf.random.stateless_uniform(tf.shape(batch["x"]), seed=seed + 1) > 0.1
        return {**batch, "x": tf.where(keep, batch["x"] + noise, 0.0)}


class CutoutImages(Tiny):
    """Zeroes one pixel of each 2x2 image."""

    def cutout(self, images):
        n, height, width = images.shape[:3]
        pixel = tf.random.stateless_uniform([n], self.seed("cutout"), 0, height * width, dtype=tf.int32)
        mask = tf.one_hot(pixel, height * width, on_value=0.0, off_value=1.0)
        return images * tf.reshape(mask, [n, height, width, 1])

    def losses(self, batch):
        images = self.cutout(tf.reshape(batch["x"], [-1, 2, 2, 1]))
        logits = self.model(tf.reshape(images, [-1, 4]), training=True)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class ImageAugment(Tiny):
    """Flips, brightness and contrast by stateless draws."""

    def augment(self, images):
        coin = tf.random.stateless_uniform([images.shape[0], 1, 1, 1], self.seed("flip")) < 0.5
        images = tf.where(coin, tf.image.flip_left_right(images), images)
        delta = tf.random.stateless_uniform([], self.seed("brightness"), -0.2, 0.2)
        images = tf.image.adjust_brightness(images, delta)
        images = tf.image.adjust_contrast(images, 1.2)
        return tf.clip_by_value(images, -2.0, 2.0)

    def losses(self, batch):
        images = self.augment(tf.reshape(batch["x"], [-1, 2, 2, 1]))
        return super().losses({**batch, "x": tf.reshape(images, [-1, 4])})


class RDrop(Tiny):
    """Two passes with dropout, drawn to agree."""

    @staticmethod
    def build_model(image_shape, classes):
        layers = [keras.Input((4,)), keras.layers.Dense(8, activation="gelu"), keras.layers.Dropout(0.3, seed=9)]
        return keras.Sequential([*layers, keras.layers.Dense(classes)])

    def losses(self, batch):
        first, second = self.logits(batch), self.logits(batch)
        ce = [tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], z) for z in (first, second)]
        p, q = tf.nn.log_softmax(first), tf.nn.log_softmax(second)
        kl = tf.reduce_sum(tf.exp(p) * (p - q) + tf.exp(q) * (q - p), axis=-1) / 2.0
        return tf.add_n(ce) / len(ce) + 0.5 * kl
