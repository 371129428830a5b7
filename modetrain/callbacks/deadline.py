"""Stops a run when its time is over, like SIGTERM: after the running call, with a checkpoint."""

from __future__ import annotations

import logging
import signal

from modetrain.callback import Callback

log = logging.getLogger(__name__)


class Deadline(Callback):
    """Stops the run after a number of seconds (`stop_after=`).

    Args:
      after: seconds from the start of the process.
    """

    def __init__(self, *, after: float):
        super().__init__()
        self._after = after
        self._stopping = False

    def on_steps_end(self, trainer, metrics):
        if not self._stopping and trainer.timer.total >= self._after:
            self._stopping = True
            log.info(f"step {trainer.step}: stop_after={self._after:.0f}s is over; stopping")
            trainer.stop(signal.SIGTERM)
