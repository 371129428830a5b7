"""Defects in Python state and frozen values; before any detector was changed for them the score of
this and the other two files was 88.0 % found, 83.3 % at the right line, 6.2 % false alarms."""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import itertools
import logging
import math
import os
import pprint
import random
import secrets
import sys
import time
import uuid
import warnings
from random import choice

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny

log = logging.getLogger(__name__)
seen_batches = 0
ids = itertools.count()
rng = np.random.default_rng(11)
CURVES = collections.defaultdict(list)


def make_counter():
    n = 0

    def tick():
        nonlocal n
        n += 1  # expect MT201 (CountsInAClosure)
        return n

    return tick


class CountsInAClosure(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.tick = make_counter()

    def losses(self, batch):
        return super().losses(batch) / float(self.tick())


def counted(method):
    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        wrapper.calls += 1  # expect MT201 (CountsInADecorator)
        return method(self, *args, **kwargs)

    wrapper.calls = 0
    return wrapper


class CountsInADecorator(Tiny):
    @counted
    def losses(self, batch):
        return super().losses(batch)


class CountsGlobally(Tiny):
    def train_step(self, batch):
        global seen_batches
        seen_batches += 1  # expect MT201
        return super().train_step(batch)


class Registers(Tiny):
    registry: list = []

    @classmethod
    def register(cls, name):
        cls.registry.append(name)  # expect MT202

    def losses(self, batch):
        self.register("losses")
        return super().losses(batch)


@dataclasses.dataclass
class State:
    step: int = 0
    values: list = dataclasses.field(default_factory=list)


class CountsInADataclass(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.progress = State()

    def train_step(self, batch):
        values = super().train_step(batch)
        self.progress.step += 1  # expect MT201
        return values


class CollectsInADataclass(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.progress = State()

    def losses(self, batch):
        found = super().losses(batch)
        self.progress.values.append(tf.reduce_mean(found))  # expect MT202 MT203
        return found


class SetsByAProperty(Tiny):
    _scale = 1.0

    @property
    def scale(self):
        return self._scale

    @scale.setter
    def scale(self, value):
        self._scale = value  # expect MT201

    def losses(self, batch):
        self.scale = 0.9 * self.scale
        return super().losses(batch) * self.scale


class Counting(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.updates = 0


class CountsInAChild(Counting):
    def train_step(self, batch):
        self.updates += 1  # expect MT201
        values = super().train_step(batch)
        return {**values, "updates": tf.constant(float(self.updates))}


class KeepsItsValues(Tiny):
    latest = None

    def train_step(self, batch):
        self.latest = super().train_step(batch)  # expect MT203
        return self.latest


class TracksCurves(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        CURVES["loss"].append(found)  # expect MT202 MT203
        return found


@functools.lru_cache(maxsize=None)  # noqa: UP033
def positions(n):
    return tf.cast(tf.range(n), tf.float32) / n  # expect MT204 MT203 (CachesPositions)


class CachesPositions(Tiny):
    def losses(self, batch):
        return super().losses(batch) + positions(8)


class CachesAMask(Tiny):
    @functools.cached_property
    def mask(self):
        return tf.linalg.band_part(tf.ones([8, 8]), -1, 0)  # expect MT203 MT204

    def losses(self, batch):
        return super().losses(batch) * self.mask[:, 0]


class CachesByShape(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.grids = {}

    def grid(self, n):
        if n not in self.grids:
            self.grids[n] = tf.linspace(0.0, 1.0, n)  # expect MT203
        return self.grids[n]

    def losses(self, batch):
        return super().losses(batch) * self.grid(8)


class SumsPythonically(Tiny):
    class Average(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.mean = 0.0

        def call(self, x):
            self.mean = 0.9 * self.mean + 0.1 * tf.reduce_mean(x)  # expect MT203
            return x - self.mean

    def __init__(self, **given):
        super().__init__(**given)
        self.average = self.Average()

    def losses(self, batch):
        return super().losses({**batch, "x": self.average(batch["x"])})


class LayerTogglesItself(Tiny):
    class Once(keras.layers.Layer):
        started = False

        def call(self, x):
            if not self.started:
                self.started = True  # expect MT201
                return x * 2.0
            return x

    def __init__(self, **given):
        super().__init__(**given)
        self.once = self.Once()

    def losses(self, batch):
        return super().losses({**batch, "x": self.once(batch["x"])})


class TakesFromAGenerator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.alphas = (0.1 * n for n in range(100))

    def losses(self, batch):
        return super().losses(batch) * next(self.alphas)  # expect MT205


class NumbersItsSteps(Tiny):
    def losses(self, batch):
        n = next(ids)  # expect MT205
        return super().losses(batch) + 0.1 * n


class CyclesWeights(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.weights = itertools.cycle([1.0, 0.5])

    def losses(self, batch):
        for weight in self.weights:  # expect MT205
            return super().losses(batch) * weight


class WritesTheEnvironment(Tiny):
    def losses(self, batch):
        os.environ["TINY_STEP"] = str(int(os.environ.get("TINY_STEP", "0")) + 1)  # expect MT103 MT201 MT202
        return super().losses(batch)


class ReportsProgress(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.bar = elsewhere.Bar()

    def train_step(self, batch):
        values = super().train_step(batch)
        self.bar.update()
        return values


class WarnsLate(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        log.warning("loss is %s", found)  # expect MT102
        return found


class WarnsByWarnings(Tiny):
    def losses(self, batch):
        warnings.warn("experimental", stacklevel=1)  # expect MT102
        return super().losses(batch)


class WritesRows(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.file = open(os.devnull, "a", newline="")  # noqa: SIM115
        self.rows = csv.writer(self.file)

    def train_step(self, batch):
        values = super().train_step(batch)
        self.rows.writerow(["step", len(values)])  # expect MT103
        return values


class WritesToStdout(Tiny):
    def losses(self, batch):
        sys.stdout.write(".")  # expect MT101
        return super().losses(batch)


class PrintsPrettily(Tiny):
    def losses(self, batch):
        pprint.pprint({k: v.shape for k, v in batch.items()})  # expect MT101
        return super().losses(batch)


class PrintsInALambda(Tiny):
    def train_step(self, batch):
        return self.minimize(lambda: [self.losses(batch), print("loss")][0])  # expect MT101


class SeedsByTheClock(Tiny):
    def losses(self, batch):
        seed = time.time_ns() % 1000  # expect MT302
        return super().losses(batch) * tf.random.stateless_uniform([8], seed=[seed, 0])


class SeedsByUuid(Tiny):
    def losses(self, batch):
        seed = uuid.uuid4().int % 1000  # expect MT303 MT301
        return super().losses(batch) * tf.random.stateless_uniform([8], seed=[seed, 0])


class SeedsBySecrets(Tiny):
    def losses(self, batch):
        return super().losses(batch) * (1 + secrets.randbelow(10))  # expect MT303 MT301


class SeedsByHash(Tiny):
    def losses(self, batch):
        seed = hash("dropout") % 1000  # expect MT303
        return super().losses(batch) * tf.random.stateless_uniform([8], seed=[seed, 0])


class SeedsById(Tiny):
    def losses(self, batch):
        return super().losses(batch) * float(id(object()) % 7)  # expect MT303


class IteratesASetOfNames(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.parts = {"main": 1.0, "aux": 0.5, "extra": 0.1, "reg": 0.01}

    def losses(self, batch):
        found = super().losses(batch)
        for name in self.parts.keys() - {"aux"}:  # expect MT303
            found = found * 0.5 + self.parts[name]
        return found


class ShufflesByNumpy(Tiny):
    def losses(self, batch):
        order = np.random.permutation(8)  # expect MT301
        return super().losses({**batch, "x": tf.gather(batch["x"], order)})


class ShufflesInPlace(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.order = np.arange(8)

    def losses(self, batch):
        np.random.shuffle(self.order)  # expect MT301 MT202 MT201
        return super().losses({**batch, "x": tf.gather(batch["x"], self.order)})


class ChoosesALoss(Tiny):
    def losses(self, batch):
        function = choice([keras.losses.mean_squared_error, keras.losses.mean_absolute_error])  # expect MT301
        return function(tf.one_hot(batch["label"], 3), self.logits(batch))


class DropsAtRandom(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        if random.random() < 0.5:  # expect MT301
            return found
        return found * 2.0


class CutsOutByIntegers(Tiny):
    def losses(self, batch):
        column = rng.integers(4)  # expect MT301
        mask = np.ones(4, np.float32)
        mask[column] = 0.0
        return super().losses({**batch, "x": batch["x"] * mask})


class DefaultsToNow(Tiny):
    def age(self, start=None):
        return (start or time.process_time()) * 0.01  # expect MT302

    def losses(self, batch):
        return super().losses(batch) * self.age()


class AugmentsByAPartial(Tiny):
    jitter = staticmethod(functools.partial(np.random.normal, 0.0, 0.1))

    def losses(self, batch):
        return super().losses({**batch, "x": batch["x"] + self.jitter()})  # expect MT301


class AsksEagerly(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        if tf.executing_eagerly():  # expect MT307 MT304
            return found * 2.0
        return found


class TriesNumpy(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        try:
            scale = float(tf.reduce_mean(found).numpy())  # expect MT105 MT307
        except Exception:
            scale = 1.0
        return found * scale


class LooksForNumpy(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        if hasattr(found, "numpy"):  # expect MT307
            return found * 3.0
        return found


class FormatsAValue(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        log.debug(f"loss {found.numpy().mean():.3f}")  # expect MT105
        return found


class AveragesByNumpy(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return found / np.std(batch["x"])  # expect MT105 MT107


class TakesASqrt(Tiny):
    def losses(self, batch):
        return super().losses(batch) / math.sqrt(tf.reduce_sum(batch["x"] ** 2))  # expect MT105 MT107


class IteratesInAComprehension(Tiny):
    def losses(self, batch):
        rows = [tf.reduce_sum(row) for row in batch["x"]]  # expect MT105 MT107 MT501
        return super().losses(batch) + tf.stack(rows)


class MakesAVariable(Tiny):
    def losses(self, batch):
        weights = tf.Variable(tf.ones([8]), trainable=False)  # expect MT206
        return super().losses(batch) * weights


class MeasuresAccuracy(Tiny):
    def train_step(self, batch):
        values = super().train_step(batch)
        accuracy = keras.metrics.SparseCategoricalAccuracy()  # expect MT206
        accuracy.update_state(batch["label"], self.logits(batch))
        return {**values, "accuracy": accuracy.result()}


class ProjectsLazily(Tiny):
    def losses(self, batch):
        if not hasattr(self, "project"):
            self.project = keras.layers.Dense(4)  # expect MT206
        return super().losses({**batch, "x": self.project(batch["x"])})


class OptimizesAnew(Tiny):
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        optimizer = keras.optimizers.Adam(1e-3)  # expect MT206
        variables = self.model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}
