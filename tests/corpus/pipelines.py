"""Defects: input pipelines that are no function of (seed, step)."""

from __future__ import annotations

import random
import time

import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny


class StatefulNoise(Tiny):
    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + tf.random.normal(tf.shape(batch["x"]))}  # expect MT801


class StatefulFlip(Tiny):
    def prepare(self, batch, *, seed, training):
        images = tf.image.random_brightness(tf.reshape(batch["x"], [8, 2, 2, 1]), 0.2)  # expect MT801
        return {**batch, "x": tf.reshape(images, [8, 4])}


class NumpyNoise(Tiny):
    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + np.random.rand(8, 4).astype("float32")}  # expect MT802


class PythonChoice(Tiny):
    def prepare(self, batch, *, seed, training):
        if random.random() < 0.5:  # expect MT802
            return batch
        return {**batch, "x": -batch["x"]}


class TimedPrepare(Tiny):
    def prepare(self, batch, *, seed, training):
        print("prepared at", time.time())  # expect MT802
        return batch


class PythonAugment(Tiny):
    def prepare(self, batch, *, seed, training):
        x = tf.numpy_function(lambda x: x + 1.0, [batch["x"]], tf.float32)  # expect MT804
        return {**batch, "x": tf.ensure_shape(x, [8, 4])}


class ShufflesUnseeded(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.extra = tf.data.Dataset.range(10).shuffle(10).batch(2)  # expect MT803


class MapsInAnyOrder(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.extra = tf.data.Dataset.range(10).map(  # expect MT803
            lambda n: n, num_parallel_calls=2, deterministic=False
        )
