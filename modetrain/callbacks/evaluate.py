"""Evaluates every so many steps and at the end, and shows what the recipe has to show."""

from __future__ import annotations

import numpy as np

from modetrain.callback import Callback
from modetrain.files.tensorboard import Events


class Evaluate(Callback):
    """Exact means over all evaluation examples, at each multiple of `every` and once at the end.

    Args:
      every: steps between evaluations; 0 or None for the end alone.
      events: where scalars and images go.
    """

    def __init__(self, *, every: int | None, events: Events):
        super().__init__(every=every)
        self._events = events

    def look(self, run):
        results = run.evaluate()
        run.say(f"step {run.step}: eval " + ", ".join(f"{name} {value:.4f}" for name, value in results.items()))
        self._events.scalars({f"eval/{name}": value for name, value in results.items()}, run.step)
        with run.clock.book("eval"), run.recipe.averaged():
            shown = run.recipe.show()
        for name, images in shown.items():
            self._events.images(name, np.clip(np.asarray(images, np.float32), 0.0, 1.0), run.step)

    def end(self, run):
        if run.status == "completed" and run.evaluated != run.step:
            self.look(run)

    def state(self, run):
        self._events.flush()  # a checkpoint of a step has the points before it on the disk
        return {}
