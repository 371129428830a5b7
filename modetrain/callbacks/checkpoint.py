"""Saves every so many steps and at the end; keeps the last few and the best."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from modetrain import checkpoint, run_folder
from modetrain.callbacks import Callback
from modetrain.callbacks.best import best_of
from modetrain.errors import did_you_mean


class Checkpoint(Callback):
    """Writes `<run>/checkpoints/step-*.npz`, and `best.npz` where an evaluation was the best so far.

    Args:
      every: steps between checkpoints; 0 or None for the end alone.
      keep: how many of the last are kept.
      best: evaluation metric by which the best is kept too; smaller is better where its name holds `loss` or `error`.
        None keeps none; `auto` is accuracy, else loss, whichever the evaluation returns.
      evaluate_every: steps between evaluations, which the best is chosen among.
      meta: kept with each checkpoint, to tell on resuming what has changed.
      best_value: of the run that is resumed.
    """

    def __init__(
        self,
        *,
        every: int | None,
        keep: int = 3,
        best: str | None = None,
        evaluate_every: int | None = None,
        meta: Mapping[str, Any] | None = None,
        best_value: float | None = None,
    ):
        super().__init__(every=every)
        self._keep = keep
        self._best = best
        self._evaluations = Callback(every=evaluate_every if best is not None else None)
        self._best_value = best_value
        self._meta = dict(meta or {})
        self._saved: int | None = None

    def next_step(self, step):
        wanted = (super().next_step(step), self._evaluations.next_step(step))
        return min((one for one in wanted if one is not None), default=None)

    def start(self, run):
        if not run.replicas.chief:
            return
        folder = run.folder / run_folder.CHECKPOINTS
        # What a killed run left half-written is of no use to anybody.
        for partial in folder.glob(".*.partial"):
            partial.unlink()
        # Going on from an older checkpoint starts another branch: `latest` must not find the one left behind.
        for step in run_folder.steps(run.folder):
            if step > run.step:
                left = run_folder.checkpoint(run.folder, step)
                run.say(f"{left.name} is of a branch that this run leaves: kept as {left.name}.left")
                left.rename(left.with_name(f"{left.name}.left"))

    def look(self, run):
        self._keep_what_is_due(run, due=bool(self.every) and run.step % self.every == 0)

    def end(self, run):
        if run.status in ("completed", "stopped"):
            self._keep_what_is_due(run, due=True)

    def _keep_what_is_due(self, run, *, due: bool) -> None:
        if not run.replicas.chief:
            return
        with run.clock.book("checkpoint"):
            if run.evaluated == run.step:
                self._best = best_of(self._best, run.results["eval"], run.say)
            evaluated = self._best is not None and run.evaluated == run.step
            unknown = evaluated and self._best not in run.results["eval"]
            # Whatever is wrong with the metric's name, the steps made so far are not lost.
            if (due or unknown) and self._saved != run.step:
                self._save(run)
            if unknown:
                results = run.results["eval"]
                raise ValueError(
                    f"callbacks.checkpoint.best={self._best}: the evaluation returned {', '.join(sorted(results))}, "
                    f"and no {self._best!r}.{did_you_mean(str(self._best), results)} Type callbacks.checkpoint.best="
                    f"{min(results)} or callbacks.checkpoint.best=null."
                )
            if evaluated and self._is_better(run.results["eval"][self._best]):
                self._save_best(run)

    def _save(self, run) -> None:
        self._write(run, run_folder.checkpoint(run.folder, run.step))
        self._saved = run.step
        for step in run_folder.steps(run.folder)[: -self._keep]:
            run_folder.checkpoint(run.folder, step).unlink()

    def _save_best(self, run) -> None:
        best = run_folder.best(run.folder)
        if self._saved == run.step:
            link = best.with_name(f".{best.name}.partial")
            os.link(run_folder.checkpoint(run.folder, run.step), link)
            os.replace(link, best)
        else:
            self._write(run, best)
        self._best_value = run.results["eval"][self._best]

    def _write(self, run, path) -> None:
        # Evaluation may have drawn from the seed generators; where they stand is a function of the step.
        run.recipe.seek(run.step)
        best_value = self._best_value
        if self._best is not None and run.evaluated == run.step:
            value = run.results["eval"].get(self._best, math.nan)
            best_value = value if self._is_better(value) else best_value
        meta = {**self._meta, "best_value": best_value, "results": run.results}
        checkpoint.save(path, run.recipe.state(), step=run.step, meta=meta)

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        sign = -1.0 if any(word in str(self._best) for word in ("loss", "error")) else 1.0
        return self._best_value is None or sign * value > sign * self._best_value
