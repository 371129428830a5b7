"""The feed hands out the block of batches that a step is in, and asks again where the data fails for a moment.

Position is (seed, step): the same batch can be asked for again, so that a hiccup of a file system costs a pause and not
the run. Windows of batches that a run has left out (see `rollback.py`) are passed over here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from modetrain.data.dataset import Data
from modetrain.diagnostics import tf_errors
from modetrain.engine.batching import StackedBatches

# What may be otherwise a second later; `UnknownError` is an exception of the user's own Python in a `py_function`.
_PASSING = (
    OSError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
)
_PAUSE = 1.0  # seconds, doubled each time


log = logging.getLogger(__name__)


class BatchLoader:
    """Blocks of training batches by step.

    Args:
      data: where they come from.
      length: batches of a block.
      sleep: waits so many seconds.

    Attributes:
      length: as given.
      skipped_batches: (step, count): at that step so many batches were passed over.
    """

    def __init__(self, data: Data, length: int, *, sleep: Callable[[float], None] = time.sleep):
        self._data = data
        self.length = length
        self._sleep = sleep
        self._blocks: Iterator[StackedBatches] | None = None
        self._block: StackedBatches | None = None
        self.skipped_batches: list[tuple[int, int]] = []

    def block(self, step: int) -> StackedBatches:
        """The block that the batch of `step` is in.

        Raises:
          Exception: whatever the data raises, once it has been asked `data.retries` times again.
        """
        if self._block is not None and self._block.first <= step < self._block.first + self._block.length:
            return self._block
        retries = self._data.settings.retries
        for attempt in range(retries + 1):
            try:
                if self._blocks is None:
                    self._blocks = self._data.train_blocks(step, self.length, skipped=self.skipped_count)
                self._block = next(self._blocks)
                return self._block
            except _PASSING as error:
                self.reset()  # what failed once stays failed
                if attempt == retries:
                    raise
                pause = _PAUSE * 2**attempt
                message = tf_errors.read(error)
                said = message.text if message is not None else f"{type(error).__name__}: {error}"
                log.warning(
                    f"the data of step {step + 1} failed ({said.splitlines()[0][:200]}); asking again in "
                    f"{pause:.0f} s ({attempt + 1} of data.retries={retries})"
                )
                self._sleep(pause)
        raise AssertionError

    def find_failing_step(self, step: int) -> int:
        """Of the block that begins at `step` and could not be had, the first step whose batch fails by itself; else `step`."""
        for index in range(step, step + self.length):
            try:
                self._data.batch(index + self.skipped_count)
            except Exception:
                return index
        return step

    @property
    def skipped_count(self) -> int:
        """How many batches were left out so far."""
        return sum(count for _, count in self.skipped_batches)

    def reset(self) -> None:
        """Starts again at the step that is asked for next."""
        self._blocks = self._block = None
