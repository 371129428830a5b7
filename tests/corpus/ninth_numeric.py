"""Divergences of the numbers alone under XLA, written beside `ninth`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny


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


class PrincipalSigns(Tiny):
    """Projects on eigenvectors, whose signs differ between the solvers."""

    def logits(self, batch):
        x = batch["x"]
        covariance = tf.matmul(x, x, transpose_a=True) / 8.0
        _, vectors = tf.linalg.eigh(covariance)  # compare xla
        return self.model(tf.nn.relu(x @ tf.stop_gradient(vectors)), training=True)


# ---- objects with state, and more --------------------------------------------------------------------------------------


class WrappedSquares(Tiny):
    """abs of an int8 product that wraps, which XLA takes to be positive already."""

    def train_step(self, batch):
        codes = tf.cast(tf.clip_by_value(batch["x"] * 30.0, -100.0, 100.0), tf.int8)
        energy = tf.abs(codes * codes)  # compare xla
        weight = tf.reduce_mean(tf.cast(energy, tf.float32), axis=-1) / 128.0
        return self.minimize(lambda: self.losses(batch) * (1.0 + weight))
