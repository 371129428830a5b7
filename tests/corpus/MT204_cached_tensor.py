"""MT204: caches a tensor of the step (lru_cache)."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class CachesByADecorator(Tiny):
    @functools.lru_cache  # noqa: B019
    def mask(self, size):
        return tf.ones([size])

    def losses(self, batch):
        return super().losses(batch) * self.mask(8)  # expect MT204


class TeacherCache(Tiny):
    """An lru_cache is to hold the teacher's weights as of the first step."""

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def teacher_kernel(self):
        return tf.identity(self.model.trainable_variables[0])  # expect MT204

    def train_step(self, batch):
        def loss_fn():
            logits = self.logits(batch)
            soft = tf.nn.softmax(tf.stop_gradient(batch["x"] @ self.teacher_kernel()))
            distill = tf.nn.softmax_cross_entropy_with_logits(soft, logits)
            hard = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
            return 0.5 * hard + 0.5 * distill

        return self.minimize(loss_fn)


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


class CachedProjection(Tiny):
    """A random projection which is drawn once and cached."""

    modes = ("graph",)

    @functools.cache  # noqa: B019
    def projection(self, size):
        return tf.random.normal((4, size))  # expect MT204 MT305

    def logits(self, batch):
        return self.model(tf.matmul(batch["x"], self.projection(4)), training=True)  # expect MT204

    build_model = stacked()
