"""Writes a profiler trace of a few steps, with step markers, for TensorBoard's profiler plugin."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from pathlib import Path

import tensorflow as tf

from modetrain.callback import Callback
from modetrain.config import arguments
from modetrain.files import atomic

log = logging.getLogger(__name__)

_FILES = "plugins/profile/*/*.xplane.pb"
# The name of a number that TensorFlow notes for each round of a loop, in protobuf's encoding, and another of the same length.
_ROUND, _RENAMED = b"\x12\x08iter_num", b"\x12\x08loop_num"


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
        self._before: set[Path] = set()

    def next_step(self, step):
        if step < self._at:
            return self._at
        return step + 1 if step < self._end else None

    def on_train_begin(self, trainer):
        if trainer.step <= self._at and trainer.replicas.chief and not _has_tab():
            log.info(
                "TensorBoard's tab Profile is a plugin that is not installed; before it is opened, type pip install "
                "'tensorboard-plugin-profile>=2.21'"
            )
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
        tf.profiler.experimental.start(os.fsencode(trainer.folder))  # bytes: any path
        self._running = True
        self._before = {*trainer.folder.glob(_FILES)}

    def _finish(self, trainer):
        if self._running:
            self._running = False
            tf.profiler.experimental.stop()
            try:
                for file in {*trainer.folder.glob(_FILES)} - self._before:
                    # Where the plugin finds rounds of a loop (that of a call, or one of the user's) it takes them for the
                    # steps, and drops the steps themselves.
                    atomic.write_bytes(file, file.read_bytes().replace(_ROUND, _RENAMED))
            except OSError as error:
                log.warning(f"the profile may show no steps: its file could not be written again ({error.strerror})")
            log.info(f"step {trainer.step}: profile written; open it (tab Profile) with:")
            log.info(f"  {arguments.tensorboard(trainer.folder)}")


def _has_tab() -> bool:
    """Whether TensorBoard will show profiles; it finds its plugins by their entry points."""
    return any(
        "profile" in f"{one.name} {one.value}" for one in importlib.metadata.entry_points(group="tensorboard_plugins")
    )
