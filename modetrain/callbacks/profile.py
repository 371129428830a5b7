"""Writes a profiler trace of a few steps, with step markers, for TensorBoard's profiler plugin."""

from __future__ import annotations

import logging

import tensorflow as tf

from modetrain.callback import Callback
from modetrain.config import arguments

log = logging.getLogger(__name__)


class Profile(Callback):
    """Profiles steps `at` to `at + steps`, one step a call so that each has a marker.

    Args:
      at: updates completed before the first step of the trace.
      steps: number of steps in the trace.
    """

    def __init__(self, *, at: int, steps: int):
        super().__init__()
        self._at = at
        self._end = at + steps
        self._running = False

    def next_step(self, step):
        if step < self._at:
            return self._at
        return step + 1 if step < self._end else None

    def on_train_begin(self, trainer):
        if trainer.step == self._at:
            self._begin(trainer)
        elif trainer.step > self._at:
            log.info(
                f"callbacks.profile.at={self._at}: this run resumes at step {trainer.step}, so no profile is taken"
            )
            self._at = self._end = -1

    def on_step(self, trainer):
        if trainer.step == self._at:
            self._begin(trainer)
        elif trainer.step == self._end:
            self._finish(trainer)

    def on_train_end(self, trainer):
        self._finish(trainer)

    def on_rollback(self, trainer):
        self._finish(trainer)

    def _begin(self, trainer):
        if not trainer.replicas.chief:
            return
        log.info(f"step {trainer.step}: profiling {self._end - self._at} steps, one step a call")
        tf.profiler.experimental.start(str(trainer.folder))
        self._running = True

    def _finish(self, trainer):
        if self._running:
            self._running = False
            tf.profiler.experimental.stop()
            log.info(f"step {trainer.step}: profile written; open it (tab Profile) with:")
            log.info(f"  {arguments.tensorboard(trainer.folder)}")
