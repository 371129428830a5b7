"""Callbacks look at a run: they only read it.

    start(run)        once, before the first step
    call(run, rows)   after each call of the compiled program, with the metrics of each of its steps
    look(run)         at each step a callback asked to see
    end(run)          once, however the run ends; `run.status` tells how

A callback says with `next_step` when it wants to look; the trainer runs straight there. What it knows besides the run
(an open window, a best value) it gives to checkpoints with `state`, and gets back with `restore`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modetrain.engine.rows import Rows
    from modetrain.trainer import Trainer


class Callback:
    """Base class; looks every `every` steps, or never where that is 0 or None."""

    def __init__(self, *, every: int | None = None):
        self.every = every

    def next_step(self, step: int) -> int | None:
        """The first step after `step` (updates completed) that this callback wants to see, or None for never."""
        return (step // self.every + 1) * self.every if self.every else None

    def start(self, run: Trainer) -> None:
        """Called before the first step."""

    def call(self, run: Trainer, rows: Rows) -> None:
        """Called after each call of the program."""

    def look(self, run: Trainer) -> None:
        """Called at each step asked for."""

    def end(self, run: Trainer) -> None:
        """Called once the run has ended."""

    def save(self, run: Trainer) -> None:
        """Called where somebody asked for a checkpoint (SIGUSR1), after those who look at this step."""

    def state(self, run: Trainer) -> Mapping[str, Any]:
        """What a checkpoint keeps of this callback, as JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave, before `start`, or before `rewind`."""

    def rewind(self, run: Trainer) -> None:
        """Called once the run has gone back to an earlier step (`nonfinite.policy=rollback`)."""
