"""MT804: the input pipeline calls back into Python."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.corpus.base import Tiny


class PythonAugment(Tiny):
    def prepare(self, batch, *, seed, training):
        x = tf.numpy_function(lambda x: x + 1.0, [batch["x"]], tf.float32)  # expect MT804
        return {**batch, "x": tf.ensure_shape(x, [8, 4])}


class PreparesByPython(Tiny):
    def prepare(self, batch, *, seed, training):
        x = tf.numpy_function(lambda x: np.clip(x, -2, 2), [batch["x"]], tf.float32)  # expect MT804
        return {**batch, "x": tf.ensure_shape(x, batch["x"].shape)}
