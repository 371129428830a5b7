"""A capsule: one file with all that a step needs to run again, on this machine or another.

It is a checkpoint file (`checkpoints/file.py`) that also holds the batch. How the run ended decides whether its state is the
state right before the step; if not, the steps between must run first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modetrain.checkpoints import archive, file

FOLDER = "capsules"
_STATE, _BATCH, _KEY = "state/", "batch/", "capsule"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capsule:
    """One step of a run.

    Attributes:
      step: the step (updates completed before it).
      state_step: the step of the state; equal to `step`, or smaller.
      method: the recipe's method: `train_step`, `eval_step` or `prepare`.
      state: every variable by name.
      batch: by feature an array [examples, ...]; None if it was not available.
      number: the step's number in the recipe (`self.step`): for `eval_step` the batch's.
      why: `nonfinite`, `error`, `stall`, `asked` or `replayed`.
      said: the failure in words.
      command: the run's command.
      config: its resolved configuration.
      info: the arguments of `recipe.Info`.
      carry: see `training/state.py`.
      made_on: versions, threads and devices; the last bits of a result depend on them.
    """

    step: int
    state_step: int
    method: str
    state: Mapping[str, np.ndarray]
    batch: Mapping[str, np.ndarray] | None
    number: int
    why: str
    said: str
    command: str
    config: Mapping[str, Any]
    info: Mapping[str, Any]
    carry: Mapping[str, Any]
    made_on: Mapping[str, Any]

    @property
    def complete(self) -> bool:
        """Whether the step can run from the capsule alone."""
        return self.state_step == self.step and self.batch is not None

    def save(self, path: Path) -> None:
        """Writes it completely or not at all.

        Raises:
          OSError: it cannot be written.
        """
        arrays = {f"{_STATE}{name}": value for name, value in self.state.items()}
        # A batch with text is not stored: it can be made again from (seed, step).
        batch = self.batch if all(archive.holds(value.dtype.name) for value in (self.batch or {}).values()) else None
        arrays |= {f"{_BATCH}{name}": value for name, value in (batch or {}).items()}
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("state", "batch")}
        file.save(path, arrays, step=self.state_step, meta={_KEY: plain, "has_batch": batch is not None})


def load(path: Path) -> Capsule:
    """Reads a capsule.

    Raises:
      CheckpointError: the file is missing, damaged, or no capsule.
    """
    found = file.load(path)
    if _KEY not in found.meta:
        raise file.CheckpointError(f"{path} is a checkpoint and no capsule.")
    batch = {n.removeprefix(_BATCH): a for n, a in found.arrays.items() if n.startswith(_BATCH)}
    return Capsule(
        **found.meta[_KEY],
        state={n.removeprefix(_STATE): a for n, a in found.arrays.items() if n.startswith(_STATE)},
        batch=batch if found.meta["has_batch"] else None,
    )


def choose_path(run_folder: Path, capsule: Capsule) -> Path:
    """An unused path for a capsule in a run folder, with the step's number as in messages."""
    step = f"after-step-{capsule.step}" if capsule.method == "eval_step" else f"step-{capsule.step + 1}"
    number = 1
    while True:
        path = run_folder / FOLDER / (f"{step}-{capsule.why}" + (f"-{number}" if number > 1 else "") + ".npz")
        if not path.exists():
            return path
        number += 1


def list_capsules(run_folder: Path) -> list[Path]:
    """The capsules of a run, the oldest first."""
    return sorted((run_folder / FOLDER).glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
