"""Evaluates at fixed intervals and at the end, and writes the recipe's images."""

from __future__ import annotations

import logging

import numpy as np

from modetrain.callback import Callback
from modetrain.engine import object_walk
from modetrain.engine.snapshot import Snapshot
from modetrain.files.tensorboard import TensorBoardWriter
from modetrain.training import evaluation

log = logging.getLogger(__name__)


class Evaluate(Callback):
    """Exact means over all evaluation examples, at each multiple of `every` and once at the end.

    Args:
      every: steps between evaluations; 0 or None for only the end.
      events: writes the scalars and images.
    """

    def __init__(self, *, every: int | None, events: TensorBoardWriter):
        super().__init__(every=every)
        self._events = events

    def on_train_begin(self, trainer):
        evaluation.check(trainer)

    def on_step(self, trainer):
        results = trainer.evaluate()
        log.info(f"step {trainer.step}: eval " + ", ".join(f"{name} {value:.4f}" for name, value in results.items()))
        self._events.scalars({f"eval/{name}": value for name, value in results.items()}, trainer.step)
        with (
            trainer.timer.measure("eval"),
            trainer.recipe.averaged(),
            Snapshot(object_walk.find_variables(trainer.recipe).values()),
        ):
            found = trainer.recipe.show()
        for name, images in found.items():
            self._events.images(name, np.clip(np.asarray(images, np.float32), 0.0, 1.0), trainer.step)

    def on_train_end(self, trainer):
        if trainer.status == "completed" and trainer.history.evaluated != trainer.step:
            self.on_step(trainer)

    def state(self, trainer):
        self._events.flush()  # the points before a checkpoint's step must be on the disk
        return {}
