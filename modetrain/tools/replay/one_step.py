"""One step of a capsule, run again in one mode: what it returns, and the first operation in it that is not finite."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.app.build import make_recipe
from modetrain.checkpoints import file
from modetrain.checkpoints.capsule import Capsule
from modetrain.diagnostics.location import Location
from modetrain.engine import replica_random
from modetrain.engine.batching import BatchSharding
from modetrain.engine.metrics import NONFINITE
from modetrain.engine.variables import find_added_states
from modetrain.recipe import Info, Recipe
from modetrain.settings import Settings
from modetrain.tools.compare import op_recorder
from modetrain.tools.compare.op_trace import OpTrace
from modetrain.tools.inspect.python_state.snapshot import restore_python_state
from modetrain.tools.step_runner import StepRunner
from modetrain.training.nonfinite import LOSS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """The first thing in a step that is not finite, among what its result was computed from.

    Attributes:
      what: in words.
      place: the user's line that made it; None for the library's own.
    """

    what: str
    place: Location | None


class ReplayedStep:
    """The step of a capsule.

    Args:
      capsule: a complete one.
      settings: of the replay, whose mode the step runs in.
      recipe: where there is one already; its state is replaced.
    """

    def __init__(self, capsule: Capsule, settings: Settings, *, recipe: Recipe | None = None):
        assert capsule.batch is not None, "the capsule is not complete"
        self.capsule = capsule
        self.settings = settings
        if recipe is None:
            info = Info(**_with_tuples(capsule.info))
            recipe = make_recipe(settings, info)
        self.recipe = recipe
        self._method = "eval_step" if capsule.method == "eval_step" else "train_step"

    def run(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None) -> dict[str, float]:
        """Runs the step from the capsule's state; returns its metrics.

        Args:
          wrap: the recipe's own method is called through it.

        Raises:
          Exception: whatever the step raises.
        """
        state = file.CheckpointFile(step=self.capsule.state_step, arrays=self.capsule.state, meta={})
        path = Path(str(self.settings.replay.path))
        file.restore(state, self.recipe.state(), path, zero_if_missing=find_added_states(self.recipe))
        if wrap is not None:
            setattr(self.recipe, self._method, wrap(getattr(self.recipe, self._method)))
        runner = self._runner()
        try:
            with self._as_replica(), restore_python_state(self.recipe):  # it may run again, to stop at a line
                return runner.run(0)
        finally:
            vars(self.recipe).pop(self._method, None)

    def find_cause(self) -> Cause | None:
        """The first thing that is not finite, found by running the step again with every operation recorded."""
        for name, value in (self.capsule.batch or {}).items():
            if _is_nonfinite(value):
                examples = sorted({int(index[0]) for index in np.argwhere(~np.isfinite(value))})
                what = f"the batch itself is not finite: {name}, example {_format_numbers(examples)}"
                return Cause(what=what, place=None)
        for name, value in self.capsule.state.items():
            if _is_nonfinite(value):
                return Cause(what=f"{name} is not finite before the step already", place=None)
        if self._method == "eval_step":
            return None
        with self._as_replica():
            trace = op_recorder.record_ops(self._runner(), self.settings.mode.compile, 0, self.capsule.state)
        bad = {index for index, entry in enumerate(trace) if _is_nonfinite(entry.value)}
        if not bad:
            return None
        entry = trace[_first_before(trace, max(bad), bad)]
        assert entry.value is not None
        inputs = [(trace[index].value, trace[index].op) for index in entry.inputs]
        read = ", ".join(f"{_format_range(value)} from {op}" for value, op in inputs if value is not None)
        what = f"operation {entry.op} made {_count_nonfinite(entry.value)}"
        what += " in the gradient of this line" if entry.gradient else ""
        what += f": shape {tuple(entry.shape)}" + (f", out of {read}" if read else "")
        return Cause(what=what, place=entry.place)

    def _runner(self) -> StepRunner:
        assert self.capsule.batch is not None
        batches = {name: value[np.newaxis] for name, value in self.capsule.batch.items()}
        replica, sharding = self.settings.replay.replica, None
        if replica is not None and self._method == "train_step":
            sharding = BatchSharding(parts=self.recipe.micro_batches, replicas=self._replicas, first=replica, local=1)
        return StepRunner(
            self.recipe, self.settings.mode, batches, method=self._method, first=self.capsule.number, sharding=sharding
        )

    @property
    def _replicas(self) -> int:
        """How many replicas the run had."""
        return int(self.capsule.made_on.get("replicas", 1))

    def _as_replica(self) -> contextlib.AbstractContextManager[None]:
        replica = self.settings.replay.replica
        return contextlib.nullcontext() if replica is None else replica_random.single_replica(replica, self._replicas)


def is_nonfinite(metrics: Mapping[str, float]) -> bool:
    """Whether the metrics of a step say that a loss or gradient is not finite."""
    flagged = any(name.split("/")[0] == NONFINITE and value != 0 for name, value in metrics.items())
    return flagged or not np.isfinite(metrics.get(LOSS, 0.0))


def _first_before(trace: OpTrace, index: int, bad: set[int]) -> int:
    """The first of the operations in `bad` that one of them was computed from, through others of them."""
    reached, waiting = {index}, [index]
    while waiting:
        for before in trace[waiting.pop()].inputs:
            if before in bad and before not in reached:
                reached.add(before)
                waiting.append(before)
    return min(reached)


def _is_nonfinite(value: np.ndarray | None) -> bool:
    if value is None or not tf.as_dtype(value.dtype).is_floating:
        return False
    return not np.isfinite(value.astype(np.float64)).all()


def _count_nonfinite(value: np.ndarray) -> str:
    wide = value.astype(np.float64)
    kinds = {"NaN": np.isnan(wide).sum(), "Inf": np.isposinf(wide).sum(), "-Inf": np.isneginf(wide).sum()}
    return ", ".join(f"{count} {name}" for name, count in kinds.items() if count)


def _format_range(value: np.ndarray) -> str:
    if not value.size:
        return "nothing"
    wide = value.astype(np.float64)
    low, high = wide.min(), wide.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _format_numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _with_tuples(value: Any) -> Any:
    """What was written as JSON, with its sequences as they were."""
    if isinstance(value, Mapping):
        return {name: _with_tuples(one) for name, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
