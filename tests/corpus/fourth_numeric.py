"""Divergences of the numbers alone: nothing but running a step in both modes shows them.

`# compare` names the modes that compute otherwise than eager does, at the line of the operation; `inspect` may speak there
too, and nowhere else.
"""

from __future__ import annotations

import keras
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


class EpsilonFolded(Tiny):
    def losses(self, batch):
        p = tf.sigmoid(40.0 * batch["x"][:, 0])
        entropy = tf.math.log((1.0 - p) + 1e-9)  # compare graph xla
        return super().losses(batch) - 0.01 * entropy


class ShiftPastWidth(Tiny):
    def losses(self, batch):
        flags = tf.bitwise.left_shift(batch["label"] + 1, 33)  # compare xla
        return super().losses(batch) * (1.0 + 0.25 * tf.cast(flags, tf.float32))


class SignsOfEigenvectors(Tiny):
    def logits(self, batch):
        covariance = tf.transpose(batch["x"]) @ batch["x"] / 8.0
        _, vectors = tf.linalg.eigh(covariance)  # compare xla
        return self.model(batch["x"] @ vectors, training=True)


class SignsOfSvd(Tiny):
    def logits(self, batch):
        _, u, _ = tf.linalg.svd(batch["x"])  # compare xla
        return self.model(tf.pad(u[:, :2], [[0, 0], [0, 2]]), training=True)


class DrawsCategories(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        drawn = tf.random.stateless_categorical(logits, 1, seed=self.seed("pseudo"))  # compare xla
        return tf.nn.sparse_softmax_cross_entropy_with_logits(drawn[:, 0], logits)


class DrawsTruncated(Tiny):
    def logits(self, batch):
        noise = tf.random.stateless_truncated_normal([8, 4], seed=self.seed("noise"), stddev=0.1)  # compare xla
        return self.model(batch["x"] + noise, training=True)


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


class LogOfOnePlus(Tiny):
    def losses(self, batch):
        growth = batch["x"][:, 0] * 1e-9
        rate = tf.math.log(1.0 + growth) / growth  # compare graph
        return super().losses(batch) * (0.5 + 0.5 * rate)


class ExpMinusOne(keras.layers.Layer):
    def call(self, inputs):
        small = inputs * 1e-9
        return (tf.exp(small) - 1.0) * 1e9  # compare graph (ElementInLayer)


class ElementInLayer(Tiny):
    def build_model(image_shape, classes):
        return keras.Sequential([keras.Input((4,)), ExpMinusOne(), keras.layers.Dense(classes)])


class BinsOfSeconds(Tiny):
    def losses(self, batch):
        seconds = tf.cast(batch["label"] + tf.range(8), tf.float32)
        bins = tf.floor(seconds / 0.7 * 0.7)  # compare graph xla
        return super().losses(batch) * (1.0 + bins)


class RanksMasked(Tiny):
    def logits(self, batch):
        scores = tf.where(batch["x"][:, 0] > 1.0, batch["x"][:, 0], 0.0 * batch["x"][:, 0])
        order = tf.argsort(scores)  # compare xla
        return self.model(tf.gather(batch["x"], order), training=True)


class HardestMasked(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        masked = tf.where(batch["label"] == 1, batch["x"][:, 1], 0.0 * batch["x"][:, 1])
        _, hardest = tf.math.top_k(masked, k=6)  # compare xla
        return tf.reduce_mean(tf.gather(losses, hardest) * tf.range(1.0, 7.0))


class NormOfTiny(Tiny):
    def losses(self, batch):
        gap = batch["x"] * 1e-25
        distance = tf.sqrt(tf.square(gap)) * 1e25  # compare xla
        return super().losses(batch) + 0.1 * tf.reduce_sum(distance, axis=1)


class HalfMean(Tiny):
    def losses(self, batch):
        features = tf.cast(tf.tile(tf.abs(batch["x"]), [9000, 1]), tf.float16)
        mean = tf.reduce_mean(features)  # compare xla
        return super().losses(batch) * tf.tanh(tf.cast(mean, tf.float32))
