"""Defects: values of Python, NumPy and the clock that a trace freezes."""

from __future__ import annotations

import datetime
import datetime as dt
import functools
import os
import random
import secrets
import time
import uuid
from datetime import datetime as moment
from random import random as draw
from time import perf_counter
from time import time as now

import numpy as np
import numpy.random as npr
import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny

rng = np.random.default_rng(0)
dice = random.Random(0)
spread = functools.partial(random.uniform, 0.5, 1.5)


class FrozenRandom(Tiny):
    def losses(self, batch):
        return super().losses(batch) * random.random()  # expect MT301


class FrozenByName(Tiny):
    def losses(self, batch):
        return super().losses(batch) * draw()  # expect MT301


class FrozenByPartial(Tiny):
    def losses(self, batch):
        return super().losses(batch) * spread()  # expect MT301


class FrozenByAnObject(Tiny):
    def losses(self, batch):
        return super().losses(batch) * dice.choice([1.0, 2.0])  # expect MT301


class FrozenNumpy(Tiny):
    def losses(self, batch):
        x = batch["x"] + np.random.normal(size=[8, 4]).astype("float32")  # expect MT301
        return super().losses({**batch, "x": x})


class FrozenNumpyByName(Tiny):
    def losses(self, batch):
        keep = npr.rand(8) > 0.5  # expect MT301
        return super().losses(batch) * keep


class FrozenGenerator(Tiny):
    def losses(self, batch):
        return super().losses(batch) * rng.uniform()  # expect MT301


class FrozenOwnGenerator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rng = np.random.default_rng(1)

    def losses(self, batch):
        order = self.rng.permutation(8)  # expect MT301
        return tf.gather(super().losses(batch), order)


class FrozenRandomState(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.dice = np.random.RandomState(1)

    def losses(self, batch):
        return super().losses(batch) * self.dice.randint(1, 5)  # expect MT301


class FrozenFreshGenerator(Tiny):
    def losses(self, batch):
        return super().losses(batch) * np.random.default_rng().normal()  # expect MT301


class FrozenBranch(Tiny):
    def losses(self, batch):
        if random.random() < 0.5:  # expect MT301
            return super().losses(batch)
        return 2.0 * super().losses(batch)


class FrozenShuffle(Tiny):
    def losses(self, batch):
        order = list(range(8))
        random.shuffle(order)  # expect MT301
        return tf.gather(super().losses(batch), order)


class FrozenInAnotherFile(Tiny):
    def losses(self, batch):
        return elsewhere.jittered(super().losses(batch))


class NumpyInAnotherFile(Tiny):
    def losses(self, batch):
        return super().losses(batch) * elsewhere.noise([8])


class FrozenTime(Tiny):
    def losses(self, batch):
        return super().losses(batch) + 0.0 * time.time()  # expect MT302


class FrozenTimeByName(Tiny):
    def losses(self, batch):
        start = now()  # expect MT302
        found = super().losses(batch)
        self.spent = perf_counter() - start  # expect MT302
        return found


class FrozenDate(Tiny):
    def losses(self, batch):
        return super().losses(batch) * datetime.datetime.now().second  # expect MT302


class FrozenDateByName(Tiny):
    def losses(self, batch):
        return super().losses(batch) * moment.utcnow().hour  # expect MT302


class FrozenToday(Tiny):
    def losses(self, batch):
        return super().losses(batch) * dt.date.today().day  # expect MT302


class TimeInAnotherFile(Tiny):
    def losses(self, batch):
        return elsewhere.stamped(super().losses(batch))


class FrozenUuid(Tiny):
    def losses(self, batch):
        return super().losses(batch) * (uuid.uuid4().int % 7)  # expect MT303


class FrozenBytes(Tiny):
    def losses(self, batch):
        return super().losses(batch) * os.urandom(1)[0]  # expect MT303


class FrozenSecret(Tiny):
    def losses(self, batch):
        return super().losses(batch) * secrets.randbelow(10)  # expect MT303


class FrozenId(Tiny):
    def losses(self, batch):
        return super().losses(batch) * (id(object()) % 97)  # expect MT303


class FrozenHash(Tiny):
    def losses(self, batch):
        return super().losses(batch) * (hash("layer") % 5)  # expect MT303


class FrozenSetOrder(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        for name in {"a", "b", "c"}:  # expect MT303
            found = found * 2.0 + len(name)
        return found


class DiffersInEager(Tiny):
    def train_step(self, batch):
        scale = 1.0 if tf.executing_eagerly() else 0.5  # expect MT307
        return {"loss": super().train_step(batch)["loss"] * scale}


class StatefulNormal(Tiny):
    def losses(self, batch):
        x = batch["x"] + tf.random.normal([8, 4])  # expect MT305
        return super().losses({**batch, "x": x})


class StatefulUniformWithSeed(Tiny):
    def losses(self, batch):
        return super().losses(batch) * tf.random.uniform([8], seed=3)  # expect MT305


class StatefulDropout(Tiny):
    def losses(self, batch):
        return super().losses({**batch, "x": tf.nn.dropout(batch["x"], 0.5)})  # expect MT305


class StatefulShuffle(Tiny):
    def losses(self, batch):
        return super().losses({**batch, "x": tf.random.shuffle(batch["x"])})  # expect MT305


class StatefulGenerator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.generator = tf.random.Generator.from_seed(1)

    def losses(self, batch):
        return super().losses(batch) * self.generator.uniform([8])  # expect MT305
