"""Evaluates every so many steps and at the end, and shows what the recipe has to show."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from modetrain.callbacks import Callback
from modetrain.callbacks.scalars import write_scalars


class Evaluate(Callback):
    """Exact means over all evaluation examples, at each multiple of `every` and once at the end.

    Args:
      every: steps between evaluations; 0 or None for the end alone.
      writer: where scalars and images go.
    """

    def __init__(self, *, every: int | None, writer: tf.summary.SummaryWriter):
        super().__init__(every=every)
        self._writer = writer

    def look(self, run):
        results = run.evaluate()
        run.say(f"step {run.step}: eval " + ", ".join(f"{name} {value:.4f}" for name, value in results.items()))
        write_scalars(self._writer, {f"eval/{name}": value for name, value in results.items()}, run.step)
        with self._writer.as_default(step=run.step):
            with run.clock.book("eval"), run.recipe.averaged():
                shown = run.recipe.show()
            for name, images in shown.items():
                images = np.clip(np.asarray(images, np.float32), 0.0, 1.0)
                tf.summary.image(name, images, max_outputs=len(images))

    def end(self, run):
        if run.status == "completed" and run.evaluated != run.step:
            self.look(run)
