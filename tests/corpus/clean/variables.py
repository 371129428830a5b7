"""State in variables: counters, schedules, averages, metrics."""

from __future__ import annotations

import itertools

import keras
import tensorflow as tf

from tests.corpus import clean_helpers
from tests.corpus.base import Tiny, Varied
from tests.corpus.clean_helpers import cross_entropy, mlp, round_through


class VariableState(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.updates_seen = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.average = keras.Variable(0.0, trainable=False)

    def losses(self, batch):
        found = super().losses(batch)
        self.updates_seen.assign_add(1)
        self.average.assign(0.9 * self.average + 0.1 * tf.reduce_mean(found))
        return found


class VariableScheduled(Tiny):
    """The right way: a variable that a hook assigns."""

    def __init__(self, **given):
        super().__init__(**given)
        self.kl = tf.Variable(0.0, trainable=False)

    def losses(self, batch):
        return super().losses(batch) * (1.0 + self.kl)

    def on_epoch_end(self):
        self.kl.assign_add(0.1)


class CountsInAVariable(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.seen = tf.Variable(0, dtype=tf.int64, trainable=False)

    def train_step(self, batch):
        values = super().train_step(batch)
        self.seen.assign_add(tf.cast(tf.shape(batch["x"])[0], tf.int64))
        return values


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


class StepCycle(Tiny):
    """The class weights go round by self.step."""

    rounds = ((1.0, 1.0, 1.0), (2.0, 1.0, 0.5), (0.5, 1.0, 2.0))

    def losses(self, batch):
        at = tf.math.floormod(tf.cast(self.step, tf.int32), len(self.rounds))
        weights = tf.gather(tf.constant(self.rounds), at)
        return super().losses(batch) * tf.gather(weights, batch["label"])


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


class HandAccumulated(Varied):
    """Gradients are averaged over time in variables of the recipe's own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sums = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.model.trainable_variables]

    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            values = self.losses(batch)
            loss = tf.reduce_mean(values)
        gradients = tape.gradient(loss, variables)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign(0.5 * total + gradient)
        self.apply([total * 1.0 for total in self.sums], variables)
        return {"loss": values}


class MeanTeacher(Varied):
    """A teacher's weights in variables, by a module of the helpers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.teacher = [tf.Variable(v, trainable=False) for v in self.model.trainable_variables]

    def train_step(self, batch):
        kernel, bias = self.teacher
        target = tf.stop_gradient(tf.nn.softmax(tf.matmul(batch["x"], kernel) + bias))
        out = self.minimize(
            lambda: self.losses(batch) + keras.losses.kl_divergence(target, tf.nn.softmax(self.logits(batch)))
        )
        for t, v in zip(self.teacher, self.model.trainable_variables):
            t.assign(0.9 * t + 0.1 * tf.convert_to_tensor(v))
        return out


class EmaModule(Varied):
    """A tf.Module of the helpers holds averages."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ema = clean_helpers.Ema([tf.convert_to_tensor(v) for v in self.model.trainable_variables], 0.5)
        self.shadow = self.ema.shadow

    def train_step(self, batch):
        out = self.minimize(lambda: self.losses(batch) + 0.1 * tf.reduce_sum(self.ema.shadow[0] ** 2))
        self.ema.update([tf.convert_to_tensor(v) for v in self.model.trainable_variables])
        return out


class FollowsATeacher(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.teacher = [tf.Variable(v, trainable=False) for v in self.model.trainable_variables]

    def train_step(self, batch):
        values = super().train_step(batch)
        for mine, theirs in zip(self.teacher, self.model.trainable_variables, strict=True):
            mine.assign(0.99 * mine + 0.01 * theirs.value)
        return values


class NormalisesTheSpectrum(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.u = tf.Variable(tf.ones([1, 3]), trainable=False)

    def losses(self, batch):
        w = tf.convert_to_tensor(self.model.trainable_variables[0])
        u = self.u.value()
        for _ in range(2):
            v = tf.math.l2_normalize(u @ tf.transpose(w))
            u = tf.math.l2_normalize(v @ w)
        self.u.assign(tf.stop_gradient(u))
        sigma = tf.reduce_sum((v @ w) * u)
        return super().losses(batch) / tf.maximum(sigma, 0.1)


class SpectralNorm(Tiny):
    """Spectral normalisation with its vector in a variable."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.u = tf.Variable([[0.6, 0.8, 0.0]], trainable=False)

    def logits(self, batch):
        kernel = tf.convert_to_tensor(self.model.layers[-1].kernel)
        v = tf.math.l2_normalize(tf.matmul(self.u, kernel, transpose_b=True))
        u = tf.math.l2_normalize(tf.matmul(v, kernel))
        self.u.assign(tf.stop_gradient(u))
        sigma = tf.matmul(tf.matmul(tf.stop_gradient(v), kernel), tf.stop_gradient(u), transpose_b=True)
        return tf.matmul(batch["x"], kernel / sigma) + tf.convert_to_tensor(self.model.layers[-1].bias)


class LooksUpAVariable(Tiny):
    """A variable that is read at a place, by the name of its handle, which counts up from trace to trace."""

    def __init__(self, **given):
        super().__init__(**given)
        self.table = tf.Variable([[0.0, 0.5, 1.0], [1.0, 0.0, 0.5], [0.5, 1.0, 0.0]], trainable=False)

    def losses(self, batch):
        return super().losses(batch) + tf.nn.embedding_lookup(self.table, batch["label"])[:, 0]


class MovingRange(tf.Module):
    """The moving range of a tensor, and fake quantisation in it."""

    def __init__(self, bits: int = 4, momentum: float = 0.9, name: str | None = None):
        super().__init__(name=name)
        self.levels = 2**bits - 1
        self.momentum = momentum
        self.low = tf.Variable(-1.0, trainable=False)
        self.high = tf.Variable(1.0, trainable=False)

    def observe(self, x):
        for variable, value in ((self.low, tf.reduce_min(x)), (self.high, tf.reduce_max(x))):
            variable.assign(self.momentum * variable + (1.0 - self.momentum) * value)

    def __call__(self, x):
        scale = (self.high - self.low) / self.levels
        clipped = tf.clip_by_value(x, self.low, self.high)
        return round_through((clipped - self.low) / scale) * scale + self.low


class QuantizationAware(Tiny):
    """Quantisation-aware training with moving ranges of the activations after each layer."""

    def __init__(self, *, model, optimizer, info):
        self.info = info
        self.model = mlp([8, info.classes], activation="relu")
        self.optimizer = optimizer(self.model.trainable_variables)
        self.ranges = [MovingRange(name=f"range_{i}") for i, _ in enumerate(self.model.layers)]
        self.range_variables = list(itertools.chain.from_iterable(r.variables for r in self.ranges))

    def forward(self, x, quantize: bool):
        activations = []
        for layer, moving in zip(self.model.layers, self.ranges):
            x = layer(x)
            activations.append(x)
            if quantize:
                x = moving(x)
        return x, activations

    def train_step(self, batch):
        _, activations = self.forward(batch["x"], quantize=False)
        for moving, activation in zip(self.ranges, activations):
            moving.observe(activation)

        def loss_fn():
            logits, _ = self.forward(batch["x"], quantize=True)
            return cross_entropy(batch["label"], logits)

        return self.minimize(loss_fn)
