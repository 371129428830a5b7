"""Reads the example of a row, where some cannot be read: `data.on_error` says whether the run ends or takes the next one.

    reader = RowReader(read, name="the split train", rows=range(1000), on_error="skip")
    used, example = reader(7)          # (8, example of row 8) where row 7 is damaged
    reader.skipped                     # {7: "photos/cat/7.jpg: not an image"}

Which row takes the place of another depends on the data alone, so that batches stay functions of (seed, step).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from modetrain.errors import ConfigError

log = logging.getLogger(__name__)

_MOST = 100  # rows one after the other that cannot be read: then it is not the examples that are damaged
_SAID = 20  # examples that are named as they are skipped; all of them are counted


class UnreadableError(Exception):
    """An example cannot be read, and trying again would not help; the message has its file, if it has one, and the reason."""


def may_pass(error: Exception) -> bool:
    """Whether an error may be gone a moment later, as one of a network's file system."""
    lasting = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
    if isinstance(error, OSError):
        return not isinstance(error, lasting)
    return isinstance(error, (tf.errors.UnavailableError, tf.errors.UnknownError, tf.errors.DeadlineExceededError))


class RowReader:
    """Reads examples by row.

    Args:
      read: returns the example of a row. It raises `UnreadableError` where there is none; any other error ends the reading, and
        the loader tries the batch again if it may be gone a moment later.
      name: what the split is called in messages.
      rows: the rows that there are; another row that takes a place is one of them.
      on_error: `stop` or `skip`.

    Attributes:
      skipped: by row the reason why it could not be read.
    """

    def __init__(self, read: Callable[[int], Any], *, name: str, rows: range, on_error: str = "stop"):
        self._read = read
        self._name = name
        self._rows = rows
        self._on_error = on_error
        self.skipped: dict[int, str] = {}

    def __call__(self, row: int) -> tuple[int, Any]:
        """The row that was read, and its example.

        Raises:
          ConfigError: it cannot be read, and `on_error` is `stop`; or 100 rows one after the other cannot be read.
        """
        reason = ""
        for distance in range(min(len(self._rows), _MOST)):
            used = self._rows[(row - self._rows.start + distance) % len(self._rows)]
            if used in self.skipped:
                reason = self.skipped[used]
                continue
            try:
                return used, self._read(used)
            except UnreadableError as error:
                reason = str(error)
                if self._on_error == "stop":
                    raise ConfigError(
                        f"{self._name}: example {used} cannot be read: {reason}. Replace or remove it, or type data.on_error=skip "
                        "to take the next one in its place."
                    ) from error
                self._skip(used, reason)
        tried = min(len(self._rows), _MOST)
        raise ConfigError(
            f"{self._name}: {tried} examples one after the other, from example {row} on, cannot be read (the last one: {reason})."
        )

    def described(self) -> list[str]:
        """A line for each row that was skipped."""
        return [f"{self._name}: example {row}: {reason}" for row, reason in sorted(self.skipped.copy().items())]

    def within(self, rows: range) -> RowReader:
        """A reader that takes the places of examples with others of these rows."""
        part = copy.copy(self)  # with the same `skipped`
        part._rows = rows
        return part

    def _skip(self, row: int, reason: str) -> None:
        if self.skipped.setdefault(row, reason) is not reason:  # another thread was faster
            return
        if len(self.skipped) <= _SAID:
            more = "; those after it are only counted, in run.json" if len(self.skipped) == _SAID else ""
            log.warning(f"{self._name}: example {row} is skipped: {reason}{more}")
