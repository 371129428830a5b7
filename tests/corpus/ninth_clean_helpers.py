"""Helpers that several of the cases share, as a project's own `utils` modules would."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

EPSILON = 1e-6
LOSSES: dict[str, Callable] = {}


def register(name: str):
    """Puts a loss into the registry under a name."""

    def wrap(function):
        if name in LOSSES:
            raise KeyError(f"loss {name!r} is registered twice")
        LOSSES[name] = function
        return function

    return wrap


@register("xent")
def cross_entropy(labels, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


@register("brier")
def brier(labels, logits):
    probabilities = tf.nn.softmax(logits)
    target = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return tf.reduce_sum(tf.square(probabilities - target), axis=-1)


@register("focal")
def focal(labels, logits, gamma: float = 2.0):
    ce = cross_entropy(labels, logits)
    return tf.pow(1.0 - tf.exp(-ce), gamma) * ce


def per_example(function):
    """Averages whatever a function returns over all axes but the first."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        value = function(*args, **kwargs)
        return tf.reduce_mean(tf.reshape(value, [tf.shape(value)[0], -1]), axis=1)

    return wrapper


def prefixed(prefix: str, values: dict) -> dict:
    return {f"{prefix}_{key}": value for key, value in values.items()}


def linear_ramp(step, length: int, low: float = 0.0, high: float = 1.0):
    """From low to high over the first `length` steps."""
    share = tf.minimum(tf.cast(step, tf.float32) / float(length), 1.0)
    return low + (high - low) * share


def cosine_ramp(step, length: int):
    share = tf.minimum(tf.cast(step, tf.float32) / float(length), 1.0)
    return 0.5 * (1.0 - tf.cos(math.pi * share))


def update_average(targets: Iterable, sources: Iterable, decay) -> None:
    """Exponential moving average of the weights."""
    for target, source in zip(targets, sources, strict=True):
        target.assign(decay * target + (1.0 - decay) * source)


def pairwise_squared(a, b):
    """Squared distances of each row of a and each row of b."""
    aa = tf.reduce_sum(a * a, axis=1)[:, None]
    bb = tf.reduce_sum(b * b, axis=1)[None, :]
    return tf.maximum(aa - 2.0 * tf.matmul(a, b, transpose_b=True) + bb, 0.0)


def normalize(x, axis: int = -1):
    return x * tf.math.rsqrt(tf.reduce_sum(x * x, axis=axis, keepdims=True) + EPSILON)


def accuracy(labels, logits):
    return tf.cast(tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels), tf.float32)


def mlp(sizes: Sequence[int], inputs: int = 4, activation: str = "tanh", name: str | None = None) -> keras.Model:
    *hidden, last = sizes
    net = [keras.Input((inputs,))]
    net += [keras.layers.Dense(size, activation=activation) for size in hidden]
    return keras.Sequential([*net, keras.layers.Dense(last)], name=name)


class Gaussian(NamedTuple):
    """A diagonal normal distribution."""

    mean: tf.Tensor
    log_std: tf.Tensor

    @classmethod
    def split(cls, parameters):
        return cls(*tf.split(parameters, 2, axis=-1))

    def sample(self, noise):
        return self.mean + tf.exp(self.log_std) * noise

    def log_prob(self, value):
        z = (value - self.mean) * tf.exp(-self.log_std)
        return tf.reduce_sum(-0.5 * z * z - self.log_std - 0.5 * math.log(2.0 * math.pi), axis=-1)

    def kl_to_standard(self):
        variance = tf.exp(2.0 * self.log_std)
        return 0.5 * tf.reduce_sum(tf.square(self.mean) + variance - 1.0 - 2.0 * self.log_std, axis=-1)


class DiffusionSchedule:
    """Constants of a discrete diffusion process, computed once with numpy."""

    def __init__(self, steps: int = 16, start: float = 1e-3, stop: float = 0.1):
        betas = np.linspace(start, stop, steps, dtype=np.float64)
        self.steps = steps
        self.betas = betas.astype(np.float32)
        self.alphas_bar = np.cumprod(1.0 - betas).astype(np.float32)

    @functools.cached_property
    def signal_noise(self) -> tuple[np.ndarray, np.ndarray]:
        return np.sqrt(self.alphas_bar), np.sqrt(1.0 - self.alphas_bar)

    def diffuse(self, x, noise, t):
        signal, spread = (tf.gather(table, t)[:, None] for table in self.signal_noise)
        return signal * x + spread * noise


@contextlib.contextmanager
def watching(*tensors):
    """A tape that watches tensors and nothing else."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for tensor in tensors:
            tape.watch(tensor)
        yield tape


@tf.custom_gradient
def reverse_gradient(x):
    def grad(upstream):
        return -upstream

    return tf.identity(x), grad


@tf.custom_gradient
def round_through(x):
    """Rounds, with the gradient of the identity."""
    return tf.round(x), lambda upstream: upstream


def sinkhorn_plan(cost, epsilon: float = 0.5, iterations: int = 3):
    """Entropic transport between uniform marginals, in the log domain."""
    rows, columns = cost.shape
    log_a = tf.fill([rows], -math.log(rows))
    log_b = tf.fill([columns], -math.log(columns))
    f, g = tf.zeros([rows]), tf.zeros([columns])
    for _ in range(iterations):
        f = -epsilon * tf.reduce_logsumexp((g[None, :] - cost) / epsilon + log_b[None, :], axis=1)
        g = -epsilon * tf.reduce_logsumexp((f[:, None] - cost) / epsilon + log_a[:, None], axis=0)
    return tf.exp((f[:, None] + g[None, :] - cost) / epsilon + log_a[:, None] + log_b[None, :])


class LossBook:
    """Collects the weighted terms of a loss, and hands them back as metrics."""

    def __init__(self, **weights: float):
        self.weights = weights
        self.terms: dict[str, tf.Tensor] = {}

    def add(self, name: str, value):
        self.terms[name] = value
        return self

    def total(self):
        return sum(self.weights.get(name, 1.0) * value for name, value in self.terms.items())


def with_weight_norm(step: Callable) -> Callable:
    """Decorates a train_step: the norm of the model's weights is one more metric."""

    @functools.wraps(step)
    def wrapped(self, *args, **kwargs):
        metrics = step(self, *args, **kwargs)
        norm = tf.linalg.global_norm([tf.convert_to_tensor(v) for v in self.model.trainable_variables])
        return {**metrics, "weight_norm": norm}

    return wrapped
