"""Finds the worker that slows down the others, from the times of each worker's steps.

Workers wait for each other in every step, so all of them seem equally slow. They differ in the time that a worker waits for its
data and computes. A worker that sleeps does neither: it cannot be distinguished from those that wait for it.
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
    """Milliseconds a step for each worker.

    Attributes:
      step_ms: from one step to the next, including the wait for the others.
      data_wait_ms: wait for data.
      cpu_ms: processor time of all threads.
    """

    step_ms: np.ndarray
    data_wait_ms: np.ndarray
    cpu_ms: np.ndarray

    @classmethod
    def gather(cls, replicas: Replicas, spent: TimerReading) -> WorkerTimes:
        """Gathers the times of all workers; all workers must call this."""
        steps = max(spent.steps, 1)
        table = replicas.gather_from_workers([1e3 * s / steps for s in (spent.busy_s, spent.data_s, spent.cpu_s)])
        return cls(step_ms=table[:, 0], data_wait_ms=table[:, 1], cpu_ms=table[:, 2])

    @property
    def slowest(self) -> int | None:
        """The worker whose own time, waiting for data and computing, stands out; None if none does.

        It must exceed the median worker's own time by more than a tenth of that time and of a step; less is noise.
        """
        own = self.data_wait_ms + self.cpu_ms
        usual, worker = float(np.median(own)), int(np.argmax(own))
        least = STANDS_OUT * max(usual, float(np.median(self.step_ms)))
        return worker if own[worker] - usual > least else None

    def spread(self) -> Mapping[str, Mapping[str, float]]:
        """Min, median and max over the workers, by kind of time."""
        return {
            field.name: {
                "min": float(np.min(times := getattr(self, field.name))),
                "median": float(np.median(times)),
                "max": float(np.max(times)),
            }
            for field in dataclasses.fields(self)
        }
