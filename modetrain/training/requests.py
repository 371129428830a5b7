"""Requests to a running training, by a signal or a callback: to stop, to end early as completed, or to save."""

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
      stopped_early: why the run ends early as completed, or None.
      save: whether a checkpoint is requested after this step.
    """

    def __init__(self, replicas: Replicas):
        self._replicas = replicas
        self._stop: int | None = None
        self._early: str | None = None
        self._save = False
        self.stop_signal: int | None = None
        self.stopped_early: str | None = None
        self.save = False

    def request_stop(self, signum: int) -> None:
        """Requests a stop. Any thread may call this."""
        self._stop = signum
        if self._replicas.workers == 1:  # several workers stop together: see `sum_over_workers`
            self.stop_signal = signum

    def request_early_stop(self, why: str) -> None:
        """Requests the end of the run, as completed. Any thread may call this."""
        self._early = why
        if self._replicas.workers == 1:
            self.stopped_early = why

    @property
    def ended(self) -> bool:
        """Whether no further step is to run."""
        return self.stop_signal is not None or self.stopped_early is not None

    def request_save(self) -> None:
        """Requests a checkpoint. Any thread may call this."""
        self._save = True

    def sum_over_workers(self, rows: np.ndarray) -> np.ndarray:
        """Sums rows [steps, replicas, metrics, 2] over all replicas, and shares the requests of every worker.

        One sum carries all of them, so no worker waits a second time.
        """
        here = rows.sum(axis=1, dtype=np.float64)
        save, self._save = self._save, False
        everywhere = self._replicas.sum_over_workers(
            np.append(here, [self._stop is not None, self._early is not None, save])
        )
        *_, stop, early, save_now = everywhere
        if stop:
            self.stop_signal = self._stop or signal.SIGTERM
        if early:
            self.stopped_early = self._early or "another worker asked for it"
        self.save = bool(save_now)
        return everywhere[:-3].reshape(here.shape)
