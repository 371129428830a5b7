"""MT706: a Keras optimizer is applied by hand."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Shared


class AppliesPairs(Shared):
    def __init__(self, **given):
        super().__init__(**given)
        self.adam = keras.optimizers.Adam(1e-3)
        self.adam.build(self.model.trainable_variables)

    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        self.adam.apply(tape.gradient(loss, variables), variables)  # expect MT706
        return {"loss": loss}


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
