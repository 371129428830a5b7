"""MT206: makes a variable, layer, optimizer or metric in the step."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class ProjectsLazily(Tiny):
    def losses(self, batch):
        if not hasattr(self, "project"):
            self.project = keras.layers.Dense(4)  # expect MT206
        return super().losses({**batch, "x": self.project(batch["x"])})


class MakesALayer(Tiny):
    def losses(self, batch):
        hidden = keras.layers.Dense(4)(batch["x"])  # expect MT206
        return super().losses({**batch, "x": hidden})


class LateScale(keras.layers.Layer):
    scale = None

    def call(self, inputs, training=False):
        if training and self.scale is None:
            self.scale = tf.Variable(1.0, name="scale")  # expect MT206 (VariableOnFirstUse)
        return inputs if self.scale is None else inputs * self.scale


class VariableOnFirstUse(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), LateScale(), keras.layers.Dense(classes)])


class MetricInEval(Tiny):
    def eval_step(self, batch):
        logits = self.model(batch["x"], training=False)
        accuracy = keras.metrics.SparseCategoricalAccuracy()  # expect MT206
        accuracy.update_state(batch["label"], logits)
        return {"accuracy": accuracy.result()}
