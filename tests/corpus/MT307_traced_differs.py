"""MT307: the traced step computes something else than the eager one."""

from __future__ import annotations

import itertools

import tensorflow as tf

from tests.corpus.base import Tiny


class LosesAnEpsilon(Tiny):
    def losses(self, batch):
        x = (batch["x"] + 1e7) - 1e7  # expect MT307
        return super().losses({**batch, "x": x})


class AsksEagerly(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        if tf.executing_eagerly():  # expect MT307 MT304
            return found * 2.0
        return found


class TriesNumpy(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        try:
            scale = float(tf.reduce_mean(found).numpy())  # expect MT105 MT307
        except Exception:
            scale = 1.0
        return found * scale


class DiffersInEager(Tiny):
    def train_step(self, batch):
        scale = 1.0 if tf.executing_eagerly() else 0.5  # expect MT307
        return {"loss": super().train_step(batch)["loss"] * scale}


class GuardedNumerics(Tiny):
    """Falls back to the plain loss where the weighted one is not finite."""

    modes = ("xla",)

    def losses(self, batch):
        losses = super().losses(batch)
        weighted = losses * tf.math.log(tf.reduce_sum(batch["x"], 1))
        try:
            return tf.debugging.check_numerics(weighted, "weighted loss")  # expect MT307
        except tf.errors.InvalidArgumentError:
            return losses


class MapCounter(Tiny):
    """Examples are weighted by their number, taken off an iterator in map_fn."""

    modes = ("graph",)

    def losses(self, batch):
        ranks = itertools.count(1)
        return tf.map_fn(lambda value: value / next(ranks), super().losses(batch))  # expect MT307


class FoldDiscount(Tiny):
    """A discount that falls in Python with each element of a fold."""

    modes = ("graph",)

    def losses(self, batch):
        discount = [1.0]

        def add(total, value):
            discount[0] *= 0.5  # expect MT307
            return total + discount[0] * value

        return tf.foldl(add, super().losses(batch), initializer=tf.zeros([]))


class LoopedHash(Tiny):
    """A linear congruence over a tensor's loop: whole numbers of Python do not overflow."""

    modes = ("graph",)

    def train_step(self, batch):
        bucket = 12345
        for _ in tf.range(4):
            bucket = bucket * 1103515245 + 12345  # expect MT307
        weight = 1.0 + tf.cast(bucket % 1000, tf.float32)
        return self.minimize(lambda: self.losses(batch) * weight)
