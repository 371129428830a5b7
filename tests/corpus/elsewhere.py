"""Functions with defects that steps call in a file of its own, and what a module keeps."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import json
import logging
import sys
import time

import numpy as np
import tensorflow as tf


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


@contextlib.contextmanager
def scaled(owner, factor):
    """Within the block `owner.scale` is as it was; it is multiplied by `factor` at the end."""
    try:
        yield owner.scale
    finally:
        owner.scale *= factor  # expect MT201 (ScaledBlock)


def reversal(schedule):
    """The identity, whose gradient is reversed and scaled by the next value of a schedule."""

    @tf.custom_gradient
    def reverse(x):
        def grad(dy):
            return -schedule.pop() * dy  # expect MT202 (ReversedGradient)

        return tf.identity(x), grad

    return reverse


TEMPERATURE = 1.0


def set_temperature(value):
    """Called by the training script."""
    global TEMPERATURE
    TEMPERATURE = value  # expect MT405 (GlobalOfAnotherModule)


def softened(logits):
    """Logits at the temperature of this module."""
    return logits / TEMPERATURE  # expect MT401 (GlobalOfAnotherModule)


def hour_weight():
    """Examples seen at night count less."""
    now = datetime.datetime.now()  # expect MT302 (HourOfTheDay)
    return 0.5 + now.microsecond / 1e6


def weights_from(path):
    """Class weights in a file, which may be edited during a run."""
    return np.asarray(json.loads(path.read_text()), np.float32)  # expect MT103 (ReadsJson)


log = logging.getLogger("corpus.report")


def report(name, value):
    """One line a step on the log."""
    log.info("%s is %s", name, value)  # expect MT102 (LoggedLoss)


@tf.custom_gradient
def noisy_gradient(x):
    """The identity, with noise on its gradient (Neelakantan et al., 2015)."""

    def gradient(upstream):
        noise = np.random.normal(scale=0.1, size=tuple(upstream.shape))  # expect MT301 (GradientNoise)
        return upstream + noise.astype(np.float32)

    return tf.identity(x), gradient


def announced(function):
    @functools.wraps(function)
    def wrapper(*args):
        print("calling", function.__name__)  # expect MT101 (PrintsThroughADecorator)
        return function(*args)

    return wrapper


def stamped(x):
    return x * (1.0 + 0.0 * time.monotonic())  # expect MT302 (TimeInAnotherFile)


@contextlib.contextmanager
def timed(label, out):
    """Says on leaving that a block is done."""
    start = time.perf_counter()
    try:
        yield
    finally:
        out.append((label, time.perf_counter() - start > 0))  # expect MT302 (TimedBlock)


def heartbeat():
    sys.stderr.write("beat\n")  # expect MT101 (Heartbeat)


def unit_norm_checked(x):
    tf.debugging.assert_near(tf.norm(x, axis=-1), 1.0, atol=1e-3)  # expect MT604 (EmbeddingNormCheck)
    return x


def returns_to_go(rewards, mask):
    """Sums of what is still to come, over the valid steps alone."""
    return tf.cumsum(tf.boolean_mask(rewards, mask), reverse=True)  # expect MT504 (MaskedReturnsToGo)


def route(tokens, experts, count):
    return tf.dynamic_partition(tokens, experts, count)  # expect MT504 MT601 (ExpertOverflow)


def likelihood_ratio(new, old):
    return tf.exp(new) / tf.exp(old)  # compare xla (PpoRatio)


def aggregate(messages, receivers, nodes):
    return tf.math.unsorted_segment_sum(messages, receivers, nodes)  # expect MT601 (GraphAggregate)
