"""Metrics: as functions, of Keras, in variables."""

from __future__ import annotations

import keras
import tensorflow as tf

from modetrain import Sum, Weighted, metrics
from tests.corpus.base import Tiny, Varied


def sparse_cross_entropy(label, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


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


class AccuracyVariable(Tiny):
    """Keeps the accuracy and a confusion matrix in variables."""

    build_model = stacked()

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.right = tf.Variable(0.0, trainable=False)
        self.confusion = tf.Variable(tf.zeros((3, 3)), trainable=False)

    def losses(self, batch):
        logits = self.logits(batch)
        guess = tf.argmax(logits, 1, output_type=tf.int32)
        self.right.assign_add(tf.reduce_sum(tf.cast(guess == batch["label"], tf.float32)))
        self.confusion.assign_add(tf.matmul(tf.one_hot(batch["label"], 3), tf.one_hot(guess, 3), transpose_a=True))
        return sparse_cross_entropy(batch["label"], logits)


class MeasuresByKeras(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    def losses(self, batch):
        return self.loss_function(batch["label"], self.logits(batch))

    def train_step(self, batch):
        def loss():
            logits = self.logits(batch)
            hits = keras.metrics.sparse_categorical_accuracy(batch["label"], logits)
            return self.loss_function(batch["label"], logits), {"accuracy": hits}

        return self.minimize(loss)


class ScatteredHistogram(Varied):
    """A histogram in a variable, all indices within it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.counts = tf.Variable(tf.ones([3]), trainable=False)

    def train_step(self, batch):
        self.counts.scatter_nd_add(batch["label"][:, None], tf.ones([8]))
        frequency = self.counts / tf.reduce_sum(self.counts)
        return self.minimize(lambda: self.losses(batch) / tf.gather(frequency, batch["label"]))


class UsesEvaluation(Tiny):
    def eval_step(self, batch):
        logits = self.model(batch["x"], training=False)
        right = tf.cast(tf.argmax(logits, axis=1, output_type=tf.int32) == batch["label"], tf.float32)
        return {"loss": self.losses(batch), "accuracy": right}

    def show(self):
        print("shown between steps")
        return {}


class ReportsHits(Tiny):
    def train_step(self, batch):
        def loss():
            logits = self.logits(batch)
            hits = tf.math.in_top_k(batch["label"], logits, 2)
            right = tf.equal(tf.argmax(logits, -1, output_type=tf.int32), batch["label"])
            return super(ReportsHits, self).losses(batch), {
                "top2": tf.cast(hits, tf.float32),
                "top1": tf.cast(right, tf.float32),
            }

        return self.minimize(loss)


class WeightedLoss(Tiny):
    """A loss and a metric as means with weights; some examples weigh nothing."""

    modes = ("xla", "mirrored")

    def train_step(self, batch):
        weights = tf.cast(batch["label"], tf.float32)

        def loss():
            losses = self.losses(batch)
            return Weighted(losses, weights), {"root": Weighted(tf.sqrt(losses), batch["label"] > 0)}

        return self.minimize(loss)


class SumsOfCounts(Tiny):
    """Sums that figures are made from: the recipe's own, and ready-made ones."""

    modes = ("xla", "mirrored")

    def train_step(self, batch):
        def loss():
            logits = self.logits(batch)
            guess = tf.argmax(logits, 1, output_type=tf.int32)
            return sparse_cross_entropy(batch["label"], logits), {
                "counts": Sum(tf.reduce_sum(tf.one_hot(batch["label"], 3), axis=0)),
                "confusion": metrics.confusion_matrix(batch["label"], guess, classes=3),
                "auc": metrics.auc(batch["label"] == 0, tf.nn.softmax(logits)[:, 0]),
            }

        return self.minimize(loss)

    def summarize(self, sums):
        return {"most": sums["counts"].max()}
