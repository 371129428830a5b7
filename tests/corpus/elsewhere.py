"""What steps call in a file of its own: functions with defects in them, and objects with state."""

from __future__ import annotations

import functools
import random
import time

import numpy as np
import tensorflow as tf

CALLS = []
SETTINGS = {"scale": 1.0}


def shout(text):
    print(text.upper())  # expect MT101 (PrintsInAnotherFile)


def whisper(text):
    print(text.lower())  # expect MT101 (PrintsInAnotherFile)


def announced(function):
    @functools.wraps(function)
    def wrapper(*args):
        print("calling", function.__name__)  # expect MT101 (PrintsThroughADecorator)
        return function(*args)

    return wrapper


def jittered(x):
    return x + random.gauss(0.0, 0.1)  # expect MT301 (FrozenInAnotherFile)


def stamped(x):
    return x * (1.0 + 0.0 * time.monotonic())  # expect MT302 (TimeInAnotherFile)


def counted(x):
    CALLS.append(1)  # expect MT202 (AppendsInAnotherFile)
    return x


def scaled(x):
    return x * SETTINGS["scale"]


def noise(shape):
    return np.random.uniform(size=shape).astype("float32")  # expect MT301 (NumpyInAnotherFile)


def mean(x):
    return tf.reduce_mean(x)


class Accumulator:
    """A helper object with state of its own."""

    def __init__(self):
        self.total = 0.0
        self.items = []

    def add(self, x):
        self.items.append(x)  # expect MT203 (LeaksThroughAnObject)
        return x

    def tick(self):
        self.total += 1.0  # expect MT201 (CountsInAnObject)
        return self.total


class Bar:
    """A progress bar."""

    def __init__(self):
        self.n = 0

    def update(self):
        self.n += 1  # expect MT201 (ReportsProgress)
