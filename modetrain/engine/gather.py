"""The rows of all replicas, for a loss over pairs of examples of the whole global batch."""

from __future__ import annotations

import tensorflow as tf

from modetrain.engine.devices import replica_number, replicas_here


def gather(tensor: tf.Tensor) -> tf.Tensor:
    """Every replica's tensor [n, ...] one below the other, in the order of the global batch; the tensor itself on one device.

    A gradient flows back to the replica that made a row. A synchronisation point.
    """
    replicas = replicas_here()
    context = tf.distribute.get_replica_context()
    if replicas == 1:
        # do=inspect sees by the sum of one where replicas exchange.
        return tensor if context is None else context.all_reduce("SUM", tensor)
    # Each replica fills its own rows, and a sum puts them together: its gradient is known everywhere.
    own = tf.reshape(tf.range(replicas) == replica_number(), [replicas] + [1] * len(tensor.shape))
    placed = tf.where(own, tensor[tf.newaxis], tf.zeros_like(tensor))
    whole = context.all_reduce("SUM", placed)
    return tf.reshape(whole, [replicas * tensor.shape[0], *tensor.shape[1:]])


def first_row(tensor: tf.Tensor) -> tf.Tensor | int:
    """The number of this replica's first row among those that `gather` returns."""
    return replica_number() * tensor.shape[0]
