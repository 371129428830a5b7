"""Defects written while what the fourth set had shown was mended: what a step asks of the machine, and where it keeps its state."""

from __future__ import annotations

import contextvars
import dataclasses
import datetime
import functools
import gc
import itertools
import os
import pprint
import random
import socket
import tempfile
import threading
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny


class DictCounter(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.stats = {"n": 0}

    def losses(self, batch):
        self.stats["n"] += 1  # expect MT201 MT202
        return super().losses(batch) / self.stats["n"]


class Setattr(Tiny):
    n = 0

    def losses(self, batch):
        setattr(self, "n", self.n + 1)  # noqa: B010  # expect MT201
        return super().losses(batch) / self.n


class ThroughDict(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.n = 0

    def losses(self, batch):
        vars(self)["n"] = self.n + 1  # expect MT201
        return super().losses(batch) / self.n


LOCAL = threading.local()


class ThreadLocal(Tiny):
    def losses(self, batch):
        LOCAL.n = getattr(LOCAL, "n", 0) + 1  # expect MT201
        return super().losses(batch) / LOCAL.n


VAR = contextvars.ContextVar("VAR", default=0)


class ContextVariable(Tiny):
    def losses(self, batch):
        VAR.set(VAR.get() + 1)  # expect MT201
        return super().losses(batch) / (1.0 + VAR.get())


class Count(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.count = itertools.count(1)

    def losses(self, batch):
        return super().losses(batch) / next(self.count)  # expect MT205


class System(Tiny):
    def losses(self, batch):
        return super().losses(batch) * random.SystemRandom().random()  # expect MT301 MT303


class Today(Tiny):
    def losses(self, batch):
        day = datetime.date.today().day  # expect MT302
        return super().losses(batch) * day


class Load(Tiny):
    def losses(self, batch):
        load = os.getloadavg()[0]  # expect MT303
        return super().losses(batch) * (1.0 + load)


class Pid(Tiny):
    def losses(self, batch):
        return super().losses(batch) * (os.getpid() % 7)  # expect MT303


class Host(Tiny):
    def losses(self, batch):
        return super().losses(batch) * len(socket.gethostname())  # expect MT303


class Listing(Tiny):
    def losses(self, batch):
        n = len(os.listdir("/tmp"))  # expect MT103
        return super().losses(batch) * n


class Exists(Tiny):
    def losses(self, batch):
        if Path("/tmp/stop").exists():  # expect MT103
            return super().losses(batch) * 0.0
        return super().losses(batch)


class Mtime(Tiny):
    def losses(self, batch):
        age = time.time() - os.stat("/tmp").st_mtime  # expect MT302
        return super().losses(batch) * age


class HashOfSelf(Tiny):
    def losses(self, batch):
        return super().losses(batch) * (hash(self) % 5)  # expect MT303


class Refs(Tiny):
    def losses(self, batch):
        return super().losses(batch) * len(gc.get_objects())  # expect MT303 MT304


class FlagInBranch(Tiny):
    plateau = False

    def losses(self, batch):
        losses = super().losses(batch)
        if tf.reduce_mean(losses) < 0.0:
            self.plateau = True  # expect MT201
        return losses * (0.1 if self.plateau else 1.0)


class ListInLoop(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        kept = []
        for i in tf.range(8):
            kept.append(losses[i] * 2.0)
        return tf.stack(kept)  # expect MT107 MT203


class Pretty(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        pprint.pprint({"loss": losses})  # expect MT101
        return losses


class PartialPrint(Tiny):
    say = staticmethod(functools.partial(print, "loss"))

    def losses(self, batch):
        losses = super().losses(batch)
        self.say(losses)  # expect MT101 MT106
        return losses


class Summary(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.writer = tf.summary.create_file_writer(tempfile.mkdtemp())

    def losses(self, batch):
        losses = super().losses(batch)
        with self.writer.as_default(step=0):
            tf.summary.scalar("loss", tf.reduce_mean(losses))  # expect MT505
        return losses


def memo(function):
    known = {}

    @functools.wraps(function)
    def inner(self, x):
        if x.shape not in known:
            known[x.shape] = function(self, x)  # expect MT202 MT203 MT204 (MemoOfShapes)
        return known[x.shape]

    return inner


class MemoOfShapes(Tiny):
    @memo
    def scale(self, x):
        return tf.reduce_max(tf.abs(x))

    def losses(self, batch):
        return super().losses(batch) * self.scale(batch["x"])


class FloatHistory(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.history = []

    def losses(self, batch):
        losses = super().losses(batch)
        self.history.append(float(tf.reduce_mean(losses)))  # expect MT202 MT203 MT105
        return losses


class InsideFunction(Tiny):
    def losses(self, batch):
        if tf.inside_function():  # expect MT307
            return super().losses(batch)
        return super().losses(batch) * 0.5


class StringScale(Tiny):
    mode = "warm"

    def losses(self, batch):
        scale = {"warm": 0.1, "hot": 1.0}[self.mode]  # expect MT401
        return super().losses(batch) * scale


class Heats(Callback):
    def on_step(self, trainer):
        if trainer.step > 10:
            trainer.recipe.mode = "hot"  # expect MT405 (StringScale)


class FromKwargs(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.settings = {"alpha": 1.0}

    def losses(self, batch):
        return self.weighted(super().losses(batch), **self.settings)  # expect MT401

    def weighted(self, losses, alpha):
        return losses * alpha


class Alphas(Callback):
    def on_step(self, trainer):
        trainer.recipe.settings.update(alpha=0.5)  # expect MT405 (FromKwargs)


class LocalsInClosure(Tiny):
    def train_step(self, batch):
        scale = self.next_scale()
        return self.minimize(lambda: self.losses(batch) * scale)

    def next_scale(self):
        self.scale = getattr(self, "scale", 1.0) * 0.5  # expect MT201
        return self.scale


class LoopAfterReturn(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        if tf.reduce_max(losses) < 0.01:  # expect MT505
            return losses * 0.0
        total = tf.zeros([8])
        for i in tf.range(3):
            if i == 1:
                continue
            total += losses * tf.cast(i, tf.float32)
        return total


# --- changed between steps, and in the input pipeline ---------------------------------------------------------------


def with_dropout(image_shape, classes):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, kernel_regularizer="l2"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.Dropout(0.3, name="drop"),
            keras.layers.Dense(classes),
        ]
    )


class LowersRate(Tiny):
    build_model = with_dropout


class Lowers(Callback):
    def on_step(self, trainer):
        trainer.recipe.model.layers[2].rate = max(0.0, 0.3 - trainer.step / 100)  # expect MT401 MT405 (LowersRate)


class LowersRateByName(Tiny):
    build_model = with_dropout


class LowersByName(Callback):
    def on_step(self, trainer):
        trainer.recipe.model.get_layer("drop").rate = 0.1  # expect MT401 MT405 (LowersRateByName)


class ChangesMomentum(Tiny):
    build_model = with_dropout

    def on_epoch(self, epoch):
        self.model.get_layer("bn").momentum = 0.5  # expect MT401 MT405


class ChangesRegularizer(Tiny):
    build_model = with_dropout

    def relax(self):
        self.model.layers[0].kernel_regularizer.l2 = 0.0  # expect MT401 MT405


class ChangesLossObject(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, reduction=None)

    def losses(self, batch):
        return self.criterion(tf.one_hot(batch["label"], 3), self.logits(batch))

    def harden(self):
        self.criterion.label_smoothing = 0.0  # expect MT401 MT405


class PropertySetter(Tiny):
    _temperature = 1.0

    @property
    def temperature(self):
        return self._temperature  # expect MT401

    @temperature.setter
    def temperature(self, value):
        self._temperature = value  # expect MT405

    def losses(self, batch):
        return super().losses(batch) / self.temperature


class Cools(Callback):
    def on_step(self, trainer):
        trainer.recipe.temperature = 0.5


@dataclasses.dataclass
class Config:
    beta: float = 1.0


CONFIG = Config()


class GlobalConfig(Tiny):
    def losses(self, batch):
        return super().losses(batch) * CONFIG.beta  # expect MT401


class SetsConfig(Callback):
    def on_step(self, trainer):
        CONFIG.beta = 0.5  # expect MT405 (GlobalConfig)


class PrepareMagnitude(Tiny):
    magnitude = 0.1

    def prepare(self, batch, *, seed, training):
        noise = tf.random.stateless_normal(tf.shape(batch["x"]), seed=seed)
        return {**batch, "x": batch["x"] + self.magnitude * noise}  # expect MT401 MT802


class Grows(Callback):
    def on_step(self, trainer):
        trainer.recipe.magnitude = trainer.step / 100  # expect MT405 (PrepareMagnitude)


class PrepareCounts(Tiny):
    calls = 0

    def prepare(self, batch, *, seed, training):
        self.calls += 1  # expect MT802 MT201
        return {**batch, "x": batch["x"] * min(1.0, self.calls / 10)}


class PrepareRng(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rng = np.random.default_rng(0)

    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + self.rng.normal(size=4).astype(np.float32)}  # expect MT802 MT301


class PrepareClock(Tiny):
    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] * (time.time() % 1.0)}  # expect MT802 MT302


class PrepareKerasRandom(Tiny):
    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + keras.random.normal((4,))}  # expect MT801 MT305


class PrepareKerasLayer(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.noise = keras.layers.GaussianNoise(0.1)

    def prepare(self, batch, *, seed, training):
        return {**batch, "x": self.noise(batch["x"], training=training)}  # expect MT801 MT805


class PrepareGenerator(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.generator = tf.random.Generator.from_seed(1)

    def prepare(self, batch, *, seed, training):
        return {**batch, "x": batch["x"] + self.generator.normal([4])}  # expect MT801


class PreparePrints(Tiny):
    def prepare(self, batch, *, seed, training):
        print("preparing", batch["x"].shape)  # expect MT802
        return {**batch, "x": batch["x"] * 2.0}


TEMPERATURE = contextvars.ContextVar("temperature", default=4.0)


class CoolsInContext(Tiny):
    def losses(self, batch):
        return super().losses({**batch, "x": batch["x"] / TEMPERATURE.get()})

    def train_step(self, batch):
        values = self.minimize(lambda: self.losses(batch))
        TEMPERATURE.set(0.5 * TEMPERATURE.get())  # expect MT201
        return values
