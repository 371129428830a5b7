"""Going back: after a loss or gradient that is not finite, to the checkpoint before, and on from there with other batches.

The batches of the steps since that checkpoint, the bad one included, are left out; steps keep their numbers, and with them
the learning rate and every random draw. The checkpoint gone back to is the newest one that is there by plan (the run's
first, or a multiple of `callbacks.checkpoint.every`), so that a run that was stopped in between goes back to the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modetrain.callbacks.checkpoint import Checkpoint
from modetrain.checkpoints import file
from modetrain.files import run_folder

if TYPE_CHECKING:
    from modetrain.trainer import Trainer
    from modetrain.training.step_errors import NonFiniteError


def go_back(run: Trainer, error: NonFiniteError) -> None:
    """Brings the run back to the checkpoint before a bad step; raises the error where that is not to be.

    Args:
      run: amid which the step failed; all workers come here at the same step.
      error: what was found.

    Raises:
      NonFiniteError: the policy is another one, or its limit is reached.
    """
    settings = run.nonfinite.settings
    if settings.policy != "rollback":
        raise error
    keeper = next((callback for callback in run.callbacks if isinstance(callback, Checkpoint)), None)
    if keeper is not None:
        keeper.settle()
    run.replicas.of_each_worker([0.0])  # nobody reads before the chief has written
    found, path = _newest(run, error, (keeper.every if keeper else None) or 0)
    windows = [*run.feed.left_out]
    step = found.step
    before = sum(1 for at, _ in windows if at == step)
    if before >= settings.limit:
        error.after(f"nonfinite.limit={settings.limit} rollbacks to step {step}")
        raise error
    count = error.step + 1 - step
    run.say(
        f"WARNING: {error} Going back to step {step} ({path.name}) and leaving out the {count} batches since "
        f"({before + 1} of nonfinite.limit={settings.limit})"
    )
    file.restore(found, run.recipe.state(), path)
    run.resume(found)
    run.feed.left_out = [*windows, (step, count)]
    for callback in run.callbacks:
        callback.rewind(run)


def _newest(run: Trainer, error: NonFiniteError, every: int) -> tuple[file.Checkpoint, Path]:
    steps = [step for step in reversed(run_folder.steps(run.folder)) if step <= error.step]
    planned = [step for step in steps if step == 0 or (every and step % every == 0)]
    for step in [*planned, *(step for step in steps if step not in planned)]:
        path = run_folder.checkpoint(run.folder, step)
        try:
            return file.load(path), path
        except file.CheckpointError as damage:
            run.say(f"WARNING: {damage} Going back to the one before it.")
    error.add_note("modetrain: nonfinite.policy=rollback found no checkpoint to go back to")
    raise error
