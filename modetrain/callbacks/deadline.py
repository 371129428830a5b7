"""Stops a run when its time is over, as SIGTERM would: after the call under way, with a checkpoint."""

from __future__ import annotations

import signal

from modetrain.callback import Callback


class Deadline(Callback):
    """Stops the run so many seconds after it began (`stop_after=`).

    Args:
      after: seconds, from the start of the process.
    """

    def __init__(self, *, after: float):
        super().__init__()
        self._after = after
        self._told = False

    def call(self, run, rows):
        if not self._told and run.clock.total >= self._after:
            self._told = True
            run.say(f"step {run.step}: stop_after={self._after:.0f}s is over; stopping")
            run.stop(signal.SIGTERM)
