"""Objects with state that steps use: trackers, schedules, layers, losses."""

from __future__ import annotations

import queue
import random
import threading

import keras
import numpy as np
import tensorflow as tf


class Dispatcher:
    """Calls every registered hook with the name of the event."""

    def __init__(self):
        self.hooks = []

    def on(self, hook):
        self.hooks.append(hook)
        return hook

    def emit(self, event):
        for hook in self.hooks:
            hook(event)  # expect MT202 (HookedStep)


class NoiseFeed:
    """Noise which a thread draws ahead of the step."""

    def __init__(self, shape, seed=0):
        self.ready = queue.Queue(maxsize=8)
        rng = np.random.default_rng(seed)

        def produce():
            for _ in range(256):
                self.ready.put(rng.normal(size=shape).astype(np.float32))

        threading.Thread(target=produce, daemon=True).start()

    def take(self):
        return self.ready.get(timeout=20)  # expect MT202 (QueueFeed)


class ActivityPenalty(keras.layers.Layer):
    """Remembers the penalty of its activations, for the loss to add."""

    def __init__(self):
        super().__init__()
        self.penalties = []

    def call(self, x, training=None):
        if training:
            self.penalties.append(1e-2 * tf.reduce_sum(tf.square(x)))  # expect MT203 (AuxiliaryLossList)
        return x


class Decaying:
    """A descriptor: each read is a little smaller than the one before."""

    def __init__(self, start, rate):
        self.start, self.rate = start, rate

    def __set_name__(self, owner, name):
        self.slot = "_" + name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        value = instance.__dict__.get(self.slot, self.start)
        instance.__dict__[self.slot] = value * self.rate  # expect MT201 (DescriptorDecay)
        return value


POLICIES = {
    "same": lambda x: x,
    "flip": lambda x: tf.reverse(x, [-1]),
    "scale": lambda x: 1.5 * x,
    "negate": lambda x: -x,
}


class RandAugment:
    """Two operations a batch, drawn by name."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def __call__(self, x):
        for name in self.random.choices(list(POLICIES), k=2):  # expect MT301 (RandAugmentNames)
            x = POLICIES[name](x)
        return x


class SpectralNorm:
    """The largest singular value by power iteration; the vector is kept between calls."""

    def __init__(self, units):
        self.u = np.linspace(0.1, 1.0, units, dtype=np.float32)[None]

    def __call__(self, kernel):
        kernel = tf.convert_to_tensor(kernel)
        v = tf.math.l2_normalize(tf.matmul(self.u, kernel, transpose_b=True))
        u = tf.math.l2_normalize(tf.matmul(v, kernel))
        self.u = tf.stop_gradient(u)  # expect MT203 (SpectralNormVector)
        return tf.matmul(tf.matmul(v, kernel), u, transpose_b=True)


class RunningMeanStd:
    """Running moments, as reinforcement learning code keeps them of observations."""

    def __init__(self):
        self.mean, self.var, self.count = 0.0, 1.0, 1e-4

    def update(self, x):
        mean, var, n = tf.reduce_mean(x, 0), tf.math.reduce_variance(x, 0), float(x.shape[0])
        delta, total = mean - self.mean, self.count + n
        self.var = (  # expect MT203 (RunningMoments)
            self.var * self.count + var * n + delta**2 * self.count * n / total
        ) / total
        self.mean, self.count = self.mean + delta * n / total, total  # expect MT201 MT203 (RunningMoments)

    def __call__(self, x):
        return (x - self.mean) / tf.sqrt(self.var + 1e-8)


class HashedEmbedding(keras.layers.Layer):
    """Looks tokens up in a table that is shorter than the vocabulary."""

    def __init__(self, rows, size, **kwargs):
        super().__init__(**kwargs)
        self.table = keras.layers.Embedding(rows, size, embeddings_initializer="ones")

    def build(self, shape):
        self.table.build(shape)

    def call(self, tokens):
        return self.table(tokens)  # expect MT601 (ShortEmbedding)
