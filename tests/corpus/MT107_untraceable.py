"""MT107: cannot be traced."""

from __future__ import annotations

import tensorflow as tf

from tests.corpus.base import Tiny


class AsksByInt(Tiny):
    def losses(self, batch):
        k = int(tf.reduce_max(batch["label"]))
        return super().losses(batch) * k  # expect MT107


class ListInLoop(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        kept = []
        for i in tf.range(8):
            kept.append(losses[i] * 2.0)  # expect MT107 MT203
        return tf.stack(kept)


class GrowsInLoop(Tiny):
    """A loop over a tensor makes another tensor longer."""

    def losses(self, batch):
        rows = batch["x"][:1]
        for _ in tf.range(3):
            last = rows[-1:] * 2.0
            rows = tf.concat([rows, last], 0)  # expect MT107
        return super().losses(batch) + tf.reduce_sum(rows)


class GrowsInWhileLoop(Tiny):
    def losses(self, batch):
        def body(i, rows):
            last = rows[-1:] * 2.0
            rows = tf.concat([rows, last], 0)  # expect MT107
            return i + 1, rows

        _, rows = tf.while_loop(lambda i, rows: i < 3, body, [tf.constant(0), batch["x"][:1]])
        return super().losses(batch) + tf.reduce_sum(rows)


class UsesRowsOfNumpy(Tiny):
    """What NumPy returns has no known shape, which a later line needs."""

    def losses(self, batch):
        doubled = tf.numpy_function(lambda x: 2.0 * x, [batch["x"]], tf.float32)  # expect MT107 MT106
        centred = doubled - 1.0
        return super().losses({**batch, "x": centred})
