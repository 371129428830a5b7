"""MT403: layer.trainable is changed after tracing."""

from __future__ import annotations

import tensorflow as tf

from modetrain import Callback
from tests.corpus.base import Tiny


class UnfreezesLater(Tiny):
    def unfreeze(self):
        self.model.layers[-1].trainable = True
        for layer in self.model.layers:
            layer.trainable = True
        self.model.trainable = True  # expect MT403


class Unfreezes(Callback):
    def on_step(self, trainer):
        for layer in trainer.recipe.model.layers:
            layer.trainable = trainer.step > 100  # expect MT403 (ThawsLater)


class ThawsLater(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.model.layers[0].trainable = True

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        variables = self.model.trainable_variables
        self.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class UnfreezesTheEncoder(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.encoder = self.model.layers[0]
        self.encoder.trainable = False


class Unfreeze(Callback):
    def on_step(self, trainer):
        if trainer.step == 500:
            trainer.recipe.encoder.trainable = True  # expect MT403 (UnfreezesTheEncoder)
