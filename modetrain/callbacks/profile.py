"""Takes a profiler trace of a few steps, with step markers, which TensorBoard's profiler plugin opens."""

from __future__ import annotations

import tensorflow as tf

from modetrain.callback import Callback


class Profile(Callback):
    """Profiles steps `at` to `at + steps`, one step a call so that each has a marker.

    Args:
      at: updates completed before the first step of the trace.
      steps: steps in the trace.
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

    def start(self, run):
        if run.step == self._at:
            self._begin(run)
        elif run.step > self._at:
            run.say(f"callbacks.profile.at={self._at}: this run goes on from step {run.step}, so no profile is taken")
            self._at = self._end = -1

    def look(self, run):
        if run.step == self._at:
            self._begin(run)
        elif run.step == self._end:
            self._finish(run)

    def end(self, run):
        self._finish(run)

    def rewind(self, run):
        self._finish(run)

    def _begin(self, run):
        if not run.replicas.chief:
            return
        run.say(f"step {run.step}: profiling {self._end - self._at} steps, one a call")
        tf.profiler.experimental.start(str(run.folder))
        self._running = True

    def _finish(self, run):
        if self._running:
            self._running = False
            tf.profiler.experimental.stop()
            run.say(f"step {run.step}: profile written; tensorboard --logdir {run.folder} (tab Profile) opens it")
