"""Defects: unrolled loops, shapes that depend on data, and operations that XLA lacks."""

from __future__ import annotations

import tempfile

import tensorflow as tf

from tests.corpus.base import Tiny


class UnrollsByRange(Tiny):
    def losses(self, batch):
        x = batch["x"]
        for _ in range(300):  # expect MT501
            x = x + 0.01 * tf.sin(x)
        return super().losses({**batch, "x": x})


class UnrollsByWhile(Tiny):
    def losses(self, batch):
        x, n = batch["x"], 0
        while n < 40:  # expect MT501
            x = x * 1.01
            n += 1
        return super().losses({**batch, "x": x})


class UnrollsByComprehension(Tiny):
    def losses(self, batch):
        parts = [tf.exp(batch["x"] / float(n + 1)) for n in range(64)]  # expect MT501
        return super().losses({**batch, "x": tf.add_n(parts)})


class UnrollsRows(Tiny):
    def losses(self, batch):
        rows = []
        for n in range(batch["x"].shape[0]):  # expect MT501
            rows.append(tf.nn.softmax(batch["x"][n]))
        return super().losses({**batch, "x": tf.stack(rows)})


class UnrollsInAHelper(Tiny):
    def smooth(self, x, rounds):
        for _ in range(rounds):  # expect MT501
            x = 0.5 * (x + tf.roll(x, 1, axis=0))
        return x

    def losses(self, batch):
        return super().losses({**batch, "x": self.smooth(batch["x"], 50)})


class SelectsByMask(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        hard = tf.boolean_mask(found, found > 0.1)  # expect MT504
        return tf.reduce_mean(hard)


class SelectsByWhere(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        where = tf.where(found > 0.1)  # expect MT504
        return tf.reduce_sum(tf.gather_nd(found, where))


class CountsDistinct(Tiny):
    def losses(self, batch):
        values, _ = tf.unique(batch["label"])  # expect MT504
        return super().losses(batch) * tf.cast(tf.size(values), tf.float32)


class SlicesByAValue(Tiny):
    def losses(self, batch):
        n = batch["label"][1]
        return tf.reduce_mean(super().losses(batch)[:n])  # expect MT504


class RangesOverAValue(Tiny):
    def losses(self, batch):
        n = tf.reduce_max(batch["label"])
        return super().losses(batch) * tf.reduce_sum(tf.cast(tf.range(n), tf.float32))  # expect MT504


class Partitions(Tiny):
    def losses(self, batch):
        parts = tf.dynamic_partition(super().losses(batch), batch["label"], 3)  # expect MT504
        return tf.reduce_mean(parts[0])


class JoinsStrings(Tiny):
    def losses(self, batch):
        names = tf.strings.as_string(batch["label"])  # expect MT505
        return super().losses(batch) + tf.cast(tf.strings.length(names), tf.float32)  # expect MT505


class LooksUp(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        keys, values = tf.constant([0, 1, 2]), tf.constant([1.0, 2.0, 3.0])
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0.0)

    def losses(self, batch):
        return super().losses(batch) * self.table.lookup(batch["label"])  # expect MT505


class Summarises(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.writer = tf.summary.create_file_writer(tempfile.mkdtemp())

    def losses(self, batch):
        found = super().losses(batch)
        with self.writer.as_default(step=0):
            tf.summary.scalar("loss", tf.reduce_mean(found))  # expect MT505
        return found
