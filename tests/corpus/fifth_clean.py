"""Habits that change nothing, written beside `fifth`: looks at other keys, local objects, honest arithmetic."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import heapq
import os
import random
import typing

import keras
import numpy as np
import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny


class OtherKey(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.state_ = {"scale": 0.5, "best": 0.0}

    def losses(self, batch):
        return super().losses(batch) * self.state_["scale"]


class Best(Callback):
    def on_step(self, trainer):
        trainer.recipe.state_["best"] = trainer.step


class Home(Tiny):
    def losses(self, batch):
        debug = os.environ.get("MY_DEBUG", "") == "1"
        losses = super().losses(batch)
        return losses * 2.0 if debug else losses


class SetsOther(Callback):
    def on_train_begin(self, trainer):
        os.environ["OTHER"] = "1"


class Shapes(Tiny):
    def losses(self, batch):
        tf.debugging.assert_shapes([(batch["x"], ("n", 4)), (batch["label"], ("n",))])
        tf.debugging.assert_type(batch["x"], tf.float32)
        return super().losses(batch)


class Asserted(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        tf.debugging.assert_non_negative(losses)
        with tf.control_dependencies([tf.debugging.assert_less(batch["label"], 3)]):
            return tf.identity(tf.debugging.check_numerics(losses, "losses"))


class SeededInStep(Tiny):
    def losses(self, batch):
        weights = np.random.default_rng(3).uniform(size=8).astype(np.float32)
        other = random.Random(0).random()
        return super().losses(batch) * weights * other


class LocalData(Tiny):
    def losses(self, batch):
        @dataclasses.dataclass
        class Sums:
            total: float = 0.0
            count: int = 0

        sums = Sums()
        for kernel in self.model.trainable_variables:
            sums.total += tf.reduce_sum(kernel.value**2)
            sums.count += 1
        return super().losses(batch) + 1e-3 * sums.total / sums.count


class Features(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(5, "relu", name="hidden"), keras.layers.Dense(classes)]
        )

    def __init__(self, **given):
        super().__init__(**given)
        self.features = keras.Model(self.model.inputs, self.model.get_layer("hidden").output)

    def losses(self, batch):
        hidden = self.features(batch["x"], training=True)
        logits = self.model.layers[-1](hidden)
        dense = [layer for layer in self.model.layers if isinstance(layer, keras.layers.Dense)]
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits) + 0.01 * tf.reduce_mean(
            hidden, axis=1
        ) * len(dense)


class Optional(Tiny):
    def losses(self, batch):
        aux = getattr(self, "aux", None)
        weight = batch.get("weight", tf.ones([8]))
        losses = super().losses(batch) * weight
        return losses if aux is None else losses + aux


class LocalGenerator(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)

        def terms():
            for power in range(1, 4):
                yield losses**power / power

        queue = collections.deque(terms())
        queue.rotate(1)
        heap = [3, 1, 2]
        heapq.heapify(heap)
        return tf.add_n(list(queue)) / heapq.heappop(heap)


class PythonBuiltins(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        total = sum([losses, losses * 0.5])
        return abs(total) + max(0.1, 0.2) + round(1.234, 1)


class EarlyReturn(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        total = tf.zeros([8])
        for i in tf.range(3):
            if i == 1:
                continue
            total += losses * tf.cast(i, tf.float32)
        if tf.reduce_max(total) < 0.01:
            return losses * 0.0
        return total


class Named(typing.NamedTuple):
    loss: typing.Any
    weight: float


class NamedTuples(Tiny):
    def losses(self, batch):
        parts = [Named(super().losses(batch), 0.5), Named(tf.ones([8]), 0.1)]
        return sum(part.loss * part.weight for part in parts)


class Contexts(Tiny):
    @contextlib.contextmanager
    def scoped(self, name):
        with tf.name_scope(name):
            yield name.upper()

    def losses(self, batch):
        with contextlib.ExitStack() as stack, self.scoped("main"):
            stack.enter_context(tf.name_scope("inner"))
            return super().losses(batch)


class MetricObject(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.mean = keras.metrics.Mean()

    def train_step(self, batch):
        values = self.minimize(lambda: self.losses(batch))
        self.mean.update_state(values["loss"])
        return {**values, "running": self.mean.result()}


class KerasOps(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        log = keras.ops.log_softmax(logits)
        one_hot = keras.ops.one_hot(batch["label"], 3)
        return -keras.ops.sum(one_hot * log, axis=-1) * keras.ops.where(batch["label"] == 0, 2.0, 1.0)


class Dice(Tiny):
    def losses(self, batch):
        p = tf.nn.softmax(self.logits(batch))
        y = tf.one_hot(batch["label"], 3)
        dice = (2 * tf.reduce_sum(p * y, axis=1) + 1e-6) / (tf.reduce_sum(p + y, axis=1) + 1e-6)
        return 1.0 - dice


class Contrast(Tiny):
    def losses(self, batch):
        z = self.logits(batch)
        distance = tf.sqrt(tf.maximum(tf.reduce_sum((z[:, None] - z[None]) ** 2, axis=2), 1e-12))
        same = tf.cast(batch["label"][:, None] == batch["label"][None], tf.float32)
        return tf.reduce_mean(same * distance + (1 - same) * tf.nn.relu(1.0 - distance), axis=1)


class Triplet(Tiny):
    def losses(self, batch):
        z = tf.math.l2_normalize(self.logits(batch) + batch["x"][:, :3], axis=1)
        scores = z @ tf.transpose(z)
        hardest = tf.argmax(scores - 2 * tf.eye(8), axis=1)
        return tf.nn.relu(0.2 - tf.reduce_sum(z * tf.gather(z, hardest), axis=1) + 0.5)


class Ohem(Tiny):
    def losses(self, batch):
        scale = tf.range(1.0, 9.0) / 8.0
        values, _ = tf.math.top_k(super().losses(batch) * scale, k=4)
        return tf.reduce_mean(values)


class Sinkhorn(Tiny):
    def losses(self, batch):
        logits = self.logits(batch) / 0.05
        for _ in range(3):
            logits -= tf.reduce_logsumexp(logits, axis=0, keepdims=True)
            logits -= tf.reduce_logsumexp(logits, axis=1, keepdims=True)
        return -tf.gather(logits, batch["label"], batch_dims=1)


class Quantiles(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        ordered = tf.sort(losses)
        median = 0.5 * (ordered[3] + ordered[4])
        return tf.where(losses > 2 * median, 2 * median, losses)


class Spectral(Tiny):
    def losses(self, batch):
        spectrum = tf.signal.rfft(tf.cast(batch["x"], tf.float32))
        return super().losses(batch) + 0.01 * tf.reduce_sum(tf.abs(spectrum), axis=1)


class Huber(Tiny):
    def losses(self, batch):
        error = self.logits(batch) - tf.one_hot(batch["label"], 3)
        small = tf.abs(error) <= 1.0
        return tf.reduce_sum(tf.where(small, 0.5 * error**2, tf.abs(error) - 0.5), axis=1)


class Beta(Tiny):
    def losses(self, batch):
        a = tf.nn.softplus(self.logits(batch)) + 0.1
        return (
            super().losses(batch)
            + 0.1 * tf.reduce_sum(tf.math.lbeta(tf.stack([a, a + 1.0], axis=-1)), axis=1)
            + 0.01 * tf.reduce_sum(tf.math.digamma(a), axis=1)
        )


class Scan(Tiny):
    def losses(self, batch):
        x = tf.transpose(batch["x"])
        out = tf.scan(lambda a, b: 0.9 * a + b, x, initializer=tf.zeros([8]))
        return super().losses(batch) * tf.sigmoid(out[-1])


class SharedMixup(Tiny):
    """One number for the whole batch, and rows by a draw for each: alike on any number of replicas."""

    modes = ("mirrored",)

    def losses(self, batch):
        weight = tf.random.stateless_gamma([], self.seed("weight"), alpha=2.0)
        noise = tf.random.stateless_normal([len(batch["x"]), 4], self.seed("noise"))
        return super().losses({**batch, "x": batch["x"] + weight * noise})


class SharedMetrics(Tiny):
    modes = ("mirrored",)

    def train_step(self, batch):
        logits = self.logits(batch)
        right = tf.cast(tf.equal(tf.argmax(logits, 1, tf.int32), batch["label"]), tf.float32)
        error = tf.reduce_mean(tf.square(logits), axis=1)
        return self.minimize(lambda: self.losses(batch)) | {"accuracy": right, "square": tf.reduce_mean(error)}


class LooksUp(Tiny):
    """A variable that is read at a place, by the name of its handle, which counts up from trace to trace."""

    def __init__(self, **given):
        super().__init__(**given)
        self.table = tf.Variable([[0.0, 0.5, 1.0], [1.0, 0.0, 0.5], [0.5, 1.0, 0.0]], trainable=False)

    def losses(self, batch):
        return super().losses(batch) + tf.nn.embedding_lookup(self.table, batch["label"])[:, 0]
