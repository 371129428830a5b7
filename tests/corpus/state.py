"""Defects: Python state that a step changes or keeps tensors in."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools

import keras
import numpy as np
import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny

STEP = 0
HISTORY = []
SEEN = collections.Counter()
CONFIG = {"steps": 0}
QUEUE = collections.deque(maxlen=3)
ids = itertools.count()


class CountsOnSelf(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.calls = 0

    def losses(self, batch):
        self.calls += 1  # expect MT201
        return super().losses(batch) * min(1.0, self.calls / 10)


class CountsGlobally(Tiny):
    def losses(self, batch):
        global STEP
        STEP += 1  # expect MT201
        return super().losses(batch) * (0.9**STEP)


class CountsInTheClass(Tiny):
    seen = 0

    def losses(self, batch):
        type(self).seen += 1  # expect MT201
        return super().losses(batch)


class CountsInADict(Tiny):
    def losses(self, batch):
        CONFIG["steps"] += 1  # expect MT201
        return super().losses(batch)


class CountsInACounter(Tiny):
    def losses(self, batch):
        SEEN["batches"] += 1  # expect MT202 MT201
        return super().losses(batch)


class CountsByAClosure(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        n = 0

        def tick():
            nonlocal n
            n += 1  # expect MT201
            return n

        self.tick = tick

    def losses(self, batch):
        return super().losses(batch) / (1.0 + self.tick())


class CountsInAnObject(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.meter = elsewhere.Accumulator()

    def losses(self, batch):
        self.meter.tick()
        return super().losses(batch)


@dataclasses.dataclass
class Progress:
    done: int = 0


class CountsInADataclass(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.progress = Progress()

    def losses(self, batch):
        self.progress.done += 1  # expect MT201
        return super().losses(batch)


class CountsBySetattr(Tiny):
    n = 0

    def losses(self, batch):
        setattr(self, "n", self.n + 1)  # expect MT201  # noqa: B010
        return super().losses(batch)


class CountsByAnIterator(Tiny):
    def losses(self, batch):
        return super().losses(batch) * (1.0 + next(ids))  # expect MT205


class TakesFromAGenerator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rates = (0.1 * n for n in range(100))

    def losses(self, batch):
        return super().losses(batch) * next(self.rates)  # expect MT205


class TakesFromACycle(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.signs = itertools.cycle([1.0, -1.0])

    def losses(self, batch):
        return super().losses(batch) * next(self.signs)  # expect MT205


class TakesFromADataset(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.noise = iter(tf.data.Dataset.range(100).map(lambda n: tf.cast(n, tf.float32)))

    def losses(self, batch):
        return super().losses(batch) * next(self.noise)  # expect MT205


class AppendsLosses(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.history = []

    def losses(self, batch):
        found = super().losses(batch)
        self.history.append(found)  # expect MT203
        return found


class AppendsGlobally(Tiny):
    def losses(self, batch):
        HISTORY.append("step")  # expect MT202
        return super().losses(batch)


class AppendsInAnotherFile(Tiny):
    def losses(self, batch):
        return elsewhere.counted(super().losses(batch))


class AppendsToADefault(Tiny):
    def losses(self, batch, seen=[]):  # noqa: B006
        seen.append(len(seen))  # expect MT202
        return super().losses(batch)


class AppendsToADeque(Tiny):
    def losses(self, batch):
        QUEUE.append(1)  # expect MT202
        return super().losses(batch)


class AddsToASet(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.seen = set()

    def losses(self, batch):
        self.seen.add(len(self.seen))  # expect MT202
        return super().losses(batch)


class GroupsByKey(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.groups = collections.defaultdict(list)

    def losses(self, batch):
        self.groups["a"].append(1)  # expect MT202
        return super().losses(batch)


class KeepsTheLastLoss(Tiny):
    last = None

    def losses(self, batch):
        found = super().losses(batch)
        self.last = tf.reduce_mean(found)  # expect MT203
        return found


class CachesATensor(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.cache = {}

    def losses(self, batch):
        if "mask" not in self.cache:
            self.cache["mask"] = tf.ones([8]) * tf.reduce_mean(batch["x"])  # expect MT203
        return super().losses(batch) * self.cache["mask"]


class CachesByADecorator(Tiny):
    @functools.lru_cache  # noqa: B019
    def mask(self, size):
        return tf.ones([size])

    def losses(self, batch):
        return super().losses(batch) * self.mask(8)  # expect MT204


class LeaksThroughAnObject(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.meter = elsewhere.Accumulator()

    def losses(self, batch):
        return self.meter.add(super().losses(batch))


class FillsAnArray(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.buffer = np.zeros(4)

    def losses(self, batch):
        self.buffer[0] += 1.0  # expect MT202
        return super().losses(batch)


class FirstCallDiffers(Tiny):
    first = True

    def losses(self, batch):
        found = super().losses(batch)
        if self.first:
            found = found * 0.1
            self.first = False  # expect MT201
        return found


class MakesAVariable(Tiny):
    def losses(self, batch):
        scale = tf.Variable(1.0)  # expect MT206
        return super().losses(batch) * scale


class MakesAVariableLater(Tiny):
    scale = None

    def losses(self, batch):
        if self.scale is None:
            self.scale = tf.Variable(1.0)  # expect MT206
        return super().losses(batch) * self.scale


class MakesALayer(Tiny):
    def losses(self, batch):
        hidden = keras.layers.Dense(4)(batch["x"])  # expect MT206
        return super().losses({**batch, "x": hidden})


class MakesADropout(Tiny):
    def losses(self, batch):
        x = keras.layers.Dropout(0.5)(batch["x"], training=True)  # expect MT206
        return super().losses({**batch, "x": x})


class MakesAMetric(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        metric = keras.metrics.Mean()  # expect MT206
        metric.update_state(found)
        return found


class MakesAnOptimizer(Tiny):
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = self.losses(batch)
        variables = self.model.trainable_variables
        optimizer = keras.optimizers.Adam(0.1)  # expect MT206
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


class MakesAKerasVariable(Tiny):
    def losses(self, batch):
        bias = keras.Variable(0.0)  # expect MT206
        return super().losses(batch) + bias
