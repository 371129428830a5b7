"""Requests to a running training, by a signal or a callback: to stop, or to save."""

from __future__ import annotations

import signal

import numpy as np

from modetrain.engine.devices import Replicas


class Requests:
    """Requests to any worker, which take effect on all workers after the same step.

    Args:
      replicas: the run's replicas.

    Attributes:
      stop_signal: the signal that stops the run, or None.
      save: whether a checkpoint is requested after this step.
    """

    def __init__(self, replicas: Replicas):
        self._replicas = replicas
        self._stop: int | None = None
        self._save = False
        self.stop_signal: int | None = None
        self.save = False

    def request_stop(self, signum: int) -> None:
        """Requests a stop. Any thread may call this."""
        self._stop = signum
        if self._replicas.workers == 1:  # several workers stop together: see `sum_over_workers`
            self.stop_signal = signum

    def request_save(self) -> None:
        """Requests a checkpoint. Any thread may call this."""
        self._save = True

    def sum_over_workers(self, rows: np.ndarray) -> np.ndarray:
        """Sums rows [steps, replicas, metrics, 2] over all replicas, and shares the requests of every worker.

        One sum carries all of them, so no worker waits a second time.
        """
        here = rows.sum(axis=1, dtype=np.float64)
        save, self._save = self._save, False
        everywhere = self._replicas.sum_over_workers(np.append(here, [self._stop is not None, save]))
        if everywhere[-2]:
            self.stop_signal = self._stop or signal.SIGTERM
        self.save = bool(everywhere[-1])
        return everywhere[:-2].reshape(here.shape)
