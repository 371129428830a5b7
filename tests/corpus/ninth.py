"""Defects as people report them, by somebody who had seen no detector; scored before any was changed."""

from __future__ import annotations

import collections
import csv
import dataclasses
import datetime
import functools
import itertools
import json
import logging
import os
import pathlib
import random
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import ninth_helpers as helpers
from tests.corpus.base import Tiny

log = logging.getLogger(__name__)
SCRATCH = tempfile.gettempdir()


# ---- counters and schedules in Python ----------------------------------------------------------------------------------


class WarmupCounter(Tiny):
    """A Python counter of steps sets the warm-up weight."""

    warmup = 5

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.seen_batches = 0

    def train_step(self, batch):
        self.seen_batches += 1  # expect MT201
        weight = min(1.0, self.seen_batches / self.warmup)

        def loss_fn():
            losses = self.losses(batch)
            return weight * losses, {"cross_entropy": losses}

        return self.minimize(loss_fn)


class KlRamp(Tiny):
    """A generator of ramp weights is advanced by next() in the step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.ramp = helpers.warm(limit=4)

    def train_step(self, batch):
        beta = next(self.ramp)  # expect MT205

        def loss_fn():
            logits = self.logits(batch)
            ce = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            p = tf.nn.softmax(logits)
            kl = tf.reduce_sum(p * (tf.nn.log_softmax(logits) + tf.math.log(3.0)), axis=-1)
            return ce + beta * kl, {"kl": kl}

        return self.minimize(loss_fn)


class WeightCycle(Tiny):
    """itertools.cycle deals out the class weights."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.class_weights = itertools.cycle([(1.0, 1.0, 1.0), (2.0, 1.0, 0.5), (0.5, 1.0, 2.0)])

    def losses(self, batch):
        weights = tf.constant(next(self.class_weights))  # expect MT205
        return super().losses(batch) * tf.gather(weights, batch["label"])


class FrozenStateReplace(Tiny):
    """An immutable dataclass of schedule state is replaced in the step."""

    @dataclasses.dataclass(frozen=True)
    class Schedule:
        done: int = 0
        total: int = 10

        @property
        def mix(self):
            return self.done / self.total

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.schedule = self.Schedule(total=info.steps)

    def train_step(self, batch):
        mix = self.schedule.mix

        def loss_fn():
            logits = self.logits(batch)
            ce = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            mse = tf.reduce_mean(tf.square(tf.nn.softmax(logits) - tf.one_hot(batch["label"], 3)), -1)
            return (1 - mix) * ce + mix * mse

        results = self.minimize(loss_fn)
        self.schedule = dataclasses.replace(self.schedule, done=self.schedule.done + 1)  # expect MT201
        return results


_updates = 0


class GlobalDecay(Tiny):
    """A module global counts the updates for a 1/t decay."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        global _updates
        _updates = 0

    @staticmethod
    def decayed(value):
        global _updates
        _updates += 1  # expect MT201
        return value / _updates

    def train_step(self, batch):
        return self.minimize(lambda: self.decayed(self.losses(batch)))


class ClassCounter(Tiny):
    """A class attribute counts steps over all instances."""

    total_steps = 0

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        type(self).total_steps = 0

    @classmethod
    def tick(cls):
        cls.total_steps += 1  # expect MT201
        return cls.total_steps

    def train_step(self, batch):
        margin = 0.2 * self.tick()

        def loss_fn():
            logits = self.logits(batch) - margin * tf.one_hot(batch["label"], 3)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


class MutableDefault(Tiny):
    """A mutated default argument remembers how often the penalty was used."""

    def penalty(self, used=[0]):  # noqa: B006
        used[0] += 1  # expect MT201
        kernel = self.model.trainable_variables[0]
        return 0.01 * used[0] * tf.reduce_sum(tf.square(kernel))

    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch) + self.penalty())


class DoubleBuffer(Tiny):
    """Two variables are swapped by Python assignment each step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.front = tf.Variable(tf.zeros([4]), trainable=False)
        self.back = tf.Variable(tf.zeros([4]), trainable=False)

    def train_step(self, batch):
        centre = self.front.read_value()
        self.back.assign(tf.reduce_mean(batch["x"], axis=0))
        self.front, self.back = self.back, self.front  # expect MT201

        def loss_fn():
            logits = self.model(batch["x"] - centre, training=True)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


class EnvironStage(Tiny):
    """The stage is kept in os.environ and advanced by the step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        os.environ["TINY_STAGE"] = "0"

    def train_step(self, batch):
        stage = int(os.environ.get("TINY_STAGE", "0"))
        os.environ["TINY_STAGE"] = str(stage + 1)  # expect MT103
        gamma = 0.5 * stage

        def loss_fn():
            losses = self.losses(batch)
            return losses * tf.stop_gradient(tf.pow(1.0 - tf.exp(-losses), gamma))

        return self.minimize(loss_fn)


class ArrayCounts(Tiny):
    """A numpy array of visits is changed in place and read for the weights."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.visits = np.zeros(3, np.float32)
        self.order = np.array([2, 0, 1, 2, 2, 0, 1, 0, 0, 1])

    def train_step(self, batch):
        at = int(self.visits.sum()) % len(self.order)
        np.add.at(self.visits, self.order[at], 1.0)  # expect MT202
        weights = tf.constant(1.0 / (1.0 + self.visits))
        return self.minimize(lambda: self.losses(batch) * tf.gather(weights, batch["label"]))


# ---- hidden behind helpers --------------------------------------------------------------------------------------------


class SubtractedBaseline(Tiny):
    """A helper keeps a running mean as a tensor attribute."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.baseline = helpers.RunningMean(decay=0.8)

    def train_step(self, batch):
        def loss_fn():
            losses = self.losses(batch)
            advantage = tf.stop_gradient(losses) - self.baseline(losses)
            return losses * advantage

        return self.minimize(loss_fn)


class AnnealedConfidence(Tiny):
    """A property of a helper changes the value each time it is read."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.beta = helpers.Annealed(0.5, 0.6)

    def train_step(self, batch):
        beta = self.beta.value

        def loss_fn():
            logits = self.logits(batch)
            ce = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            entropy = -tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), -1)
            return ce - beta * entropy, {"entropy": entropy}

        return self.minimize(loss_fn)


class MeteredScale(Tiny):
    """`+=` on a meter object counts in Python."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.meter = helpers.Meter()

    def train_step(self, batch):
        self.meter += 1
        scale = self.meter.scale()
        return self.minimize(lambda: scale * self.losses(batch))


class LazyRegularized(Tiny):
    """A decorator runs the regularizer at every second call only."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.regularizer = helpers.every(2)(self.path_penalty)

    def path_penalty(self):
        kernel = self.model.trainable_variables[0]
        return 0.1 * tf.reduce_mean(tf.square(kernel))

    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch) + self.regularizer())


class MixinCurriculum(helpers.CurriculumMixin, Tiny):
    """An inherited mixin grows the share of examples in Python."""

    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch))


class HookedStep(Tiny):
    """Hooks that append to a list are called by the step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.bus = helpers.Dispatcher()
        self.timeline = []
        self.bus.on(self.timeline.append)

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        self.bus.emit("updated")
        return results


class NoisyInputs(Tiny):
    """A helper draws noise from a numpy generator."""

    def __init__(self, *, model, optimizer, info, scale: float = 0.5):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.noise = helpers.Noise(scale, seed=info.seed)

    def logits(self, batch):
        return self.model(self.noise.like(batch["x"]), training=True)


class ScaledBlock(Tiny):
    """A contextmanager function multiplies the loss scale at the end."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.scale = 1.0

    def train_step(self, batch):
        with helpers.scaled(self, 0.5) as scale:
            results = self.minimize(lambda: scale * self.losses(batch))
        return results


# ---- tensors and values kept from an earlier step ---------------------------------------------------------------------


class PreviousBatch(Tiny):
    """Mixes in the previous batch, which is kept as an attribute."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.previous = tf.zeros([info.batch_size, 4])

    def train_step(self, batch):
        mixed = 0.8 * batch["x"] + 0.2 * self.previous
        self.previous = batch["x"]  # expect MT203

        def loss_fn():
            logits = self.model(mixed, training=True)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


class BankOfBatches(Tiny):
    """A deque of past features, as in contrastive learning with a queue."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.bank = collections.deque(maxlen=3)

    def train_step(self, batch):
        self.bank.append(tf.math.l2_normalize(batch["x"], axis=-1))  # expect MT203
        negatives = tf.concat(list(self.bank), axis=0)

        def loss_fn():
            losses = self.losses(batch)
            similarity = tf.matmul(tf.math.l2_normalize(batch["x"], axis=-1), negatives, transpose_b=True)
            return losses + 0.1 * tf.reduce_logsumexp(similarity, axis=-1)

        return self.minimize(loss_fn)


class FirstLossScale(Tiny):
    """hasattr stores the first loss, by which later ones are divided."""

    def train_step(self, batch):
        def loss_fn():
            losses = self.losses(batch)
            if not hasattr(self, "_first_loss"):
                self._first_loss = tf.stop_gradient(tf.reduce_mean(losses))  # expect MT203
            return losses, {"relative": losses / self._first_loss}

        return self.minimize(loss_fn)


class SetDefaultTarget(Tiny):
    """dict.setdefault keeps the target of the first step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.cache = {}

    def train_step(self, batch):
        centre = self.cache.setdefault("centre", tf.reduce_mean(batch["x"], axis=0))  # expect MT203

        def loss_fn():
            logits = self.model(batch["x"] - centre, training=True)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


class AnchoredWeights(Tiny):
    """A cached_property holds the starting weights for an L2-SP penalty, first read in the step."""

    @functools.cached_property
    def anchor(self):
        return [tf.convert_to_tensor(v) for v in self.model.trainable_variables]  # expect MT203

    def penalty(self):
        pairs = zip(self.model.trainable_variables, self.anchor, strict=True)
        return tf.add_n([tf.reduce_sum(tf.square(v - a)) for v, a in pairs])

    def train_step(self, batch):
        def loss_fn():
            penalty = self.penalty()
            return self.losses(batch) + penalty, {"drift": penalty}

        return self.minimize(loss_fn)


class TeacherCache(Tiny):
    """An lru_cache is to hold the teacher's weights as of the first step."""

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def teacher_kernel(self):
        return tf.identity(self.model.trainable_variables[0])  # expect MT204

    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            soft = tf.nn.softmax(tf.stop_gradient(batch["x"] @ self.teacher_kernel()))
            distill = tf.nn.softmax_cross_entropy_with_logits(soft, logits)
            hard = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            return 0.5 * hard + 0.5 * distill

        return self.minimize(loss_fn)


# ---- eager or not -----------------------------------------------------------------------------------------------------


class EagerClip(Tiny):
    """Logits are clipped only where tf.executing_eagerly()."""

    def logits(self, batch):
        logits = super().logits(batch)
        if tf.executing_eagerly():  # expect MT307
            logits = tf.clip_by_value(logits, -0.5, 0.5)
        return logits


class OutsideFunction(Tiny):
    """A running statistic is updated only outside of functions, by tf.inside_function()."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.centre = tf.Variable(tf.zeros([4]), trainable=False)

    def update(self, x):
        if not tf.inside_function():  # expect MT307
            self.centre.assign(0.9 * self.centre + 0.1 * tf.reduce_mean(x, axis=0))

    def train_step(self, batch):
        self.update(batch["x"])

        def loss_fn():
            logits = self.model(batch["x"] - self.centre, training=True)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


class TryNumpy(Tiny):
    """.numpy() in a try; without it the weight falls back to 1."""

    def importance(self, losses):
        try:
            hardness = float(tf.reduce_mean(losses).numpy())  # expect MT307
        except AttributeError:  # older versions
            return 1.0
        return 2.0 if hardness > 1.0 else 0.5

    def train_step(self, batch):
        def loss_fn():
            losses = self.losses(batch)
            return losses * self.importance(tf.stop_gradient(losses))

        return self.minimize(loss_fn)


class StaticValue(Tiny):
    """tf.get_static_value decides whether the batch is hard."""

    def train_step(self, batch):
        def loss_fn():
            losses = self.losses(batch)
            level = tf.get_static_value(tf.reduce_mean(losses))
            if level is not None and level > 1.0:  # expect MT307
                losses = losses * 1.5
            return losses

        return self.minimize(loss_fn)


class HasNumpyHistory(Tiny):
    """Values are kept for a moving average where the tensor hasattr 'numpy'."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.history = []

    def average(self):
        recent = self.history[-3:]
        return sum(recent) / len(recent) if recent else 0.0

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        if hasattr(results["loss"], "numpy"):  # expect MT307
            self.history.append(float(np.mean(results["loss"].numpy())))
        return {**results, "recent": tf.constant(self.average(), tf.float32)}


class SelectedCount(Tiny):
    """The static shape of tf.where's result is taken for the number of hits."""

    def train_step(self, batch):
        count = tf.where(batch["x"][:, 0] > 0).shape[0] or 1  # expect MT504

        def loss_fn():
            positive = tf.cast(batch["x"][:, 0] > 0, tf.float32)
            return tf.reduce_sum(self.losses(batch) * positive) / count

        return self.minimize(loss_fn)


# ---- randomness and time ----------------------------------------------------------------------------------------------


class GaussianNoise(Tiny):
    """tf.random.normal, a stateful op."""

    def logits(self, batch):
        x = batch["x"]
        noise = tf.random.normal(tf.shape(x), stddev=0.5)  # expect MT305
        return self.model(x + noise, training=True)


class MixupPairs(Tiny):
    """Mixup pairs by tf.random.shuffle."""

    def train_step(self, batch):
        order = tf.random.shuffle(tf.range(8))  # expect MT305
        mixed = 0.7 * batch["x"] + 0.3 * tf.gather(batch["x"], order)
        other = tf.gather(batch["label"], order)

        def loss_fn():
            logits = self.model(mixed, training=True)
            one = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            two = tf.nn.sparse_softmax_cross_entropy_with_logits(other, logits)
            return 0.7 * one + 0.3 * two

        return self.minimize(loss_fn)


class ClockSeed(Tiny):
    """The seed of a stateless op is the time."""

    def train_step(self, batch):
        seed = (time.time_ns() % 2**31, 0)  # expect MT302
        noise = tf.random.stateless_normal([8, 4], seed, stddev=0.5)

        def loss_fn():
            logits = self.model(batch["x"] + noise, training=True)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


class StepSeconds(Tiny):
    """Step time is measured with datetime around the update."""

    def train_step(self, batch):
        begin = datetime.datetime.now()
        results = self.minimize(lambda: self.losses(batch))
        seconds = (datetime.datetime.now() - begin).total_seconds()  # expect MT302
        return {**results, "seconds": tf.constant(seconds, tf.float32)}


# ---- lost side effects ------------------------------------------------------------------------------------------------


class PrintedStep(Tiny):
    """print shows the step."""

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        print("loss of this step:", results["loss"])  # expect MT101
        return results


class LoggedStep(Tiny):
    """logging reports every step."""

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        log.warning("updated %s with %d examples", self.model.name, batch["x"].shape[0])  # expect MT102
        return results


class CsvRows(Tiny):
    """A CSV file gets one row per step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.file = open(os.path.join(SCRATCH, "ninth_rows.csv"), "a", newline="")  # noqa: SIM115
        self.rows = csv.writer(self.file)

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        self.rows.writerow(["step", *sorted(results)])  # expect MT103
        return results


# ---- what XLA does otherwise ------------------------------------------------------------------------------------------


class QuantizedByMagic(Tiny):
    """Rounds by adding and subtracting a magic number, which the optimizers cancel."""

    magic = 12582912.0  # 1.5 * 2**23

    def logits(self, batch):
        x = batch["x"]
        rounded = (x * 4.0 + self.magic) - self.magic  # expect MT307
        x = x + tf.stop_gradient(rounded / 4.0 - x)
        return self.model(x, training=True)


class Int8Scores(Tiny):
    """Float to int8 without a clip: values past 127 wrap in eager mode and saturate in XLA."""

    def fake_quant(self, values, scale=80.0):
        q = tf.cast(tf.round(values * scale), tf.int8)  # expect MT606
        return tf.cast(q, tf.float32) / scale

    def train_step(self, batch):
        score = self.fake_quant(tf.reduce_sum(batch["x"], axis=-1))

        def loss_fn():
            losses = self.losses(batch)
            return losses * tf.exp(0.5 * score), {"score": score}

        return self.minimize(loss_fn)


class PooledScales(Tiny):
    """Indexing a helper moves it on."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.pool = helpers.Pool([1.0, 0.5, 2.0])

    def logits(self, batch):
        return self.model(batch["x"] * self.pool[0], training=True)


class DecayingPenalty(Tiny):
    """A descriptor halves the value at each read."""

    strength = helpers.Decaying()

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.strength = 0.1

    def train_step(self, batch):
        def loss_fn():
            kernel = self.model.trainable_variables[0]
            return self.losses(batch) + self.strength * tf.reduce_mean(tf.square(kernel))

        return self.minimize(loss_fn)


class ScheduledLayer(Tiny):
    """A Keras layer lowers its own rate in call()."""

    @staticmethod
    def build_model(image_shape, classes):
        x = inputs = keras.Input((4,))
        x = helpers.DropPath(0.8)(x)
        return keras.Model(inputs, keras.layers.Dense(classes, kernel_initializer="ones")(x))


class RampedRegularizer(Tiny):
    """A Keras regularizer object has Python state."""

    @staticmethod
    def build_model(image_shape, classes):
        head = keras.layers.Dense(classes, kernel_initializer="ones", kernel_regularizer=helpers.RampedL2(0.02))
        return keras.Sequential([keras.Input((4,)), head])


class ReversedGradient(Tiny):
    """A custom gradient pops its factor from a list."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.reverse = helpers.reversal([0.1 * n for n in range(info.steps + 10)])

    def train_step(self, batch):
        def loss_fn():
            logits = self.reverse(self.logits(batch))
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


class NumberedSeeds(Tiny):
    """self.seed gets a name with a Python number that the step raises."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.draws = 0

    def next_seed(self):
        self.draws += 1  # expect MT201
        return self.seed(f"noise-{self.draws}")

    def logits(self, batch):
        noise = tf.random.stateless_uniform([8, 4], self.next_seed(), -1.0, 1.0)
        return self.model(batch["x"] + noise, training=True)


class InitScopeCount(Tiny):
    """tf.init_scope lifts the update of a variable out of the step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.count = tf.Variable(0.0, trainable=False)

    def train_step(self, batch):
        with tf.init_scope():
            self.count.assign_add(1.0)  # expect MT207
        return self.minimize(lambda: self.losses(batch) / self.count)


class SkippedBatches(Tiny):
    """An `if` on a tensor raises a Python counter."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.skipped = 0

    def train_step(self, batch):
        outliers = tf.reduce_any(tf.abs(batch["x"]) > 2.3)
        weight = 1.0
        if outliers:
            self.skipped += 1  # expect MT201
            weight = 0.0
        results = self.minimize(lambda: self.losses(batch) * weight)
        return {**results, "skipped": tf.cast(self.skipped, tf.float32)}


class AverageCoroutine(Tiny):
    """A coroutine keeps the sum of what is sent to it."""

    @staticmethod
    def averager():
        total, count = tf.zeros([4]), 0
        while True:
            value = yield total / max(count, 1)
            total, count = total + value, count + 1

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.average = self.averager()
        next(self.average)

    def train_step(self, batch):
        mean = self.average.send(tf.reduce_mean(batch["x"], axis=0))  # expect MT205

        def loss_fn():
            logits = self.model(batch["x"] - mean, training=True)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss_fn)


class JsonState(Tiny):
    """The schedule's state is kept in a JSON file that the step rewrites."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.path = pathlib.Path(tempfile.mkdtemp()) / "state.json"
        self.path.write_text(json.dumps({"scale": 1.0}))

    def train_step(self, batch):
        state = json.loads(self.path.read_text())
        scale = state["scale"]
        results = self.minimize(lambda: scale * self.losses(batch))
        self.path.write_text(json.dumps({"scale": 0.8 * scale}))  # expect MT103
        return results


class SymbolicSkip(Tiny):
    """The input is checked and centred unless it is symbolic."""

    def centred(self, x):
        if tf.is_symbolic_tensor(x):  # expect MT307
            return x
        return x - tf.reduce_mean(x, axis=0, keepdims=True)

    def logits(self, batch):
        return self.model(self.centred(batch["x"]), training=True)


class SampledFeatures(Tiny):
    """random.Random of the recipe samples which features are kept."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.rng = random.Random(info.seed)

    def logits(self, batch):
        kept = self.rng.sample(range(4), k=3)  # expect MT301
        mask = tf.reduce_sum(tf.one_hot(kept, 4), axis=0)
        return self.model(batch["x"] * mask, training=True)


class SwappedLosses(Tiny):
    """Two loss functions change places after each step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.now, self.later = self.hard_loss, self.soft_loss

    def hard_loss(self, batch):
        return super().losses(batch)

    def soft_loss(self, batch):
        p = tf.nn.softmax(self.logits(batch))
        return tf.reduce_sum(tf.square(p - tf.one_hot(batch["label"], 3)), axis=-1)

    def train_step(self, batch):
        results = self.minimize(lambda: self.now(batch))
        self.now, self.later = self.later, self.now  # expect MT201
        return results


class TrainingToggle(Tiny):
    """Batch normalization adapts in every other step, by a Python flag."""

    @staticmethod
    def build_model(image_shape, classes):
        inputs = keras.Input((4,))
        x = keras.layers.BatchNormalization()(inputs)
        return keras.Model(inputs, keras.layers.Dense(classes, kernel_initializer="ones")(x))

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.adapting = True

    def logits(self, batch):
        return self.model(batch["x"], training=self.adapting)

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        self.adapting = not self.adapting  # expect MT201
        return results


class CaughtSingular(Tiny):
    """A singular matrix is caught and replaced by the identity."""

    def whitening(self, label):
        membership = tf.one_hot(label, 3)
        gram = tf.matmul(membership, membership, transpose_b=True)
        try:
            return tf.linalg.inv(gram)  # expect MT307
        except tf.errors.InvalidArgumentError:
            return tf.eye(8)

    def train_step(self, batch):
        weights = tf.linalg.diag_part(self.whitening(batch["label"]))
        weights = tf.where(tf.math.is_finite(weights), weights, tf.zeros_like(weights))
        return self.minimize(lambda: self.losses(batch) * tf.clip_by_value(weights, 0.0, 2.0))


class RaggedMean(Tiny):
    """The sum over a ragged tensor of the positive features."""

    def train_step(self, batch):
        positive = batch["x"] > 0
        total = tf.reduce_sum(tf.ragged.boolean_mask(batch["x"], positive), axis=1)  # expect MT504
        lengths = tf.reduce_sum(tf.cast(positive, tf.float32), axis=1)
        return self.minimize(lambda: self.losses(batch) * (1.0 + total / tf.maximum(lengths, 1.0)))


class HashedCrosses(Tiny):
    """A feature cross by string hashing."""

    def losses(self, batch):
        signs = tf.cast(batch["x"][:, :2] > 0, tf.int32)
        cross = 2 * signs[:, 0] + signs[:, 1]
        bucket = tf.strings.to_hash_bucket_fast(tf.strings.as_string(cross), 4)  # expect MT505
        weight = 1.0 + 0.1 * tf.cast(bucket, tf.float32)
        return super().losses(batch) * weight


class NumpyMetric(Tiny):
    """A metric computed in numpy by tf.numpy_function."""

    @staticmethod
    def accuracy(label, logits):
        return np.equal(label, np.argmax(logits, -1)).astype(np.float32)

    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            hit = tf.numpy_function(self.accuracy, [batch["label"], logits], tf.float32)  # expect MT106
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            return losses, {"accuracy": tf.ensure_shape(hit, [8])}

        return self.minimize(loss_fn)


class PrintedTensor(Tiny):
    """tf.print within the step, for which XLA has no kernel."""

    stream = "file://" + os.path.join(SCRATCH, "ninth_print.txt")

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        tf.print("step", self.step, "loss", tf.reduce_mean(results["loss"]), output_stream=self.stream)  # expect MT505
        return results


class SummaryScalars(Tiny):
    """TensorBoard summaries written in the step."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.writer = tf.summary.create_file_writer(os.path.join(SCRATCH, "ninth_summaries"))

    def train_step(self, batch):
        results = self.minimize(lambda: self.losses(batch))
        with self.writer.as_default(step=tf.cast(self.step, tf.int64)):
            tf.summary.scalar("loss", tf.reduce_mean(results["loss"]))  # expect MT505
        return results


class CaughtNumerics(Tiny):
    """check_numerics raises, and the handler cleans the batch."""

    def cleaned(self, x):
        scores = tf.math.log(x + 1.5)
        try:
            return tf.debugging.check_numerics(scores, "log of a negative")  # expect MT307
        except tf.errors.InvalidArgumentError:
            return tf.where(tf.math.is_nan(scores), tf.zeros_like(scores), scores)

    def train_step(self, batch):
        x = self.cleaned(batch["x"])
        finite = tf.cast(tf.reduce_all(tf.math.is_finite(x), axis=-1), tf.float32)

        def loss_fn():
            safe = tf.where(tf.math.is_finite(x), x, tf.zeros_like(x))
            logits = self.model(safe, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            return losses, {"finite": finite}

        return self.minimize(loss_fn)


class GatherFallback(Tiny):
    """An out-of-range gather is caught for a default weight."""

    table = (0.5, 1.0)

    def weights(self, label):
        try:
            return tf.gather(tf.constant(self.table), label)  # expect MT307
        except tf.errors.InvalidArgumentError:
            return tf.ones(label.shape)

    def train_step(self, batch):
        weights = self.weights(batch["label"])
        return self.minimize(lambda: self.losses(batch) * weights)


class DividedCounts(Tiny):
    """Integer division by a count of zero, caught in eager mode only."""

    def ratio(self, label):
        totals = tf.math.bincount(label, minlength=4, maxlength=4)
        try:
            return 8 // totals  # expect MT307
        except tf.errors.InvalidArgumentError:
            return 8 // tf.maximum(totals, 1)

    def train_step(self, batch):
        ratio = tf.cast(self.ratio(batch["label"]), tf.float32)
        return self.minimize(lambda: self.losses(batch) * tf.reduce_mean(ratio) / 2.0)


class SmallLog(Tiny):
    """log(1 + x) of a small x, that the graph's optimizer turns into log1p."""

    def losses(self, batch):
        small = 1e-5 * tf.abs(batch["x"][:, 0])
        gain = tf.math.log(1.0 + small) / 1e-5  # expect MT307
        return super().losses(batch) * gain


class LevelOfNan(Tiny):
    """NaN cast to int32."""

    def train_step(self, batch):
        ratio = tf.math.log(batch["x"][:, 0])
        level = tf.cast(ratio, tf.int32)  # expect MT606
        weight = tf.where(level < -10, 0.1, 1.0)
        return self.minimize(lambda: self.losses(batch) * weight)
