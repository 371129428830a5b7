"""Defects that no detector was changed for: scored once, after the last change."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import logging
import operator
import os
import random
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny

logger = logging.getLogger("third")
tally = collections.Counter()
noise_of = random.Random(5)


class Shared(Tiny):
    modes = ("mirrored",)


@dataclasses.dataclass
class Running:
    mean: float = 0.0
    count: int = 0

    def add(self, value):
        self.count += 1  # expect MT201 (CountsInAHelper)
        return value


class CountsInAHelper(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.running = Running()

    def losses(self, batch):
        return self.running.add(super().losses(batch))


class TalliesClasses(Tiny):
    def train_step(self, batch):
        tally.update(["step"])  # expect MT201 MT202
        return super().train_step(batch)


class WarmsUpByCounting(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.seen = 0

    def losses(self, batch):
        self.seen += 1  # expect MT201
        scale = min(1.0, self.seen / 100)
        return super().losses(batch) * scale


class RemembersFeatures(Tiny):
    class Tap(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.taps = {}

        def call(self, x):
            self.taps["x"] = x  # expect MT203 MT202
            return x

    def __init__(self, **given):
        super().__init__(**given)
        self.tap = self.Tap()

    def losses(self, batch):
        return super().losses({**batch, "x": self.tap(batch["x"])})


class KeepsTheLastBatch(Tiny):
    previous = None

    def train_step(self, batch):
        x = batch["x"] if self.previous is None else 0.5 * (batch["x"] + self.previous)
        self.previous = batch["x"]  # expect MT203
        return super().train_step({**batch, "x": x})


class AccumulatesInAList(Tiny):
    history: list = []

    def losses(self, batch):
        found = super().losses(batch)
        self.history += [tf.reduce_max(found)]  # expect MT203 MT202
        return found


class ReportsToAFile(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.report = tempfile.TemporaryFile("w")  # noqa: SIM115

    def losses(self, batch):
        self.report.write("step\n")  # expect MT103
        return super().losses(batch)


class LogsTheShape(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        logger.info("logits %s", logits.shape)  # expect MT102
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class PrintsProgressEvery(Tiny):
    n = itertools.count()

    def losses(self, batch):
        if next(self.n) % 10 == 0:  # expect MT205
            print("still here")  # expect MT101
        return super().losses(batch)


class PicksAFeature(Tiny):
    def losses(self, batch):
        column = random.randrange(4)  # expect MT301
        keep = tf.one_hot(column, 4)
        return super().losses({**batch, "x": batch["x"] * keep})


class JittersByItsOwn(Tiny):
    def losses(self, batch):
        return super().losses(batch) * noise_of.gauss(1.0, 0.1)  # expect MT301


class DrawsABeta(Tiny):
    def losses(self, batch):
        lam = np.random.beta(0.4, 0.4)  # expect MT301
        return super().losses({**batch, "x": lam * batch["x"] + (1 - lam) * batch["x"][::-1]})


class DecaysByTheClock(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.started = time.perf_counter()

    def losses(self, batch):
        hours = (time.perf_counter() - self.started) / 3600  # expect MT302
        return super().losses(batch) * (0.9**hours)


class OrdersByASet(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        names = set("abcd").intersection("bcd")
        for power, _ in enumerate(names, 1):  # expect MT303
            found = found + 0.0 * power
        return found


class NamesByProcess(Tiny):
    def losses(self, batch):
        return super().losses(batch) + 1e-6 * os.getpid()  # expect MT303 MT304 MT103


class AsksTheType(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        scale = 1.0 if isinstance(found, tf.__internal__.EagerTensor) else 0.5  # expect MT307
        return found * scale


class RoundsByPython(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return found * round(tf.reduce_mean(found), 2)  # expect MT105 MT107


class UnrollsAFilter(Tiny):
    def smooth(self, x, steps=32):
        return functools.reduce(lambda y, k: 0.9 * y + 0.1 * tf.roll(y, k % 4, axis=1), range(steps), x)  # expect MT501

    def losses(self, batch):
        return super().losses({**batch, "x": self.smooth(batch["x"])})


class DropsEmptyRows(Tiny):
    def losses(self, batch):
        x = tf.gather(batch["x"], tf.squeeze(tf.where(tf.reduce_sum(batch["x"], 1) > -99.0), 1))  # expect MT504
        return tf.reduce_mean(tf.reduce_sum(self.logits({**batch, "x": x}), axis=1))


class HashesNames(Tiny):
    def losses(self, batch):
        bucket = tf.strings.to_hash_bucket_fast(tf.strings.as_string(batch["label"]), 3)  # expect MT505
        return super().losses(batch) * tf.cast(bucket + 1, tf.float32)


class LooksUpInALoop(Tiny):
    def losses(self, batch):
        table = tf.constant([0.5, 1.0])
        weights = tf.TensorArray(tf.float32, 8)
        for n in tf.range(8):
            weights = weights.write(n, table[batch["label"][n]])  # expect MT601
        return super().losses(batch) * weights.stack()


class ShardsByZero(Tiny):
    def losses(self, batch):
        shards = tf.reduce_min(batch["label"])
        return super().losses(batch) + tf.cast(tf.range(8) % shards, tf.float32)  # expect MT603


class Tempers(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.settings = {"temperature": 1.0}
        self.get = operator.itemgetter("temperature")

    def losses(self, batch):
        return super().losses(batch) / self.settings["temperature"]  # expect MT401


class CoolDown(Callback):
    def on_step(self, trainer):
        trainer.recipe.settings["temperature"] *= 0.9  # expect MT405 (Tempers)


class SubtractsTheMax(Shared):
    def losses(self, batch):
        found = super().losses(batch)
        return tf.exp(found - tf.reduce_max(found))  # expect MT702 MT701


class AdaptsAThreshold(Shared):
    def __init__(self, **given):
        super().__init__(**given)
        self.threshold = tf.Variable(0.5, trainable=False)

    def train_step(self, batch):
        values = super().train_step(batch)
        self.threshold.assign(tf.reduce_mean(values["loss"]))  # expect MT704
        return values
