"""Helpers that the ninth set of cases share: trackers, schedules, decorators, mixins."""

from __future__ import annotations

import contextlib
import functools
import itertools

import keras
import numpy as np
import tensorflow as tf


class RunningMean:
    """Exponential mean of what it is called with."""

    def __init__(self, decay=0.8):
        self.decay = decay
        self.value = tf.constant(0.0)

    def __call__(self, x):
        mean = tf.reduce_mean(tf.stop_gradient(x))
        self.value = self.decay * self.value + (1 - self.decay) * mean  # expect MT203 (SubtractedBaseline)
        return self.value


class Annealed:
    """A coefficient that falls by a factor each time it is read."""

    def __init__(self, start, factor, floor=0.0):
        self.current = start
        self.factor = factor
        self.floor = floor

    @property
    def value(self):
        now = self.current
        self.current = max(self.floor, now * self.factor)  # expect MT201 (AnnealedConfidence)
        return now


class Meter:
    """Counts what is added to it."""

    def __init__(self):
        self.count = 0

    def __iadd__(self, value):
        self.count += value  # expect MT201 (MeteredScale)
        return self

    def scale(self):
        return 1.0 / (1.0 + 0.1 * self.count)


def every(n):
    """Run the wrapped regularizer only at each n-th call; else it costs nothing."""

    def wrap(fn):
        calls = itertools.count()

        @functools.wraps(fn)
        def inner(*args, **kwargs):
            if next(calls) % n:  # expect MT205 (LazyRegularized)
                return tf.constant(0.0)
            return fn(*args, **kwargs)

        return inner

    return wrap


class CurriculumMixin:
    """Trains on the easier examples first: the share that counts grows at each step."""

    share = 0.25

    def losses(self, batch):
        losses = super().losses(batch)
        keep = max(1, int(self.share * losses.shape[0]))
        self.share = min(1.0, self.share + 0.25)  # expect MT201 (MixinCurriculum)
        threshold = tf.sort(losses)[keep - 1]
        return tf.where(losses <= threshold, losses, tf.zeros_like(losses))


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


class Noise:
    """Gaussian noise from a generator of its own."""

    def __init__(self, scale, seed=0):
        self.scale = scale
        self.rng = np.random.default_rng(seed)

    def like(self, x):
        noise = self.rng.normal(size=x.shape.as_list())  # expect MT301 (NoisyInputs)
        return x + tf.constant(self.scale * noise, x.dtype)


@contextlib.contextmanager
def scaled(owner, factor):
    """Within the block `owner.scale` is as it was; it is multiplied by `factor` at the end."""
    try:
        yield owner.scale
    finally:
        owner.scale *= factor  # expect MT201 (ScaledBlock)


def warm(limit=4):
    """A ramp from 1/limit to 1, one value per `next`, then 1 forever."""
    for n in range(1, limit + 1):
        yield n / limit
    while True:
        yield 1.0


class Pool:
    """Indexing it hands out the next of its values."""

    def __init__(self, values):
        self.values = list(values)
        self.taken = 0

    def __getitem__(self, key):
        value = self.values[(self.taken + key) % len(self.values)]
        self.taken += 1  # expect MT201 (PooledScales)
        return value


class Decaying:
    """A descriptor: what is read decays at every read."""

    def __set_name__(self, owner, name):
        self.slot = "_" + name

    def __set__(self, instance, value):
        instance.__dict__[self.slot] = value

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        value = instance.__dict__[self.slot]
        instance.__dict__[self.slot] = 0.5 * value  # expect MT201 (DecayingPenalty)
        return value


class DropPath(keras.layers.Layer):
    """Skips its input's scaling ever less: a layer with a Python counter."""

    def __init__(self, start=0.8, **kwargs):
        super().__init__(**kwargs)
        self.rate = start

    def call(self, x, training=False):
        if not training:
            return x
        scale = 1.0 - self.rate
        self.rate = max(0.0, self.rate - 0.2)  # expect MT201 (ScheduledLayer)
        return x * scale


class RampedL2(keras.regularizers.Regularizer):
    """An L2 penalty that gets stronger each time it is asked."""

    def __init__(self, step=0.01):
        self.step = step
        self.strength = 0.0

    def __call__(self, x):
        self.strength += self.step  # expect MT201 (RampedRegularizer)
        return self.strength * tf.reduce_sum(tf.square(x))


def reversal(schedule):
    """The identity, whose gradient is reversed and scaled by the next value of a schedule."""

    @tf.custom_gradient
    def reverse(x):
        def grad(dy):
            return -schedule.pop() * dy  # expect MT202 (ReversedGradient)

        return tf.identity(x), grad

    return reverse
