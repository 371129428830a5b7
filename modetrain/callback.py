"""Callbacks observe a run; they only read it.

    on_train_begin(trainer)             once, before the first step
    on_steps_end(trainer, metrics)      after each call of the compiled program, with the metrics of each of its steps
    on_step(trainer)                    at each step that the callback asks for
    on_train_end(trainer)               once, however the run ends; `trainer.status` says how

A callback that has reached its goal calls `trainer.stop_early(why)`: the run ends as completed.
`next_step` returns the next step that a callback wants; the trainer runs straight there. A callback's own state (an open
window, a best value) goes into checkpoints with `state`, and comes back with `load_state`.
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
    """The attributes of a trainer that callbacks may read; `modetrain/trainer.py` describes them."""

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
    @property
    def stopped_early(self) -> str | None: ...
    def stop(self, signum: int = ...) -> None: ...
    def stop_early(self, why: str = ...) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: Mapping[str, Any], *, step: int) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFailure:
    """A step that failed.

    Attributes:
      error: the exception; a callback may add notes.
      step: updates completed before the step; in an evaluation the index of the batch.
      method: the recipe's method (`train_step`, `eval_step`, `prepare`).
      block: the batches; None if they could not be made.
    """

    error: Exception
    step: int
    method: str
    block: StackedBatches | None


class Callback:
    """Base class; runs every `every` steps, or never if that is 0 or None.

    Attributes:
      every: as given.
      grad_norm_every: the callback needs the gradient norm at each multiple of this step number; 0 for never.
    """

    grad_norm_every = 0

    def __init__(self, *, every: int | None = None):
        self.every = every

    def next_step(self, step: int) -> int | None:
        """The first step after `step` (updates completed) that this callback wants, or None for never."""
        return (step // self.every + 1) * self.every if self.every else None

    def on_train_begin(self, trainer: TrainerProtocol) -> None:
        """Called before the first step."""

    def on_steps_end(self, trainer: TrainerProtocol, metrics: StepMetrics) -> None:
        """Called after each call of the program."""

    def on_step(self, trainer: TrainerProtocol) -> None:
        """Called at each step that `next_step` returned."""

    def on_save(self, trainer: TrainerProtocol) -> None:
        """Called if a checkpoint is requested (SIGUSR1), after `on_step`."""

    def on_train_end(self, trainer: TrainerProtocol) -> None:
        """Called once the run has ended."""

    def on_step_error(self, trainer: TrainerProtocol, failure: StepFailure) -> None:
        """Called after a step has failed, before its error is raised."""

    def on_nonfinite(self, trainer: TrainerProtocol, error: ArithmeticError) -> bool:
        """Called if a loss or gradient that is not finite would end the run; returns whether the run continues.

        A callback that returns True has brought the trainer back to an earlier step.
        """
        return False

    def on_rollback(self, trainer: TrainerProtocol) -> None:
        """Called after the trainer has gone back to an earlier step (`nonfinite.policy=rollback`)."""

    def state(self, trainer: TrainerProtocol) -> Mapping[str, Any]:
        """The state of this callback for a checkpoint, as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Loads what `state` returned, before `on_train_begin` or `on_rollback`."""

    def summary(self) -> Mapping[str, Any]:
        """Values for `run.json`, by key."""
        return {}
