"""Softmax classification of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import keras
import tensorflow as tf

from modetrain import Bounds, Recipe


class Digits(Recipe):
    """Softmax classification of images: batches of `image` [n, h, w, c] in [0, 1] and `label` int32 [n].

    Args:
      shift: training images are moved by up to so many pixels, each its own way; 0 leaves them as they are.
    """

    def __init__(
        self,
        *,
        model: Callable[..., keras.Model],
        optimizer,
        info,
        shift: Annotated[int, Bounds(at_least=0)] = 0,
    ):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.shift = shift

    @property
    def prepares(self):
        return self.shift > 0

    def prepare(self, batch, *, seed, training):
        if not training:
            return batch
        return {**batch, "image": shifted(batch["image"], self.shift, seed)}

    def train_step(self, batch):
        def loss():
            logits = self.model(batch["image"], training=True)
            return cross_entropy(batch["label"], logits), {"accuracy": hits(batch["label"], logits)}

        return self.minimize(loss)

    def eval_step(self, batch):
        logits = self.model(batch["image"], training=False)
        return {"loss": cross_entropy(batch["label"], logits), "accuracy": hits(batch["label"], logits)}


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy of each example, in nats: [n], at least float32."""
    wide = tf.float64 if logits.dtype == tf.float64 else tf.float32
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, wide))


def hits(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """1 where the most likely class is the right one, else 0: float32 [n]."""
    return tf.cast(tf.argmax(logits, axis=1, output_type=labels.dtype) == labels, tf.float32)


def shifted(images: tf.Tensor, most: int, seed: tf.Tensor) -> tf.Tensor:
    """Images [n, h, w, c] each moved by up to `most` pixels down or up and right or left; zeros come in at the edges."""
    count, height, width, channels = images.shape
    padded = tf.pad(images, [[0, 0], [most, most], [most, most], [0, 0]])
    corner = tf.random.stateless_uniform([count, 2], seed, 0, 2 * most + 1, dtype=tf.int32)
    rows = tf.gather(padded, corner[:, :1] + tf.range(height), batch_dims=1)
    columns = tf.gather(tf.transpose(rows, [0, 2, 1, 3]), corner[:, 1:] + tf.range(width), batch_dims=1)
    return tf.reshape(tf.transpose(columns, [0, 2, 1, 3]), [count, height, width, channels])
