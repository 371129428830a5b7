"""NaN and infinity: XLA and the graph optimizer carry them on otherwise."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny


class ReduceMaxOfNan(Tiny):
    def logits(self, batch):
        x = tf.sqrt(batch["x"])
        scale = tf.reduce_max(x)  # compare graph xla
        return self.model(batch["x"] / scale, training=True)


class ArgmaxOfNan(Tiny):
    def losses(self, batch):
        scores = tf.math.log(batch["x"][:, :3])
        chosen = tf.argmax(scores, axis=1)  # compare graph xla
        return tf.nn.sparse_softmax_cross_entropy_with_logits(chosen, self.logits(batch))


class SortOfNan(Tiny):
    def logits(self, batch):
        ranked = tf.sort(tf.sqrt(batch["x"]), axis=1)  # compare xla
        return self.model(tf.where(tf.math.is_nan(ranked), 0.0, ranked), training=True)


class TopOfNan(Tiny):
    def logits(self, batch):
        best, _ = tf.math.top_k(tf.math.log(batch["x"]), k=2)  # compare xla
        best = tf.where(tf.math.is_nan(best), 0.0, best)
        return self.model(tf.concat([best, batch["x"][:, :2]], axis=1), training=True)


class SegmentMaxOfNan(Tiny):
    def losses(self, batch):
        heights = tf.math.log(batch["x"][:, 1])
        tallest = tf.math.unsorted_segment_max(heights, batch["label"], num_segments=3)  # compare xla
        tallest = tf.where(tf.math.is_finite(tallest), tallest, 0.0)
        return super().losses(batch) + 0.1 * tf.gather(tallest, batch["label"])


class ArgmaxOfMissing(Tiny):
    def losses(self, batch):
        measured = tf.where(batch["x"] > 0.0, batch["x"], float("nan"))
        chosen = tf.argmax(measured[:, :3], axis=1)  # compare xla
        return tf.nn.sparse_softmax_cross_entropy_with_logits(chosen, self.logits(batch))


class PeakOfMissing(Tiny):
    def losses(self, batch):
        measured = tf.where(batch["x"] > 0.0, batch["x"], float("nan"))
        peak = tf.reduce_max(measured, axis=1)  # compare xla
        return super().losses(batch) * tf.where(tf.math.is_nan(peak), 0.0, peak)


def with_missing(x):
    """The features, with NaN for the largest of every column: a sensor out of its range."""
    return tf.where(x >= tf.reduce_max(x, 0, keepdims=True), np.nan, x)


class ScaleUnlessMissing(Tiny):
    """Scales by the largest feature, unless something is missing."""

    modes = ("xla",)

    def logits(self, batch):
        largest = tf.reduce_max(with_missing(batch["x"]))  # compare xla
        scale = tf.where(tf.math.is_nan(largest), 1.0, largest)
        return self.model(batch["x"] / scale, training=True) * tf.constant([1.0, 2.0, 3.0])


class HiddenMissing(Tiny):
    """A hidden layer on features with missing ones, which are to show in the loss."""

    modes = ("graph",)

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.kernel = tf.Variable(tf.ones((4, 4)), trainable=False)
        self.bias = tf.Variable(tf.zeros(4), trainable=False)

    def losses(self, batch):
        product = tf.matmul(with_missing(batch["x"]), self.kernel)
        hidden = tf.nn.relu(tf.nn.bias_add(product, self.bias))  # compare graph
        return super().losses(batch) + tf.reduce_sum(hidden, 1)


class MaskedClasses(Tiny):
    """A class out of play by a logit of minus infinity."""

    modes = ("xla",)

    def losses(self, batch):
        impossible = tf.one_hot((batch["label"] + 1) % 3, 3) > 0.5
        logits = tf.where(impossible, -np.inf, self.logits(batch))
        losses = tf.nn.softmax_cross_entropy_with_logits(tf.one_hot(batch["label"], 3), logits)  # compare xla
        return tf.where(tf.math.is_nan(losses), 0.0, losses)


class KeptUnlessBelow(Tiny):
    """Keeps whatever is not below a threshold, which what is missing is not."""

    modes = ("graph",)

    def losses(self, batch):
        kept = tf.logical_not(with_missing(batch["x"])[:, 0] < 10.0)  # compare graph
        return super().losses(batch) * tf.where(kept, 2.0, 1.0)


class MissingMax(Tiny):
    """NaN marks missing features, and reduce_max is to carry it on."""

    def train_step(self, batch):
        x = tf.where(batch["x"] > 1.0, np.float32("nan"), batch["x"])
        missing = tf.math.is_nan(tf.reduce_max(x, axis=-1))  # compare xla
        weight = tf.where(missing, 0.0, 1.0)

        def loss_fn():
            losses = self.losses(batch)
            return losses * weight, {"missing": 1.0 - weight}

        return self.minimize(loss_fn)


class DescendingScores(Tiny):
    """Scores are sorted from the top, some are not numbers."""

    def losses(self, batch):
        ranked = tf.sort(tf.math.log(batch["x"]), direction="DESCENDING")  # compare xla
        return super().losses(batch) + tf.where(tf.math.is_nan(ranked[:, 0]), 1.0, ranked[:, 0])
