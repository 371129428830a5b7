"""What clean steps call in a file of its own: losses, layers, schedules."""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence

import keras
import tensorflow as tf


class Ema(tf.Module):
    """An average of variables, in variables."""

    def __init__(self, variables, decay):
        super().__init__()
        self.decay = decay
        self.shadow = [tf.Variable(v, trainable=False) for v in variables]

    def update(self, variables):
        for s, v in zip(self.shadow, variables, strict=True):
            s.assign(self.decay * s + (1.0 - self.decay) * v)


def tree_loss(node, x):
    """A loss of nested lists of column indices."""
    if isinstance(node, int):
        return tf.square(x[:, node])
    return sum((tree_loss(child, x) for child in node), tf.zeros([tf.shape(x)[0]])) / len(node)


@tf.custom_gradient
def clipped_identity(x):
    return x, lambda dy: tf.clip_by_value(dy, -0.05, 0.05)


class Activation(enum.StrEnum):
    RELU = "relu"
    TANH = "tanh"


LOSSES = {}


def register(name):
    def decorate(fn):
        LOSSES[name] = fn
        return fn

    return decorate


@register("mse")
def mse(target, pred):
    return tf.reduce_mean(tf.math.squared_difference(target, pred), axis=-1)


@register("huber")
def huber(target, pred, delta=1.0):
    error = tf.abs(target - pred)
    quad = tf.minimum(error, delta)
    return tf.reduce_mean(0.5 * quad**2 + delta * (error - quad), axis=-1)


@register("logcosh")
def log_cosh(target, pred):
    e = pred - target
    return tf.reduce_mean(e + tf.nn.softplus(-2.0 * e) - tf.math.log(2.0), axis=-1)


def named(scope):
    """Runs a function below a name scope."""

    def decorate(fn):
        @functools.wraps(fn)
        def wrapper(*args, **kwargs):
            with tf.name_scope(scope):
                return fn(*args, **kwargs)

        return wrapper

    return decorate


def checked(fn):
    """Checks that losses have one value per example."""

    @functools.wraps(fn)
    def wrapper(self, batch, *args, **kwargs):
        loss = fn(self, batch, *args, **kwargs)
        if loss.shape.rank != 1:
            raise ValueError(f"{fn.__name__} returned rank {loss.shape.rank}")
        return tf.ensure_shape(loss, [batch["x"].shape[0]])

    return wrapper


EPSILON = 1e-6


def cross_entropy(labels, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def prefixed(prefix: str, values: dict) -> dict:
    return {f"{prefix}_{key}": value for key, value in values.items()}


def linear_ramp(step, length: int, low: float = 0.0, high: float = 1.0):
    """From low to high over the first `length` steps."""
    share = tf.minimum(tf.cast(step, tf.float32) / float(length), 1.0)
    return low + (high - low) * share


def normalize(x, axis: int = -1):
    return x * tf.math.rsqrt(tf.reduce_sum(x * x, axis=axis, keepdims=True) + EPSILON)


def mlp(sizes: Sequence[int], inputs: int = 4, activation: str = "tanh", name: str | None = None) -> keras.Model:
    *hidden, last = sizes
    net = [keras.Input((inputs,))]
    net += [keras.layers.Dense(size, activation=activation) for size in hidden]
    return keras.Sequential([*net, keras.layers.Dense(last)], name=name)


@tf.custom_gradient
def round_through(x):
    """Rounds, with the gradient of the identity."""
    return tf.round(x), lambda upstream: upstream
