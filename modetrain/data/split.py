"""A split: the examples of one part of a data set, which batches are gathered from by row.

    split = ArraySplit({"image": images, "label": labels})     # arrays in memory
    split = RandomAccess(photos)                               # an object with len() and [i] -> {feature: value}
    split.gather(tf.constant([3, 1]))                          # {"image": [2, h, w, c], "label": [2]}

Features have any names, dtypes and shapes. Nested ones become flat names: `{"box": {"x": ...}}` is the feature `box/x`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data import aligned
from modetrain.errors import ConfigError

FINGERPRINTED = 256  # sampled examples of a fingerprint: enough to detect another order, scale or selection
ENDLESS = 2**62  # more examples than any run takes
PROBED = 4  # examples that are read to learn the shapes of the features


class Split:
    """Examples with random access.

    Attributes:
      examples: how many there are.
      in_order: whether rows are taken in their order, without a permutation.
      streamed: whether it is a `Stream`, which has no random access.
      in_memory: whether gathering rows costs next to nothing, so that several batches may be gathered at once.
      fingerprinted: number of examples that a fingerprint reads.
      shapes: by feature the shape of one example; None for a dimension that varies, whose size is in the feature
        `<name>_length` (see `padding.py`).
      dtypes: by feature the dtype.
      longest: the largest size of a dimension that varies, or None where it is not known.
    """

    in_memory = False
    in_order = False
    streamed = False
    longest: int | None = None
    fingerprinted = PROBED

    def __init__(
        self,
        examples: int,
        shapes: Mapping[str, tuple[int | None, ...]] | None = None,
        dtypes: Mapping[str, tf.DType] | None = None,
    ):
        self.examples = examples
        self.shapes = shapes or {}
        self.dtypes = dtypes or {}

    def within(self, rows: range) -> Split:
        """The same split where only these rows are asked for, which alone may take the places of others (see `RowReader`)."""
        return self

    def skipped(self) -> list[str]:
        """What could not be read so far, and why: examples that others took the place of (`data.on_error=skip`)."""
        return []

    def load(self) -> None:
        """Takes into memory what is to be kept there, before the first batch."""

    def for_run(self, seed: int) -> Split:
        """The split as a run with this seed trains on it."""
        return self

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """The examples of `rows`, int64 [n], by feature [n, ...]; it is traced by `Dataset.map` or runs eagerly.

        Dimensions that vary are padded with zeros, to the longest of these rows or more.
        """
        raise NotImplementedError

    def column(self, name: str) -> np.ndarray | None:
        """A feature of all examples, [examples, ...]; None where it is not in memory."""
        return None

    def first(self, count: int) -> dict[str, np.ndarray]:
        """The first examples, at most `count`, by feature [n, ...]."""
        rows = tf.range(min(count, self.examples), dtype=tf.int64)
        return {name: value.numpy() for name, value in self.gather(rows).items()}

    def fingerprint(self) -> str:
        """A short hash of some of the examples, which another order, scale or selection changes."""
        sha = hashlib.sha256()
        rows = np.unique(np.linspace(0, self.examples - 1, min(self.fingerprinted, self.examples)).astype(np.int64))
        for name, value in sorted(self.gather(tf.constant(rows)).items()):
            found = value.numpy()
            sha.update(f"{name} {found.dtype} {(self.examples, *found.shape[1:])}".encode())
            sha.update(repr(found.tolist()).encode() if found.dtype == object else found.tobytes())
        return sha.hexdigest()[:12]


class ArraySplit(Split, Mapping[str, np.ndarray]):
    """Arrays with one first dimension, by feature.

    Args:
      arrays: by feature an array [examples, ...]; a ragged tensor, or a list of arrays of varying length, is padded with
        zeros.
      shared: the arrays do not change any more, so that tensors may share their memory.

    Raises:
      ConfigError: the arrays differ in their number of examples.
    """

    in_memory = True

    def __init__(self, arrays: Mapping[str, np.ndarray], *, shared: bool = True):
        self._arrays, varying = {}, {}
        for name, given in flatten(arrays).items():
            rows = _ragged(given)
            self._arrays[name] = array = stack(rows, dtype_of(rows[0])) if rows else np.asanyarray(given)
            if rows and length_name(name) not in arrays:
                self._arrays[length_name(name)] = np.array([len(row) for row in rows], np.int32)
            if rows:
                varying[name] = (None, *array.shape[2:])
        self.longest = max((self._arrays[name].shape[1] for name in varying), default=None)
        self._shared = shared
        self._tensors: dict[str, tf.Tensor] = {}
        sizes = {name: len(array) if array.ndim else 0 for name, array in self._arrays.items()}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ConfigError(f"arrays of one split differ in their number of examples ({found}).")
        super().__init__(
            next(iter(sizes.values()), 0),
            {name: varying.get(name, tuple(array.shape[1:])) for name, array in self._arrays.items()},
            {name: dtype_of(array) for name, array in self._arrays.items()},
        )

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """The examples of `rows`, int64 of any shape."""
        self.load()
        return {name: tf.gather(tensor, rows) for name, tensor in self._tensors.items()}

    def load(self) -> None:
        if not self._tensors:
            with tf.init_scope(), tf.device("CPU:0"):  # the input pipeline gathers there
                self._tensors = {n: aligned.to_tensor(a, shared=self._shared) for n, a in self._arrays.items()}

    def column(self, name: str) -> np.ndarray | None:
        return self._arrays.get(name)

    def first(self, count: int) -> dict[str, np.ndarray]:
        return {name: array[:count] for name, array in self._arrays.items()}

    def fingerprint(self) -> str:
        sha = hashlib.sha256()
        for name in sorted(self._arrays):
            array = self._arrays[name]
            rows = np.unique(np.linspace(0, len(array) - 1, min(FINGERPRINTED, len(array))).astype(np.int64))
            sha.update(f"{name} {array.dtype} {array.shape}".encode())
            sha.update(np.ascontiguousarray(array[rows]).tobytes())
        return sha.hexdigest()[:12]


def length_name(feature: str) -> str:
    """The feature that has the size of another one's dimension that varies."""
    return f"{feature}_length"


# --- examples in Python -----------------------------------------------------------------------------------------------


def flatten(nested: Mapping[str, Any], prefix: str = "", *, where: str = "the data") -> dict[str, Any]:
    """Features by flat name: `{"box": {"x": 1}}` becomes `{"box/x": 1}`.

    Raises:
      ConfigError: a name is no string.
    """
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if not isinstance(name, str):
            raise ConfigError(
                f"{where} returned a feature under {name!r}, a {type(name).__name__}. Name features by strings."
            )
        inner = f"{prefix}{name}"
        found |= flatten(value, f"{inner}/", where=where) if isinstance(value, Mapping) else {inner: value}
    return found


def dtype_of(array: np.ndarray) -> tf.DType:
    """TensorFlow's dtype of an array; text of any kind is a string."""
    return tf.string if array.dtype.kind in "OSU" else tf.as_dtype(array.dtype)


def as_numpy(dtype: tf.DType) -> Any:
    """NumPy's dtype of a tensor's; strings are objects."""
    return object if dtype == tf.string else dtype.as_numpy_dtype


def signature(
    examples: Sequence[Mapping[str, np.ndarray]], where: str
) -> tuple[dict[str, tuple[int | None, ...]], dict[str, tf.DType]]:
    """Shapes and dtypes by feature, from some examples; a dimension in which they differ is None.

    Raises:
      ConfigError: there are no examples, or they have other features.
    """
    if not examples:
        raise ConfigError(f"{where} holds no examples.")
    shapes: dict[str, tuple[int | None, ...]] = {}
    dtypes: dict[str, tf.DType] = {}
    for name, value in examples[0].items():
        dtypes[name] = dtype_of(value)
        shapes[name] = tuple(value.shape)
        for index, other in enumerate(examples):
            check_example(other, name, dtypes[name], (None,) * value.ndim, f"{where}: example {index}")
            pairs = zip(shapes[name], other[name].shape, strict=True)
            shapes[name] = tuple(one if one == side else None for one, side in pairs)
    return shapes, dtypes


def check_example(
    example: Mapping[str, np.ndarray], name: str, dtype: tf.DType, shape: tuple[int | None, ...], where: str
) -> None:
    """Raises ConfigError if an example lacks a feature, or has it with another dtype or shape."""
    if name not in example:
        raise ConfigError(f"{where} has no feature `{name}`; it has {', '.join(example) or 'none'}.")
    value = example[name]
    seen = dtype_of(value)
    fits = len(shape) == value.ndim and all(a in (None, b) for a, b in zip(shape, value.shape, strict=True))
    if seen != dtype or not fits:
        sides = "[" + ", ".join("any" if side is None else str(side) for side in shape) + "]"
        raise ConfigError(
            f"{where} has `{name}` as {seen.name} of shape {list(value.shape)}; the first examples have {dtype.name} of shape "
            f"{sides}."
        )


def stack(values: Sequence[np.ndarray], dtype: tf.DType) -> np.ndarray:
    """The values of one feature as one array; shorter ones are filled up with zeros, or empty strings."""
    sides = tuple(max(sizes) for sizes in zip(*(value.shape for value in values), strict=True))
    kind = as_numpy(dtype)
    if all(value.shape == sides for value in values):
        return np.stack(values).astype(kind, copy=False)
    out = np.full((len(values), *sides), b"", object) if dtype == tf.string else np.zeros((len(values), *sides), kind)
    for index, value in enumerate(values):
        out[index][tuple(slice(side) for side in value.shape)] = value
    return out


def nothing(shape: tuple[int | None, ...], dtype: tf.DType) -> np.ndarray:
    """A feature of no examples."""
    kind = as_numpy(dtype)
    return np.zeros([0, *(side or 0 for side in shape)], kind)


def _ragged(given: Any) -> list[np.ndarray] | None:
    """The rows of a ragged tensor, or of a list or an array of objects that differ in length; None for anything else."""
    if isinstance(given, tf.RaggedTensor):
        return np.split(given.flat_values.numpy(), given.row_splits.numpy()[1:-1]) if given.ragged_rank == 1 else None
    objects = isinstance(given, (list, tuple)) or (isinstance(given, np.ndarray) and given.dtype == object)
    if not objects or not len(given) or not all(isinstance(row, (list, tuple, np.ndarray)) for row in given):
        return None
    rows = [np.asarray(row) for row in given]
    if not all(row.ndim for row in rows) or len({len(row) for row in rows}) == 1:
        return None
    kind = np.result_type(*{row.dtype for row in rows if row.size})  # an empty list has no dtype of its own
    return [row.astype(kind, copy=False) for row in rows]
