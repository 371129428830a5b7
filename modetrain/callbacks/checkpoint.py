"""Saves at fixed intervals, on request, and at the end; keeps the last few checkpoints, some permanently, and the best."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modetrain.callback import Callback
from modetrain.callbacks.rollback import roll_back
from modetrain.checkpoints import file
from modetrain.checkpoints.writer import AsyncWriter
from modetrain.errors import NotSavedError, did_you_mean
from modetrain.files import atomic, run_folder
from modetrain.files.quoting import proposal, shell_path_override
from modetrain.settings import AUTO
from modetrain.training.metric_direction import Monitored, name_of

log = logging.getLogger(__name__)

_BEST = "best.npz"


class Checkpoint(Callback):
    """Writes `<run>/checkpoints/step-*.npz`, and `best.npz` after the best evaluation so far.

    The run waits only for a copy of the variables; the rest happens in the background. It must be the last callback: a
    checkpoint then holds the state of the others after the same step.

    Args:
      every: steps between checkpoints; 0 or None for only the end.
      keep: number of the last checkpoints to keep.
      keep_every: keep the checkpoint of each multiple of this number of steps permanently; None keeps none.
      best: evaluation metric for the best checkpoint: `-name` where smaller is better, `+name` where larger is. Without a
        sign `best_is`, that of the recipe or a known name decides. None keeps none; `auto` is accuracy if the evaluation
        returns it, else loss.
      best_is: `min` or `max`.
      evaluate_every: steps between evaluations, which the best is chosen from.
      meta: stored in each checkpoint; a resumed run finds with it what has changed.
      background: whether steps continue while a checkpoint is written.
      first: also save the step that the run begins with, for `nonfinite.policy=rollback`.

    Attributes:
      writer: writes the checkpoints.
      written: number of checkpoints written.
    """

    def __init__(
        self,
        *,
        every: int | None,
        keep: int = 3,
        keep_every: int | None = None,
        best: str | None = None,
        best_is: str | None = None,
        evaluate_every: int | None = None,
        meta: Mapping[str, Any] | None = None,
        background: bool = True,
        first: bool = False,
    ):
        super().__init__(every=every)
        self._keep = keep
        self._keep_every = keep_every
        self._best = best
        self._best_is = best_is
        self._monitored: Monitored | None = None
        self._evaluations = Callback(every=evaluate_every if best is not None else None)
        self._best_value: float | None = None
        self._kept_best_is: str | None = None  # of the run that is resumed
        self._meta = dict(meta or {})
        self._save_first = first
        self._first = 0
        self._saved: int | None = None
        self.writer = AsyncWriter(background=background)
        self.written = 0

    def next_step(self, step):
        wanted = (super().next_step(step), self._evaluations.next_step(step))
        return min((one for one in wanted if one is not None), default=None)

    def on_train_begin(self, trainer):
        self._first = trainer.step
        if self._best not in (None, AUTO):
            self._monitor(trainer, str(self._best))
        if not trainer.replicas.chief:
            return
        folder = trainer.folder / run_folder.CHECKPOINTS
        # Partial files of a killed run are useless.
        for partial in folder.glob(".*.partial"):
            partial.unlink()
        self._check_best(trainer)
        self._set_newer_aside(trainer)
        if run_folder.checkpoint(trainer.folder, trainer.step).exists():
            self._saved = trainer.step
        elif self._save_first:
            with trainer.timer.measure("checkpoint"):
                self._save(trainer)

    def on_steps_end(self, trainer, metrics):
        self.writer.check()

    def on_step(self, trainer):
        self._save_if_due(trainer, due=bool(self.every) and trainer.step % self.every == 0)

    def on_save(self, trainer):
        self._save_if_due(trainer, due=True)
        log.info(f"step {trainer.step}: saving a checkpoint on request")

    def on_train_end(self, trainer):
        # If a callback or the data fails, the variables may still be those of this step.
        if trainer.status in ("completed", "stopped") or (trainer.state_is_consistent and trainer.step > self._first):
            self._save_if_due(trainer, due=True)
        with trainer.timer.measure("checkpoint"):
            self.writer.wait()

    def state(self, trainer):
        found = self._monitored
        best, best_is = (found.name, found.best_is) if found is not None else (self._best, None)
        return {"best": best, "best_is": best_is, "best_value": self._best_value}

    def load_state(self, state):
        # A value of another metric cannot be compared; `auto` becomes a metric with the first evaluation.
        metric = self._monitored.name if self._monitored is not None else self._best and name_of(self._best)
        same = metric in (AUTO, state.get("best", metric))
        self._best_value = state["best_value"] if same else None
        self._kept_best_is = state.get("best_is")

    def on_rollback(self, trainer):
        self._saved = trainer.step
        if trainer.replicas.chief:
            self._set_newer_aside(trainer)

    def on_nonfinite(self, trainer, error):
        if trainer.nonfinite.settings.policy != "rollback":
            return False
        self.writer.wait()
        return roll_back(trainer, error, every=self.every or 0)

    def summary(self):
        return {"checkpoints": {"written": self.written, "write_s": self.writer.seconds}}

    def _check_best(self, trainer) -> None:
        """Forgets the best value if the best checkpoint is missing, damaged or exchanged."""
        try:
            file.load(run_folder.best(trainer.folder))
        except file.CheckpointError as error:
            if run_folder.best(trainer.folder).exists():
                log.warning(f"{error} The best value so far is forgotten: the next evaluation replaces it.")
            self._best_value = None

    def _set_newer_aside(self, trainer) -> None:
        # Resuming from an older checkpoint starts another branch: `latest` must not find the old branch.
        folder = trainer.folder / run_folder.CHECKPOINTS
        for step in run_folder.steps(trainer.folder):
            if step > trainer.step:
                left = run_folder.checkpoint(trainer.folder, step)
                try:
                    file.load(left)
                    why = "of a branch that this run leaves"
                except file.CheckpointError:
                    why = "damaged"
                file.remove_from_index(folder, file.read_index(folder), [left.name])
                log.info(f"{left.name} is {why}: kept as {left.name}.left")
                atomic.replace(left, left.with_name(f"{left.name}.left"))

    def _save_if_due(self, trainer, *, due: bool) -> None:
        if not trainer.replicas.chief:
            return
        with trainer.timer.measure("checkpoint"):
            evaluated = trainer.history.evaluated == trainer.step
            if evaluated and self._best == AUTO:
                self._best = _resolve_auto(trainer.results["eval"])
                if self._best is not None:
                    self._monitor(trainer, self._best)
            metric, results = self._monitored if evaluated else None, trainer.results["eval"]
            unknown = metric is not None and metric.name not in results
            value = results[metric.name] if metric is not None and not unknown else None
            better = value is not None and metric is not None and metric.is_better(value, self._best_value)
            if better:
                self._best_value = value
            # Even if the metric's name is wrong, the steps so far are not lost.
            if ((due or unknown) and self._saved != trainer.step) or better:
                self._save(trainer, due=due or unknown, best=better)
            if metric is not None and unknown:
                raise ValueError(
                    f"callbacks.checkpoint.best={self._best}: the evaluation returned {', '.join(sorted(results))}, "
                    f"and no {metric.name!r}.{did_you_mean(metric.name, results)} Type "
                    f"{proposal('callbacks.checkpoint.best', min(results))} or callbacks.checkpoint.best=null."
                )

    def _monitor(self, trainer, best: str) -> None:
        """Settles which end of the metric is the better one; another end than before forgets the best value."""
        recipe = trainer.recipe
        self._monitored = Monitored.parse(best, self._best_is, recipe.best_is, owner=f"class {type(recipe).__name__}")
        if self._kept_best_is not in (None, self._monitored.best_is):
            self._best_value = None

    # --- writing ----------------------------------------------------------------------------------------------------

    def _save(self, trainer, *, due: bool = True, best: bool = False) -> None:
        self.writer.check()
        # Evaluation may have changed the seed generators; their state is a function of the step.
        trainer.recipe.seek(trainer.step)
        state, step, folder = trainer.recipe.state(), trainer.step, trainer.folder
        trained = {id(v) for optimizer in trainer.recipe.optimizers().values() for v in optimizer.trainable}
        watched = [
            name for name, v in state.items() if id(v) in trained and trainer.nonfinite.settings.policy != "ignore"
        ]
        arrays = file.copy_values(state)
        meta = {**self._meta, "best_value": self._best_value, "results": trainer.results, "carry": trainer.state()}
        if due:
            self._saved = step

        def write():
            _refuse_nonfinite(arrays, watched, step)
            self._write(folder, arrays, step, meta, due=due, best=best)
            self.written += 1

        self.writer.submit(write)

    def _write(self, run_dir: Path, arrays, step: int, meta, *, due: bool, best: bool) -> None:
        folder, path = run_dir / run_folder.CHECKPOINTS, run_folder.checkpoint(run_dir, step)
        try:
            index = file.read_index(folder)
            for points in run_dir.glob("events.out.tfevents.*"):  # a resumed run does not write them again
                atomic.flush(points)
            if due:
                index[path.name] = file.save(path, arrays, step=step, meta=meta)
            if best:
                file.remove_from_index(folder, index, [_BEST])
            if best and due:
                link = folder / f".{_BEST}.partial"
                link.unlink(missing_ok=True)
                atomic.link(path, link)
                atomic.replace(link, run_folder.best(run_dir))
                index[_BEST] = index[path.name]
            elif best:
                index[_BEST] = file.save(run_folder.best(run_dir), arrays, step=step, meta=meta)
            steps = sorted({*run_folder.steps(run_dir), *([step] if due else [])})  # a listing may lag behind
            gone = [run_folder.checkpoint(run_dir, one) for one in self._find_surplus(steps)]
            there = {_BEST, *(run_folder.checkpoint(run_dir, one).name for one in steps)} - {one.name for one in gone}
            # Before they are removed: resuming reports files that the index lists and that do not exist.
            file.write_index(folder, {name: sha for name, sha in index.items() if name in there})
            for one in gone:
                one.unlink(missing_ok=True)
        except OSError as error:
            whole: list[int] = []
            with contextlib.suppress(OSError):  # even this may be unreadable
                whole = run_folder.steps(run_dir)
            newest = f"The newest whole one is of step {whole[-1]}" if whole else "There is none before it"
            raise NotSavedError(
                f"the checkpoint of step {step} could not be written to {folder}: {error.strerror or error}. {newest}. "
                "Fix that (free space, or permission to write), then type resume=latest "
                f"{shell_path_override('run_dir', run_dir)}."
            ) from error

    def _find_surplus(self, steps: Sequence[int]) -> list[int]:
        """The steps whose checkpoints need not be kept."""
        planned = [step for step in steps if step == 0 or (self.every and step % self.every == 0)]
        kept = {*steps[-self._keep :], *(planned[-1:] if self._save_first else [])}
        return [s for s in steps if s not in kept and not (s and self._keep_every and s % self._keep_every == 0)]


def _resolve_auto(results: Iterable[str]) -> str | None:
    """The metric of `callbacks.checkpoint.best=auto`, once the evaluation's metrics are known; logs it."""
    # Of several evaluation splits the first one chooses.
    found = next((name for last in ("accuracy", "loss") for name in results if name.rpartition("/")[2] == last), None)
    what = (
        f"the checkpoint with the best {found} is kept too"
        if found
        else "there is no accuracy and no loss, so none is kept as the best"
    )
    log.info(f"checkpoints: {what} (callbacks.checkpoint.best={AUTO})")
    return found


def _refuse_nonfinite(arrays: Mapping[str, np.ndarray], names: Sequence[str], step: int) -> None:
    """Raises NotFiniteError for weights that are not finite: an update can overflow although its gradients were finite."""
    bad = [name for name in names if not np.isfinite(arrays[name]).all()]
    if bad:
        raise file.NotFiniteError(
            f"after step {step} {bad[0]} is not finite"
            + (f", nor are {len(bad) - 1} more variables" if bad[1:] else "")
            + ": nothing was saved, so the checkpoint before stays the newest. A smaller optimizer.learning_rate or "
            "optimizer.clip_norm=1 may help."
        )
