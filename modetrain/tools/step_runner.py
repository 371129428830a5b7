"""Runs one step of a recipe in one mode, on given batches, from a state that is set before.

    runner = StepRunner(recipe, mode, batches, first=7)
    runner.load(state)
    metrics = runner.run(3)        # the fourth batch, as the step after 10 updates

The program is the one that training runs. Nothing is added to it, since an added output can change what a compiler merges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.checkpoints import file
from modetrain.engine.batching import BatchSharding, StackedBatches
from modetrain.engine.devices import Replicas
from modetrain.engine.loop import Concrete
from modetrain.engine.metrics import RunningMeans
from modetrain.engine.program import Program
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.training import figures

Batches = Mapping[str, np.ndarray]
State = Mapping[str, np.ndarray]
# The end of the name of a variable that an object holds by its position, and the numbers in it that Keras counts up in a process.
_HELD = re.compile(r"(?<=/)\d+/[^/]+$")
_COUNTED = re.compile(r"_\d+(?=_|$)")


class StepRunner:
    """One step method of a recipe, in one mode, on given batches.

    Args:
      recipe: made in the scope of `replicas`.
      mode: how steps run.
      batches: per feature an array [steps, examples, ...].
      method: `train_step` or `eval_step`.
      first: number of the first batch in the run.
      replicas: where steps run; one device by default.
      sharding: how a batch is sharded; by default over the replicas and, in training, into the recipe's micro-batches.

    Attributes:
      recipe, mode, replicas, batches, first: as given.
      program: the mode's own.
      block: the batches as the program takes them.
      steps: how many batches there are.
    """

    def __init__(
        self,
        recipe: Recipe,
        mode: Mode,
        batches: Batches,
        *,
        method: str = "train_step",
        first: int = 0,
        replicas: Replicas | None = None,
        sharding: BatchSharding | None = None,
    ):
        training = method == "train_step"
        self.recipe = recipe
        self.mode = mode
        self.replicas = replicas or Replicas()
        self.batches = batches
        self.first = first
        self.steps = len(next(iter(batches.values())))
        self._sharding = sharding or BatchSharding.over(self.replicas, recipe.micro_batches if training else 1)
        step = recipe.run_train_step if training else recipe.run_eval_step
        self.program = Program(step, mode, replicas=self.replicas, state=recipe.state)
        self.block = self.stack(batches)

    def stack(self, batches: Batches, number: int = 0) -> StackedBatches:
        """Other batches as the program takes them; `number` counts from the runner's first step."""
        return StackedBatches.from_batches(batches, self.first + number, self._sharding)

    def run(self, number: int, block: StackedBatches | None = None) -> dict[str, float]:
        """Runs one step from the state there is; returns its metrics as means over the global batch.

        Args:
          number: which step, from 0.
          block: other batches than the runner's own; its first one is used.

        Raises:
          Exception: whatever the step raises.
        """
        block, index = (self.block, number) if block is None else (block, 0)
        rows = self.program(block, index, index + 1, watch_every=1)
        summed = self.replicas.sum_over_workers(rows.sum(axis=1, dtype=np.float64))
        merged = RunningMeans.from_rows(self.program.names, *self.program.layout.split(summed))
        made = figures.summarize(self.recipe, self.program.layout, merged.sums)
        return {**merged.means(), **figures.numbers(made)}

    def trace(self, *, last_part: bool = True) -> Concrete:
        """Traces the step again; `last_part` is whether for the last micro-batch of a step."""
        return self.program.trace(self.block, last_part=last_part)

    def variables(self) -> dict[str, Any]:
        """Every variable of the recipe, by a name that is the same whenever the recipe is built."""
        return _without_counts(self.recipe.state())

    def read(self) -> dict[str, np.ndarray]:
        """The value of every variable of the recipe, by name."""
        return file.copy_values(self.variables())

    def load(self, state: State) -> None:
        """Sets every variable of the recipe; floats are converted where it computes in another precision."""
        values = _without_counts(state)
        for name, variable in self.variables().items():
            variable.assign(tf.cast(values[name], variable.dtype))


def _without_counts(named: Mapping[str, Any]) -> dict[str, Any]:
    """The same without what Keras counts up in names, as far as these stay apart."""
    found = {_HELD.sub(lambda held: _COUNTED.sub("", held[0]), name): one for name, one in named.items()}
    return found if len(found) == len(named) else dict(named)
