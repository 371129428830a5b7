"""Clean steps in yet other words."""

from __future__ import annotations

import collections
import contextlib
import enum
import functools
import itertools
import operator
import types
import typing

import keras
import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny


class Kind(enum.Enum):
    A = 1
    B = 2


class Sizes(typing.NamedTuple):
    width: int = 4
    depth: int = 2


POWERS = tuple(range(3))
half = functools.partial(operator.mul, 0.5)


class UsesEnums(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.kind, self.sizes = Kind.A, Sizes()

    def losses(self, batch):
        scale = {Kind.A: 1.0, Kind.B: 2.0}[self.kind]
        return super().losses(batch) * scale * self.sizes.depth


class UsesIteratorsLocally(Tiny):
    def losses(self, batch):
        numbers = itertools.count(1)
        found = super().losses(batch)
        for power, n in zip(POWERS, numbers, strict=False):
            found = found + power * next(iter([n])) * 0.01
        return half(found)


class UsesLocalObjects(Tiny):
    def losses(self, batch):
        box = types.SimpleNamespace(total=0.0)
        queue = collections.deque()
        for factor in (1.0, 2.0):
            box.total += factor
            queue.append(batch["x"] * factor)
        return super().losses({**batch, "x": queue.popleft()}) * box.total


class UsesGenerators(Tiny):
    def losses(self, batch):
        def scaled():
            for factor in (0.5, 0.5):
                yield batch["x"] * factor

        return super().losses({**batch, "x": sum(scaled())})


class UsesContext(Tiny):
    @contextlib.contextmanager
    def named(self, name):
        with tf.name_scope(name):
            yield

    def losses(self, batch):
        with self.named("losses"):
            return super().losses(batch)


class UsesCond(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return tf.cond(tf.reduce_mean(found) > 1.0, lambda: found * 0.5, lambda: found)


class UsesWhile(Tiny):
    def losses(self, batch):
        x = tf.reduce_mean(tf.abs(batch["x"]))
        n = 0
        while x < 3.0:
            x = x * 1.5
            n += 1
        return super().losses(batch) + 0.0 * tf.cast(n, tf.float32)


class UsesTensorArray(Tiny):
    def losses(self, batch):
        rows = tf.TensorArray(tf.float32, size=8)
        for n in tf.range(8):
            rows = rows.write(n, batch["x"][n] * 2.0)
        return super().losses({**batch, "x": tf.ensure_shape(rows.stack(), [8, 4])})


class UsesEinsum(Tiny):
    def losses(self, batch):
        similar = tf.einsum("ik,jk->ij", batch["x"], batch["x"])
        mask = tf.eye(8) + np.tril(np.ones([8, 8], np.float32)) * 0.0
        return super().losses(batch) + tf.reduce_sum(similar * mask, axis=1)


class UsesOneHot(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        return keras.losses.categorical_crossentropy(tf.one_hot(batch["label"], 3), logits, from_logits=True)


class UsesIntegers(Tiny):
    def losses(self, batch):
        groups = batch["label"] // 2 + tf.math.floormod(batch["label"], 3)
        safe = 6 // tf.maximum(batch["label"], 1)
        return super().losses(batch) * tf.cast(groups + safe, tf.float32)


class UsesScatter(Tiny):
    def losses(self, batch):
        counts = tf.math.bincount(batch["label"], minlength=3, maxlength=3, dtype=tf.float32)
        sums = tf.math.unsorted_segment_sum(super().losses(batch), batch["label"], 3)
        return tf.reduce_sum(sums / tf.maximum(counts, 1.0)) / 8.0


class UsesSetsOfNumbers(Tiny):
    def losses(self, batch):
        allowed = {1, 2, 3}
        found = super().losses(batch)
        for n in allowed:
            found = found + 0.0 * n
        return found if len({"a", "b"}) == 2 and "a" in {"a"} else -found


class UsesAttention(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.attention = keras.layers.MultiHeadAttention(2, 4, dropout=0.1)
        self.norm = keras.layers.LayerNormalization()
        self.attention.build((8, 2, 2), (8, 2, 2))
        self.norm.build((8, 2, 2))

    def losses(self, batch):
        x = tf.reshape(batch["x"], [8, 2, 2])
        x = self.norm(x + self.attention(x, x, training=True))
        return super().losses({**batch, "x": tf.reshape(x, [8, 4])})


class UsesRnn(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rnn = keras.layers.GRU(4)
        self.rnn.build((8, 2, 2))

    def losses(self, batch):
        return super().losses({**batch, "x": self.rnn(tf.reshape(batch["x"], [8, 2, 2]))})


class UsesConvolutions(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.conv = keras.layers.Conv2D(4, 2, padding="same")
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.conv.build((8, 2, 2, 1))

    def losses(self, batch):
        return super().losses({**batch, "x": self.pool(self.conv(tf.reshape(batch["x"], [8, 2, 2, 1])))})


class UsesRegularizers(Tiny):
    @staticmethod
    def build_model(image_shape, classes):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(classes, kernel_regularizer="l2", activity_regularizer="l2")]
        )

    def losses(self, batch):
        return super().losses(batch) + tf.add_n(self.model.losses)


class UsesStopGradient(Tiny):
    def losses(self, batch):
        target = tf.stop_gradient(tf.nn.softmax(self.logits(batch)))
        return super().losses(batch) - tf.reduce_sum(target * tf.math.log(target + 1e-6), axis=1)


class UsesSchedule(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.schedule = keras.optimizers.schedules.CosineDecay(1.0, 100)

    def losses(self, batch):
        return super().losses(batch) * self.schedule(self.step)


class UsesMemo(Tiny):
    _cache: typing.ClassVar[dict] = {}

    def grid(self, size):
        if size not in self._cache:
            self._cache[size] = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype("float32")
        return self._cache[size]

    def losses(self, batch):
        return super().losses(batch) + self.grid(2).sum()


class UsesCachedProperty(Tiny):
    @functools.cached_property
    def weights_of_classes(self):
        return np.array([1.0, 2.0, 3.0], np.float32)

    def losses(self, batch):
        return super().losses(batch) * tf.gather(self.weights_of_classes, batch["label"])


class UsesTryExcept(Tiny):
    def losses(self, batch):
        try:
            extra = batch["weight"]
        except KeyError:
            extra = 1.0
        return super().losses(batch) * extra


class UsesTypeChecks(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        if isinstance(found, tf.Tensor) and found.dtype == tf.float32 and found.shape.rank == 1:
            return tf.cast(found, tf.float32)
        raise TypeError(f"{found!r}")


class UsesEvaluation(Tiny):
    def eval_step(self, batch):
        logits = self.model(batch["x"], training=False)
        right = tf.cast(tf.argmax(logits, axis=1, output_type=tf.int32) == batch["label"], tf.float32)
        return {"loss": self.losses(batch), "accuracy": right}

    def show(self):
        print("shown between steps")
        return {}
