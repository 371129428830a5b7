"""MT707: a metric that is not the mean over examples."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Shared


def dropping(image_shape, classes):
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(classes)]
    )


class MaximumShown(Shared):
    build_model = staticmethod(dropping)

    def train_step(self, batch):
        losses = self.losses(batch)
        return self.minimize(lambda: self.losses(batch)) | {"worst": tf.reduce_max(losses)}  # expect MT707
