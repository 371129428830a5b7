"""Which worker holds the others up: what each worker's steps took, side by side.

Workers wait for each other in every step, so that all of them seem equally slow; what tells them apart is what a worker did
by itself, waiting for its data and computing. A worker that sleeps does neither: it cannot be told from those that wait for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from modetrain.engine.devices import Replicas
from modetrain.training.timer import TimerReading

STANDS_OUT = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerTimes:
    """Milliseconds a step, per worker.

    Attributes:
      step_ms: from one step to the next, waiting for the others included.
      data_wait_ms: waiting for data.
      cpu_ms: processor time of all of its threads.
    """

    step_ms: np.ndarray
    data_wait_ms: np.ndarray
    cpu_ms: np.ndarray

    @classmethod
    def gather(cls, replicas: Replicas, spent: TimerReading) -> WorkerTimes:
        """The times of all workers. All of them must call this."""
        steps = max(spent.steps, 1)
        table = replicas.gather_from_workers([1e3 * s / steps for s in (spent.busy_s, spent.data_s, spent.cpu_s)])
        return cls(step_ms=table[:, 0], data_wait_ms=table[:, 1], cpu_ms=table[:, 2])

    @property
    def slowest(self) -> int | None:
        """The worker that stands out by what it has to do by itself, waiting for data and computing; None if none does.

        It does where it has more of that than the median worker, by more than a tenth of that, and of a step: less is noise.
        """
        own = self.data_wait_ms + self.cpu_ms
        usual, worker = float(np.median(own)), int(np.argmax(own))
        least = STANDS_OUT * max(usual, float(np.median(self.step_ms)))
        return worker if own[worker] - usual > least else None

    def spread(self) -> Mapping[str, Mapping[str, float]]:
        """Per kind of time min, median and max over the workers."""
        return {
            field.name: {
                "min": float(np.min(times := getattr(self, field.name))),
                "median": float(np.median(times)),
                "max": float(np.max(times)),
            }
            for field in dataclasses.fields(self)
        }
