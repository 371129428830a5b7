"""Defects: what several replicas compute otherwise than one device."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class Shared(Tiny):
    modes = ("mirrored",)


class DividesByTheGlobalBatch(Shared):
    def losses(self, batch):
        return tf.reduce_sum(super().losses(batch)) / self.info.batch_size  # expect MT701


class AveragesByTheGlobalBatch(Shared):
    def losses(self, batch):
        return tf.nn.compute_average_loss(super().losses(batch), global_batch_size=self.info.batch_size)  # expect MT701


class NormalisesByHand(Shared):
    def losses(self, batch):
        mean, variance = tf.nn.moments(batch["x"], axes=[0])  # expect MT702
        return super().losses({**batch, "x": (batch["x"] - mean) / tf.sqrt(variance + 1e-3)})


class ClipsByHand(Shared):
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = self.losses(batch)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        clipped, _ = tf.clip_by_global_norm(gradients, 1.0)  # expect MT703
        self.apply(clipped, self.model.trainable_variables)
        return {"loss": loss}


class ClipsEach(Shared):
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = self.losses(batch)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        gradients = [tf.clip_by_norm(g, 1.0) for g in gradients]  # expect MT703
        self.apply(gradients, self.model.trainable_variables)
        return {"loss": loss}


class AssignsAMean(Shared):
    def __init__(self, **given):
        super().__init__(**given)
        self.mean = tf.Variable(0.0, trainable=False)

    def losses(self, batch):
        found = super().losses(batch)
        self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(found))  # expect MT704
        return found


class AssignsInPlace(Shared):
    def __init__(self, **given):
        super().__init__(**given)
        self.total = keras.Variable(0.0, trainable=False)

    def losses(self, batch):
        found = super().losses(batch)
        self.total.assign_add(tf.reduce_sum(found))  # expect MT704
        return found


class DrawsAlike(Shared):
    def losses(self, batch):
        return super().losses(batch) * tf.random.uniform([8])  # expect MT705 MT305


class AppliesByHand(Shared):
    def __init__(self, **given):
        super().__init__(**given)
        self.keras_optimizer = keras.optimizers.SGD(0.1)
        self.keras_optimizer.build(self.model.trainable_variables)

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.keras_optimizer.apply_gradients(  # expect MT706
            zip(gradients, self.model.trainable_variables, strict=True)
        )
        return {"loss": loss}


def dropping(image_shape, classes):
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(classes)]
    )


class MixesWithTheReversed(Shared):
    build_model = staticmethod(dropping)

    def losses(self, batch):
        other = batch["x"][::-1]  # expect MT702
        return super().losses({**batch, "x": 0.7 * batch["x"] + 0.3 * other})


class HardestOfTheBatch(Shared):
    build_model = staticmethod(dropping)

    def losses(self, batch):
        hardest = tf.math.top_k(super().losses(batch), 4).values  # expect MT701 MT702
        return tf.reduce_mean(hardest)


class WeightedMean(Shared):
    def losses(self, batch):
        weights = tf.random.stateless_uniform([len(batch["x"])], seed=self.seed("weights"))
        return tf.reduce_sum(weights * super().losses(batch)) / tf.reduce_sum(weights)  # expect MT701


class MaximumShown(Shared):
    build_model = staticmethod(dropping)

    def train_step(self, batch):
        losses = self.losses(batch)
        return self.minimize(lambda: self.losses(batch)) | {"worst": tf.reduce_max(losses)}  # expect MT707


class GammaOfEach(Shared):
    def losses(self, batch):
        weights = tf.random.stateless_gamma([len(batch["x"])], self.seed("weights"), alpha=2.0)  # expect MT705
        return weights * super().losses(batch)


class SumOfAKerasLoss(Shared):
    def losses(self, batch):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
        return loss(batch["label"], self.logits(batch))  # expect MT701
