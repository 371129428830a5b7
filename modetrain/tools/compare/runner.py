"""What variants are asked to do, wherever they live: in processes of their own, or in this one.

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from modetrain.tools.compare.diagnosis import Explanation
from modetrain.tools.compare.observation import ProcessDeath, VariantReport
from modetrain.tools.compare.store import ResultStore

REFERENCE, MODE, RERUN, NOISE, EXPLAIN, TRACING = "reference", "mode", "rerun", "noise", "explain", "tracing"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What one variant is to do.

    Attributes:
      kind: `reference` (the reference's part), `mode` (another mode's part), `rerun` (some steps again), `noise` (the noise
        of some steps by more draws), `explain` (why a step differs) or `tracing` (what tracing changes of its Python).
      mode: of the variant.
      change: what the variant changes, see `Runner.rerun`; None for nothing.
      numbers: the steps, where not all.
      draws: repetitions that measure noise.
      dtype: whose rounding the noise is; by default that which the models compute in.
    """

    kind: str
    mode: str
    change: str | None = None
    numbers: tuple[int, ...] = ()
    draws: int = 0
    dtype: str | None = None

    @property
    def variant(self) -> str:
        """The name of the variant: its steps are in the store as `<variant>/<number>`."""
        return self.mode if self.change is None else f"{self.mode}@{self.change}"


class Runner:
    """Runs variants, whose steps are then in the store.

    Args:
      store: for the steps, and for reports on them.
      reference: name of the reference.
    """

    def __init__(self, store: ResultStore, reference: str):
        self.store = store
        self.reference = reference

    def perform(self, task: Task) -> Any:
        """Does a task; returns its result, a `ProcessDeath`, or None where the variant cannot be built."""
        raise NotImplementedError

    def run_reference(self, draws: int) -> VariantReport | ProcessDeath:
        """The reference's part; `draws` repetitions of each step measure its noise."""
        return self.perform(Task(kind=REFERENCE, mode=self.reference, draws=draws))

    def run_mode(self, mode: str) -> VariantReport | ProcessDeath:
        """Another mode's part."""
        return self.perform(Task(kind=MODE, mode=mode))

    def rerun(self, mode: str, change: str, numbers: Sequence[int]) -> VariantReport | None:
        """Runs some steps of a mode with something changed, in the store under `<mode>@<change>`.

        Args:
          mode: which.
          change: `float64`, `strict` (a graph without optimizations), `onednn` (without oneDNN's kernels), or `fresh`: a new
            recipe, which has run no step before.
          numbers: which steps.

        Returns:
          None where that cannot be built, or dies.
        """
        report = self.perform(Task(kind=RERUN, mode=mode, change=change, numbers=tuple(numbers)))
        return report if isinstance(report, VariantReport) and report.error is None else None

    def measure_noise(
        self, numbers: Sequence[int], draws: int, dtype: str | None = None
    ) -> dict[int, dict[str, float]]:
        """The noise floors of some steps of the reference by more draws, see `Task`; empty where that dies."""
        found = self.perform(Task(kind=NOISE, mode=self.reference, numbers=tuple(numbers), draws=draws, dtype=dtype))
        return found if isinstance(found, dict) else {}

    def explain(self, mode: str, number: int, change: str | None = None) -> Explanation | None:
        """Why a step differs, with something changed as in `rerun`; None where that is not known."""
        return self._explanation(Task(kind=EXPLAIN, mode=mode, change=change, numbers=(number,)))

    def explain_tracing(self, mode: str, number: int) -> Explanation | None:
        """What tracing changes of the Python of a step; None where nothing is known."""
        return self._explanation(Task(kind=TRACING, mode=mode, numbers=(number,)))

    def _explanation(self, task: Task) -> Explanation | None:
        found = self.perform(task)
        if isinstance(found, ProcessDeath):
            return Explanation(place=found.place, sentences=(f"What looked for the cause died: {found.how}.",))
        return found if isinstance(found, Explanation) else None
