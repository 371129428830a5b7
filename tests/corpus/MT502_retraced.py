"""MT502: is traced again."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class PassesPythonNumbers(Tiny):
    @staticmethod
    @tf.function
    def blend(x, amount):
        return x * amount + tf.tanh(x)

    def losses(self, batch):
        x = batch["x"]
        for n in range(16):
            x = self.blend(x, n / 16)  # expect MT501 MT502
        return super().losses({**batch, "x": x})
