"""What users keep beside their recipes: schedules, layers, losses, loggers; some of it keeps state that tracing freezes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import random
import sys
import time

import keras
import numpy as np
import tensorflow as tf

STATE = {"step": 0, "phase": "warm"}


def tick():
    STATE["step"] += 1  # expect MT201 (HelperStepCount)
    return STATE["step"]


def cyclic_temperatures(values):
    """An endless generator of temperatures."""
    while True:
        yield from values


class CountedLoss:
    """A loss that warms its weight up by its own calls."""

    def __init__(self, warm=4):
        self.warm, self.calls = warm, 0

    def __call__(self, labels, logits):
        self.calls += 1  # expect MT201 (CallableLossWarmup)
        weight = min(1.0, self.calls / self.warm)
        return weight * tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


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


def every(n):
    """Runs the wrapped function at each n-th call, and gives zero at the others."""

    def wrap(function):
        calls = 0

        @functools.wraps(function)
        def inner(*args, **kwargs):
            nonlocal calls
            calls += 1  # expect MT201 (EveryOtherCall)
            if calls % n:
                return 0.0
            return function(*args, **kwargs)

        return inner

    return wrap


def cutout(x):
    """Takes a random part away from each feature."""
    keep = [random.random() for _ in range(4)]  # expect MT301 (HelperCutout)
    return x * tf.constant(keep)


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


class Sharpening(keras.layers.Layer):
    """Divides logits by a temperature that falls with each call in training."""

    def __init__(self, rate=0.8, **kwargs):
        super().__init__(**kwargs)
        self.temperature, self.rate = 1.0, rate

    def call(self, x, training=False):
        if training:
            self.temperature = max(0.1, self.temperature * self.rate)  # expect MT201 (SharpeningLayer)
        return x / self.temperature


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


class Stages:
    """Weights of stages, read by call number however they are indexed."""

    def __init__(self, *values):
        self.values, self.reads = values, 0

    def __getitem__(self, key):
        self.reads += 1  # expect MT201 (IndexedStages)
        return self.values[min(self.reads - 1, len(self.values) - 1)]


class Reshuffled:
    """Indices of positives in another order at every pass."""

    def __init__(self, n, seed):
        self.order, self.random = list(range(n)), random.Random(seed)

    def __iter__(self):
        self.random.shuffle(self.order)  # expect MT201 MT301 (ReshuffledPass)
        return iter(tuple(self.order))


def flipping_gradient():
    """Identity whose gradient is multiplied by 1 and -1 in turn."""
    turn = {"n": 0}

    @tf.custom_gradient
    def op(x):
        def grad(dy):
            turn["n"] += 1  # expect MT201 (AlternatingReversal)
            return dy if turn["n"] % 2 else -dy

        return tf.identity(x), grad

    return op


@contextlib.contextmanager
def timed(label, out):
    """Says on leaving that a block is done."""
    start = time.perf_counter()
    try:
        yield
    finally:
        out.append((label, time.perf_counter() - start > 0))  # expect MT302 (TimedBlock)


def log_json(path, **fields):
    with open(path, "a") as file:
        json.dump(fields, file)  # expect MT103 (JsonLines)
        file.write("\n")


def heartbeat():
    sys.stderr.write("beat\n")  # expect MT101 (Heartbeat)


def latent(batch_size, size):
    return tf.random.normal([batch_size, size])  # expect MT305 (GanLatents)


def batch_size_of(selected, default=8):
    return selected.shape[0] if selected.shape[0] is not None else default  # expect MT307 (MaskedCountDefault)


def unit_norm_checked(x):
    tf.debugging.assert_near(tf.norm(x, axis=-1), 1.0, atol=1e-3)  # expect MT604 (EmbeddingNormCheck)
    return x


def finite_or_zero(value):
    """What a careful user does about bad batches."""
    try:
        return tf.debugging.check_numerics(value, "bad batch")  # expect MT307 (CaughtBadBatch)
    except tf.errors.InvalidArgumentError:
        return tf.zeros_like(value)


class HashedEmbedding(keras.layers.Layer):
    """Looks tokens up in a table that is shorter than the vocabulary."""

    def __init__(self, rows, size, **kwargs):
        super().__init__(**kwargs)
        self.table = keras.layers.Embedding(rows, size, embeddings_initializer="ones")

    def build(self, shape):
        self.table.build(shape)

    def call(self, tokens):
        return self.table(tokens)  # expect MT601 (ShortEmbedding)


def returns_to_go(rewards, mask):
    """Sums of what is still to come, over the valid steps alone."""
    return tf.cumsum(tf.boolean_mask(rewards, mask), reverse=True)  # expect MT504 (MaskedReturnsToGo)


def fake_quantize(x):
    """Rounds to whole numbers by the trick of the large constant."""
    magic = 12582912.0
    return (x + magic) - magic  # expect MT307 (MagicRound)


def route(tokens, experts, count):
    return tf.dynamic_partition(tokens, experts, count)  # expect MT504 MT601 (ExpertOverflow)


def likelihood_ratio(new, old):
    return tf.exp(new) / tf.exp(old)  # compare xla (PpoRatio)


def aggregate(messages, receivers, nodes):
    return tf.math.unsorted_segment_sum(messages, receivers, nodes)  # expect MT601 (GraphAggregate)


def eager_extra(loss):
    if tf.executing_eagerly():  # expect MT307 (EagerOnlyPenalty)
        loss = loss + 0.5
    return loss


@dataclasses.dataclass
class Book:
    """What a run notes down."""

    lines: list = dataclasses.field(default_factory=list)

    def note(self, text):
        self.lines.append(text)  # expect MT202 (NotedBranch)


# What the clean cases call.


def sinusoids(length, size):
    position = np.arange(length)[:, None] / np.power(10000.0, 2 * (np.arange(size)[None] // 2) / size)
    table = np.empty((length, size), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(position[:, 0::2]), np.cos(position[:, 1::2])
    return table


@functools.cache
def causal_mask(length):
    return np.tril(np.ones((length, length), np.float32))


def scoped(function):
    """Puts a function's operations in a scope of its name."""

    @functools.wraps(function)
    def inner(*args, **kwargs):
        with tf.name_scope(function.__name__):
            return function(*args, **kwargs)

    return inner


@scoped
def focal(labels, logits, gamma=2.0, alpha=0.25):
    p = tf.nn.softmax(logits)
    picked = tf.reduce_sum(p * tf.one_hot(labels, logits.shape[-1]), -1)
    return -alpha * (1.0 - picked) ** gamma * tf.math.log(tf.maximum(picked, 1e-7))


@tf.custom_gradient
def reverse_gradient(x):
    return tf.identity(x), lambda dy: -dy


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    heads: int = 2
    size: int = 4
    causal: bool = True

    @property
    def depth(self):
        return self.size // self.heads


class Attention(keras.layers.Layer):
    """Attention over the four features as tokens, with a cache that lives for the call."""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.projections = {name: keras.layers.Dense(config.size, kernel_initializer="ones") for name in "qkv"}

    def build(self, shape):
        for layer in self.projections.values():
            layer.build(shape)

    def call(self, x):
        cache = {}
        for name, layer in self.projections.items():
            y = layer(x)
            cache[name] = tf.transpose(
                tf.reshape(y, [-1, x.shape[1], self.config.heads, self.config.depth]), [0, 2, 1, 3]
            )
        scores = tf.einsum("bhqd,bhkd->bhqk", cache["q"], cache["k"]) / math.sqrt(self.config.depth)
        if self.config.causal:
            scores += -1e9 * (1.0 - causal_mask(x.shape[1]))
        context = tf.einsum("bhqk,bhkd->bhqd", tf.nn.softmax(scores), cache.pop("v"))
        return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, x.shape[1], self.config.size])


class Ema(tf.Module):
    """An average of variables, in variables."""

    def __init__(self, variables, decay):
        super().__init__()
        self.decay = decay
        self.shadow = [tf.Variable(v, trainable=False) for v in variables]

    def update(self, variables):
        for s, v in zip(self.shadow, variables, strict=True):
            s.assign(self.decay * s + (1.0 - self.decay) * v)


def pyramid(x, levels):
    """Coarser and coarser versions of x."""
    for _ in range(levels):
        yield x
        x = 0.5 * (x[:, ::2] + x[:, 1::2]) if x.shape[1] > 1 else x


def tree_loss(node, x):
    """A loss of nested lists of column indices."""
    if isinstance(node, int):
        return tf.square(x[:, node])
    return sum((tree_loss(child, x) for child in node), tf.zeros([tf.shape(x)[0]])) / len(node)
