"""Batch normalisation over several replicas.

By default each replica normalises by its own share of the batch, so N replicas do not equal one device. Each also keeps its own
moving averages, and a checkpoint holds only the first replica's. Keras's layer can take its means over all replicas;
`synchronise` switches that on, or warns. Where the layer is given a mask Keras cannot, and `_over_replicas` does it. Under XLA
on CPUs neither can: `xla.py` refuses a step that does.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from modetrain.engine.devices import Replicas
from modetrain.mode import Mode

log = logging.getLogger(__name__)


def synchronise(models: Iterable[keras.Model], mode: Mode, replicas: Replicas) -> None:
    """Makes every batch normalisation of the models use the whole global batch, and logs it.

    Args:
      models: the recipe's models.
      mode: with `sync_batch_norm` off nothing changes, and the user gets a warning.
      replicas: where the recipe runs; on one device nothing happens.
    """
    if replicas.count == 1:
        return
    layers = [
        layer for model in models for layer in _layers(model) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    found = [layer for layer in layers if layer.trainable]  # a frozen one uses its moving averages
    names = ", ".join(layer.name for layer in found[:3]) + (", ..." if len(found) > 3 else "")
    if mode.sync_batch_norm:
        for layer in layers:
            layer.synchronized = True
        if found:
            log.info(f"batch normalisation over all replicas, as on one device: {_format_count(len(found))} ({names})")
    plain = [layer for layer in found if not layer.synchronized]
    if plain:
        log.warning(
            f"mode.sync_batch_norm=false: batch normalisation in {_format_count(len(plain))} ({names}) uses each replica's "
            "share of the batch, so this run computes something else than one device, and checkpoints hold the first replica's "
            "moving averages"
        )


def _format_count(layers: int) -> str:
    return f"{layers} layer" if layers == 1 else f"{layers} layers"


def _layers(model: keras.Model) -> Iterable[keras.Layer]:
    return model._flatten_layers(include_self=False, recursive=True)


def _over_replicas(moments: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the method of Keras's layer that takes mean and variance: with a mask it ignores `synchronized`."""

    @functools.wraps(moments)
    @tf.autograph.experimental.do_not_convert
    def over_replicas(layer: keras.layers.BatchNormalization, inputs: Any, mask: Any) -> Any:
        context = tf.distribute.get_replica_context() if mask is not None and layer.synchronized else None
        if context is None or context.num_replicas_in_sync == 1:
            return moments(layer, inputs, mask)
        kept = tf.broadcast_to(tf.cast(mask, tf.bool)[..., tf.newaxis], tf.shape(inputs))

        def sum_of(values: tf.Tensor) -> tf.Tensor:
            own = tf.reduce_sum(tf.where(kept, values, 0), layer._reduction_axes, keepdims=True)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

        count = sum_of(tf.ones_like(inputs)) + keras.config.epsilon()
        mean = sum_of(inputs) / count
        return tf.squeeze(mean), tf.squeeze(sum_of(tf.square(inputs - mean)) / count)

    return over_replicas


keras.layers.BatchNormalization._moments = _over_replicas(keras.layers.BatchNormalization._moments)
