"""Steps to look at: a recipe's step traced as a run would trace it, or run eagerly, on given batches.

Everything goes through `Program`, so that what is looked at is what runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from modetrain.diagnostics.location import Location
from modetrain.engine.batching import BatchSharding, StackedBatches
from modetrain.engine.devices import Replicas
from modetrain.engine.program import Program
from modetrain.mode import Mode
from modetrain.recipe import Recipe

Batch = Mapping[str, Any]
Concrete: TypeAlias = "tf.types.experimental.ConcreteFunction"


def mode_for(target: str, mode: Mode) -> Mode:
    """The mode in which steps are traced: what is looked at is always a trace, whatever the mode of the run."""
    compile_ = "graph" if target == "graph" else "xla"
    return dataclasses.replace(mode, compile=compile_, strict=mode.strict and compile_ == "graph", guards=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """One of the steps of a recipe, and the batches it is looked at on.

    Attributes:
      recipe: whose step it is.
      method: `train_step` or `eval_step`.
      mode: how it would run.
      replicas: where.
      whole: global batches, of one structure.
      batches: the same, of training their micro-batches: each is looked at as a batch of its own.
    """

    recipe: Recipe
    method: str
    mode: Mode
    replicas: Replicas
    whole: Sequence[Batch]

    @functools.cached_property
    def batches(self) -> list[Batch]:
        """See the class."""
        parts = self.recipe.micro_batches if self.method == "train_step" else 1
        if parts == 1:
            return list(self.whole)
        cut = [
            {name: tf.split(tf.convert_to_tensor(value), parts) for name, value in batch.items()}
            for batch in self.whole
        ]
        return [{name: values[part] for name, values in batch.items()} for batch in cut for part in range(parts)]

    @property
    def place(self) -> Location:
        """Where the step begins, for what belongs to no line in particular."""
        code = getattr(type(self.recipe), self.method).__code__
        return Location(file=code.co_filename, line=code.co_firstlineno)

    def trace(self, batch: Batch) -> Concrete:
        """Traces the step for batches like this one, as a run does; anew at each call.

        Raises:
          Exception: whatever tracing raises.
        """
        return self._program(self.mode).trace(self.block(batch), last_part=True)

    def run_eagerly(self, batch: Batch, number: int = 0) -> tuple[list[str], np.ndarray]:
        """Runs the step line by line; returns the metrics' names and rows [1, replicas, metrics, 2]."""
        eager = dataclasses.replace(self.mode, name="eager", compile="eager", strict=False, guards=False)
        program = self._program(eager)
        rows = program(self.block(batch, number), 0, 1)
        return program.names, rows

    def block(self, batch: Batch, number: int = 0) -> StackedBatches:
        """The batch as a block of one step."""
        local = self.replicas.local
        cut = BatchSharding.over(self.replicas)
        arrays = {name: cut.shard(tf.convert_to_tensor(value))[tf.newaxis] for name, value in batch.items()}
        return StackedBatches(
            first=number,
            length=1,
            arrays=arrays,
            numbers=tf.fill([1, local], tf.constant(number, tf.int64)),
            counted=np.ones([1, local], bool),
        )

    @contextlib.contextmanager
    def state_kept(self, *, moved: bool = False) -> Iterator[None]:
        """Puts every variable of the recipe back at the end.

        Args:
          moved: whether the models' weights are moved a little at the beginning, always alike.
        """
        kept = [(variable, tf.identity(variable)) for variable in self.recipe.state().values()]
        try:
            if moved:
                self._move()
            yield
        finally:
            for variable, value in kept:
                variable.assign(value)

    def _move(self) -> None:
        rng = np.random.default_rng(0)
        for model in self.recipe.models():
            for variable in model.trainable_variables:
                value = keras.ops.convert_to_numpy(variable.value)
                noise = rng.normal(size=value.shape) * (0.1 * np.abs(value).max(initial=0.0) or 0.1)
                variable.assign((value + noise).astype(value.dtype))

    def _program(self, mode: Mode) -> Program:
        step = self.recipe.run_train_step if self.method == "train_step" else self.recipe.run_eval_step
        return Program(step, mode, replicas=self.replicas, state=self.recipe.state)
