"""Softmax classification of images."""

from __future__ import annotations

import tensorflow as tf

from modetrain import Recipe


class Digits(Recipe):
    """Softmax classification of images: batches of `image` [n, h, w, c] in [0, 1] and `label` int32 [n]."""

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
