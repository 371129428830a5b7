"""Defects: errors that XLA drops, on the very batches."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Tiny


class GathersOutOfRange(Tiny):
    def losses(self, batch):
        table = tf.range(3.0)
        return super().losses(batch) * tf.gather(table, batch["label"] + 1)  # expect MT601


class GathersNegative(Tiny):
    def losses(self, batch):
        return super().losses(batch) * tf.gather(tf.ones([3]), batch["label"] - 1)  # expect MT601


class EmbedsOutOfRange(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.table = tf.Variable(tf.ones([2, 4]))

    def losses(self, batch):
        x = tf.nn.embedding_lookup(self.table, batch["label"])  # expect MT601
        return super().losses({**batch, "x": x})


class EmbedsByALayer(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.embedding = keras.layers.Embedding(2, 4)
        self.embedding.build((None,))

    def losses(self, batch):
        return super().losses({**batch, "x": self.embedding(batch["label"])})  # expect MT601


class GathersByPairs(Tiny):
    def losses(self, batch):
        pairs = tf.stack([batch["label"], batch["label"] + 2], axis=1)
        return super().losses(batch) * tf.gather_nd(tf.ones([3, 3]), pairs)  # expect MT601


class ScattersOutOfRange(Tiny):
    def losses(self, batch):
        counts = tf.tensor_scatter_nd_add(tf.zeros([2]), batch["label"][:, None], tf.ones([8]))  # expect MT601
        return super().losses(batch) * tf.reduce_sum(counts)


class LabelOutOfRange(Tiny):
    def losses(self, batch):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"] + 1, self.logits(batch))  # expect MT602


class KerasLabelOutOfRange(Tiny):
    def losses(self, batch):
        logits = self.logits(batch)
        return keras.losses.sparse_categorical_crossentropy(  # expect MT602
            batch["label"] * 2, logits, from_logits=True
        )


class DividesByZero(Tiny):
    def losses(self, batch):
        return super().losses(batch) * tf.cast(6 // batch["label"], tf.float32)  # expect MT603


class TakesModuloZero(Tiny):
    def losses(self, batch):
        return super().losses(batch) * tf.cast(tf.math.floormod(6, batch["label"]), tf.float32)  # expect MT603


class AssertsWrongly(Tiny):
    def losses(self, batch):
        tf.debugging.assert_positive(batch["label"])  # expect MT604
        return super().losses(batch)


class AssertsByPython(Tiny):
    def losses(self, batch):
        assert tf.reduce_all(batch["x"] > 100.0), "too small"  # expect MT604
        return super().losses(batch)


class AssertsByAssert(Tiny):
    def losses(self, batch):
        tf.Assert(tf.reduce_all(batch["x"] > 100.0), [batch["x"]])  # expect MT604
        return super().losses(batch)


class ChecksNumerics(Tiny):
    def losses(self, batch):
        logs = tf.math.log(batch["x"] * 0.0)
        return super().losses(batch) + tf.reduce_sum(tf.debugging.check_numerics(logs, "logs"))  # expect MT605


class CastsNaN(Tiny):
    def losses(self, batch):
        bins = tf.cast(tf.math.log(batch["x"] - 100.0), tf.int32)  # expect MT606
        return super().losses(batch) + 0.0 * tf.cast(bins[:, 0], tf.float32)


class InvertsSingular(Tiny):
    def losses(self, batch):
        inverse = tf.linalg.inv(tf.zeros([2, 2]) * tf.reduce_mean(batch["x"]))  # expect MT607
        return super().losses(batch) + tf.reduce_sum(inverse)


class RaisesToANegative(Tiny):
    def losses(self, batch):
        return super().losses(batch) * tf.cast(tf.pow(2, batch["label"] - 1), tf.float32)  # expect MT603
