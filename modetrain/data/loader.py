"""Loads the stacked batches of a step, and retries where the data fails for a moment.

A batch is a function of (seed, step), so it can be loaded again: a short failure of a file system costs a pause and not
the run. The loader also leaves out the windows of batches that a rollback skips (see `rollback.py`).
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from modetrain.data.dataset import Data
from modetrain.engine.batching import StackedBatches
from modetrain.errors import ConfigError

log = logging.getLogger(__name__)

# Errors that may be gone a second later; `UnknownError` is an exception of the user's Python in a `py_function`.
_TRANSIENT = (
    OSError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
)
_REFUSED = re.compile(r"\bConfigError: (.*?)(?=\nTraceback|\n\n|$)", re.S)
_PAUSE = 1.0  # seconds, doubled each time


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Within this a `ConfigError` of Python that the input pipeline calls is raised as itself."""
    try:
        yield
    except _TRANSIENT as error:
        if (refused := _REFUSED.search(str(error))) is not None:
            raise ConfigError(refused[1].strip()) from error
        raise


class BatchLoader:
    """Stacked training batches by step.

    Args:
      data: the batches.
      length: number of batches in a block.
      sleep: waits for a number of seconds.

    Attributes:
      length: as given.
      skipped_batches: (step, count) for each window: the batches that were left out before that step.
    """

    def __init__(self, data: Data, length: int, *, sleep: Callable[[float], None] = time.sleep):
        self._data = data
        self.length = length
        self._sleep = sleep
        self._blocks: Iterator[StackedBatches] | None = None
        self._block: StackedBatches | None = None
        self.skipped_batches: list[tuple[int, int]] = []

    def block(self, step: int) -> StackedBatches:
        """The block that holds the batch of `step`.

        Raises:
          Exception: the data's error, after `data.retries` retries.
        """
        if self._block is not None and self._block.first <= step < self._block.first + self._block.length:
            return self._block
        retries = self._data.settings.retries
        for attempt in range(retries + 1):
            try:
                if self._blocks is None:
                    self._blocks = self._data.train_blocks(step, self.length, skipped=self.skipped_count)
                with refusals():
                    self._block = next(self._blocks)
                return self._block
            except _TRANSIENT as error:
                self.reset()  # an iterator that failed stays failed
                if attempt == retries:
                    raise
                pause = _PAUSE * 2**attempt
                from modetrain.diagnostics import tf_errors

                message = tf_errors.read(error)
                text = message.text if message is not None else f"{type(error).__name__}: {error}"
                log.warning(
                    f"the data of step {step + 1} failed ({text.splitlines()[0][:200]}); retrying in "
                    f"{pause:.0f} s ({attempt + 1} of data.retries={retries})"
                )
                self._sleep(pause)
        raise AssertionError

    def find_failing_step(self, step: int) -> int:
        """The first step of a failed block whose batch fails by itself; `step`, where the block begins, if none does."""
        for index in range(step, step + self.length):
            try:
                self._data.batch(index + self.skipped_count)
            except Exception:
                return index
        return step

    @property
    def skipped_count(self) -> int:
        """Number of batches left out so far."""
        return sum(count for _, count in self.skipped_batches)

    def reset(self) -> None:
        """Starts again at the next step that `block` is called with."""
        self._blocks = self._block = None
