"""A split of windows of tokens, out of one array in memory or out of files that are larger than memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from modetrain.data import aligned
from modetrain.data.split import Split
from modetrain.errors import ConfigError


class TokenFiles:
    """The whole numbers in files, one file after the other, read where they are needed.

    Args:
      files: hold nothing but numbers.
      dtype: of a number.
      separator: the number between two files; None is none.
    """

    def __init__(self, files: Sequence[Path], dtype: type[np.integer], separator: int | None):
        self._files, self.dtype, self._separator = files, np.dtype(dtype), separator or 0
        self._gap = 0 if separator is None else 1
        self._sizes = [file.stat().st_size // self.dtype.itemsize for file in files]
        self._starts = np.cumsum([0, *(size + self._gap for size in self._sizes)]).tolist()

    def __len__(self) -> int:
        return max(self._starts[-1] - self._gap, 0)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The numbers from `start` to before `stop`.

        Raises:
          ConfigError: a file has become shorter.
        """
        out = np.full(stop - start, self._separator, self.dtype)
        index = bisect_right(self._starts, start) - 1
        while index < len(self._files) and self._starts[index] < stop:
            origin = self._starts[index]
            begin, end = max(start, origin), min(stop, origin + self._sizes[index])
            if begin < end:
                with self._files[index].open("rb") as file:
                    file.seek((begin - origin) * self.dtype.itemsize)
                    found = np.frombuffer(file.read((end - begin) * self.dtype.itemsize), self.dtype)
                if len(found) < end - begin:
                    raise ConfigError(f"{self._files[index]}: it is shorter now than when the run began. Start again.")
                out[begin - start : end - start] = found
            index += 1
        return out


class TokenWindows(Split):
    """Windows without overlap: `tokens` int32 [window] and, moved on by one, `targets` int32 [window].

    Args:
      tokens: an array [any], or files.
      window: tokens of a window.
      first: the window of the tokens that is the first of the split.
      count: windows of the split.
    """

    def __init__(self, tokens: np.ndarray | TokenFiles, window: int, *, first: int, count: int):
        names = ("tokens", "targets")
        super().__init__(count, {name: (window,) for name in names}, {name: tf.int32 for name in names})
        self._tokens, self._window, self._first = tokens, window, first
        self._tensor: tf.Tensor | None = None
        self.in_memory = isinstance(tokens, np.ndarray)

    def load(self) -> None:
        if isinstance(self._tokens, np.ndarray) and self._tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):  # the input pipeline gathers there
                self._tensor = aligned.to_tensor(self._tokens, shared=True)

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        self.load()
        if self._tensor is not None:
            starts = (rows[..., tf.newaxis] + self._first) * self._window
            found = tf.cast(tf.gather(self._tensor, starts + tf.range(self._window + 1, dtype=tf.int64)), tf.int32)
        else:
            read = tf.numpy_function(self._read, [rows], tf.int32, stateful=False)
            found = tf.ensure_shape(read, [*rows.shape, self._window + 1])
        return {"tokens": found[..., :-1], "targets": found[..., 1:]}

    def _read(self, rows: np.ndarray) -> np.ndarray:
        assert isinstance(self._tokens, TokenFiles)
        starts = (rows + self._first) * self._window
        return np.stack([self._tokens.read(int(at), int(at) + self._window + 1) for at in starts]).astype(np.int32)
