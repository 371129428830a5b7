"""Saves every so many steps and at the end; keeps the last few and the best."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modetrain import checkpoint
from modetrain.callbacks import Callback
from modetrain.errors import did_you_mean


class Checkpoint(Callback):
    """Writes `<run>/checkpoints/step-*.npz`, and `best.npz` as a second name of the best one.

    Args:
      every: steps between checkpoints; 0 or None for the end alone.
      keep: how many of the last are kept.
      best: evaluation metric by which the best is kept too; smaller is better where its name holds `loss` or `error`.
        None keeps none.
      meta: kept with each checkpoint, to tell on resuming what has changed.
      best_value: of the run that is resumed.
    """

    def __init__(
        self,
        *,
        every: int | None,
        keep: int = 3,
        best: str | None = None,
        meta: Mapping[str, Any] | None = None,
        best_value: float | None = None,
    ):
        super().__init__(every=every)
        self._keep = keep
        self._best = best
        self._best_value = best_value
        self._meta = dict(meta or {})
        self._saved: int | None = None
        self._judged: int | None = None

    def start(self, run):
        # What a killed run left half-written is of no use to anybody.
        for partial in (run.folder / checkpoint.FOLDER).glob(".*.partial"):
            partial.unlink()

    def look(self, run):
        with run.clock.book("checkpoint"):
            path = checkpoint.path_of(run.folder, run.step)
            better = self._better(run)
            meta = {**self._meta, "best_value": self._best_value, "results": run.results}
            checkpoint.save(path, run.recipe.state(), step=run.step, meta=meta)
            if better:
                link = path.with_name(".best.npz.partial")
                os.link(path, link)
                os.replace(link, path.with_name("best.npz"))
            for step in checkpoint.steps_of(run.folder)[: -self._keep]:
                checkpoint.path_of(run.folder, step).unlink()
            self._saved = run.step

    def end(self, run):
        if run.status in ("completed", "stopped") and self._saved != run.step:
            self.look(run)

    def _better(self, run) -> bool:
        """Whether the evaluation made at this very step is the best so far."""
        if self._best is None or run.evaluated != run.step:
            return False
        results = run.results["eval"]
        if self._best not in results:
            raise KeyError(
                f"callbacks.checkpoint.best={self._best}: the evaluation returned {', '.join(sorted(results))}, and no "
                f"{self._best!r}.{did_you_mean(self._best, results)} Type callbacks.checkpoint.best="
                f"{min(results)} or callbacks.checkpoint.best=null."
            )
        sign = -1.0 if any(word in self._best for word in ("loss", "error")) else 1.0
        value = results[self._best]
        if self._best_value is not None and sign * value <= sign * self._best_value:
            return False
        self._best_value = value
        return True
