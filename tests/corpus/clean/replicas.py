"""Steps that compute the same on several replicas."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Shared, Tiny


class SharedCleanly(Tiny):
    modes = ("mirrored",)

    def __init__(self, **given):
        super().__init__(**given)
        self.count = tf.Variable(0.0, trainable=False)

    def losses(self, batch):
        self.count.assign_add(1.0)
        x = tf.clip_by_value(batch["x"], -3.0, 3.0)
        return super().losses({**batch, "x": x}) / 2.0


class SharedPerExample(Shared):
    def losses(self, batch):
        x = tf.math.l2_normalize(batch["x"], axis=-1) - tf.reduce_mean(batch["x"], axis=1, keepdims=True)
        return super().losses({**batch, "x": x}) + tf.reduce_sum(x * x, axis=1)


class SharedMean(Shared):
    def losses(self, batch):
        return tf.reduce_mean(super().losses(batch)) + 1e-3 * tf.nn.l2_loss(self.model.trainable_variables[0].value)


class SharedCounter(Shared):
    def __init__(self, **given):
        super().__init__(**given)
        self.count = tf.Variable(0.0, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
        self.centre = tf.Variable(0.0, trainable=False)

    def train_step(self, batch):
        values = super().train_step(batch)
        self.count.assign_add(1.0)
        mean = tf.distribute.get_replica_context().all_reduce("MEAN", tf.reduce_mean(batch["x"]))
        self.centre.assign(0.9 * self.centre + 0.1 * mean)
        return values


class SharedTeacher(Shared):
    def __init__(self, **given):
        super().__init__(**given)
        self.teacher = [tf.Variable(v, trainable=False) for v in self.model.trainable_variables]

    def train_step(self, batch):
        values = super().train_step(batch)
        for mine, theirs in zip(self.teacher, self.model.trainable_variables, strict=True):
            mine.assign(0.99 * mine + 0.01 * theirs.value)
        return values


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


class MeanOfAKerasLoss(Tiny):
    modes = ("xla", "mirrored")

    def losses(self, batch):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return loss(batch["label"], self.logits(batch))
