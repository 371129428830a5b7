"""MT601: an index is out of range."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus import elsewhere, trackers
from tests.corpus.base import Tiny


class GathersInABranch(Tiny):
    def losses(self, batch):
        found = super().losses(batch)
        return tf.cond(
            tf.reduce_sum(batch["label"]) > 0,
            lambda: found * tf.gather(tf.range(3.0), batch["label"] * 2),  # expect MT601
            lambda: found,
        )


class ShortEmbedding(Tiny):
    """A layer of the helpers embeds ids beyond its rows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = trackers.HashedEmbedding(2, 3)
        self.embed.build((None,))

    def losses(self, batch):
        return super().losses(batch) + tf.reduce_sum(self.embed(batch["label"]), -1)


class SlotWrites(Tiny):
    """Memory slots are written beyond the end."""

    def losses(self, batch):
        slots = tf.tensor_scatter_nd_update(tf.zeros([8]), (batch["label"] * 4)[:, None], tf.ones([8]))  # expect MT601
        return super().losses(batch) + slots


class TableUpdate(Tiny):
    """Rows of a variable are added to beyond its end."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = tf.Variable(tf.zeros([2, 4]), trainable=False)

    def train_step(self, batch):
        self.table.scatter_nd_add(batch["label"][:, None], batch["x"])  # expect MT601
        return self.minimize(lambda: self.losses(batch) + tf.reduce_sum(self.table))


class GraphAggregate(Tiny):
    """Messages of a graph network to a node that is not there."""

    def losses(self, batch):
        nodes = elsewhere.aggregate(batch["x"], batch["label"], 2)
        return super().losses(batch) + tf.reduce_sum(nodes)


class TakeAlong(Tiny):
    """keras.ops.take_along_axis with ranks that start at one."""

    def losses(self, batch):
        ranks = keras.ops.expand_dims(batch["label"] + 2, -1)
        return super().losses(batch) + keras.ops.take_along_axis(batch["x"], ranks, axis=1)[:, 0]  # expect MT601


class ReadBeyond(Tiny):
    """A TensorArray is read beyond its end."""

    def losses(self, batch):
        rows = tf.TensorArray(tf.float32, 8, element_shape=[4], clear_after_read=False).unstack(batch["x"])
        return super().losses(batch) + tf.reduce_sum(rows.read(batch["label"][2] * 4))  # expect MT601
