"""Eigenvectors, singular vectors and singular systems."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class SignsOfEigenvectors(Tiny):
    def logits(self, batch):
        covariance = tf.transpose(batch["x"]) @ batch["x"] / 8.0
        _, vectors = tf.linalg.eigh(covariance)  # compare xla
        return self.model(batch["x"] @ vectors, training=True)


class SignsOfSvd(Tiny):
    def logits(self, batch):
        _, u, _ = tf.linalg.svd(batch["x"])  # compare xla
        return self.model(tf.pad(u[:, :2], [[0, 0], [0, 2]]), training=True)


class TriangularZero(Tiny):
    """A triangular system with a zero on the diagonal."""

    def losses(self, batch):
        lower = tf.stack([tf.stack([0.0 * batch["x"][0, 0], 0.0]), tf.stack([2.0, 4.0])])
        solved = tf.linalg.triangular_solve(lower, tf.ones([2, 1]))  # compare xla
        return super().losses(batch) + tf.where(tf.math.is_nan(solved[0, 0]), 0.0, tf.minimum(solved[0, 0], 9.0))
