"""Arrays that TensorFlow can take as they are: a tensor of such an array is the array itself, and no second copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

_ALIGNMENT = 64  # bytes, of TensorFlow's own tensors
_SMALL = 2**20  # bytes; smaller arrays are copied


def empty(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    """`np.empty` at an address that suits TensorFlow."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def copy(array: np.ndarray) -> np.ndarray:
    """A copy at an address that suits TensorFlow."""
    out = empty(array.shape, array.dtype)
    out[...] = array
    return out


def to_tensor(array: np.ndarray, *, shared: bool = False) -> tf.Tensor:
    """The tensor of an array, with at most one copy; `tf.constant` keeps two, and `tf.identity` needs two for a moment.

    Args:
      array: the values.
      shared: the array does not change any more, so the tensor may be the array itself.
    """
    import tensorflow as tf  # not before the checks that need none

    if array.nbytes < _SMALL or array.dtype.kind not in "biufc":  # strings are no memory that can be shared
        return tf.constant(array)
    fits = array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % _ALIGNMENT == 0
    ours = array if shared and fits else copy(array)
    try:
        return tf.experimental.dlpack.from_dlpack(ours.__dlpack__())
    except (BufferError, TypeError, RuntimeError, tf.errors.OpError):  # a dtype that one of the two does not know
        return tf.identity(ours)
