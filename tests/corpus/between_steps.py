"""Defects: Python values that change between steps, which a compiled step does not see."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny

TEMPERATURE = 1.0
KNOBS = {"beta": 1.0}


class WeightGrowsByAHook(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.weight = 0.0

    def losses(self, batch):
        return super().losses(batch) * self.weight  # expect MT401

    def on_epoch_end(self):
        self.weight += 0.1  # expect MT405


class WeightGrowsByACallback(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.kl = 0.0

    def losses(self, batch):
        return super().losses(batch) + self.kl  # expect MT401


class Anneal(Callback):
    def on_step(self, trainer):
        trainer.recipe.kl = min(1.0, trainer.step / 100)  # expect MT405 (WeightGrowsByACallback)


class BranchesOnTheEpoch(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.epoch = 0

    def losses(self, batch):
        found = super().losses(batch)
        if self.epoch > 3:  # expect MT402
            found = found * 0.5
        return found

    def next_epoch(self):
        self.epoch += 1  # expect MT405


class BranchesOnAFlag(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.warm = True

    def losses(self, batch):
        scale = 0.1 if self.warm else 1.0  # expect MT402
        return super().losses(batch) * scale

    def show(self):
        self.warm = False  # expect MT405
        return {}


class GlobalChanges(Tiny):
    def losses(self, batch):
        return super().losses(batch) / TEMPERATURE  # expect MT401


def cool(by):
    global TEMPERATURE
    TEMPERATURE *= by  # expect MT405 (GlobalChanges)


class DictChanges(Tiny):
    def losses(self, batch):
        return super().losses(batch) * KNOBS["beta"]  # expect MT401

    def anneal(self):
        KNOBS["beta"] = 0.5  # expect MT405


@dataclasses.dataclass
class Knobs:
    gamma: float = 1.0


class DataclassChanges(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.knobs = Knobs()

    def losses(self, batch):
        return super().losses(batch) * self.knobs.gamma  # expect MT401

    def after_evaluation(self, value):
        self.knobs.gamma = value  # expect MT405


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


class ListChanges(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.weights = [1.0, 1.0]

    def losses(self, batch):
        return super().losses(batch) * sum(self.weights)  # expect MT401

    def add_task(self):
        self.weights.append(0.5)  # expect MT405


class UnfreezesLater(Tiny):
    def unfreeze(self):
        self.model.layers[-1].trainable = True
        for layer in self.model.layers:
            layer.trainable = True
        self.model.trainable = True  # expect MT403


class SwapsTheOptimizer(Tiny):
    def train_step(self, batch):
        return self.minimize(lambda: self.losses(batch), optimizer=self.optimizer)  # expect MT404

    def switch(self, make):
        self.optimizer = make(self.model.trainable_variables)  # expect MT405


class SwapsTheLoss(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.criterion = keras.losses.mean_squared_error

    def losses(self, batch):
        return self.criterion(tf.one_hot(batch["label"], 3), self.logits(batch))  # expect MT404

    def finetune(self):
        self.criterion = keras.losses.mean_absolute_error  # expect MT405


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
