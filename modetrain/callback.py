"""Callbacks look at a run: they only read it.

    on_train_begin(trainer)             once, before the first step
    on_steps_end(trainer, metrics)      after each call of the compiled program, with the metrics of each of its steps
    on_step(trainer)                    at each step that the callback asks for
    on_train_end(trainer)               once, however the run ends; `trainer.status` says how

A callback says with `next_step` which step it wants to see next; the trainer runs straight there. What it knows besides
the trainer (an open window, a best value) it gives to checkpoints with `state`, and gets back with `load_state`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from modetrain.engine.batching import StackedBatches
from modetrain.engine.devices import Replicas
from modetrain.engine.metrics import StepMetrics
from modetrain.mode import Mode


class TrainerProtocol(Protocol):
    """What callbacks may read of a trainer; `modetrain/trainer.py` says what each attribute is."""

    recipe: Any
    mode: Mode
    replicas: Replicas
    data: Any
    steps: int
    step: int
    callbacks: Any
    folder: Path
    timer: Any
    status: str
    nonfinite: Any
    loader: Any
    history: Any

    @property
    def programs(self) -> Any: ...
    @property
    def state_is_consistent(self) -> bool: ...
    @property
    def results(self) -> dict[str, dict[str, float]]: ...
    @property
    def traces(self) -> int: ...
    def evaluate(self) -> dict[str, float]: ...
    def stop(self, signum: int = ...) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: Mapping[str, Any], *, step: int) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFailure:
    """A step that failed.

    Attributes:
      error: what it raised; a callback may add notes.
      step: updates completed before the step; of an evaluation the index of the batch.
      method: the recipe's method (`train_step`, `eval_step`, `prepare`).
      block: the batches; None where they could not be made.
    """

    error: Exception
    step: int
    method: str
    block: StackedBatches | None


class Callback:
    """Base class; sees every `every` steps, or none where that is 0 or None.

    Attributes:
      every: as given.
      grad_norm_every: the gradient norm is computed at each multiple of this step number for this callback; 0 for never.
    """

    grad_norm_every = 0

    def __init__(self, *, every: int | None = None):
        self.every = every

    def next_step(self, step: int) -> int | None:
        """The first step after `step` (updates completed) that this callback wants to see, or None for never."""
        return (step // self.every + 1) * self.every if self.every else None

    def on_train_begin(self, trainer: TrainerProtocol) -> None:
        """Called before the first step."""

    def on_steps_end(self, trainer: TrainerProtocol, metrics: StepMetrics) -> None:
        """Called after each call of the program."""

    def on_step(self, trainer: TrainerProtocol) -> None:
        """Called at each step asked for."""

    def on_save(self, trainer: TrainerProtocol) -> None:
        """Called where a checkpoint is requested (SIGUSR1), after `on_step`."""

    def on_train_end(self, trainer: TrainerProtocol) -> None:
        """Called once the run has ended."""

    def on_step_error(self, trainer: TrainerProtocol, failure: StepFailure) -> None:
        """Called where a step failed, before its error is raised."""

    def on_nonfinite(self, trainer: TrainerProtocol, error: ArithmeticError) -> bool:
        """Called where a loss or gradient that is not finite would end the run; returns whether the run goes on.

        A callback that returns True has brought the trainer back to an earlier step.
        """
        return False

    def on_rollback(self, trainer: TrainerProtocol) -> None:
        """Called once the trainer is back at an earlier step (`nonfinite.policy=rollback`)."""

    def state(self, trainer: TrainerProtocol) -> Mapping[str, Any]:
        """What a checkpoint keeps of this callback, as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned, before `on_train_begin` or `on_rollback`."""

    def summary(self) -> Mapping[str, Any]:
        """What `run.json` keeps of this callback, by key."""
        return {}
