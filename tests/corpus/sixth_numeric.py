"""Divergences of the numbers alone, written beside `sixth`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny


def cross_entropy(label, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)


def with_missing(x):
    """The features, with NaN for the largest of every column: a sensor out of its range."""
    return tf.where(x >= tf.reduce_max(x, 0, keepdims=True), np.nan, x)


class FoldedEpsilon(Tiny):
    """An epsilon for a saturated probability, which is added to a constant first."""

    modes = ("graph", "xla")

    def losses(self, batch):
        absent = tf.sigmoid(60.0 * batch["x"][:, 0])
        extra = -tf.math.log(1.0 - absent + 1e-9)  # compare graph xla
        return super().losses(batch) + 0.01 * extra


class MagicRounding(Tiny):
    """Quantises by adding and taking away a large constant."""

    modes = ("graph", "xla")
    magic = 1.5 * 2.0**23

    def logits(self, batch):
        levels = (4.0 * batch["x"] + self.magic) - self.magic  # compare graph xla
        return self.model(levels / 4.0, training=True) * tf.constant([1.0, 2.0, 3.0])


class ScaleUnlessMissing(Tiny):
    """Scales by the largest feature, unless something is missing."""

    modes = ("xla",)

    def logits(self, batch):
        largest = tf.reduce_max(with_missing(batch["x"]))  # compare xla
        scale = tf.where(tf.math.is_nan(largest), 1.0, largest)
        return self.model(batch["x"] / scale, training=True) * tf.constant([1.0, 2.0, 3.0])


class CentredTimestamps(Tiny):
    """Seconds since 1970 less their mean."""

    modes = ("xla",)

    def losses(self, batch):
        stamps = 1_700_000_000 + 3600 * batch["label"]
        centred = stamps - tf.reduce_mean(stamps)  # compare xla
        age = tf.cast(centred, tf.float32) / 3600.0
        return super().losses(batch) * tf.nn.softplus(age)


class BitMask(Tiny):
    """A set of ids as the bits of a word, with ids past its width."""

    modes = ("xla",)

    def losses(self, batch):
        member = tf.bitwise.left_shift(1, 20 * batch["label"])  # compare xla
        return super().losses(batch) * tf.where(member == 0, 0.0, 1.0)


class HalfLossScale(Tiny):
    """Scales a loss in half precision up and down again."""

    modes = ("graph", "xla")

    def losses(self, batch):
        half = tf.cast(super().losses(batch) * (1.0 + tf.square(batch["x"][:, 0])), tf.float16)
        scaled = half * tf.constant(32768.0, tf.float16)
        return tf.cast(scaled * tf.constant(2.0**-15, tf.float16), tf.float32)  # compare graph xla


class LogOfSoftmax(Tiny):
    """Distils from a confident teacher, by the logarithm of its softmax."""

    modes = ("graph",)

    def losses(self, batch):
        teacher = 200.0 * batch["x"][:, :3]
        log_teacher = tf.math.log(tf.nn.softmax(teacher))  # compare graph
        surprise = -tf.gather(log_teacher, batch["label"], batch_dims=1)
        return super().losses(batch) * (1.0 + tf.minimum(surprise, 1000.0))


class OnePassVariance(Tiny):
    """The variance as the mean square less the squared mean, far from zero."""

    modes = ("xla",)

    def losses(self, batch):
        readings = 3000.0 + 0.01 * batch["x"]
        variance = tf.reduce_mean(readings * readings, 0) - tf.reduce_mean(readings, 0) ** 2  # compare xla
        return super().losses(batch) + tf.reduce_mean(tf.sqrt(tf.maximum(variance, 1e-6)))


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


class PrincipalAxis(Tiny):
    """Projects on the eigenvectors of the covariance, whose signs are anyone's guess."""

    modes = ("xla",)

    def logits(self, batch):
        covariance = tf.matmul(batch["x"], batch["x"], transpose_a=True) / 8.0
        _, axes = tf.linalg.eigh(covariance)  # compare xla
        return self.model(tf.matmul(batch["x"], axes), training=True) * tf.constant([1.0, 2.0, 3.0])


class TinyLogarithm(Tiny):
    """The logarithm of one and a tiny number."""

    modes = ("graph",)

    def losses(self, batch):
        tiny = 1e-9 * (1.0 + tf.abs(batch["x"][:, 0]))
        ratio = tf.math.log(1.0 + tiny) / tiny  # compare graph
        return super().losses(batch) + ratio


class SignedZeroRank(Tiny):
    """Ranks rounded values, among them zeros of both signs."""

    modes = ("xla",)

    def losses(self, batch):
        rank = tf.argsort(tf.round(0.3 * batch["x"][:, 0]))  # compare xla
        return super().losses(batch) * (1.0 + tf.cast(rank, tf.float32)) * tf.square(batch["x"][:, 1])
