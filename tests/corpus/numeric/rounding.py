"""Expressions that are rewritten, and sums and squares in another precision."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny


class EpsilonFolded(Tiny):
    def losses(self, batch):
        p = tf.sigmoid(40.0 * batch["x"][:, 0])
        entropy = tf.math.log((1.0 - p) + 1e-9)  # compare graph xla
        return super().losses(batch) - 0.01 * entropy


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


class MagicRounding(Tiny):
    """Quantises by adding and taking away a large constant."""

    modes = ("graph", "xla")
    magic = 1.5 * 2.0**23

    def logits(self, batch):
        levels = (4.0 * batch["x"] + self.magic) - self.magic  # compare graph xla
        return self.model(levels / 4.0, training=True) * tf.constant([1.0, 2.0, 3.0])


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


class TinyLogarithm(Tiny):
    """The logarithm of one and a tiny number."""

    modes = ("graph",)

    def losses(self, batch):
        tiny = 1e-9 * (1.0 + tf.abs(batch["x"][:, 0]))
        ratio = tf.math.log(1.0 + tiny) / tiny  # compare graph
        return super().losses(batch) + ratio


class HalfSquares(Tiny):
    """Squares overflow in half precision."""

    def losses(self, batch):
        half = tf.cast(batch["x"] * 400.0, tf.float16)
        size = tf.cast(tf.sqrt(tf.square(half)), tf.float32)  # compare xla
        return super().losses(batch) + tf.tanh(1e-3 * size)[:, 0]


class PpoRatio(Tiny):
    """The ratio of likelihoods as a ratio of exponentials."""

    def losses(self, batch):
        ratio = elsewhere.likelihood_ratio(100.0 + batch["x"][:, 0], 100.0 + batch["x"][:, 1])
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


class HalfGrid(Tiny):
    """Snaps to a coarse grid by float16 sums, that XLA keeps in float32."""

    def logits(self, batch):
        half = tf.cast(batch["x"], tf.float16)
        offset = tf.constant(1024.0, tf.float16)
        snapped = tf.cast((half + offset) - offset, tf.float32)  # compare xla
        return self.model(snapped, training=True)


class NaiveLogExp(Tiny):
    """Overflow of log(exp(x)) marks saturated scores; XLA simplifies it away."""

    def train_step(self, batch):
        score = 60.0 * tf.reduce_max(tf.abs(batch["x"]), axis=-1)
        saturated = tf.math.is_inf(tf.math.log(tf.exp(score)))  # compare xla
        weight = tf.where(saturated, 0.5, 1.0)
        return self.minimize(lambda: weight * self.losses(batch))
