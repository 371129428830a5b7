"""`data.class_weight=balanced`: a feature `weight`, with which rare classes count as much as common ones."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from modetrain.data.source import Source
from modetrain.data.split import ArraySplit, Split
from modetrain.errors import ConfigError

log = logging.getLogger(__name__)
WEIGHT = "weight"


def balance(source: Source) -> Source:
    """The same source with `weight` float32 [n]: examples / (classes * examples of the class) in training, 1 in evaluation.

    The class is the feature `label`, or the target of a table.

    Raises:
      ConfigError: there is no class, the data has a `weight` already, or the classes of all examples are not in memory.
    """
    name = str(source.facts.get("target") or "label")
    train = source.train
    typed = "data.class_weight=balanced"
    if not isinstance(train, ArraySplit):
        raise ConfigError(
            f"{typed}: the classes of all examples have to be counted, and they are not in memory. Return `{WEIGHT}` as a feature "
            "of the data, or type data.class_weight=null."
        )
    labels = train.get(name)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        has = ", ".join(train)
        raise ConfigError(
            f"{typed}: there is no class `{name}` [n] of whole numbers; the data has {has}. Type data.class_weight=null."
        )
    if WEIGHT in train:
        raise ConfigError(f"{typed}: the data has a feature `{WEIGHT}` already. Type data.class_weight=null.")
    counts = np.bincount(labels)
    there = counts > 0
    weights = np.zeros(len(counts), np.float32)
    weights[there] = len(labels) / (there.sum() * counts[there])
    log.info(
        f"classes of {name}: {', '.join(f'{number} {count:,}' for number, count in enumerate(counts[:8]))}"
        + (", ..." if len(counts) > 8 else "")
        + f"; their weights are {weights[there].min():.3g} to {weights[there].max():.3g}"
    )
    evals = {split: _with_weight(one, None) for split, one in source.evals.items()}
    return Source(
        train=_with_weight(train, weights[labels]),
        evals=evals,
        kind=source.kind,
        description=source.description,
        facts={key: fact for key, fact in source.facts.items() if key != "feature_shapes"},
    )


def _with_weight(split: Split, weights: np.ndarray | None) -> Split:
    given: Any = split
    values = np.ones(split.examples, np.float32) if weights is None else weights.astype(np.float32)
    return ArraySplit({**given, WEIGHT: values})
