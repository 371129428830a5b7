"""A mixture of splits by weights: which split each example of training comes from, and which example of it.

    train = modetrain.mixture({"news": news, "code": code}, weights={"news": 3, "code": 1})

Both are functions of (seed, position), so that a run is resumed at any step without a saved iterator. Every 1,000 successive
positions hold the splits in the proportions of their weights, in an order of their own; each split is walked by permutations
of its own, so every example of it comes once before any of them comes again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.permutation import Permutation
from modetrain.data.seeds import Seeds
from modetrain.data.selection import join
from modetrain.data.source import as_split
from modetrain.data.split import Split, length_name
from modetrain.data.stream import Stream
from modetrain.errors import ConfigError

_WINDOW = 1000  # positions; a weight is rounded to this fraction of all


def mixture(
    splits: Mapping[str, Any], *, weights: Mapping[str, float] | None = None, seed: int | None = None
) -> Mixture:
    """A split that draws its examples from several.

    An epoch of it has as many examples as the splits have together.

    Args:
      splits: by name a split, or whatever else `Trainer` takes as one; no stream.
      weights: by name how often a split is drawn, relative to the others; by default as often as it has examples.
      seed: of the order; None is the run's seed.

    Raises:
      ConfigError: a split is a stream, or has other features than the others, or the weights do not fit.
    """
    found = {name: as_split(given, name=f"{name} of the mixture") for name, given in splits.items()}
    if not found:
        raise ConfigError("a mixture of no splits: name at least one.")
    for name, split in found.items():
        if isinstance(split, (Stream, Seeds)):
            kind = "a stream" if isinstance(split, Stream) else "no data"
            raise ConfigError(
                f"{name} of the mixture is {kind}: its examples have no numbers, so none can be drawn. Hand over arrays, or an "
                "object with len() and [i]."
            )
    given = {name: float(split.examples) for name, split in found.items()} if weights is None else dict(weights)
    if {*given} != {*found}:
        raise ConfigError(
            f"a mixture of {', '.join(found)} with weights of {', '.join(given) or 'none'}: give each split a weight."
        )
    for name, weight in given.items():
        if not weight > 0 or not np.isfinite(weight):
            raise ConfigError(f"{name} of the mixture has the weight {weight}: weights are positive. Leave {name} out.")
    return Mixture(found, given, seed=seed)


class Mixture(Split):
    """See `mixture`, which checks the arguments."""

    in_order = True

    def __init__(self, splits: Mapping[str, Split], weights: Mapping[str, float], *, seed: int | None):
        self._splits = dict(splits)
        self._seed = seed
        self._counts = _shares(np.array([weights[name] for name in splits]))
        shapes, dtypes = _common(splits)
        super().__init__(sum(split.examples for split in splits.values()), shapes, dtypes)
        longest = [split.longest for split in splits.values() if any(None in shape for shape in split.shapes.values())]
        fixed = [
            shape[self.shapes[name].index(None)]
            for split in splits.values()
            for name, shape in split.shapes.items()
            if None in self.shapes[name] and None not in shape
        ]
        known = [size for size in (*longest, *fixed) if size is not None]
        self.longest = max(known) if known and None not in longest else None
        self.in_memory = False

    def load(self) -> None:
        for split in self._splits.values():
            split.load()

    def for_run(self, seed: int) -> Mixture:
        if self._seed is not None:
            return self
        other = copy.copy(self)
        other._seed = seed
        return other

    @tf.autograph.experimental.do_not_convert
    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """The examples at these positions of training, int64 [n]."""
        seed = self._seed or 0
        window = rows // _WINDOW
        place = Permutation(examples=_WINDOW, seed=f"{seed}/mixture").rows(rows)
        starts = np.cumsum([0, *self._counts])
        parts = []
        for (name, split), start, count in zip(self._splits.items(), starts, self._counts, strict=False):
            here = tf.where((place >= start) & (place < start + count))[:, 0]
            walked = window * count + tf.clip_by_value(place - start, 0, count - 1)
            order = Permutation(examples=split.examples, seed=f"{seed}/mixture/{name}", ordered=split.in_order)
            own = tf.gather(order.rows(walked), here)
            parts.append((here, self._with_lengths(split.gather(own))))
        return join(parts, {name: (rows.shape[0], *shape) for name, shape in self.shapes.items()})

    def _with_lengths(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The batch with the lengths of features that vary only in other splits."""
        found = dict(batch)
        for name, shape in self.shapes.items():
            if None in shape and (length := length_name(name)) in self.shapes and length not in batch:
                axis = shape.index(None) + 1
                found[length] = tf.fill([tf.shape(batch[name])[0]], tf.shape(batch[name])[axis])
        return {name: found[name] for name in self.shapes}


def _shares(weights: np.ndarray) -> np.ndarray:
    """How many of a window's positions each split has: at least one, by the largest remainders."""
    exact = weights / weights.sum() * _WINDOW
    counts = np.maximum(exact.astype(np.int64), 1)
    while (left := _WINDOW - counts.sum()) != 0:
        counts[np.argmax(np.sign(left) * (exact - counts) - 1e9 * ((left < 0) & (counts == 1)))] += np.sign(left)
    return counts


def _common(splits: Mapping[str, Split]) -> tuple[dict[str, tuple[int | None, ...]], dict[str, tf.DType]]:
    """Shapes and dtypes by feature of all splits; a dimension in which they differ is None.

    Raises:
      ConfigError: they have other features.
    """
    (first, one), *others = splits.items()
    shapes, dtypes = dict(one.shapes), dict(one.dtypes)
    lengths = {length_name(name) for split in splits.values() for name, shape in split.shapes.items() if None in shape}
    for name, other in others:
        missing = ({*one.shapes} ^ {*other.shapes}) - lengths
        for feature in missing:
            has, lacks = (first, name) if feature in one.shapes else (name, first)
            raise ConfigError(
                f"{has} of the mixture has `{feature}` and {lacks} has not, but one recipe takes both. Give both the same features."
            )
        for feature, shape in other.shapes.items():
            known = shapes.setdefault(feature, shape)
            dtypes.setdefault(feature, other.dtypes[feature])
            if len(known) != len(shape) or dtypes[feature] != other.dtypes[feature]:
                raise ConfigError(
                    f"`{feature}` is {dtypes[feature].name} of {len(known)} dimensions in {first} of the mixture, and "
                    f"{other.dtypes[feature].name} of {len(shape)} in {name}. Make them alike."
                )
            shapes[feature] = tuple(a if a == b else None for a, b in zip(known, shape, strict=True))
    for feature, shape in list(shapes.items()):
        if None in shape and length_name(feature) not in shapes:  # they vary only from split to split
            shapes[length_name(feature)], dtypes[length_name(feature)] = (), tf.int32
    return shapes, dtypes
