"""A split of `.npy` files that are larger than memory: the rows of a batch are read as they are needed.

    split = ArrayFiles({"image": np.load("image.npy", mmap_mode="r"), "label": labels})
    split.gather(rows)

Rows are read from the file and not through the memory map: pages of a map count as memory of the process, and an error of a
map ends the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.split import FINGERPRINTED, Split, dtype_of
from modetrain.errors import ConfigError


class ArrayFile:
    """A memory-mapped array, read by rows.

    Args:
      array: of `np.load(file, mmap_mode="r")`.

    Raises:
      ConfigError: the array is stored by columns.
    """

    def __init__(self, array: np.memmap):
        self._name = str(array.filename)
        if not array.flags.c_contiguous:
            raise ConfigError(
                f"{self._name}: stored by columns (Fortran order), so that its rows cannot be read apart, and it does not fit into "
                "memory. Save it with np.save(file, np.ascontiguousarray(array)), a part at a time."
            )
        self.dtype, self.shape = array.dtype, array.shape
        self._offset = array.offset
        self._bytes = int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize
        self._file = os.open(self._name, os.O_RDONLY)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        content = out.reshape(-1).view(np.uint8).data if out.size else memoryview(b"")
        for index, row in enumerate(rows):
            at, end = index * self._bytes, (index + 1) * self._bytes
            while at < end:
                position = self._offset + int(row) * self._bytes + at - index * self._bytes
                read = os.preadv(self._file, [content[at:end]], position)
                if not read:
                    raise ConfigError(f"{self._name}: the file ends before row {row}. Copy or write it again.")
                at += read
        return out

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class ArrayFiles(Split):
    """Arrays with one first dimension by feature, memory-mapped ones read by rows.

    Args:
      arrays: by feature an array [examples, ...].
      resize: what is done with a batch of them, and the shapes [...] that it makes of those of an example.
    """

    fingerprinted = FINGERPRINTED

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        resize: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]] | None = None,
    ):
        self._arrays: dict[str, Any] = {
            name: ArrayFile(array) if isinstance(array, np.memmap) else array for name, array in arrays.items()
        }
        self._stored = {name: tuple(array.shape[1:]) for name, array in arrays.items()}
        self._resize = resize
        shapes = self._stored
        if resize is not None:
            one = {name: tf.zeros([1, *shape], dtype_of(arrays[name])) for name, shape in shapes.items()}
            shapes = {name: tuple(value.shape[1:]) for name, value in resize(one).items()}
        count = len(next(iter(arrays.values())))
        super().__init__(count, shapes, {name: dtype_of(array) for name, array in arrays.items()})

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        found = tf.nest.flatten(tf.numpy_function(self._read, [rows], list(self.dtypes.values()), stateful=False))
        batch = {
            name: tf.ensure_shape(value, [*rows.shape, *self._stored[name]])
            for name, value in zip(self._arrays, found, strict=True)
        }
        return batch if self._resize is None else self._resize(batch)

    def _read(self, rows: np.ndarray) -> list[np.ndarray]:
        found = (array[rows] for array in self._arrays.values())
        return [array.astype(object) if array.dtype.kind in "SU" else array for array in found]
