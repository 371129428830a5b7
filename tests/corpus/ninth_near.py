"""Near-misses to the ninth set: they look alike, and do the same in every mode."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools

import keras
import numpy as np
import tensorflow as tf

from tests.corpus.base import BATCH_SIZE, Tiny

CLASS_WEIGHTS = (1.0, 2.0, 0.5)
SETTINGS = {"smoothing": 0.1, "margin": 0.2}


class VariableCounter(Tiny):
    """The counter of the warm-up is a tf.Variable."""

    def __init__(self, *, model, optimizer, info, warmup: int = 5):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.warmup = warmup
        self.seen = tf.Variable(0.0, trainable=False)

    def train_step(self, batch):
        self.seen.assign_add(1.0)
        weight = tf.minimum(1.0, self.seen / self.warmup)
        return self.minimize(lambda: weight * self.losses(batch))


class StepTemperature(Tiny):
    """The temperature is a function of self.step."""

    start = 4.0

    @property
    def temperature(self):
        return tf.maximum(0.5, self.start * tf.pow(0.7, tf.cast(self.step, tf.float32)))

    def logits(self, batch):
        return super().logits(batch) / self.temperature


class StepCycle(Tiny):
    """The class weights go round by self.step."""

    rounds = ((1.0, 1.0, 1.0), (2.0, 1.0, 0.5), (0.5, 1.0, 2.0))

    def losses(self, batch):
        at = tf.math.floormod(tf.cast(self.step, tf.int32), len(self.rounds))
        weights = tf.gather(tf.constant(self.rounds), at)
        return super().losses(batch) * tf.gather(weights, batch["label"])


class LocalList(Tiny):
    """A list is filled and used within one step."""

    def train_step(self, batch):
        def loss_fn():
            terms = []
            for scale in (0.5, 1.0, 2.0):
                logits = self.logits(batch) * scale
                terms.append(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits))
            return tf.add_n(terms) / len(terms)

        return self.minimize(loss_fn)


class WholeGenerator(Tiny):
    """A generator is made and consumed wholly within a step."""

    def views(self, x):
        yield x
        for shift in range(1, 3):
            yield tf.roll(x, shift, axis=1)

    def train_step(self, batch):
        def loss_fn():
            total = tf.zeros([BATCH_SIZE])
            for view in self.views(batch["x"]):
                logits = self.model(view, training=True)
                total += tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            return total / 3.0

        return self.minimize(loss_fn)


class FreshDict(Tiny):
    """A dict of the terms is made anew at each step."""

    weights = {"cross_entropy": 1.0, "entropy": -0.1}

    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            terms = {}
            terms["cross_entropy"] = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            terms["entropy"] = -tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), -1)
            total = tf.add_n([self.weights[name] * term for name, term in terms.items()])
            return total, {"entropy": terms["entropy"]}

        return self.minimize(loss_fn)


class ModuleConstants(Tiny):
    """Module constants are read, never changed."""

    def losses(self, batch):
        smoothing = SETTINGS.get("smoothing", 0.0)
        target = tf.one_hot(batch["label"], 3) * (1.0 - smoothing) + smoothing / 3.0
        losses = tf.nn.softmax_cross_entropy_with_logits(target, self.logits(batch))
        return losses * tf.gather(tf.constant(CLASS_WEIGHTS), batch["label"])


class FilledCache(Tiny):
    """The cache is filled in __init__, and only read in the step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        rng = np.random.default_rng(info.seed)
        self.projections = {}
        for name in ("left", "right"):
            self.projections[name] = tf.constant(rng.normal(size=(4, 4)).astype(np.float32))

    def logits(self, batch):
        x = batch["x"]
        for name in sorted(self.projections):
            x = tf.tanh(x @ self.projections[name])
        return self.model(x, training=True)


def weighted(weight):
    """Multiply the result by a weight: a decorator that keeps nothing."""

    def wrap(fn):
        @functools.wraps(fn)
        def inner(*args, **kwargs):
            return weight * fn(*args, **kwargs)

        return inner

    return wrap


class StatelessDecorator(Tiny):
    """A decorator without state."""

    @weighted(0.01)
    def penalty(self):
        return tf.reduce_sum(tf.square(self.model.trainable_variables[0]))

    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch) + self.penalty())


@functools.cache
def band(width):
    """A smoothing matrix: numpy, and the same for the same width."""
    return np.float32(np.eye(width) * 0.5 + np.eye(width, k=1) * 0.25 + np.eye(width, k=-1) * 0.25)


class CachedMatrix(Tiny):
    """An lru_cache of a pure function of Python numbers, that returns numpy."""

    def logits(self, batch):
        x = batch["x"]
        return self.model(x @ tf.constant(band(x.shape[1])), training=True)


class CachedMask(Tiny):
    """A cached_property that depends on the settings alone."""

    @functools.cached_property
    def mask(self):
        return np.array([1.0, 1.0, 0.0, 1.0], np.float32) * (1.0 if self.info.seed == 0 else 0.5)

    def logits(self, batch):
        return self.model(batch["x"] * self.mask, training=True)


class TensorPrint(Tiny):
    """tf.print, in a recipe for graph mode."""

    modes = ("graph",)

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        tf.print("step", self.step, tf.reduce_mean(results["loss"]))
        return results


class StaticAsserts(Tiny):
    """Asserts and raises upon static shapes and dtypes."""

    def train_step(self, batch):
        assert batch["x"].shape[1] == 4, batch["x"].shape
        if batch["label"].dtype != tf.int32:
            raise TypeError(batch["label"].dtype)
        tf.debugging.assert_rank(batch["x"], 2)
        return self.minimize(lambda: self.losses(batch))


class TryStatic(Tiny):
    """try/except on what the model has, the same at every step."""

    def train_step(self, batch):
        try:
            gain = float(self.model.gain)
        except AttributeError:
            gain = 1.5
        return self.minimize(lambda: gain * self.losses(batch))


class MaskedMean(Tiny):
    """A masked mean with fixed shapes."""

    def train_step(self, batch):
        keep = tf.cast(batch["x"][:, 0] > 0, tf.float32)
        count = tf.maximum(tf.reduce_sum(keep), 1.0)

        def loss_fn():
            losses = self.losses(batch)
            return tf.reduce_sum(losses * keep) / count, {"kept": keep}

        return self.minimize(loss_fn)


class SafeRatio(Tiny):
    """tf.where with a denominator that is safe on both sides."""

    def losses(self, batch):
        x = batch["x"]
        positive = x[:, 1] > 0
        safe = tf.where(positive, x[:, 1], tf.ones_like(x[:, 1]))
        ratio = tf.where(positive, tf.abs(x[:, 0]) / (safe + 0.1), tf.zeros_like(safe))
        return super().losses(batch) * (1.0 + tf.minimum(ratio, 3.0))


class ClippedGather(Tiny):
    """The indices are clipped before the gather."""

    table = (0.5, 1.0)

    def losses(self, batch):
        at = tf.clip_by_value(batch["label"], 0, len(self.table) - 1)
        return super().losses(batch) * tf.gather(tf.constant(self.table), at)


class StatelessNoise(Tiny):
    """Noise from a stateless op with self.seed."""

    scale = 0.5

    def logits(self, batch):
        noise = tf.random.stateless_normal([BATCH_SIZE, 4], self.seed("noise"), stddev=self.scale)
        return self.model(batch["x"] + noise, training=True)


class StatelessMixup(Tiny):
    """Mixup pairs by sorting stateless uniform numbers."""

    def train_step(self, batch):
        order = tf.argsort(tf.random.stateless_uniform([BATCH_SIZE], self.seed("order")))
        lam = tf.random.stateless_uniform([], self.seed("lambda"), 0.5, 1.0)
        labels = tf.one_hot(batch["label"], 3)
        mixed = lam * batch["x"] + (1.0 - lam) * tf.gather(batch["x"], order)
        target = lam * labels + (1.0 - lam) * tf.gather(labels, order)

        def loss_fn():
            return tf.nn.softmax_cross_entropy_with_logits(target, self.model(mixed, training=True))

        return self.minimize(loss_fn)


class RunningMean:
    """Exponential mean in a variable."""

    def __init__(self, decay=0.8):
        self.decay = decay
        self.value = tf.Variable(0.0, trainable=False)

    def __call__(self, x):
        mean = tf.reduce_mean(tf.stop_gradient(x))
        self.value.assign(self.decay * self.value + (1.0 - self.decay) * mean)
        return self.value.read_value()


class VariableBaseline(Tiny):
    """A helper that keeps its running mean in a variable, which the recipe holds."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.baseline = RunningMean(decay=0.8)
        self.baseline_value = self.baseline.value

    def train_step(self, batch):
        baseline = self.baseline(batch["x"])
        return self.minimize(lambda: self.losses(batch) * (1.0 - tf.tanh(baseline)))


class VariableRing(Tiny):
    """The memory of past features is a variable, shifted by one row."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.ring = tf.Variable(tf.zeros([3, 4]), trainable=False)

    def train_step(self, batch):
        newest = tf.reduce_mean(batch["x"], axis=0, keepdims=True)
        self.ring.assign(tf.concat([self.ring[1:], newest], axis=0))
        centre = tf.reduce_mean(self.ring, axis=0)

        def loss_fn():
            logits = self.model(batch["x"] - centre, training=True)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


@contextlib.contextmanager
def section(name):
    """A name scope that yields a constant."""
    with tf.name_scope(name):
        yield len(name)


class PlainContext(Tiny):
    """A context manager that keeps nothing."""

    def train_step(self, batch):
        with section("main") as length:
            return self.minimize(lambda: self.losses(batch) / length)


class LocalCounter(Tiny):
    """A Counter, a deque and a nonlocal number that live for one step."""

    def train_step(self, batch):
        number = 0
        recent = collections.deque(maxlen=2)
        uses = collections.Counter()

        def term(name, value):
            nonlocal number
            number += 1
            uses[name] += 1
            recent.append(value / number)

        losses = tf.reduce_sum(tf.square(batch["x"]), axis=-1)
        for name in ("first", "second", "third"):
            term(name, losses)
        weight = tf.add_n(list(recent)) / sum(uses.values())
        return self.minimize(lambda: self.losses(batch) * (1.0 + 0.01 * weight))


class NoneSetting(Tiny):
    """`is None` on a setting that __init__ fixes."""

    def __init__(self, *, model, optimizer, info, margin: float | None = None, centre: float | None = 0.3):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.margin = margin
        self.centre = centre

    def logits(self, batch):
        x = batch["x"]
        if self.centre is not None:
            x = x - self.centre
        logits = self.model(x, training=True)
        if self.margin is None:
            return logits
        return logits - self.margin * tf.one_hot(batch["label"], 3)


class HasattrModel(Tiny):
    """hasattr and isinstance on the model, the same at every step."""

    def train_step(self, batch):
        penalty, kernel = 0.0, self.model.trainable_variables[0]
        if hasattr(self.model, "layers"):
            for layer in self.model.layers:
                if isinstance(layer, keras.layers.Dense) and getattr(layer, "use_bias", False):
                    penalty = 0.01
        return self.minimize(lambda: self.losses(batch) + penalty * tf.reduce_sum(tf.abs(kernel)))


class FreshCycle(Tiny):
    """itertools.cycle and count, made anew at each step."""

    def logits(self, batch):
        signs = itertools.cycle((1.0, -1.0))
        columns = []
        for n, sign in zip(itertools.count(), signs):
            if n == 4:
                break
            columns.append(sign * batch["x"][:, n])
        return self.model(tf.stack(columns, axis=1), training=True)


class TensorBranch(Tiny):
    """`if` on a tensor, with a value from either branch, counted in a variable."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.outliers = tf.Variable(0.0, trainable=False)

    def train_step(self, batch):
        if tf.reduce_any(tf.abs(batch["x"]) > 2.3):
            weight = tf.constant(0.5)
            self.outliers.assign_add(1.0)
        else:
            weight = tf.constant(1.0)
        results = self.minimize(lambda: weight * self.losses(batch))
        return {**results, "outliers": self.outliers.read_value()}


class ClippedCodes(Tiny):
    """Rounded and clipped to int8's range before the cast."""

    def fake_quant(self, x, scale=80.0):
        q = tf.cast(tf.clip_by_value(tf.round(x * scale), -127.0, 127.0), tf.int8)
        return x + tf.stop_gradient(tf.cast(q, tf.float32) / scale - x)

    def logits(self, batch):
        return self.model(self.fake_quant(batch["x"]), training=True)


@tf.custom_gradient
def reverse(x):
    """The identity, whose gradient is reversed."""

    def grad(dy):
        return -0.3 * dy

    return tf.identity(x), grad


class ConstantReversal(Tiny):
    """A custom gradient with a constant factor."""

    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], reverse(self.logits(batch)))


class CountingLayer(keras.layers.Layer):
    """Scales by a counter that is a weight of the layer."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1.0)
        return x / (1.0 + 0.1 * self.calls)


class LayerCounter(Tiny):
    """A Keras layer counts its calls in a weight."""

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = CountingLayer()(inputs)
        return keras.Model(inputs, keras.layers.Dense(classes, kernel_initializer="ones")(x))
