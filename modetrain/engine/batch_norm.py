"""Batch normalisation over several replicas.

By default each replica normalises by its own share of the batch, so N replicas do not equal one device. Each also keeps its own
moving averages, and a checkpoint holds only the first replica's. Keras's layer can take its means over all replicas;
`synchronise` switches that on, or warns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import keras

from modetrain.engine.devices import Replicas
from modetrain.errors import ConfigError
from modetrain.mode import Mode

log = logging.getLogger(__name__)


def synchronise(models: Iterable[keras.Model], mode: Mode, replicas: Replicas) -> None:
    """Makes every batch normalisation of the models use the whole global batch, and logs it.

    Args:
      models: the recipe's models.
      mode: with `sync_batch_norm` off nothing changes, and the user gets a warning.
      replicas: where the recipe runs; on one device nothing happens.

    Raises:
      ConfigError: the mode cannot take a mean over replicas inside the gradients.
    """
    if replicas.count == 1:
        return
    found = [
        layer for model in models for layer in _layers(model) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not found:
        return
    names = ", ".join(layer.name for layer in found[:3]) + (", ..." if len(found) > 3 else "")
    count = _format_count(len(found))
    if mode.sync_batch_norm:
        for layer in found:
            layer.synchronized = True
        log.info(f"batch normalisation over all replicas, as on one device: {count} ({names})")
    plain = [layer for layer in found if not layer.synchronized]
    if plain:
        log.warning(
            f"mode.sync_batch_norm=false: batch normalisation in {_format_count(len(plain))} ({names}) uses each replica's "
            "share of the batch, so this run computes something else than one device, and checkpoints hold the first replica's "
            "moving averages"
        )
    if len(plain) < len(found) and mode.compile == "xla" and not replicas.on_gpus:
        raise ConfigError(
            f"mode.compile=xla with batch normalisation over several replicas ({count}: {names}): it takes "
            "means over the replicas inside the gradients, where XLA on CPUs cannot. Type mode.compile=graph, which computes "
            "what one device does. mode.sync_batch_norm=false compiles too, but changes the results: each replica normalises by "
            "its own share of the batch, and N replicas no longer equal one device."
        )


def _format_count(layers: int) -> str:
    return f"{layers} layer" if layers == 1 else f"{layers} layers"


def _layers(model: keras.Model) -> Iterable[keras.Layer]:
    return model._flatten_layers(include_self=False, recursive=True)
