"""A recipe's step on given batches: traced as a run traces it, or run eagerly.

Everything goes through `Program`, so that what is inspected is what runs.
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
from modetrain.engine.metrics import Layout
from modetrain.engine.program import Program
from modetrain.engine.variables import Snapshot
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.tools.inspect.python_state import source
from modetrain.tools.inspect.python_state.lookup_tables import LookupTable

Batch = Mapping[str, Any]
Concrete: TypeAlias = "tf.types.experimental.ConcreteFunction"


def mode_for(target: str, mode: Mode) -> Mode:
    """The mode in which steps are traced: an inspected step is always traced, also where the run is eager."""
    compile_ = "graph" if target == "graph" else "xla"
    return dataclasses.replace(mode, compile=compile_, strict=mode.strict and compile_ == "graph", guards=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectedStep:
    """One of the steps of a recipe, and the batches it is inspected on.

    Attributes:
      recipe: whose step it is.
      method: `train_step` or `eval_step`.
      mode: how it would run.
      replicas: where.
      global_batches: of one structure.
      tables: the lookup tables that it writes to.
    """

    recipe: Recipe
    method: str
    mode: Mode
    replicas: Replicas
    global_batches: Sequence[Batch]
    tables: Sequence[LookupTable] = ()

    @functools.cached_property
    def batches(self) -> list[Batch]:
        """The global batches; of training their micro-batches, each a batch of its own."""
        parts = self.recipe.micro_batches if self.method == "train_step" else 1
        if parts == 1:
            return list(self.global_batches)
        split = [
            {name: tf.split(tf.convert_to_tensor(value), parts) for name, value in batch.items()}
            for batch in self.global_batches
        ]
        return [{name: values[part] for name, values in batch.items()} for batch in split for part in range(parts)]

    @property
    def place(self) -> Location:
        """Where the step begins, for what belongs to no line in particular."""
        return source.start_of(getattr(type(self.recipe), self.method))

    def trace(self, batch: Batch) -> Concrete:
        """Traces the step for batches like this one, as a run does; a new trace at each call.

        Raises:
          Exception: the error that tracing raises.
        """
        return self._program(self.mode).trace(self.block(batch), last_part=True)

    def run_eagerly(self, batch: Batch, number: int = 0) -> tuple[Layout, np.ndarray]:
        """Runs the step line by line; returns rows [1, replicas, slots, 2] and their layout."""
        eager = dataclasses.replace(self.mode, name="eager", compile="eager", strict=False, guards=False)
        program = self._program(eager)
        rows = program(self.block(batch, number), 0, 1)
        return program.layout, rows

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
    def restore_variables(self, *, perturbed: bool = False, updated: bool = True) -> Iterator[None]:
        """Restores every variable of the recipe, and the contents of its lookup tables, at the end.

        Args:
          perturbed: whether the models' weights are changed a little at the beginning, in the same way each time.
          updated: whether optimizers make updates; else what they alone write needs no copy.
        """
        optimizers = () if updated else self.recipe.optimizers().values()
        left = {id(variable) for optimizer in optimizers for variable in optimizer.variables}
        contents = [table.read() for table in self.tables]
        with Snapshot(v for v in self.recipe.state().values() if id(v) not in left):
            try:
                if perturbed:
                    self._perturb()
                yield
            finally:
                for table, held in zip(self.tables, contents, strict=True):
                    table.write(held)

    def _perturb(self) -> None:
        rng = np.random.default_rng(0)
        for model in self.recipe.models():
            for variable in model.trainable_variables:
                value = keras.ops.convert_to_numpy(variable.value)
                noise = rng.normal(size=value.shape) * (0.1 * np.abs(value).max(initial=0.0) or 0.1)
                variable.assign((value + noise).astype(value.dtype))

    def _program(self, mode: Mode) -> Program:
        step = self.recipe.run_train_step if self.method == "train_step" else self.recipe.run_eval_step
        return Program(step, mode, replicas=self.replicas, state=self.recipe.state)
