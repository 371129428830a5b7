"""A split of a Python object that has random access: `len()` and `[i] -> {feature: value}`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.row_reader import RowReader, UnreadableError, may_pass
from modetrain.data.split import PROBED, Split, check_example, flatten, length_name, nothing, signature, stack
from modetrain.errors import ConfigError


class RandomAccess(Split):
    """The examples of a Python object with `len()` and `[i] -> {feature: value}`.

    `[i]` is called by several threads at once. It may read files, and must return the same for the same `i`.

    Args:
      given: the object.
      name: what it is called in messages.
      on_error: what is done where `[i]` raises: `stop` or `skip`, see `RowReader`.

    Raises:
      ConfigError: its examples are no dicts of arrays, or differ in their features.
    """

    def __init__(self, given: Sequence[Mapping[str, Any]], *, name: str = "the split", on_error: str = "stop"):
        self._given = given
        self._name = name
        self._reader = RowReader(self._example, name=name, rows=range(len(given)), on_error=on_error)
        known = isinstance(given, (list, tuple))  # in memory: reading all of it costs little
        probed = [self._reader(i)[1] for i in range(len(given) if known else min(PROBED, len(given)))]
        shapes, dtypes = signature(probed, name)
        self._read = dict(dtypes)
        sizes = {feature: shape.index(None) for feature, shape in shapes.items() if None in shape}
        if known and sizes:
            self.longest = max(example[feature].shape[axis] for example in probed for feature, axis in sizes.items())
        self._lengths = {length_name(n): (n, axis) for n, axis in sizes.items() if length_name(n) not in shapes}
        shapes |= dict.fromkeys(self._lengths, ())
        super().__init__(len(given), shapes, dtypes | dict.fromkeys(self._lengths, tf.int32))

    def skipped(self) -> list[str]:
        return self._reader.described()

    def within(self, rows: range) -> Split:
        part = copy.copy(self)
        part._reader = self._reader.within(rows)
        return part

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        found = tf.nest.flatten(tf.numpy_function(self._fetch, [rows], list(self.dtypes.values()), stateful=False))
        count = rows.shape[0]
        return {n: tf.ensure_shape(v, [count, *self.shapes[n]]) for n, v in zip(self.dtypes, found, strict=True)}

    def _example(self, index: int) -> dict[str, np.ndarray]:
        try:
            given = self._given[index]
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if may_pass(error):
                raise RuntimeError(f"{self._name}: example {index} cannot be read: {reason}") from error
            raise UnreadableError(reason) from error
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"{self._name}: example {index} is a {type(given).__name__}; expected is a dict of values by feature. Return "
                'for example {"image": image, "label": label}.'
            )
        return {name: np.asarray(value) for name, value in flatten(given).items()}

    def _fetch(self, rows: np.ndarray) -> list[np.ndarray]:
        if not len(rows):  # of a part of several splits
            return [nothing(self.shapes[name], dtype) for name, dtype in self.dtypes.items()]
        used, examples = zip(*(self._reader(int(row)) for row in rows), strict=True)
        found = []
        for name, dtype in self._read.items():
            for row, example in zip(used, examples, strict=True):
                check_example(example, name, dtype, self.shapes[name], f"{self._name}: example {row}")
            found.append(stack([example[name] for example in examples], dtype))
        for name, axis in self._lengths.values():
            found.append(np.array([example[name].shape[axis] for example in examples], np.int32))
        return found
