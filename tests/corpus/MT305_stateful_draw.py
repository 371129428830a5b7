"""MT305: draws from TensorFlow's stateful generators."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny, varied


class StatefulUniformWithSeed(Tiny):
    def losses(self, batch):
        return super().losses(batch) * tf.random.uniform([8], seed=3)  # expect MT305


class SampledActions(Tiny):
    """Actions are sampled from the policy with the global seed."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def losses(self, batch):
        logits = self.logits(batch)
        action = tf.random.categorical(tf.stop_gradient(logits), 1)[:, 0]  # expect MT305
        return tf.nn.sparse_softmax_cross_entropy_with_logits(action, logits)


class RandomBrightness(Tiny):
    """An augmentation of tf.image in the step."""

    modes = ("graph",)
    build_model = staticmethod(varied)

    def losses(self, batch):
        images = tf.reshape(batch["x"], [-1, 2, 2, 1])
        x = tf.reshape(tf.image.random_brightness(images, 0.9), [-1, 4])  # expect MT305
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self.model(x, training=True))


class KerasRandomWithoutSeed(Tiny):
    def logits(self, batch):
        noise = keras.random.normal(batch["x"].shape, stddev=0.1)  # expect MT305
        return self.model(batch["x"] + noise, training=True)


class GeneratorOfItsOwn(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.generator = tf.random.Generator.from_seed(1)

    def logits(self, batch):
        return self.model(batch["x"] + self.generator.normal([8, 4]), training=True)  # expect MT305


def stacked(*layers):
    """A model: the layers, and a dense one after them."""

    def build(image_shape, classes):
        return keras.Sequential(
            [
                keras.Input((4,)),
                *(make() for make in layers),
                keras.layers.Dense(classes, kernel_initializer="glorot_uniform"),
            ]
        )

    return staticmethod(build)


class SeededNoise(Tiny):
    """Noise of an operation with a seed, for the same run every time."""

    modes = ("xla",)

    def logits(self, batch):
        return self.model(batch["x"] + tf.random.uniform((8, 4), seed=5), training=True)  # expect MT305

    build_model = stacked()
