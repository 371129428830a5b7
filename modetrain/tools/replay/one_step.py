"""One step of a capsule, made once more in one mode: what it returns, and the first thing in it that is not finite."""

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
from modetrain.engine import random
from modetrain.engine.batching import BatchSharding, StackedBatches
from modetrain.engine.metrics import NONFINITE, RunningMeans
from modetrain.engine.program import Program
from modetrain.recipe import Info, Recipe
from modetrain.settings import Settings
from modetrain.tools.compare import op_trace
from modetrain.tools.compare.op_log import Log
from modetrain.tools.compare.variant import Arm
from modetrain.tools.inspect.python_state.snapshot import restore_python_state
from modetrain.training.nonfinite import is_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """The first thing in a step that is not finite, of what its result was made from.

    Attributes:
      what: in words.
      place: the user's line that made it; None where it is none.
    """

    what: str
    place: Location | None


class Step:
    """The step of a capsule.

    Args:
      capsule: a complete one.
      settings: of the replay: its mode is the one the step runs in.
      recipe: where there is one already; its state is set anew.
    """

    def __init__(
        self,
        capsule: Capsule,
        settings: Settings,
        *,
        recipe: Recipe | None = None,
    ):
        assert capsule.batch is not None, "the capsule is not complete"
        self.capsule = capsule
        self.settings = settings
        if recipe is None:
            info = Info(**{**capsule.info, "image_shape": tuple(capsule.info["image_shape"])})
            recipe = make_recipe(settings, info)
        self.recipe = recipe
        self._batches = {name: value[np.newaxis] for name, value in capsule.batch.items()}

    @property
    def replicas(self) -> int:
        """How many replicas the run had."""
        return int(self.capsule.made_on.get("replicas", 1))

    def load(self) -> None:
        """Brings back the state before the step."""
        found = file.CheckpointFile(step=self.capsule.state_step, arrays=self.capsule.state, meta={})
        file.restore(found, self.recipe.state(), Path(str(self.settings.replay.path)))

    def make(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None) -> dict[str, float]:
        """Makes the step; returns its metrics.

        Args:
          wrap: what the recipe's own method is called through.

        Raises:
          Exception: whatever it raises.
        """
        self.load()
        evaluating = self.capsule.method == "eval_step"
        method = "eval_step" if evaluating else "train_step"
        if wrap is not None:
            setattr(self.recipe, method, wrap(getattr(self.recipe, method)))
        step = self.recipe.run_eval_step if evaluating else self.recipe.run_train_step
        program = Program(step, self.settings.mode, state=self.recipe.state)
        try:
            with self._as_replica(), restore_python_state(self.recipe):  # it may be made again, to stop at a line
                rows = program(
                    StackedBatches.from_batches(self._batches, self.capsule.number, self._cut()), 0, 1, watch_every=1
                )
        finally:
            vars(self.recipe).pop(method, None)
        return RunningMeans.from_rows(program.names, rows).means()

    def cause(self) -> Cause | None:
        """The first thing that is not finite, found by making the step again with every operation written down."""
        for name, value in (self.capsule.batch or {}).items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                spoilt = sorted({int(index[0]) for index in np.argwhere(~np.isfinite(value))})
                return Cause(what=f"the batch itself is not finite: {name}, example {_listed(spoilt)}", place=None)
        for name, value in self.capsule.state.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return Cause(what=f"{name} is not finite before the step already", place=None)
        if self.capsule.method == "eval_step":
            return None
        arm = Arm(self.recipe, self.settings.mode, self._share(), first=self.capsule.number)
        with self._as_replica():
            log = op_trace.log_of(arm, self.settings.mode.compile, 0, self.capsule.state)
        bad = {index for index, entry in enumerate(log) if _is_bad(entry.value)}
        if not bad:
            return None
        origin = _first_before(log, max(bad), bad)
        entry = log[origin]
        made = _kinds(entry.value)
        read = [(log[index].value, log[index].op) for index in entry.inputs]
        from_ = ", ".join(f"{_span(value)} from {op}" for value, op in read if value is not None)
        part = " in the gradient of this line" if entry.gradient else ""
        return Cause(
            what=f"operation {entry.op} made {made}{part}: shape {tuple(entry.shape)}"
            + (f", out of {from_}" if from_ else ""),
            place=entry.place,
        )

    def _cut(self) -> BatchSharding:
        parts, replica = self.recipe.micro_batches, self.settings.replay.replica
        if self.capsule.method == "eval_step":
            return BatchSharding()
        return (
            BatchSharding(parts=parts)
            if replica is None
            else BatchSharding(parts=parts, replicas=self.replicas, first=replica, local=1)
        )

    def _share(self) -> Mapping[str, np.ndarray]:
        """The batch, or of it what the replica that is asked for had: [1, examples, ...]."""
        if self.settings.replay.replica is None:
            return self._batches
        block = StackedBatches.from_batches(self._batches, self.capsule.number, self._cut())
        return {name: value.numpy().reshape(1, -1, *value.shape[4:]) for name, value in block.arrays.items()}

    def _as_replica(self) -> contextlib.AbstractContextManager[None]:
        replica = self.settings.replay.replica
        return contextlib.nullcontext() if replica is None else random.alone(replica, self.replicas)


def is_bad(metrics: Mapping[str, float]) -> bool:
    """Whether the metrics of a step say that a loss or gradient is not finite."""
    flagged = any(name.split("/")[0] == NONFINITE and value != 0 for name, value in metrics.items())
    losses = [value for name, value in metrics.items() if is_loss(name)]
    return flagged or not np.isfinite(losses).all()


def _first_before(log: Log, index: int, bad: set[int]) -> int:
    """The first of the operations that are not finite and that one of them was computed from."""
    reached, waiting = {index}, [index]
    while waiting:
        for before in log[waiting.pop()].inputs:
            if before in bad and before not in reached:
                reached.add(before)
                waiting.append(before)
    return min(reached)


def _is_bad(value: np.ndarray | None) -> bool:
    return (
        value is not None and tf.as_dtype(value.dtype).is_floating and not np.isfinite(value.astype(np.float64)).all()
    )


def _kinds(value: np.ndarray | None) -> str:
    assert value is not None
    wide = value.astype(np.float64)
    kinds = {"NaN": np.isnan(wide).sum(), "Inf": np.isposinf(wide).sum(), "-Inf": np.isneginf(wide).sum()}
    return ", ".join(f"{count} {name}" for name, count in kinds.items() if count)


def _span(value: np.ndarray) -> str:
    if not value.size:
        return "nothing"
    wide = value.astype(np.float64)
    low, high = wide.min(), wide.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
