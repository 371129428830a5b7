"""Clean steps: nothing may be said of any of them."""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import math
import random
import time

import keras
import numpy as np
import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny

SCALE = 2.0
TABLE = {"a": 1.0, "b": 2.0}
log = logging.getLogger(__name__)
rng = np.random.default_rng(0)
WEIGHTS = rng.normal(size=3).astype("float32")
STARTED = time.time()


class Plain(Tiny):
    pass


class LocalList(Tiny):
    def train_step(self, batch):
        def loss():
            parts = []
            for power in (1, 2):
                parts.append(tf.reduce_mean(batch["x"] ** power))
            return self.losses(batch) + tf.add_n(parts)

        return self.minimize(loss)


class LocalDictAndSet(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        values, seen = {}, set()
        values["mean"] = tf.reduce_mean(found)
        seen.add("mean")
        counts = collections.Counter(["a", "a"])
        return found * counts["a"] + 0.0 * values["mean"]


class OuterLocalList(Tiny):
    """The list belongs to the step, the loss function appends to it."""

    def train_step(self, batch):
        kept = []

        def loss():
            logits = self.logits(batch)
            kept.append(logits)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss)


class NumpyOnConstants(Tiny):
    def losses(self, batch):
        window = np.hanning(8).astype("float32") * np.sqrt(2.0)
        return super().losses(batch) * window + np.log(10.0)


class ClosureConstants(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        scale, shift = 0.5, (1.0, 2.0)
        self.transform = lambda x: x * scale + shift[0]

    def losses(self, batch):
        return self.transform(super().losses(batch))


class GlobalConstants(Tiny):
    def losses(self, batch):
        return super().losses(batch) * SCALE * TABLE["a"] + tf.reduce_sum(WEIGHTS) * 0.0


class FloatOfATensor(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return found * float(tf.constant(2.0)) if False else found * float(2)


class TensorBranch(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        if tf.reduce_mean(found) > 1.0:
            found = found * 0.5
        return found


class TensorLoop(Tiny):
    def losses(self, batch):
        x = batch["x"]
        for _ in tf.range(50):
            x = x * 0.99
        return super().losses({**batch, "x": x})


class TensorPrint(Tiny):
    modes = ("graph",)

    def losses(self, batch):
        found = super().losses(batch)
        tf.print("mean", tf.reduce_mean(found), summarize=2)
        return found


class TensorPrintByDefault(TensorPrint):
    modes = None


class StepAndSeed(Tiny):
    def losses(self, batch):
        noise = tf.random.stateless_normal([8, 4], seed=self.seed("noise"))
        warm = tf.minimum(1.0, tf.cast(self.step, tf.float32) / 100.0)
        if self.step > 3:
            warm = warm * 0.9
        return super().losses({**batch, "x": batch["x"] + 0.1 * noise}) * warm


class ConfigAttribute(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.shift = 2
        self.smoothing = 0.1
        self.flags = {"double": True}

    def losses(self, batch):
        found = super().losses(batch) * (1.0 - self.smoothing)
        if self.flags["double"] and self.shift > 1:
            found = 2.0 * found
        return found


class SetUpByAMethod(Tiny):
    """What __init__ calls may assign."""

    def __init__(self, **given):
        super().__init__(**given)
        self.reset()

    def reset(self):
        self.gain = 1.5

    def losses(self, batch):
        return super().losses(batch) * self.gain


class LazyConstant(Tiny):
    table = None

    def losses(self, batch):
        if self.table is None:
            self.table = np.linspace(0.0, 1.0, 8).astype("float32")
        return super().losses(batch) * self.table


class CachedConstants(Tiny):
    @staticmethod
    @functools.lru_cache
    def window(size):
        return np.ones(size, np.float32)

    def losses(self, batch):
        return super().losses(batch) * self.window(8)


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


class Dropouts(Tiny):
    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.3),
                keras.layers.GaussianNoise(0.1),
                keras.layers.Dense(classes),
            ]
        )


class OwnLayer(Tiny):
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x, training=False):
            if training:
                x = x * 1.0
            return x * self.scale

    def __init__(self, **given):
        super().__init__(**given)
        self.scale_layer = self.Scale()
        self.scale_layer.build((None, 4))

    def losses(self, batch):
        return super().losses({**batch, "x": self.scale_layer(batch["x"], training=True)})


class LoopOverLayers(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.blocks = [keras.layers.Dense(4) for _ in range(12)]
        for block in self.blocks:
            block.build((None, 4))

    def losses(self, batch):
        x = batch["x"]
        for block in self.blocks:
            x = block(x)
        for n in range(len(self.blocks)):
            x = x + 0.01 * self.blocks[n](x)
        return super().losses({**batch, "x": x})


class ShortLoop(Tiny):
    def losses(self, batch):
        x = batch["x"]
        for power in range(5):
            x = x + 0.1 * x / (power + 1)
        return super().losses({**batch, "x": x})


class WeightDecayByHand(Tiny):
    def losses(self, batch):
        decay = tf.add_n([tf.nn.l2_loss(v) for v in self.model.trainable_variables])
        return super().losses(batch) + 1e-4 * decay


class OwnTape(Tiny):
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        variables = self.model.trainable_variables
        self.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class SeveralUpdates(Tiny):
    def train_step(self, batch):
        for _ in range(3):
            values = self.minimize(lambda: self.losses(batch))
        return values


class EmbedsInRange(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.embedding = keras.layers.Embedding(3, 4)
        self.embedding.build((None,))

    def losses(self, batch):
        return super().losses({**batch, "x": self.embedding(batch["label"])}) + tf.gather(tf.ones([3]), batch["label"])


class AssertsRightly(Tiny):
    def losses(self, batch):
        tf.debugging.assert_non_negative(batch["label"])
        tf.debugging.assert_shapes([(batch["x"], (8, 4))])
        assert batch["x"].shape[0] == 8
        return super().losses(batch)


class StaticShapes(Tiny):
    def losses(self, batch):
        n = batch["x"].shape[0]
        rows = tf.reshape(batch["x"], [tf.shape(batch["x"])[0], -1])
        mask = tf.where(rows > 0, rows, tf.zeros_like(rows))
        best, _ = tf.math.top_k(mask, k=2)
        return super().losses(batch) + tf.reduce_sum(best, axis=1) / n + tf.cast(tf.range(n), tf.float32)


class TemporaryFlag(Tiny):
    """Set and put back within the step."""

    training = False

    def losses(self, batch):
        self.training = True
        try:
            return super().losses(batch) * (2.0 if self.training else 1.0)
        finally:
            self.training = False


class SortedNames(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        for name in sorted({"b", "a"}):
            found = found + TABLE[name]
        return found


class KnowsByIdentity(Tiny):
    def losses(self, batch):
        known = {id(v): n for n, v in enumerate(self.model.trainable_variables)}
        return super().losses(batch) * float(len(known))


class LogsElsewhere(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        log.info("made at %s", STARTED)
        self.noise_seed = random.randint(0, 2)

    def describe(self):
        print("a recipe", math.pi)


class EagerOnlyPrint(Tiny):
    def losses(self, batch):
        if tf.executing_eagerly():
            print("eager")
        return super().losses(batch)


@dataclasses.dataclass(frozen=True)
class Weights:
    data: float = 1.0
    prior: float = 0.1


class FrozenDataclass(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.weights = Weights()

    def losses(self, batch):
        return self.weights.data * super().losses(batch) + self.weights.prior


class LooksOnly(Callback):
    """A callback that reads a recipe and changes itself."""

    def on_step(self, trainer):
        self.shift = trainer.recipe.shift
        self.gain = 3.0


class StatelessDraws(Tiny):
    def prepare(self, batch, *, seed, training):
        noise = tf.random.stateless_uniform([8, 4], seed)
        return {**batch, "x": batch["x"] + 0.1 * noise}


class CustomGradient(Tiny):
    def losses(self, batch):
        @tf.custom_gradient
        def reversed_gradient(x):
            def gradient(upstream):
                return -upstream

            return x, gradient

        return super().losses({**batch, "x": reversed_gradient(batch["x"])})


class NestedFunction(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.doubled = tf.function(lambda x: 2.0 * x)

    def losses(self, batch):
        return super().losses({**batch, "x": self.doubled(batch["x"])})


class MapAndScan(Tiny):
    def losses(self, batch):
        squared = tf.map_fn(lambda row: row**2, batch["x"])
        summed = tf.scan(lambda total, row: total + row, batch["x"])
        return super().losses({**batch, "x": squared + 0.1 * summed})


class SharedCleanly(Tiny):
    modes = ("mirrored",)

    def __init__(self, **given):
        super().__init__(**given)
        self.count = tf.Variable(0.0, trainable=False)

    def losses(self, batch):
        self.count.assign_add(1.0)
        x = tf.clip_by_value(batch["x"], -3.0, 3.0)
        return super().losses({**batch, "x": x}) / 2.0


class MeanOfAKerasLoss(Tiny):
    modes = ("xla", "mirrored")

    def losses(self, batch):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return loss(batch["label"], self.logits(batch))
