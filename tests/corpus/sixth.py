"""Defects written from public threads by somebody who had seen no detector, as `fourth` was, and scored before any was changed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import random
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import sixth_helpers as helpers
from tests.corpus.base import Tiny


def cross_entropy(label, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


def squared_norm(logits):
    return tf.reduce_sum(tf.square(logits), 1)


def stacked(*layers):
    """A model: the layers, and a dense one after them."""

    def build(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                *(make() for make in layers),
                keras.layers.Dense(classes, kernel_initializer="glorot_uniform"),
            ]
        )

    return staticmethod(build)


# ---------------------------------------------------------------------------------------------------------------------
# Python state which only the trace changes
# ---------------------------------------------------------------------------------------------------------------------


class WarmupCounter(Tiny):
    """Warm-up of the loss by a counter of the object."""

    modes = ("graph",)
    seen_batches = 0

    def train_step(self, batch):
        self.seen_batches += 1  # expect MT201
        warm = min(1.0, self.seen_batches / 4)
        return self.minimize(lambda: warm * self.losses(batch))


class MixupBeta(Tiny):
    """Mixup with a share from numpy, in a helper."""

    modes = ("graph",)

    def logits(self, batch):
        return self.model(helpers.mixup(batch["x"]), training=True)


class CoinFlip(Tiny):
    """Augments by a mirrored input half of the time."""

    modes = ("graph",)

    def logits(self, batch):
        x = batch["x"]
        if random.random() < 0.5:  # expect MT301
            x = tf.reverse(x, [1])
        return self.model(x, training=True) * tf.constant([1.0, 2.0, 3.0])

    build_model = stacked()


class LossHistory(Tiny):
    """Keeps the loss of every step for a plot."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.history = {"loss": []}

    def losses(self, batch):
        losses = super().losses(batch)
        self.history["loss"].append(tf.reduce_mean(losses))  # expect MT203
        return losses


class LoggedLoss(Tiny):
    """Logs through a helper."""

    modes = ("graph",)

    def losses(self, batch):
        losses = super().losses(batch)
        helpers.report("loss", tf.reduce_mean(losses))
        return losses


class MemoryBank(Tiny):
    """Pulls features to the mean of the last batches' features, kept in a deque."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.bank = helpers.Bank(3)

    def losses(self, batch):
        logits = self.logits(batch)
        self.bank.push(logits)
        drift = tf.reduce_sum(tf.square(logits - self.bank.mean()), 1)
        return cross_entropy(batch["label"], logits) + 0.1 * drift


class FirstBatchStatistics(Tiny):
    """Standardises by the first batch's statistics."""

    modes = ("graph",)
    statistics = None

    def standardised(self, x):
        if self.statistics is None:
            self.statistics = tf.reduce_mean(x, 0), tf.math.reduce_std(x, 0)  # expect MT203
        mean, deviation = self.statistics
        return (x - mean) / deviation

    def logits(self, batch):
        return self.model(self.standardised(batch["x"]), training=True) * tf.constant([1.0, 2.0, 3.0])

    build_model = stacked()


class AlternatingPhase(Tiny):
    """Alternates two losses by an enum."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.phase = helpers.Phase.WARM

    def losses(self, batch):
        logits = self.logits(batch)
        if self.phase is helpers.Phase.WARM:
            return cross_entropy(batch["label"], logits / 4.0)
        return cross_entropy(batch["label"], logits) + tf.reduce_sum(tf.square(logits), 1)

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        self.phase = self.phase.other()  # expect MT201
        return result


class CoefficientCycle(Tiny):
    """Cycles through the weights of a penalty."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.coefficients = itertools.cycle([0.0, 0.1, 1.0])

    def losses(self, batch):
        logits = self.logits(batch)
        weight = next(self.coefficients)  # expect MT205
        return cross_entropy(batch["label"], logits) + weight * tf.reduce_sum(tf.square(logits), 1)


class CurriculumGenerator(Tiny):
    """Grows the noise on the input, by a generator of a helper module."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.difficulty = helpers.curriculum(0.0, 1.0, 8)

    def train_step(self, batch):
        level = self.difficulty.send(None)  # expect MT205
        harder = {**batch, "x": batch["x"] + level * tf.sin(20.0 * batch["x"])}
        return self.minimize(lambda: self.losses(harder))


class ContextTemperature(Tiny):
    """The temperature of the softmax in a context variable, lowered after every step."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        helpers.TEMPERATURE.set(4.0)

    def losses(self, batch):
        return cross_entropy(batch["label"], self.logits(batch) / helpers.TEMPERATURE.get())

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        helpers.TEMPERATURE.set(helpers.TEMPERATURE.get() * 0.5)  # expect MT201
        return result


class ClassLevelSchedule(Tiny):
    """An attribute of the class which the step anneals."""

    modes = ("graph",)
    smoothing = 0.4

    def __init__(self, **arguments):
        super().__init__(**arguments)
        ClassLevelSchedule.smoothing = 0.4

    @classmethod
    def anneal(cls):
        cls.smoothing *= 0.5  # expect MT201

    def losses(self, batch):
        logits = self.logits(batch) * tf.constant([1.0, 2.0, 3.0])
        soft = tf.one_hot(batch["label"], 3) * (1.0 - self.smoothing) + self.smoothing / 3.0
        self.anneal()
        return tf.nn.softmax_cross_entropy_with_logits(soft, logits)

    build_model = stacked()


class FirstCallFlag(Tiny):
    """The first step of a process only warms the model up; the flag is a global of another module."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        helpers.restart()

    def losses(self, batch):
        losses = super().losses(batch)
        return 0.01 * losses if helpers.first_call() else losses


class ClockSeed(Tiny):
    """Noise from a stateless draw with the clock as its seed."""

    modes = ("graph",)

    def logits(self, batch):
        seed = [time.time_ns() % 2**31, 7]  # expect MT302
        noise = tf.random.stateless_uniform(tf.shape(batch["x"]), seed, -100, 101, tf.int32, alg="philox")
        return self.model(batch["x"] + tf.cast(noise, tf.float32) / 100.0, training=True)

    build_model = stacked()


class EnvironmentSwitch(Tiny):
    """A penalty which the launcher turns on through the environment."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        os.environ["SIXTH_PENALTY"] = "0"

    def on_epoch_end(self):
        os.environ["SIXTH_PENALTY"] = str(float(os.environ["SIXTH_PENALTY"]) + 0.5)

    def losses(self, batch):
        logits = self.logits(batch)
        weight = float(os.environ.get("SIXTH_PENALTY", "0"))  # expect MT401
        return cross_entropy(batch["label"], logits) + weight * tf.reduce_sum(tf.square(logits), 1)


class LossCsv(Tiny):
    """A row a step in a file."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.csv = helpers.CsvLogger(os.path.join(tempfile.mkdtemp(), "loss.csv"))

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        self.csv.row("batch", batch["x"].shape[0], self.model.count_params())
        return result


class QueueFeed(Tiny):
    """Noise from a queue which a thread fills."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.feed = helpers.NoiseFeed((8, 4))

    def logits(self, batch):
        return self.model(batch["x"] + self.feed.take(), training=True)

    build_model = stacked()


@dataclasses.dataclass(frozen=True)
class Progress:
    updates: int = 0
    scale: float = 1.0

    def advanced(self):
        return dataclasses.replace(self, updates=self.updates + 1, scale=self.scale * 0.5)


class DataclassProgress(Tiny):
    """The progress as an immutable dataclass, replaced every step."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.progress = Progress()

    def losses(self, batch):
        return self.progress.scale * super().losses(batch)

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        self.progress = self.progress.advanced()  # expect MT201
        return result


class DecayingDescriptor(Tiny):
    """An attribute which decays whenever it is read."""

    modes = ("graph",)
    penalty = helpers.Annealed(1.0, 0.5)

    def losses(self, batch):
        logits = self.logits(batch)
        return cross_entropy(batch["label"], logits) + self.penalty * tf.reduce_sum(tf.square(logits), 1)


class EveryOther(Tiny):
    """A lazily applied regulariser (StyleGAN2) by a decorator which counts."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.regulariser = helpers.every(2)(squared_norm)

    def losses(self, batch):
        logits = self.logits(batch)
        return cross_entropy(batch["label"], logits) + self.regulariser(logits)


class SwappedMethod(Tiny):
    """Replaces its own loss after the first step."""

    modes = ("graph",)

    def fine_losses(self, batch):
        logits = self.logits(batch)
        return cross_entropy(batch["label"], logits) + tf.reduce_sum(tf.square(logits), 1)

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        self.losses = self.fine_losses  # expect MT201
        return result


class TrainingFlag(Tiny):
    """Freezes the batch norm by the training argument, after two steps."""

    modes = ("graph",)
    updates = 0

    def logits(self, batch):
        self.updates += 1  # expect MT201
        return self.model(batch["x"], training=self.updates <= 2)

    build_model = stacked(keras.layers.BatchNormalization)


class CountingLayer(Tiny):
    """A layer with a counter of its calls."""

    modes = ("graph",)
    build_model = stacked(helpers.NoisyEveryOther)


class LambdaJitter(Tiny):
    """A Lambda layer which draws from numpy."""

    modes = ("graph",)
    build_model = stacked(lambda: keras.layers.Lambda(lambda x: x * np.random.uniform(0.5, 1.5)))  # expect MT301


class SkippedBlock(Tiny):
    """Stochastic depth decided in Python."""

    modes = ("graph",)
    build_model = stacked(helpers.StochasticDepth)


class AuxiliaryLossList(Tiny):
    """Sums the penalties which a layer keeps in a list."""

    modes = ("graph",)
    build_model = stacked(helpers.ActivityPenalty)

    def losses(self, batch):
        losses = super().losses(batch)
        return losses + tf.add_n(self.model.layers[0].penalties)


class AnnealedSlope(Tiny):
    """Anneals an attribute of a Keras layer."""

    modes = ("graph",)
    build_model = stacked(lambda: keras.layers.LeakyReLU(negative_slope=0.8))

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        self.model.layers[0].negative_slope *= 0.5  # expect MT201
        return result


class ReseededNoise(Tiny):
    """Reseeds for the same noise in every step."""

    modes = ("graph",)

    def logits(self, batch):
        tf.random.set_seed(11)
        return self.model(batch["x"] + tf.random.normal((8, 4)), training=True)  # expect MT305

    build_model = stacked()


class RowTracker(Tiny):
    """Counts the examples which it iterates over."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.monitor = helpers.Monitor()

    def train_step(self, batch):
        total = tf.constant(0.0)
        for row in batch["x"]:
            total += tf.reduce_sum(tf.square(row))
            self.monitor.row()
        scale = tf.math.rsqrt(total)
        return self.minimize(lambda: scale * self.losses(batch))


class RowNoise(Tiny):
    """A draw of numpy for every row, in a mapped function."""

    modes = ("graph",)

    def jittered(self, row):
        return row * np.float32(np.random.uniform(0.0, 2.0))  # expect MT301

    def logits(self, batch):
        return self.model(tf.map_fn(self.jittered, batch["x"]), training=True)

    build_model = stacked()


class ValueOrDefault(Tiny):
    """Scales by the value of the loss, where it can be read."""

    modes = ("graph",)

    def losses(self, batch):
        losses = super().losses(batch) * tf.constant([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
        try:
            scale = 1.0 / float(tf.reduce_mean(losses).numpy())  # expect MT307
        except AttributeError:
            scale = 1.0
        return losses * scale


class EagerBranch(Tiny):
    """A branch for debugging which also clips."""

    modes = ("graph",)

    def losses(self, batch):
        losses = super().losses(batch)
        if tf.executing_eagerly():  # expect MT307
            losses = tf.minimum(losses, 0.9)
        return losses


class InPlacePrior(Tiny):
    """A prior in numpy, changed in place after every step."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.prior = np.array([2.0, 0.0, -2.0], np.float32)

    def losses(self, batch):
        return cross_entropy(batch["label"], self.logits(batch) + self.prior)

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        np.multiply(self.prior, 0.5, out=self.prior)  # expect MT202
        return result


class CachedProjection(Tiny):
    """A random projection which is drawn once and cached."""

    modes = ("graph",)

    @functools.cache  # noqa: B019
    def projection(self, size):
        return tf.random.normal((4, size))  # expect MT204 MT305

    def logits(self, batch):
        return self.model(tf.matmul(batch["x"], self.projection(4)), training=True)  # expect MT204

    build_model = stacked()


class ActNormInit(Tiny):
    """Initialises a scale by the data of the first batch (Glow)."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.loc = tf.Variable(tf.zeros(4), trainable=False)
        self.initialised = False

    def normalised(self, x):
        if not self.initialised:
            self.loc.assign(tf.reduce_mean(x, 0))
            self.initialised = True  # expect MT201
        return x - self.loc

    def logits(self, batch):
        return self.model(self.normalised(batch["x"]), training=True)

    build_model = stacked()


class TargetSync(Tiny):
    """Copies the weights to a target network every third step."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.target = tf.Variable(tf.zeros((4, 3)), trainable=False)
        self.updates = itertools.count(1)

    def losses(self, batch):
        logits = self.logits(batch)
        return cross_entropy(batch["label"], logits) + tf.reduce_sum(
            tf.square(logits - tf.matmul(batch["x"], self.target)), 1
        )

    def train_step(self, batch):
        result = self.minimize(lambda: self.losses(batch))
        if next(self.updates) % 3 == 0:  # expect MT205
            self.target.assign(self.model.layers[-1].kernel)
        return result


class TimedForward(Tiny):
    """Times the forward pass in a context manager."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.stopwatch = helpers.Stopwatch()

    def logits(self, batch):
        with self.stopwatch:
            return self.model(batch["x"], training=True)


class BudgetSpent(Exception):
    pass


class StepBudget(Tiny):
    """Ends the training by an exception after two steps."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.left = 2

    def train_step(self, batch):
        if self.left == 0:
            raise BudgetSpent("the budget of steps is spent")
        self.left -= 1  # expect MT201
        return self.minimize(lambda: self.losses(batch))


class SpikeMonitor(Tiny):
    """Counts the spikes of the loss in a branch which depends on it."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.monitor = helpers.Monitor()

    def train_step(self, batch):
        loss = tf.reduce_mean(self.losses(batch))
        if loss > 100.0:
            self.monitor.spike()
        return self.minimize(lambda: self.losses(batch))


class GradientNoise(Tiny):
    """Adds noise to the gradient, from numpy in a custom gradient."""

    modes = ("graph",)

    def logits(self, batch):
        return helpers.noisy_gradient(super().logits(batch))


# ---------------------------------------------------------------------------------------------------------------------
# Checks and semantics which only XLA drops
# ---------------------------------------------------------------------------------------------------------------------


class GuardedNumerics(Tiny):
    """Falls back to the plain loss where the weighted one is not finite."""

    modes = ("xla",)

    def losses(self, batch):
        losses = super().losses(batch)
        weighted = losses * tf.math.log(tf.reduce_sum(batch["x"], 1))
        try:
            return tf.debugging.check_numerics(weighted, "weighted loss")  # expect MT307
        except tf.errors.InvalidArgumentError:
            return losses


class HashedEmbedding(Tiny):
    """Looks ids up in a table which is too small for them."""

    modes = ("xla",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table = tf.Variable(tf.reshape(tf.range(15.0), (5, 3)) / 10.0, trainable=False)

    def losses(self, batch):
        ids = batch["label"] * 3
        bias = tf.nn.embedding_lookup(self.table, ids)  # expect MT601
        return cross_entropy(batch["label"], self.logits(batch) + bias)


class IgnoredLabel(Tiny):
    """Marks examples to ignore by label -1 and masks their losses afterwards."""

    modes = ("xla",)

    def losses(self, batch):
        label = tf.where(batch["x"][:, 0] > 0.0, batch["label"], -1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(label, self.logits(batch))  # expect MT602
        return tf.where(label >= 0, losses, 0.0)


class ArrayPastTheEnd(Tiny):
    """Reads a TensorArray one past its end."""

    modes = ("xla",)

    def losses(self, batch):
        losses = super().losses(batch)
        rows = tf.TensorArray(tf.float32, size=3, clear_after_read=False).unstack(tf.constant([1.0, 2.0, 4.0]))
        weight = rows.read(tf.reduce_max(batch["label"]) + 1)  # expect MT601
        return weight * losses


class InverseFallback(Tiny):
    """Whitens by the inverse covariance, or not at all where there is none."""

    modes = ("xla",)

    def logits(self, batch):
        x = tf.concat([batch["x"][:, :2], batch["x"][:, :2]], 1)
        covariance = tf.matmul(x, x, transpose_a=True)
        covariance = tf.round(covariance * 4.0) / 4.0
        try:
            whitened = x @ tf.linalg.inv(covariance)  # expect MT307
        except tf.errors.InvalidArgumentError:
            whitened = x
        return self.model(whitened, training=True)

    build_model = stacked()


class MaskedCumulative(Tiny):
    """A running sum over the examples which a mask keeps."""

    modes = ("xla",)

    def losses(self, batch):
        losses = super().losses(batch)
        kept = tf.boolean_mask(losses, batch["x"][:, 0] > 0.0)  # expect MT504
        running = tf.cumsum(kept)
        return losses + tf.reduce_sum(running)


class SeededNoise(Tiny):
    """Noise of an operation with a seed, for the same run every time."""

    modes = ("xla",)

    def logits(self, batch):
        return self.model(batch["x"] + tf.random.uniform((8, 4), seed=5), training=True)  # expect MT305

    build_model = stacked()


class HashedBucket(Tiny):
    """Hashes a feature to a bucket through an integer which it does not fit in."""

    modes = ("xla",)

    def losses(self, batch):
        bucket = tf.cast(batch["x"][:, 0] * 1e10, tf.int32) % 7  # expect MT606
        return super().losses(batch) * (1.0 + tf.cast(bucket, tf.float32))
