"""MT505: an operation that XLA cannot compile."""

from __future__ import annotations

import tempfile

import tensorflow as tf

from tests.corpus.base import Tiny


class PrintsUnderXla(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        tf.print("loss", found)  # expect MT505
        return found


class LooksUpTable(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        pairs = tf.lookup.KeyValueTensorInitializer(tf.range(3), tf.constant([1.0, 2.0, 0.5]))
        self.table = tf.lookup.StaticHashTable(pairs, default_value=1.0)

    def losses(self, batch):
        return super().losses(batch) * self.table.lookup(batch["label"])  # expect MT505


class ShufflesStateless(Tiny):
    def logits(self, batch):
        mixed = tf.random.experimental.stateless_shuffle(batch["x"], seed=self.seed("mix"))  # expect MT505
        return self.model(0.9 * batch["x"] + 0.1 * mixed, training=True)


class Summary(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.writer = tf.summary.create_file_writer(tempfile.mkdtemp())

    def losses(self, batch):
        losses = super().losses(batch)
        with self.writer.as_default(step=0):
            tf.summary.scalar("loss", tf.reduce_mean(losses))  # expect MT505
        return losses


class LoopAfterReturn(Tiny):
    def losses(self, batch):
        losses = super().losses(batch)
        if tf.reduce_max(losses) < 0.01:  # expect MT505
            return losses * 0.0
        total = tf.zeros([8])
        for i in tf.range(3):
            if i == 1:
                continue
            total += losses * tf.cast(i, tf.float32)
        return total
