"""What the steps of `sixth` use from elsewhere."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import enum
import functools
import logging
import queue
import threading
import time

import keras
import numpy as np
import tensorflow as tf

log = logging.getLogger("sixth")
TEMPERATURE = contextvars.ContextVar("temperature", default=4.0)
_started = False


def mixup(x, alpha=0.4):
    """Mixes every example with its mirror in the batch."""
    share = np.random.beta(alpha, alpha)  # expect MT301 (MixupBeta)
    return share * x + (1.0 - share) * tf.reverse(x, [0])


def report(name, value):
    """One line a step on the log."""
    log.info("%s is %s", name, value)  # expect MT102 (LoggedLoss)


def first_call():
    """True once a process."""
    global _started
    first = not _started
    _started = True  # expect MT201 (FirstCallFlag)
    return first


def restart():
    global _started
    _started = False


def curriculum(start, stop, steps):
    """Yields the difficulty of every step."""
    for step in range(steps):
        yield start + (stop - start) * step / steps
    while True:
        yield stop


class Phase(enum.Enum):
    WARM = "warm"
    SHARP = "sharp"

    def other(self):
        return Phase.SHARP if self is Phase.WARM else Phase.WARM


class CsvLogger:
    """Appends a row a step."""

    def __init__(self, path):
        self.path = path

    def row(self, *cells):
        with open(self.path, "a") as file:
            file.write(",".join(str(cell) for cell in cells) + "\n")  # expect MT103 (LossCsv)


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


class Annealed:
    """A descriptor: every read of the attribute gives a value lower than the last."""

    def __init__(self, start, factor):
        self.start, self.factor = start, factor

    def __set_name__(self, owner, name):
        self.slot = "_" + name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        value = instance.__dict__.get(self.slot, self.start)
        instance.__dict__[self.slot] = value * self.factor  # expect MT201 (DecayingDescriptor)
        return value


def every(n):
    """A decorator: the regulariser counts only in every nth call."""

    def wrap(function):
        calls = 0

        @functools.wraps(function)
        def inner(*args):
            nonlocal calls
            calls += 1  # expect MT201 (EveryOther)
            return function(*args) if calls % n == 0 else 0.0

        return inner

    return wrap


class Bank:
    """The features of the last few batches, as MoCo keeps them."""

    def __init__(self, size):
        self.rows = collections.deque(maxlen=size)

    def push(self, features):
        self.rows.append(tf.stop_gradient(features))  # expect MT203 (MemoryBank)

    def mean(self):
        return tf.reduce_mean(tf.concat(list(self.rows), 0), 0)


class Stopwatch(contextlib.ContextDecorator):
    """Keeps how long every block took."""

    def __init__(self):
        self.durations = []

    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, *exc):
        self.durations.append(time.perf_counter() - self.start)  # expect MT202 MT302 (TimedForward)
        return False


class Monitor:
    def __init__(self):
        self.spikes = 0
        self.rows = 0

    def spike(self):
        self.spikes += 1  # expect MT201 (SpikeMonitor)

    def row(self):
        self.rows += 1  # expect MT201 (RowTracker)


class NoisyEveryOther(keras.layers.Layer):
    """Scales its input in every other training call."""

    def __init__(self):
        super().__init__()
        self.calls_made = 0

    def call(self, x, training=None):
        if training:
            self.calls_made += 1  # expect MT201 (CountingLayer)
            if self.calls_made % 2 == 0:
                return x * 1.5
        return x


class ActivityPenalty(keras.layers.Layer):
    """Remembers the penalty of its activations, for the loss to add."""

    def __init__(self):
        super().__init__()
        self.penalties = []

    def call(self, x, training=None):
        if training:
            self.penalties.append(1e-2 * tf.reduce_sum(tf.square(x)))  # expect MT203 (AuxiliaryLossList)
        return x


class StochasticDepth(keras.layers.Layer):
    """Skips its block in half of the training steps."""

    def __init__(self, survival=0.5):
        super().__init__()
        self.survival = survival
        self.block = keras.layers.Dense(4, kernel_initializer="ones")
        self.rng = np.random.default_rng(3)

    def call(self, x, training=None):
        if training and self.rng.random() > self.survival:  # expect MT301 (SkippedBlock)
            return x
        return x + self.block(x)


@tf.custom_gradient
def noisy_gradient(x):
    """The identity, with noise on its gradient (Neelakantan et al., 2015)."""

    def gradient(upstream):
        noise = np.random.normal(scale=0.1, size=tuple(upstream.shape))  # expect MT301 (GradientNoise)
        return upstream + noise.astype(np.float32)

    return tf.identity(x), gradient
