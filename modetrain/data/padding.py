"""Examples of varying length: what varies, what a batch is padded to, and how long each example is.

    padding = Padding(split, lengths=(32, 64, 128), longer="stop")
    padding(batch, rows)     # `tokens` [n, 64] where the longest of the batch has 33 to 64, and `tokens_length` [n]

A split that has a feature with a dimension of None gives batches that are padded with zeros to any length, and the feature
`<name>_length`. The length of a batch is a function of its examples, so it is the same on every replica and worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from modetrain.data.split import Split, length_name
from modetrain.errors import ConfigError
from modetrain.settings import DataSettings


class Padding:
    """Pads the batches of a split.

    Args:
      split: the examples.
      train: the training split; a feature that varies there is padded here too, though all are of one length here.
      lengths: what batches may be padded to, in ascending order.
      longer: what happens to an example that is longer: `stop` refuses it, `cut` keeps its beginning.
      name: what the split is called in messages.

    Attributes:
      axes: by feature the dimension of a batch that varies.
      lengths: as given; empty if nothing varies.
    """

    def __init__(self, split: Split, *, train: Split, lengths: Sequence[int], longer: str, name: str):
        shapes = {**split.shapes, **{feature: shape for feature, shape in train.shapes.items() if None in shape}}
        self.axes = {feature: shape.index(None) + 1 for feature, shape in shapes.items() if None in shape}
        self._missing = [n for n in self.axes if length_name(n) in train.shapes and length_name(n) not in split.shapes]
        self.lengths = tuple(lengths) if self.axes else ()
        self._cut = longer == "cut"
        self._name = name
        self._checks = bool(self.axes) and not self._cut and (split.longest is None or split.longest > self.lengths[-1])

    @tf.autograph.experimental.do_not_convert
    def __call__(self, batch: Mapping[str, tf.Tensor], rows: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """The batch with every feature that varies padded to one of the lengths.

        Args:
          batch: by feature a tensor [examples, ...].
          rows: the examples' numbers in the split, for messages.

        Raises:
          ConfigError: an example is longer than the last of the lengths.
        """
        if not self.axes:
            return dict(batch)
        counts = {name: tf.shape(batch[name])[0] for name in self._missing}
        sizes = {name: tf.shape(batch[name])[self.axes[name]] for name in self._missing}
        batch = {**batch, **{length_name(name): tf.repeat(sizes[name], counts[name]) for name in self._missing}}
        longest = self._longest(batch)
        if self._checks:
            batch = self._checked(batch, longest, rows)
        size: tf.Tensor | int = self.lengths[-1]
        if len(self.lengths) > 1:
            at = tf.searchsorted(tf.constant(self.lengths), tf.reduce_max(longest)[tf.newaxis])[0]
            size = tf.constant(self.lengths)[tf.minimum(at, len(self.lengths) - 1)]
        found = dict(batch)
        for name, axis in self.axes.items():
            found[name] = _resized(batch[name], axis, size)
            if self._cut and (length := length_name(name)) in batch:
                found[length] = tf.minimum(batch[length], tf.cast(size, batch[length].dtype))
        return found

    def _longest(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Each example's longest feature, int32 [n]."""
        found = []
        for name, axis in self.axes.items():
            value = batch[name]
            lengths = batch.get(length_name(name))
            found.append(
                tf.repeat(tf.shape(value)[axis], tf.shape(value)[0]) if lengths is None else tf.cast(lengths, tf.int32)
            )
        return tf.reduce_max(tf.stack(found), axis=0)

    def _checked(self, batch: Mapping[str, tf.Tensor], longest: tf.Tensor, rows: tf.Tensor | None) -> dict:
        def refuse() -> tf.Tensor:
            at = tf.argmax(longest)
            row = tf.constant(-1, tf.int64) if rows is None else rows[at]
            return tf.numpy_function(self._refuse, [longest[at], row], tf.bool)

        fits = tf.cond(tf.reduce_max(longest) > self.lengths[-1], refuse, lambda: True)
        with tf.control_dependencies([fits]):
            return {name: tf.identity(value) for name, value in batch.items()}

    def _refuse(self, length: np.ndarray, row: np.ndarray) -> np.ndarray:
        which = f"example {row}" if row >= 0 else "an example"
        features = " or ".join(f"`{name}`" for name in self.axes)
        raise ConfigError(
            f"{which} of {self._name} has {features} of length {length}, and {_typed(self.lengths)} holds at most "
            f"{self.lengths[-1]}. Type {_typed((*self.lengths, int(length)))}, or data.longer=cut to leave out what is longer."
        )


def lengths_for(splits: Mapping[str, Split], settings: DataSettings) -> tuple[int, ...]:
    """What the batches of these splits are padded to: `data.bucket`, `data.pad`, or the longest example where it is known.

    Args:
      splits: by what they are called in messages.
      settings: the `data` group of the config.

    Raises:
      ConfigError: a feature varies in more than one dimension, or nothing says what to pad to.
    """
    asked = settings.bucket or ((settings.pad,) if settings.pad else ())
    varying = {where: split for where, split in splits.items() if any(None in shape for shape in split.shapes.values())}
    for where, split in varying.items():
        for name, shape in split.shapes.items():
            if shape.count(None) > 1:
                raise ConfigError(
                    f"`{name}` of {where} varies in {shape.count(None)} dimensions ({_sides(shape)}), and one can be padded. "
                    "Make all but one of them the same in the data function: resize images, or pad there."
                )
    if asked and not varying:
        shapes = ", ".join(f"{n} {_sides(shape)}" for n, shape in next(iter(splits.values())).shapes.items())
        key = "bucket" if settings.bucket else "pad"
        raise ConfigError(f"{_typed(asked)}: no feature of the data varies in length ({shapes}). Type data.{key}=null.")
    if asked or not varying:
        return tuple(sorted({*asked}))
    longest = [split.longest for split in varying.values() if split.longest is not None]
    if len(longest) == len(varying):
        return (max(longest),)
    where, split = next((where, split) for where, split in varying.items() if split.longest is None)
    name, shape = next((name, shape) for name, shape in split.shapes.items() if None in shape)
    raise ConfigError(
        f"`{name}` of {where} varies in length ({_sides(shape)}), and nothing says how long it can be. Type data.pad=128 to pad "
        "every batch to that length, or 'data.bucket=[32,64,128]' to pad each to the smallest of these that holds its longest "
        "example."
    )


def _resized(value: tf.Tensor, axis: int, size: tf.Tensor | int) -> tf.Tensor:
    """Cut or padded with zeros to `size` along an axis."""
    shape = value.shape.as_list()
    value = value[(slice(None),) * axis + (slice(None, size),)]
    missing = size - tf.shape(value)[axis]
    ends = tf.one_hot(axis, len(shape), on_value=missing, off_value=0, dtype=tf.int32)
    padded = tf.pad(value, tf.stack([tf.zeros_like(ends), ends], axis=1))
    shape[axis] = size if isinstance(size, int) else None
    return tf.ensure_shape(padded, shape)


def _typed(lengths: Sequence[int]) -> str:
    return f"data.pad={lengths[0]}" if len(lengths) == 1 else f"'data.bucket=[{','.join(map(str, lengths))}]'"


def _sides(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if side is None else str(side) for side in shape) + "]"
