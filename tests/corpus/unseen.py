"""Defects in yet other words, written after the detectors and not used to make them."""

from __future__ import annotations

import contextlib
import csv
import functools
import heapq
import io
import json
import logging
import operator
import os
import random as rnd
import threading
import time
import types
from collections import ChainMap, OrderedDict, deque
from datetime import date, datetime, timezone

import keras
import numpy as np
import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny

stats = types.SimpleNamespace(count=0)
local = threading.local()
local.n = 0
log_step = functools.partial(logging.log, logging.INFO)
shout = functools.partial(print, "step:", flush=True)
heap = []
clock = time.perf_counter
seedless = np.random.RandomState(3)
DROP = {"rate": 0.1, "nested": {"on": True}}


class SharedThing:
    instances = 0
    __slots__ = ("value",)

    def __init__(self):
        self.value = 0


thing = SharedThing()


class CountsInANamespace(Tiny):
    def losses(self, batch):
        stats.count = stats.count + 1  # expect MT201
        return super().losses(batch)


class CountsInASlot(Tiny):
    def losses(self, batch):
        thing.value += 1  # expect MT201
        return super().losses(batch)


class CountsInAThreadLocal(Tiny):
    def losses(self, batch):
        local.n += 1  # expect MT201
        return super().losses(batch)


class CountsInAClassElsewhere(Tiny):
    def losses(self, batch):
        SharedThing.instances += 1  # expect MT201
        return super().losses(batch)


class CountsOnAFunction(Tiny):
    def losses(self, batch):
        tick.calls += 1  # expect MT201
        return tick(super().losses(batch))


def tick(x):
    return x


tick.calls = 0


class PushesOnAHeap(Tiny):
    def losses(self, batch):
        heapq.heappush(heap, len(heap))  # expect MT202
        return super().losses(batch)


class UpdatesByOperator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.table = OrderedDict(n=0)

    def losses(self, batch):
        operator.setitem(self.table, "n", self.table["n"] + 1)  # expect MT201 MT202
        return super().losses(batch)


class RotatesADeque(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.window = deque([1.0, 2.0, 3.0])

    def losses(self, batch):
        self.window.rotate(1)  # expect MT202 MT201
        return super().losses(batch) * self.window[0]


class PopsASchedule(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rates = [0.3, 0.2, 0.1]

    def losses(self, batch):
        return super().losses(batch) * self.rates.pop()  # expect MT202


class UpdatesVars(Tiny):
    total = 0.0

    def losses(self, batch):
        vars(self)["total"] = self.total + 1.0  # expect MT201
        return super().losses(batch)


class MomentumByPython(Tiny):
    average = 0.0

    def losses(self, batch):
        found = super().losses(batch)
        self.average = 0.9 * self.average + 0.1 * tf.reduce_mean(found)  # expect MT203
        return found - self.average


class LeaksInAList(Tiny):
    def train_step(self, batch):
        values = super().train_step(batch)
        STASH["latest"] = values["loss"]  # expect MT203
        return values


STASH = {}


class LeaksFromALayer(Tiny):
    class Remember(keras.layers.Layer):
        def call(self, x):
            self.activations = x  # expect MT203
            return x

    def __init__(self, **given):
        super().__init__(**given)
        self.remember = self.Remember()

    def losses(self, batch):
        return super().losses({**batch, "x": self.remember(batch["x"])})


class LayerCounts(Tiny):
    class Counting(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def call(self, x):
            self.calls += 1  # expect MT201
            return x / float(self.calls)

    def __init__(self, **given):
        super().__init__(**given)
        self.counting = self.Counting()

    def losses(self, batch):
        return super().losses({**batch, "x": self.counting(batch["x"])})


class LayerDrawsByNumpy(Tiny):
    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + np.random.standard_normal(4).astype("float32")  # expect MT301

    def __init__(self, **given):
        super().__init__(**given)
        self.noise = self.Noise()

    def losses(self, batch):
        return super().losses({**batch, "x": self.noise(batch["x"])})


class LogsByPartial(Tiny):
    def losses(self, batch):
        log_step("step")  # expect MT102
        return super().losses(batch)


class PrintsByPartial(Tiny):
    def losses(self, batch):
        shout("hello")  # expect MT101
        return super().losses(batch)


class WritesCsv(Tiny):
    def losses(self, batch):
        with open(os.devnull, "w", newline="") as file:  # expect MT103
            csv.writer(file).writerow([1, 2])
        return super().losses(batch)


class DumpsJson(Tiny):
    def train_step(self, batch):
        values = super().train_step(batch)
        json.dump({"a": 1}, open(os.devnull, "w"))  # expect MT103  # noqa: SIM115
        return values


class SavesAnArray(Tiny):
    def losses(self, batch):
        np.save(os.devnull, np.zeros(2))  # expect MT103
        return super().losses(batch)


class PrintsInAWith(Tiny):
    @contextlib.contextmanager
    def timed(self):
        start = clock()  # expect MT302
        yield
        print(clock() - start)  # expect MT101

    def losses(self, batch):
        with self.timed():
            return super().losses(batch)


class TimesByAlias(Tiny):
    def losses(self, batch):
        begin = clock()  # expect MT302
        return super().losses(batch) + 0.0 * begin


class TimesByUtc(Tiny):
    def losses(self, batch):
        return super().losses(batch) * datetime.now(timezone.utc).minute  # expect MT302  # noqa: UP017


class TimesByDate(Tiny):
    def losses(self, batch):
        return super().losses(batch) * date.today().year  # expect MT302


class DrawsBySample(Tiny):
    def losses(self, batch):
        rows = rnd.sample(range(8), 8)  # expect MT301
        return tf.gather(super().losses(batch), rows)


class DrawsByState(Tiny):
    def losses(self, batch):
        return super().losses(batch) * seedless.rand()  # expect MT301


class DrawsByGeneratorMethod(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.draw = np.random.default_rng(7).normal

    def losses(self, batch):
        return super().losses(batch) * self.draw()  # expect MT301 MT304


class DrawsInAComprehension(Tiny):
    def losses(self, batch):
        scales = [rnd.uniform(0.9, 1.1) for _ in range(8)]  # expect MT301
        return super().losses(batch) * scales


class StatefulInALayer(Tiny):
    class Drop(keras.layers.Layer):
        def call(self, x):
            return tf.nn.dropout(x, rate=0.2)  # expect MT305

    def __init__(self, **given):
        super().__init__(**given)
        self.drop = self.Drop()

    def losses(self, batch):
        return super().losses({**batch, "x": self.drop(batch["x"])})


class StatefulTruncated(Tiny):
    def losses(self, batch):
        return super().losses(batch) + tf.random.truncated_normal([8])  # expect MT305


class StatefulCategorical(Tiny):
    def losses(self, batch):
        picked = tf.random.categorical(self.logits(batch), 1)  # expect MT305
        return super().losses(batch) + tf.cast(picked[:, 0], tf.float32)


class AsksByInt(Tiny):
    def losses(self, batch):
        k = int(tf.reduce_max(batch["label"]))
        return super().losses(batch) * k  # expect MT107


class AsksByBool(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return found if bool(tf.reduce_all(found > 0)) else -found  # expect MT105


class AsksByToList(Tiny):
    def losses(self, batch):
        return super().losses(batch) * sum(batch["label"].numpy().tolist())  # expect MT105


class AsksByAnd(Tiny):
    class Gate(keras.layers.Layer):
        def call(self, x):
            return x if tf.reduce_sum(x) > 0 and tf.reduce_max(x) < 9 else -x  # expect MT105

    def __init__(self, **given):
        super().__init__(**given)
        self.gate = self.Gate()

    def losses(self, batch):
        return super().losses({**batch, "x": self.gate(batch["x"])})


class IteratesInALayer(Tiny):
    class Rows(keras.layers.Layer):
        def call(self, x):
            return tf.stack([tf.nn.softmax(row) for row in tf.unstack(x)])  # expect MT501

    def __init__(self, **given):
        super().__init__(**given)
        self.rows = self.Rows()

    def losses(self, batch):
        return super().losses({**batch, "x": self.rows(batch["x"])})


class UnrollsByReduce(Tiny):
    def losses(self, batch):
        x = functools.reduce(lambda x, _: x * 0.99 + 0.01, range(100), batch["x"])  # expect MT501
        return super().losses({**batch, "x": x})


class UnrollsByRecursion(Tiny):
    def smooth(self, x, n):
        return x if n == 0 else self.smooth(tf.tanh(x), n - 1)  # expect MT501

    def losses(self, batch):
        return super().losses({**batch, "x": self.smooth(batch["x"], 60)})


class UnrollsNested(Tiny):
    def losses(self, batch):
        x = batch["x"]
        for i in range(8):
            for j in range(8):  # expect MT501
                x = x + tf.sin(x * (i + j))
        return super().losses({**batch, "x": x})


class UnrollsTime(Tiny):
    def losses(self, batch):
        steps = batch["x"].shape[1]
        state = tf.zeros([8])
        for t in range(steps):
            state = tf.tanh(state + batch["x"][:, t])
        for t in range(64):  # expect MT501
            state = tf.tanh(state + batch["x"][:, t % steps])
        return super().losses(batch) + state


class MakesAMetricLazily(Tiny):
    metric = None

    def losses(self, batch):
        if self.metric is None:
            self.metric = keras.metrics.Mean()  # expect MT206
        return super().losses(batch)


class MakesAModel(Tiny):
    def losses(self, batch):
        head = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])  # expect MT206
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], head(self.logits(batch)))


class MakesWeightsInAHelper(Tiny):
    def losses(self, batch):
        return super().losses(batch) * make_scale()


def make_scale():
    return tf.Variable(1.0)  # expect MT206 (MakesWeightsInAHelper)


class MakesASeedGenerator(Tiny):
    def losses(self, batch):
        generator = keras.random.SeedGenerator(3)  # expect MT206
        return super().losses(batch) * keras.random.uniform([8], seed=generator)


class SelectsByIndex(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return tf.reduce_mean(found[found > 0.1])  # expect MT504


class SelectsNonZero(Tiny):
    def losses(self, batch):
        rows = tf.experimental.numpy.nonzero(batch["label"])[0]  # expect MT504
        return super().losses(batch) * tf.cast(tf.size(rows), tf.float32)


class RepeatsByData(Tiny):
    def losses(self, batch):
        return tf.reduce_mean(tf.repeat(super().losses(batch), batch["label"]))  # expect MT504


class MasksSequences(Tiny):
    def losses(self, batch):
        mask = tf.sequence_mask(batch["label"], dtype=tf.float32)  # expect MT504
        return super().losses(batch) * tf.reduce_sum(mask)


class UsesRagged(Tiny):
    def losses(self, batch):
        ragged = tf.RaggedTensor.from_row_lengths(batch["x"][:, 0], tf.ones([8], tf.int32))
        dense = ragged.to_tensor()  # expect MT504 MT505
        return super().losses(batch) * tf.reduce_sum(dense)


class ReadsAFile(Tiny):
    def losses(self, batch):
        text = tf.io.read_file(os.devnull)  # expect MT505
        return super().losses(batch) + tf.cast(tf.strings.length(text), tf.float32)


class TakesAlongOutOfRange(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        picked = tf.gather(logits, batch["label"] + 2, batch_dims=1)  # expect MT601
        return super().losses(batch) - picked


class OneHotNaN(Tiny):
    def losses(self, batch):
        probabilities = tf.nn.softmax(self.logits(batch))
        logs = tf.math.log(probabilities - probabilities)
        return super().losses(batch) + 0.0 * tf.reduce_sum(tf.debugging.check_numerics(logs, "bad"))  # expect MT605


class SegmentsTooLarge(Tiny):
    def losses(self, batch):
        sums = tf.math.unsorted_segment_sum(super().losses(batch), batch["label"], 2)  # expect MT601
        return tf.reduce_sum(sums)


class AssertsEqual(Tiny):
    def losses(self, batch):
        tf.debugging.assert_equal(tf.reduce_sum(batch["label"]), 0, message="labels")  # expect MT604
        return super().losses(batch)


class AssertsRank(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        tf.debugging.assert_less(found, 0.5)  # expect MT604
        return found


class NestedDictChanges(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.config = {"loss": {"beta": 0.0}}

    def losses(self, batch):
        return super().losses(batch) + self.config["loss"]["beta"]  # expect MT401

    def at_epoch(self, n):
        self.config["loss"]["beta"] = n / 10  # expect MT405


class ObjectReplaced(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.schedule = types.SimpleNamespace(scale=1.0)

    def losses(self, batch):
        return super().losses(batch) * self.schedule.scale  # expect MT401

    def at_epoch(self):
        self.schedule.scale = 0.5  # expect MT405


class Tempered(Tiny):
    temperature = 1.0

    def losses(self, batch):
        if self.temperature:  # expect MT402
            return super().losses(batch) / self.temperature
        return super().losses(batch)


class Cool(Callback):
    def __init__(self):
        super().__init__(every=1)

    def on_step(self, trainer):
        recipe = trainer.recipe
        recipe.temperature = 0.9 * recipe.temperature  # expect MT405 (Tempered)


class TrainsPart(Tiny):
    def freeze(self):
        for layer in self.model.layers[:-1]:
            layer.trainable = False  # expect MT403


class BuffersText(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.text = io.StringIO()

    def losses(self, batch):
        print("step", file=self.text)  # expect MT101
        return super().losses(batch)


class ChainsMaps(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.settings = ChainMap({}, DROP)

    def losses(self, batch):
        self.settings["seen"] = self.settings.get("seen", 0) + 1  # expect MT201 MT202
        return super().losses(batch)
