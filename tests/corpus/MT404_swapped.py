"""MT404: an optimizer, model or function is swapped after tracing."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class SwitchesToSgd(Tiny):
    def switch(self):
        self.optimizer = keras.optimizers.SGD(0.1)  # expect MT404 MT405

    def losses(self, batch):
        return super().losses(batch)


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
