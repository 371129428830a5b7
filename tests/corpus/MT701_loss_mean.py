"""MT701: a loss that is not the mean over examples."""

from __future__ import annotations

import keras
import tensorflow as tf

from tests.corpus.base import Shared


class DividesByTheGlobalBatch(Shared):
    def losses(self, batch):
        return tf.reduce_sum(super().losses(batch)) / self.info.batch_size  # expect MT701


class AveragesByTheGlobalBatch(Shared):
    def losses(self, batch):
        return tf.nn.compute_average_loss(super().losses(batch), global_batch_size=self.info.batch_size)  # expect MT701


class DividesByReplicas(Shared):
    def losses(self, batch):
        n = tf.distribute.get_strategy().num_replicas_in_sync
        return super().losses(batch) / n  # expect MT701


class MinesTheHardest(Shared):
    def losses(self, batch):
        hard, _ = tf.math.top_k(super().losses(batch), 2)  # expect MT701 MT702
        return tf.reduce_mean(hard)


class DependsOnTheReplica(Shared):
    def losses(self, batch):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return super().losses(batch) * (1.0 + tf.cast(replica, tf.float32))  # expect MT701 MT705


class SumOfAKerasLoss(Shared):
    def losses(self, batch):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
        return loss(batch["label"], self.logits(batch))  # expect MT701
