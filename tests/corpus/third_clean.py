"""Clean steps that no detector was changed for: scored once, after the last change."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny

WEIGHTS = {"main": 1.0, "entropy": 0.01}


class Shared(Tiny):
    modes = ("mirrored",)


class Loss(abc.ABC):
    @abc.abstractmethod
    def __call__(self, label, logits): ...


class Hinge(Loss):
    def __init__(self, margin: float = 1.0):
        self.margin = margin

    def __call__(self, label, logits):
        sign = 2.0 * tf.one_hot(label, logits.shape[-1]) - 1.0
        return tf.reduce_mean(tf.nn.relu(self.margin - sign * logits), axis=-1)


class TakesAnObject(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.loss: Loss = Hinge(0.5)

    def losses(self, batch):
        return self.loss(batch["label"], self.logits(batch))


class SumsWeighted(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        p = tf.nn.softmax(logits)
        terms = OrderedDict(main=super().losses(batch), entropy=tf.reduce_sum(p * tf.math.log(p + 1e-9), -1))
        return tf.add_n([WEIGHTS[name] * term for name, term in terms.items()])


class YieldsTerms(Tiny):
    def terms(self, batch) -> Iterator[tf.Tensor]:
        yield super().losses(batch)
        yield 1e-3 * tf.reduce_sum(tf.abs(self.logits(batch)), -1)

    def losses(self, batch):
        return sum(self.terms(batch))


class ComposesFunctions(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.pipeline: list[Callable] = [tf.abs, tf.math.log1p, functools.partial(tf.multiply, 0.5)]

    def losses(self, batch):
        x = functools.reduce(lambda value, function: function(value), self.pipeline, batch["x"])
        return super().losses({**batch, "x": x})


class PositionsBySine(Tiny):
    @staticmethod
    @functools.lru_cache
    def table(length: int) -> np.ndarray:
        return np.stack([np.sin(np.arange(length) / 10.0**k) for k in range(4)], -1).astype(np.float32)

    def losses(self, batch):
        return super().losses({**batch, "x": batch["x"] + self.table(8)})


class ClipsItsLogits(Tiny):
    limit = math.log(1e4)

    def logits(self, batch):
        return tf.clip_by_value(super().logits(batch), -self.limit, self.limit)


class Distils(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.teacher = keras.models.clone_model(self.model)
        self.teacher.trainable = False

    def losses(self, batch):
        soft = tf.nn.softmax(self.teacher(batch["x"], training=False) / 2.0)
        return super().losses(batch) + tf.nn.softmax_cross_entropy_with_logits(soft, self.logits(batch) / 2.0)


class DropsBlocks(Tiny):
    def losses(self, batch):
        keep = tf.random.stateless_uniform([8, 1], seed=self.seed("blocks")) > 0.2
        return super().losses({**batch, "x": tf.where(keep, batch["x"] / 0.8, 0.0)})


class AdjustsWeightsByStep(Tiny):
    def losses(self, batch):
        phase = tf.cast(self.step, tf.float32) / 10.0
        weight = tf.case([(phase < 1.0, lambda: phase), (phase < 2.0, lambda: 1.0)], default=lambda: 0.5)
        return super().losses(batch) * weight


class IteratesToConvergence(Tiny):
    def losses(self, batch):
        y = tf.ones_like(batch["x"])
        for _ in tf.range(5):
            y = 0.5 * (y + (tf.abs(batch["x"]) + 1.0) / y)
        return super().losses({**batch, "x": tf.stop_gradient(y)})


class UsesTriplets(Tiny):
    def losses(self, batch):
        z = tf.math.l2_normalize(self.logits(batch), -1)
        far = tf.reduce_sum((z - tf.roll(z, 1, 0)) ** 2, -1)
        near = tf.reduce_sum((z - tf.roll(z, 3, 0)) ** 2, -1)
        return tf.nn.relu(near - far + 0.2)


@dataclasses.dataclass
class Config:
    heads: int = 2
    scale: float = dataclasses.field(init=False)

    def __post_init__(self):
        self.scale = 1.0 / math.sqrt(self.heads)


class ReadsADerivedField(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.config = ChainMap({"extra": 0.1}, dataclasses.asdict(Config()))

    def losses(self, batch):
        return super().losses(batch) * self.config["scale"] + self.config["extra"]


class CountsInAVariable(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.seen = tf.Variable(0, dtype=tf.int64, trainable=False)

    def train_step(self, batch):
        values = super().train_step(batch)
        self.seen.assign_add(tf.cast(tf.shape(batch["x"])[0], tf.int64))
        return values


class ValidatesEarly(Tiny):
    def train_step(self, batch):
        missing = {"x", "label"} - set(batch)
        if missing:
            raise KeyError(f"the batch lacks {sorted(missing)}")
        return super().train_step(batch)


class ReportsHits(Tiny):
    def train_step(self, batch):
        def loss():
            logits = self.logits(batch)
            hits = tf.math.in_top_k(batch["label"], logits, 2)
            right = tf.equal(tf.argmax(logits, -1, output_type=tf.int32), batch["label"])
            return super(ReportsHits, self).losses(batch), {
                "top2": tf.cast(hits, tf.float32),
                "top1": tf.cast(right, tf.float32),
            }

        return self.minimize(loss)


class SavesActivationsLocally(Tiny):
    @staticmethod
    def build_model(image_shape, classes):
        hidden = [keras.layers.Dense(4, "tanh") for _ in range(3)]
        return keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(classes)])

    def losses(self, batch):
        x, kept = batch["x"], {}
        for layer in self.model.layers:
            kept[layer.name] = x = layer(x)
        penalty = sum(tf.reduce_mean(value**2) for value in kept.values())
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], x) + 1e-3 * penalty


class WhitensSafely(Tiny):
    def losses(self, batch):
        x = tf.cast(batch["x"], tf.float64)
        gram = tf.matmul(x, x, transpose_a=True) + 1e-3 * tf.eye(4, dtype=tf.float64)
        whitened = tf.linalg.triangular_solve(tf.linalg.cholesky(gram), tf.transpose(x))
        return super().losses({**batch, "x": tf.cast(tf.transpose(whitened), tf.float32)})


class SharedWeighted(Shared):
    def losses(self, batch):
        weight = tf.gather(tf.constant([1.0, 2.0, 0.5]), batch["label"])
        return super().losses(batch) * weight


class SharedClip(Shared):
    def losses(self, batch):
        return tf.clip_by_value(super().losses(batch), 0.0, 5.0) + tf.nn.softplus(tf.reduce_max(batch["x"], axis=-1))


class SharedNoise(Shared):
    def losses(self, batch):
        noise = tf.random.stateless_normal([tf.shape(batch["x"])[0], 4], seed=self.seed("noise"))
        return super().losses({**batch, "x": batch["x"] + 0.1 * noise})
