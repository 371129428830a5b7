"""Lists, iterators and objects that live no longer than the step."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterator

import keras
import tensorflow as tf

from tests.corpus.base import BATCH_SIZE, Tiny, Varied


class OuterLocalList(Tiny):
    """The list belongs to the step, the loss function appends to it."""

    def train_step(self, batch):
        kept = []

        def loss():
            logits = self.logits(batch)
            kept.append(logits)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

        return self.minimize(loss)


class TemporaryFlag(Tiny):
    """Set and put back within the step."""

    training = False

    def losses(self, batch):
        self.training = True
        try:
            return super().losses(batch) * (2.0 if self.training else 1.0)
        finally:
            self.training = False


POWERS = tuple(range(3))

half = functools.partial(operator.mul, 0.5)


class UsesIteratorsLocally(Tiny):
    def losses(self, batch):
        numbers = itertools.count(1)
        found = super().losses(batch)
        for power, n in zip(POWERS, numbers, strict=False):
            found = found + power * next(iter([n])) * 0.01
        return half(found)


class UsesGenerators(Tiny):
    def losses(self, batch):
        def scaled():
            for factor in (0.5, 0.5):
                yield batch["x"] * factor

        return super().losses({**batch, "x": sum(scaled())})


SCALES = (1.0, 0.5, 0.25)


class CollectsTerms(Tiny):
    def losses(self, batch):
        terms = []
        for scale in SCALES:
            terms.append(super().losses({**batch, "x": batch["x"] * scale}))
        return tf.add_n(terms) / float(len(terms))


class YieldsTerms(Tiny):
    def terms(self, batch) -> Iterator[tf.Tensor]:
        yield super().losses(batch)
        yield 1e-3 * tf.reduce_sum(tf.abs(self.logits(batch)), -1)

    def losses(self, batch):
        return sum(self.terms(batch))


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


FACTORS = [1.0, 0.5, 0.25]


class LocalLists(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        terms, names = [], []
        for power in (1, 2, 3):
            terms.append(0.1 * tf.reduce_mean(logits**power, axis=1))
            names.append(f"power_{power}")
        while len(terms) > 2:
            terms.pop()
        return tf.add_n(terms) + tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)


class LocalIterator(Tiny):
    def losses(self, batch):
        scales = iter(FACTORS)
        count = 0

        def head(losses):
            nonlocal count
            count += 1
            return losses * next(scales) / count

        losses = super().losses(batch)
        for _ in range(3):
            losses = head(losses)
        return losses


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


class CopiedBatch(Varied):
    """A copy of the batch is changed."""

    def losses(self, batch):
        batch = dict(batch)
        label = batch.pop("label")
        batch["x"] = batch["x"] * 2.0
        batch.setdefault("weight", tf.ones([8]))
        return batch["weight"] * tf.nn.sparse_softmax_cross_entropy_with_logits(label, self.logits(batch))


class PopsTheLabel(Varied):
    """Each call of a step gets a batch of its own."""

    def train_step(self, batch):
        label = batch.pop("label")
        return self.minimize(lambda: tf.nn.sparse_softmax_cross_entropy_with_logits(label, self.logits(batch)))


class Idempotent(Varied):
    """Attributes are written, always with the same."""

    last_width = None

    def losses(self, batch):
        self.last_width = int(batch["x"].shape[-1])
        self.names = tuple(sorted(batch))
        return super().losses(batch) / self.last_width * len(self.names)


class OwnFunction(Varied):
    """A function of tf.function, made by the user, notes that it was traced: in eager mode it is traced once too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

        @tf.function
        def mixed(x):
            return x + 0.1 * tf.reverse(x, [-1])

        self.mixed = mixed

    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(self.mixed(batch["x"])))


class WholeGenerator(Tiny):
    """A generator is made and consumed wholly within a step."""

    def views(self, x):
        yield x
        for shift in range(1, 3):
            yield tf.roll(x, shift, axis=1)

    def train_step(self, batch):
        def loss_fn():
            total = tf.zeros([BATCH_SIZE])
            for view in self.views(batch["x"]):
                logits = self.model(view, training=True)
                total += tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            return total / 3.0

        return self.minimize(loss_fn)


class LocalCounter(Tiny):
    """A Counter, a deque and a nonlocal number that live for one step."""

    def train_step(self, batch):
        number = 0
        recent = collections.deque(maxlen=2)
        uses = collections.Counter()

        def term(name, value):
            nonlocal number
            number += 1
            uses[name] += 1
            recent.append(value / number)

        losses = tf.reduce_sum(tf.square(batch["x"]), axis=-1)
        for name in ("first", "second", "third"):
            term(name, losses)
        weight = tf.add_n(list(recent)) / sum(uses.values())
        return self.minimize(lambda: self.losses(batch) * (1.0 + 0.01 * weight))
