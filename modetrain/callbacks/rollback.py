"""Rollback: after a loss or gradient that is not finite, the run continues from the checkpoint before with other batches.

The batches of the steps since that checkpoint, including the bad one, are skipped. Steps keep their numbers, and with them the
learning rate and every random draw. The rollback uses the newest planned checkpoint (the run's first, or a multiple of
`callbacks.checkpoint.every`), so a run that was stopped in between uses the same one.
"""

from __future__ import annotations

import logging
from pathlib import Path

from modetrain.callback import TrainerProtocol
from modetrain.checkpoints import file
from modetrain.engine.variables import find_added_states
from modetrain.files import run_folder
from modetrain.training.step_errors import NonFiniteError

log = logging.getLogger(__name__)


def roll_back(trainer: TrainerProtocol, error: NonFiniteError, *, every: int) -> bool:
    """Brings the trainer back to the checkpoint before a bad step; returns whether the run continues.

    Args:
      trainer: the trainer; all workers call this after the same step.
      error: the value that is not finite. It gets a note if the run cannot continue.
      every: steps between checkpoints; 0 without planned checkpoints.
    """
    trainer.replicas.gather_from_workers([0.0])  # no worker reads before the chief has written
    newest = _newest(trainer, error, every)
    if newest is None:
        error.add_note("modetrain: nonfinite.policy=rollback found no checkpoint to go back to")
        return False
    found, path = newest
    limit = trainer.nonfinite.settings.limit
    windows, step = [*trainer.loader.skipped_batches], found.step
    before = sum(1 for at, _ in windows if at == step)
    if before >= limit:
        error.after(f"nonfinite.limit={limit} rollbacks to step {step}")
        return False
    count = error.step + 1 - step
    log.warning(
        f"{error} Going back to step {step} ({path.name}) and skipping the {count} batches since then "
        f"({before + 1} of nonfinite.limit={limit})"
    )
    file.restore(found, trainer.recipe.state(), path, zero_if_missing=find_added_states(trainer.recipe))
    trainer.load_state(found.meta.get("carry", {}), step=step)
    trainer.loader.skipped_batches = [*windows, (step, count)]
    return True


def _newest(trainer: TrainerProtocol, error: NonFiniteError, every: int) -> tuple[file.CheckpointFile, Path] | None:
    steps = [step for step in reversed(run_folder.steps(trainer.folder)) if step <= error.step]
    planned = [step for step in steps if step == 0 or (every and step % every == 0)]
    for step in [*planned, *(step for step in steps if step not in planned)]:
        path = run_folder.checkpoint(trainer.folder, step)
        try:
            return file.load(path), path
        except file.CheckpointError as damage:
            log.warning(f"{damage} Going back to the one before it.")
    return None
