"""The measurements of a run: metrics of its last steps, and the results of its evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from modetrain.engine.metrics import RunningMeans, StepMetrics

if TYPE_CHECKING:
    from modetrain.training.stragglers import WorkerTimes

_RECENT = 100  # results["train"] is the mean over this many last steps
_KEPT = 100_000  # steps in `train`: a run of days must not fill the memory


class History:
    """Metrics by step.

    Attributes:
      evaluations: means over the evaluation examples, by step; `{10: {"loss": 0.5}, ...}`.
      evaluation: the latest evaluation.
      evaluated: its step, or None.
      figures: its images and texts by name.
      worker_times: times of several workers, once the run has ended without an error.
    """

    def __init__(self) -> None:
        self._recent: StepMetrics | None = None
        self._chunks: list[StepMetrics] = []
        self._kept = 0
        self.evaluations: dict[int, dict[str, float]] = {}
        self.evaluation: dict[str, float] = {}
        self.evaluated: int | None = None
        self.figures: dict[str, Any] = {}
        self.worker_times: WorkerTimes | None = None

    def add_steps(self, metrics: StepMetrics) -> None:
        """Adds the metrics of one call of the program."""
        self._chunks.append(metrics)
        self._kept += len(metrics.values)
        while self._kept - len(self._chunks[0].values) >= _KEPT:
            self._kept -= len(self._chunks.pop(0).values)
        recent = self._recent
        known = recent.values if recent is not None and recent.names == metrics.names else metrics.values[:0]
        self._recent = StepMetrics(
            first=0, names=metrics.names, values=np.concatenate([known, metrics.values])[-_RECENT:]
        )

    def add_evaluation(self, step: int, means: Mapping[str, float], figures: Mapping[str, Any] | None = None) -> None:
        """Adds the results of one evaluation: numbers, and images and texts."""
        self.evaluation, self.evaluated, self.figures = dict(means), step, dict(figures or {})
        self.evaluations[step] = self.evaluation

    @property
    def train(self) -> dict[int, dict[str, float]]:
        """Means over the batch of each step, by the number of updates completed after it; the last 100,000 steps.

        A metric with a count of 0 in a step is left out, such as a gradient norm that no callback needs.
        """
        found: dict[int, dict[str, float]] = {}
        for chunk in self._chunks:
            for index, row in enumerate(chunk.values):
                pairs = zip(chunk.names, row, strict=True)
                found[chunk.first + index + 1] = {name: float(total / count) for name, (total, count) in pairs if count}
        return found

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """The latest means: `train` over the last 100 steps, `eval` over all evaluation examples."""
        recent = self._recent
        means = RunningMeans.from_rows(recent.names, recent.values).means() if recent is not None else {}
        return {"train": means, "eval": self.evaluation}

    def state(self) -> dict[str, Any]:
        """The state that `results` needs, as JSON."""
        recent = self._recent
        kept = {} if recent is None else {"names": list(recent.names), "values": recent.values.tolist()}
        return {"recent": kept, "evaluation": dict(self.evaluation), "evaluated": self.evaluated}

    def load_state(self, state: Mapping[str, Any], *, step: int) -> None:
        """Loads what `state` returned, and forgets measurements after `step`."""
        self._recent = None
        if recent := state.get("recent"):
            values = np.array(recent["values"], np.float64).reshape(-1, len(recent["names"]), 2)
            self._recent = StepMetrics(first=0, names=tuple(recent["names"]), values=values)
        self.evaluation = dict(state.get("evaluation", {}))
        self.evaluated = state.get("evaluated")
        self.evaluations = {at: means for at, means in self.evaluations.items() if at <= step}
        self._chunks = [chunk for chunk in self._chunks if chunk.first + len(chunk.values) <= step]
        self._kept = sum(len(chunk.values) for chunk in self._chunks)
