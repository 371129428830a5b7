"""MT401: a Python value that changes between steps."""

from __future__ import annotations

import os

import keras
import tensorflow as tf

from modetrain import Callback
from tests.corpus import elsewhere
from tests.corpus.base import Tiny


class PropertyReadsACounter(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self._round = 0

    @property
    def beta(self):
        return min(1.0, self._round / 10)  # expect MT401

    def losses(self, batch):
        return super().losses(batch) * self.beta

    def on_round(self):
        self._round += 1  # expect MT405


class SetsALearningRate(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.rate = 0.1

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        variables = self.model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(self.rate * gradient)  # expect MT401
        return {"loss": loss}

    def decay(self):
        setattr(self, "rate", self.rate * 0.5)  # expect MT405  # noqa: B010


class EnvironmentSwitch(Tiny):
    def losses(self, batch):
        scale = float(os.environ.get("CORPUS_SCALE", "1"))  # expect MT401
        return super().losses(batch) * scale


class WarmUpByEnvironment(Callback):
    def next_step(self, trainer):
        os.environ["CORPUS_SCALE"] = str(min(1.0, trainer.step / 100))  # expect MT405 (EnvironmentSwitch)


class GlobalOfAnotherModule(Tiny):
    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], elsewhere.softened(self.logits(batch)))


class Cools(Callback):
    def on_step(self, trainer):
        elsewhere.set_temperature(max(0.1, 1.0 - trainer.step / 100))


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


class LowersRateByName(Tiny):
    build_model = with_dropout


class LowersByName(Callback):
    def on_step(self, trainer):
        trainer.recipe.model.get_layer("drop").rate = 0.1  # expect MT401 MT405 (LowersRateByName)


class ChangesLossObject(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, reduction=None)

    def losses(self, batch):
        return self.criterion(tf.one_hot(batch["label"], 3), self.logits(batch))

    def harden(self):
        self.criterion.label_smoothing = 0.0  # expect MT401 MT405
