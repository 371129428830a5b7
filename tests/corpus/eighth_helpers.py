"""Losses, layers and small utilities shared by the training steps."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import logging
import os
import warnings
from typing import NamedTuple, TypedDict

import keras
import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny

try:
    import tensorflow_addons as tfa  # optional
except ImportError:
    tfa = None

warnings.filterwarnings("ignore", category=DeprecationWarning, module="keras")
logger = logging.getLogger("corpus8.helpers")
logger.setLevel(logging.ERROR)

EPS = 1e-7
TEMPERATURE = float(os.environ.get("CORPUS8_TEMPERATURE", "0.5"))
CLASS_COUNTS = np.array([50.0, 30.0, 20.0])
CLASS_WEIGHTS = (CLASS_COUNTS.sum() / (len(CLASS_COUNTS) * CLASS_COUNTS)).astype(np.float32)


# ---------------------------------------------------------------- losses
def focal_loss(labels, logits, gamma=2.0, alpha=0.25):
    """Lin et al., 2017."""
    log_p = tf.nn.log_softmax(logits)
    onehot = tf.one_hot(labels, logits.shape[-1])
    p = tf.exp(log_p)
    return -tf.reduce_sum(alpha * onehot * (1.0 - p) ** gamma * log_p, axis=-1)


def dice_loss(y_true, y_pred, smooth=1.0):
    inter = tf.reduce_sum(y_true * y_pred, axis=0)
    union = tf.reduce_sum(y_true, axis=0) + tf.reduce_sum(y_pred, axis=0)
    return 1.0 - tf.reduce_mean((2.0 * inter + smooth) / (union + smooth))


def tversky_index(y_true, y_pred, alpha=0.7, smooth=1.0):
    tp = tf.reduce_sum(y_true * y_pred)
    fn = tf.reduce_sum(y_true * (1 - y_pred))
    fp = tf.reduce_sum((1 - y_true) * y_pred)
    return (tp + smooth) / (tp + alpha * fn + (1 - alpha) * fp + smooth)


def nt_xent(z1, z2, temperature=TEMPERATURE):
    """SimCLR loss of two views, one value per example."""
    n = z1.shape[0]
    z = tf.math.l2_normalize(tf.concat([z1, z2], axis=0), axis=1, epsilon=1e-6)
    sim = tf.matmul(z, z, transpose_b=True) / temperature
    sim = sim - 1e9 * tf.eye(2 * n)
    labels = tf.concat([tf.range(n) + n, tf.range(n)], axis=0)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=sim)
    return 0.5 * (loss[:n] + loss[n:])


def clip_loss(image, text, log_scale):
    image = tf.math.l2_normalize(image, axis=-1, epsilon=1e-6)
    text = tf.math.l2_normalize(text, axis=-1, epsilon=1e-6)
    logits = tf.exp(log_scale) * tf.einsum("id,jd->ij", image, text)
    target = tf.range(tf.shape(logits)[0])
    a = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    b = tf.nn.sparse_softmax_cross_entropy_with_logits(target, tf.transpose(logits))
    return (a + b) / 2.0


def kl_divergence(mean, logvar):
    return -0.5 * tf.reduce_sum(1.0 + logvar - tf.square(mean) - tf.exp(logvar), axis=-1)


def kd_loss(student, teacher, temperature=4.0):
    p = tf.nn.softmax(tf.stop_gradient(teacher) / temperature)
    return temperature**2 * tf.reduce_sum(p * (tf.math.log(p + EPS) - tf.nn.log_softmax(student / temperature)), -1)


@keras.saving.register_keras_serializable(package="corpus8")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross entropy of smoothed sparse labels."""

    def __init__(self, smoothing=0.1, name="smoothed_ce", **kwargs):
        super().__init__(name=name, reduction="none", **kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        classes = y_pred.shape[-1]
        target = keras.ops.one_hot(y_true, classes) * (1.0 - self.smoothing) + self.smoothing / classes
        return -keras.ops.sum(target * keras.ops.log_softmax(y_pred), axis=-1)

    def get_config(self):
        return {**super().get_config(), "smoothing": self.smoothing}


# ---------------------------------------------------------------- layers
@keras.saving.register_keras_serializable(package="corpus8")
class SelfAttention(keras.layers.Layer):
    """Multi-head attention over a short sequence."""

    def __init__(self, dim, heads=2, **kwargs):
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(f"dim {dim} is no multiple of heads {heads}")
        self.dim, self.heads = dim, heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = keras.layers.Dense(3 * dim, use_bias=False)
        self.out = keras.layers.Dense(dim)

    def build(self, input_shape):
        self.qkv.build(input_shape)
        self.out.build((*input_shape[:-1], self.dim))
        self.built = True

    def call(self, x):
        length = x.shape[1]
        qkv = tf.reshape(self.qkv(x), [-1, length, 3, self.heads, self.dim // self.heads])
        q, k, v = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]), axis=0)
        attention = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) * self.scale)
        y = tf.transpose(tf.matmul(attention, v), [0, 2, 1, 3])
        return self.out(tf.reshape(y, [-1, length, self.dim]))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "heads": self.heads}


class MixtureOfExperts(keras.layers.Layer):
    """Dense (soft) gate over a few experts."""

    def __init__(self, units, experts=3, **kwargs):
        super().__init__(**kwargs)
        self.gate = keras.layers.Dense(experts, activation="softmax")
        self.experts = [keras.layers.Dense(units) for _ in range(experts)]

    def build(self, input_shape):
        for layer in (self.gate, *self.experts):
            layer.build(input_shape)
        self.built = True

    def call(self, x):
        weights = self.gate(x)
        outputs = tf.stack([expert(x) for expert in self.experts], axis=1)
        load = tf.reduce_mean(weights, axis=0)
        self.add_loss(0.01 * tf.reduce_sum(load * tf.math.log(load + EPS)))
        return tf.einsum("be,bed->bd", weights, outputs)


class SpectralDense(keras.layers.Layer):
    """Dense layer divided by its largest singular value, by one power iteration a step."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="w")
        self.u = self.add_weight(shape=(1, self.units), initializer="ones", trainable=False, name="u")

    def call(self, x, training=False):
        w = tf.convert_to_tensor(self.w)
        v = tf.math.l2_normalize(tf.matmul(self.u, w, transpose_b=True))
        u = tf.math.l2_normalize(tf.matmul(v, w))
        u, v = tf.stop_gradient(u), tf.stop_gradient(v)
        if training:
            self.u.assign(u)
        sigma = tf.matmul(tf.matmul(v, w), u, transpose_b=True)
        return tf.matmul(x, w / sigma)


class Affine(tf.Module):
    """A Sonnet-like module."""

    def __init__(self, n_in, n_out, name=None):
        super().__init__(name=name)
        self.w = tf.Variable(np.linspace(-0.5, 0.5, n_in * n_out).reshape(n_in, n_out).astype(np.float32), name="w")
        self.b = tf.Variable(tf.zeros([n_out]), name="b")

    @tf.Module.with_name_scope
    def __call__(self, x):
        return tf.linalg.matmul(x, self.w) + self.b


# ---------------------------------------------------------------- gradients
@tf.custom_gradient
def reverse_gradient(x):
    """Ganin & Lempitsky, 2015."""

    def grad(dy):
        return -0.1 * dy

    return tf.identity(x), grad


@tf.custom_gradient
def clipped_identity(x):
    return x, lambda dy: tf.clip_by_value(dy, -0.05, 0.05)


def ste_round(x):
    return x + tf.stop_gradient(tf.round(x) - x)


def fake_quant(x, bits=4, limit=2.0):
    levels = 2**bits - 1
    x = tf.clip_by_value(x, -limit, limit)
    return ste_round((x + limit) / (2 * limit) * levels) / levels * 2 * limit - limit


# ---------------------------------------------------------------- schedules
def linear_warmup(step, warmup):
    return tf.minimum(1.0, (tf.cast(step, tf.float32) + 1.0) / warmup)


def cosine_factor(step, total, floor=0.0):
    t = tf.clip_by_value(tf.cast(step, tf.float32) / total, 0.0, 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + tf.cos(np.pi * t))


def cosine_betas(steps, s=0.008):
    """Nichol & Dhariwal, 2021."""
    t = np.linspace(0, 1, steps + 1)
    bar = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2
    return np.clip(1 - bar[1:] / bar[:-1], 0, 0.999)


ALPHAS_BAR = np.cumprod(1.0 - cosine_betas(50)).astype(np.float32)


# ---------------------------------------------------------------- structures
class Mode(enum.Enum):
    MEAN = "mean"
    SUM = "sum"
    NONE = "none"


class Activation(enum.StrEnum):
    RELU = "relu"
    TANH = "tanh"


class Outputs(NamedTuple):
    logits: tf.Tensor
    features: tf.Tensor


class Terms(TypedDict, total=False):
    main: tf.Tensor
    extra: tf.Tensor


@dataclasses.dataclass(frozen=True)
class LossConfig:
    weight: float = 1.0
    l2: float = 1e-3
    smoothing: float = 0.1
    mode: Mode = Mode.NONE


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


@contextlib.contextmanager
def scope(name, enabled=True):
    with tf.name_scope(name) if enabled else contextlib.nullcontext():
        yield name


@functools.cache
def triangle(n: int) -> int:
    return n * (n + 1) // 2


@functools.singledispatch
def total(value):
    raise TypeError(type(value))


@total.register
def _(value: dict):
    return tf.add_n([total(v) for _, v in sorted(value.items())])


@total.register
def _(value: list):
    return tf.add_n([total(v) for v in value])


@total.register(tf.Tensor)
def _(value):
    return tf.reduce_sum(value)


def accuracy(labels, logits):
    return tf.cast(tf.equal(tf.argmax(logits, -1, output_type=labels.dtype), labels), tf.float32)


def entropy(logits):
    return -tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), axis=-1)


@tf.function
def pairwise_distances(a, b):
    """Squared distances of all rows."""
    aa = tf.reduce_sum(a * a, -1, keepdims=True)
    bb = tf.reduce_sum(b * b, -1, keepdims=True)
    return tf.maximum(aa - 2.0 * tf.matmul(a, b, transpose_b=True) + tf.transpose(bb), 0.0)


def orthogonal_penalty(kernel):
    gram = tf.matmul(kernel, kernel, transpose_a=True)
    return tf.reduce_sum(tf.square(gram * (1.0 - tf.eye(kernel.shape[-1]))))


def mlp(n_in, n_out, width=8, activation="relu", seed=1):
    init = keras.initializers.GlorotUniform(seed=seed)
    return keras.Sequential(
        [
            keras.Input((n_in,)),
            keras.layers.Dense(width, activation=activation, kernel_initializer=init),
            keras.layers.Dense(n_out, kernel_initializer=init),
        ]
    )


def update_ema(targets, sources, decay):
    for target, source in zip(targets, sources, strict=True):
        target.assign(decay * target + (1.0 - decay) * source)


class Base(Tiny):
    """Hands the maker of optimizers to a `setup` of the recipe."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.setup(optimizer)

    def setup(self, optimizer):
        """For subclasses."""
