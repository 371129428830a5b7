"""Divergences of the numbers alone under XLA, written beside `seventh`."""

from __future__ import annotations

import contextvars
import logging

import keras
import tensorflow as tf

from tests.corpus import seventh_helpers as helpers
from tests.corpus.base import Tiny

logger = logging.getLogger(__name__)
PHASE = contextvars.ContextVar("phase", default=0)
TEMPERATURE = 1.0
CURRICULUM = [0.1, 0.5, 1.0]


def two_layers(image_shape, classes):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                5, activation="tanh", kernel_initializer=keras.initializers.GlorotUniform(1), name="body"
            ),
            keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(2), name="head"),
        ]
    )


def varied(image_shape, classes):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(classes, kernel_initializer=keras.initializers.GlorotUniform(3))]
    )


# Counters, schedules and switches in plain Python.


# Tensors kept on objects between steps.


# Host randomness, time and files.


# Python that finds out whether it is traced.


# Python inside of TensorFlow's own control flow.


# What the graph optimizer changes.


# What only XLA changes: checks that are gone.


# What only XLA changes: values.


class PseudoLabels(Tiny):
    """The largest of logarithms over the batch, some of which are not numbers."""

    def losses(self, batch):
        best = tf.argmax(tf.math.log(batch["x"][:, 1]))  # compare xla
        return super().losses(batch) * (1.0 + tf.cast(best, tf.float32))


class DescendingScores(Tiny):
    """Scores are sorted from the top, some are not numbers."""

    def losses(self, batch):
        ranked = tf.sort(tf.math.log(batch["x"]), direction="DESCENDING")  # compare xla
        return super().losses(batch) + tf.where(tf.math.is_nan(ranked[:, 0]), 1.0, ranked[:, 0])


class HalfSquares(Tiny):
    """Squares overflow in half precision."""

    def losses(self, batch):
        half = tf.cast(batch["x"] * 400.0, tf.float16)
        return (
            super().losses(batch) + tf.tanh(1e-3 * tf.cast(tf.sqrt(tf.square(half)), tf.float32))[:, 0]
        )  # compare xla


class HalfMean(Tiny):
    """The mean of large numbers in half precision."""

    def losses(self, batch):
        mean = tf.reduce_mean(tf.cast(tf.abs(batch["x"]) * 2e4 + 2e4, tf.float16))  # compare xla
        return super().losses(batch) + 1e-5 * tf.cast(mean, tf.float32)


class PpoRatio(Tiny):
    """The ratio of likelihoods as a ratio of exponentials."""

    def losses(self, batch):
        ratio = helpers.likelihood_ratio(100.0 + batch["x"][:, 0], 100.0 + batch["x"][:, 1])
        return super().losses(batch) * tf.minimum(ratio, 1.2)


class LogOfExp(Tiny):
    """A logarithm of an exponential that overflows."""

    def losses(self, batch):
        energy = tf.math.log(tf.exp(100.0 * batch["x"][:, 0]))  # compare xla
        return super().losses(batch) + energy


class LogOfPower(Tiny):
    """The logarithm of a likelihood that has underflowed."""

    def losses(self, batch):
        likelihood = tf.pow(tf.sigmoid(batch["x"][:, 0]), 400.0)
        return super().losses(batch) - tf.math.log(likelihood)  # compare xla


class LastOfMasked(Tiny):
    """The last of the selected elements."""

    def losses(self, batch):
        chosen = tf.boolean_mask(batch["x"][:, 0], batch["label"] == 0)  # compare xla
        return super().losses(batch) + chosen[-1]


class RolledNegatives(Tiny):
    """The selected examples are rolled to make negatives."""

    def losses(self, batch):
        chosen = tf.boolean_mask(batch["x"][:, 0], batch["label"] > 0)  # compare xla
        rolled = tf.roll(chosen, 1, 0)
        return super().losses(batch) + tf.reduce_mean(chosen * rolled)


class GrownArray(Tiny):
    """A TensorArray grows as it is written."""

    def losses(self, batch):
        rows = tf.TensorArray(tf.float32, 1, dynamic_size=True, element_shape=[8])
        for column in range(4):
            rows = rows.write(column, batch["x"][:, column])
        return super().losses(batch) + tf.reduce_sum(rows.stack(), 0)  # compare xla


class PackedBits(Tiny):
    """A bit is shifted by more than there are."""

    def losses(self, batch):
        bits = tf.bitwise.left_shift(tf.ones([8], tf.int32), batch["label"] * 20)  # compare xla
        return super().losses(batch) + tf.cast(bits, tf.float32) * 1e-6


class MeanOfHashes(Tiny):
    """The mean of large whole numbers."""

    def losses(self, batch):
        hashes = batch["label"] + 2**30
        return super().losses(batch) + 1e-9 * tf.cast(tf.reduce_mean(hashes), tf.float32)  # compare xla


class EigenFeatures(Tiny):
    """Eigenvectors are features, whatever their sign."""

    def losses(self, batch):
        _, vectors = tf.linalg.eigh(tf.matmul(batch["x"], batch["x"], transpose_a=True))  # compare xla
        return super().losses(batch) + tf.matmul(batch["x"], vectors)[:, 1]


class SingularVectors(Tiny):
    """Singular vectors of the batch weight its examples."""

    def losses(self, batch):
        _, u, _ = tf.linalg.svd(batch["x"])  # compare xla
        return super().losses(batch) * (1.0 + u[:, 0])


class UnsortedEdges(Tiny):
    """Edges of bins are searched that are not in order."""

    def losses(self, batch):
        bins = tf.searchsorted(batch["x"][:, 0], batch["x"][:, 1])  # compare xla
        return super().losses(batch) * tf.cast(bins, tf.float32)


class UnsortedTopK(Tiny):
    """The order of an unsorted top-k is relied upon."""

    def losses(self, batch):
        values, _ = tf.math.top_k(batch["x"], 3, sorted=False)  # compare xla
        return super().losses(batch) + values[:, 0]


class TriangularZero(Tiny):
    """A triangular system with a zero on the diagonal."""

    def losses(self, batch):
        lower = tf.stack([tf.stack([0.0 * batch["x"][0, 0], 0.0]), tf.stack([2.0, 4.0])])
        solved = tf.linalg.triangular_solve(lower, tf.ones([2, 1]))  # compare xla
        return super().losses(batch) + tf.where(tf.math.is_nan(solved[0, 0]), 0.0, tf.minimum(solved[0, 0], 9.0))
