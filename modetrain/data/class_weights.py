"""`data.class_weight=balanced`: a feature `weight`, with which rare classes count as much as common ones."""

from __future__ import annotations

import logging

import numpy as np
import tensorflow as tf

from modetrain.data.source import Source
from modetrain.data.split import Split
from modetrain.data.stream import Stream
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
    if name not in train.shapes or train.shapes[name] != () or not train.dtypes[name].is_integer:
        raise ConfigError(
            f"{typed}: there is no class `{name}` [n] of whole numbers; the data has {', '.join(train.shapes)}. Type "
            "data.class_weight=null."
        )
    labels = train.column(name)
    if labels is None or any(isinstance(one, Stream) for one in source.evals.values()):
        raise ConfigError(
            f"{typed}: the classes of all examples have to be counted, and they are not in memory. Return `{WEIGHT}` as a feature "
            "of the data, or type data.class_weight=null."
        )
    if labels.min(initial=0) < 0:
        raise ConfigError(f"{typed}: `{name}` has the class {labels.min()}. Classes count from 0.")
    if WEIGHT in train.shapes:
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
    evals = {split: _Weighed(one) for split, one in source.evals.items()}
    return Source(
        train=_Weighed(train, name, weights),
        evals=evals,
        kind=source.kind,
        description=source.description,
        facts={key: fact for key, fact in source.facts.items() if key != "feature_shapes"},
    )


class _Weighed(Split):
    """A split with a feature `weight`: that of each example's class, or 1.

    Args:
      split: the examples.
      label: the feature that is the class.
      weights: by class.
    """

    def __init__(self, split: Split, label: str = "", weights: np.ndarray | None = None):
        super().__init__(split.examples, {**split.shapes, WEIGHT: ()}, {**split.dtypes, WEIGHT: tf.float32})
        self.in_order, self.in_memory = split.in_order, split.in_memory
        self.longest, self.fingerprinted = split.longest, split.fingerprinted
        self._split, self._label, self._weights = split, label, weights

    def within(self, rows: range) -> Split:
        return _Weighed(self._split.within(rows), self._label, self._weights)

    def skipped(self) -> list[str]:
        return self._split.skipped()

    def load(self) -> None:
        self._split.load()

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = self._split.gather(rows)
        # By the class that was read, as another example may have taken the place of one that cannot be read.
        weight = (
            tf.ones_like(rows, tf.float32) if self._weights is None else tf.gather(self._weights, batch[self._label])
        )
        return {**batch, WEIGHT: weight}

    def column(self, name: str) -> np.ndarray | None:
        return self._split.column(name)
