"""MT201: a Python value is changed by a function that Keras calls."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny, dense


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self):
        self.rate = 0.1

    def __call__(self, step):
        self.rate *= 0.5  # expect MT201 (HalvesInASchedule)
        return self.rate


class HalvesInASchedule(Tiny):
    """A Keras optimizer asks its schedule at each step."""

    def __init__(self, **given):
        super().__init__(**given)
        self.updates = keras.optimizers.SGD(Halving())

    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.losses(batch))
        self.updates.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


class Growing(keras.regularizers.Regularizer):
    def __init__(self):
        self.uses = 0

    def __call__(self, weights):
        self.uses += 1  # expect MT201 (GrowsInARegularizer)
        return 1e-3 * self.uses * tf.reduce_sum(tf.square(weights))


class GrowsInARegularizer(Tiny):
    def build_model(image_shape, classes):
        model = dense(image_shape, classes)
        model.layers[-1].kernel_regularizer = Growing()
        return model

    def losses(self, batch):
        return super().losses(batch) + self.model.layers[-1].kernel_regularizer(self.model.trainable_variables[0])
